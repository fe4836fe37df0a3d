"""An adapter is what the run wrote, and its base the model that it was trained on; else both are refused."""

import json
import os
import random
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.cli import main
from mlx_dpo.errors import DpoError
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.jobs.evaluate import evaluate_run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.models import adapter_checksum, adapters
from mlx_dpo.models.adapter_checksum import UNSTAMPED, check_weights, stamp_weights
from mlx_dpo.models.adapters import (
    AdapterConfig,
    load_adapter,
    read_adapter_config,
    save_adapter_config,
    save_adapter_weights,
    trainable,
)
from mlx_dpo.models.load import load_model
from mlx_dpo.models.weights import check_tensors
from mlx_dpo.storage import cache, files
from mlx_dpo.training.checkpoint_folder import CHECKPOINTS

from ..conftest import weights_of
from ..support.mistakes import assert_told, changed, curated, lines, pair
from ..support.policies import policy

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
DAMAGED = "its checksum does not match"


def flip(path, place, bit):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def is_whole(path):
    try:
        check_tensors(path, "")
        check_weights(path)
    except DpoError:
        return False
    return True


def test_no_single_bit_of_a_stamped_file_can_change_unnoticed(tmp_path):
    """Of the header neither, with the checksum and its name; the first 8 bytes are the header's length."""
    path = tmp_path / WEIGHTS
    mx.save_safetensors(str(path), {"a.lora_a": mx.arange(3.0), "b": mx.ones(2)}, metadata=UNSTAMPED)
    stamp_weights(path)
    whole = path.read_bytes()
    assert is_whole(path)
    unnoticed = []
    for place in range(len(whole)):
        for bit in random.Random(place).sample(range(8), 3):
            flip(path, place, bit)
            if is_whole(path):
                unnoticed.append((place, bit))
            path.write_bytes(whole)
    assert unnoticed == []


ROWS = "--set data.train=rows.jsonl --set data.valid=null"
READERS = {
    "eval": "eval --run run",
    "fuse": "fuse --run run --output fused",
    "report": "report --run run",
    "train": f"train {ROWS} --output out --set model.adapter=run --model ",
    "sft": f"sft {ROWS} --output out --set model.adapter=run --model ",
    "inspect": f"inspect {ROWS} --set model.adapter=run --model ",
    "gen-pairs": "gen-pairs --source curated.jsonl --output out --set model.adapter=run --model ",
}
"""Every command that reads an adapter."""


@pytest.fixture
def run(tmp_path, trained):
    """A copy of a finished run in the test's folder, and rows for the commands."""
    (tmp_path / "rows.jsonl").write_text(lines(pair()))
    (tmp_path / "curated.jsonl").write_text(lines(curated()))
    return shutil.copytree(trained("llama"), tmp_path / "run")


def command_line(name, model):
    return READERS[name] + (str(model) if READERS[name].endswith(" ") else "")


@pytest.mark.parametrize("seed", range(10))
def test_a_flipped_bit_in_a_finished_adapter_is_refused_by_every_reader(run, refused_at, models, seed):
    """Half of them in the numbers, half in the header: names, shapes, the checksum itself."""
    chance, size = random.Random(seed), (run / WEIGHTS).stat().st_size
    header = 8 + int.from_bytes((run / WEIGHTS).read_bytes()[:8], "little")
    flip(run / WEIGHTS, chance.randrange(*((header, size) if seed % 2 else (8, header))), chance.randrange(8))
    with pytest.raises(DpoError) as error:
        read_adapter_config("run")
    assert error.value.where == f"run/{WEIGHTS}"
    assert DAMAGED in error.value.what or (not seed % 2 and "damaged or incomplete" in error.value.what)
    for name in READERS:
        refused_at(command_line(name, models("llama")), f"run/{WEIGHTS}", error.value.what, error.value.hint)


def test_an_eval_reads_its_adapter_once_for_the_checksum_and_again_once_it_changed(run, monkeypatch):
    read, own = [], adapter_checksum._sha256

    def counted(path, header):
        read.append(path)
        return own(path, header)

    monkeypatch.setattr(adapter_checksum, "_sha256", counted)
    monkeypatch.setattr(cache, "_TICK_SECONDS", 0)  # a file that was just written may change within a tick
    evaluate_run(run, samples=0)
    assert read == [run / WEIGHTS]
    flip(run / WEIGHTS, -5, 0)
    with pytest.raises(DpoError) as error:
        evaluate_run(run, samples=0)
    assert DAMAGED in error.value.what and read == [run / WEIGHTS] * 2


def test_a_changed_number_in_an_adapters_config_is_refused_unless_the_checksum_is_taken_out(run, mistake):
    changed(CONFIG, '"scale": 2.0', '"scale": 3.0')(run)
    error = mistake("fuse --run run --output fused")
    assert_told(error, f"run/{CONFIG}", DAMAGED, "copy the whole run folder again")
    assert "train command again" in error.hint and 'remove the key "sha256"' in error.hint
    content = json.loads((run / CONFIG).read_text())
    del content["sha256"]
    (run / CONFIG).write_text(json.dumps(content))
    assert read_adapter_config(run).scale == 3.0


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_the_runs_own_command_puts_a_damaged_adapter_back_as_the_remedy_says(configure, capsys, name, damage):
    """Of a finished run, which does nothing else then."""
    config = configure("llama", "training.eval_steps=1", train=8)
    folder = train_run(config).folder
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert train_run(config).folder == folder and "restored" not in capsys.readouterr().err
    flip(folder / name, -5, 0) if damage == "flipped" else (folder / name).unlink()
    train_run(config)
    assert f"; the adapter is restored from {folder / CHECKPOINTS}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    read_adapter_config(folder)


def test_mlx_lm_loads_a_stamped_adapter_and_what_it_writes_itself_is_taken(run, models, tmp_path):
    from mlx_lm.tuner.utils import load_adapters

    own, _ = load_model(models("llama"))
    load_adapter(own, run)
    theirs, _ = load_model(models("llama"))
    theirs = load_adapters(theirs, str(run))
    tokens = mx.array([[5, 9, 300]])
    assert mx.allclose(own(tokens), theirs(tokens), atol=1e-5).item()
    mx.save_safetensors(str(run / WEIGHTS), trainable(own))  # as mlx_lm's trainer does
    (run / CONFIG).write_text(
        json.dumps({k: v for k, v in json.loads((run / CONFIG).read_text()).items() if "sha256" not in k})
    )
    read_adapter_config(run)
    evaluate_run(run, samples=0)


# -- the base --


@pytest.fixture(scope="module")
def other(models, tmp_path_factory):
    """A model of the same shape: one weight of the tiny Llama is another one."""
    folder = shutil.copytree(models("llama"), tmp_path_factory.mktemp("other") / "llama")
    path = folder / "model.safetensors"
    flip(path, path.stat().st_size // 2, 3)
    return folder


@pytest.fixture
def refused_base(mistake, models):
    """Run a command on a base model that differs from the run's in this; it must name both ways out."""

    def check(command, base, differs):
        error = mistake(command)
        assert_told(error, str(base), f"differs in {differs}", "--model")
        assert f"run was trained on ({models('llama')})" in error.what
        assert f'remove "base_sha256" and "sha256" from run/{CONFIG}' in error.hint

    return check


@pytest.mark.parametrize("name", [name for name in READERS if name != "report"])
def test_another_model_of_the_same_shape_is_refused_with_the_names_of_run_and_base(
    run, refused_base, models, other, name
):
    command = command_line(name, other)
    refused_base(command if str(other) in command else f"{command} --model {other}", other, "weights")


@pytest.mark.parametrize("command", ["eval --run run", "fuse --run run --output fused"], ids=["eval", "fuse"])
def test_a_base_that_was_changed_where_it_lies_is_refused_even_without_checkpoints(
    run, refused_base, tmp_path, models, command
):
    base = shutil.copytree(models("llama"), tmp_path / "base")
    shutil.rmtree(run / CHECKPOINTS)
    changed("config.yaml", str(models("llama")), str(base))(run)
    changed("config.json", '"rope_theta": 10000.0', '"rope_theta": 20000.0')(base)
    with pytest.raises(SystemExit):
        main(command.split())
    refused_base(command, base, "config")


def test_a_base_that_was_moved_and_lists_another_end_token_is_the_same(run, tmp_path, models):
    moved = shutil.copytree(models("llama"), tmp_path / "elsewhere" / "model")
    for path in moved.iterdir():  # as after another download
        path.touch()
    (moved / "README.md").write_text("A model.")
    content = json.loads((moved / "config.json").read_text())
    content["eos_token_id"] = [content["eos_token_id"], 1]
    (moved / "config.json").write_text(json.dumps(content, indent=3))
    assert evaluate_run(run, samples=0, model=str(moved)).pairs == 2
    assert fuse_run(str(moved), run, tmp_path / "fused").is_dir()


def test_a_run_that_starts_from_a_damaged_adapter_of_another_run_is_not_judged(run, tmp_path):
    """Its reference would be another one."""
    first = shutil.copytree(run, tmp_path / "first")
    flip(first / WEIGHTS, -3, 0)
    changed("config.yaml", "\n  adapter: null\n", f"\n  adapter: {first}\n")(run)
    with pytest.raises(DpoError) as error:
        evaluate_run(run)
    assert_told(error.value, f"{first}/{WEIGHTS}", DAMAGED, "copy the whole run folder again")


# -- the tokenizer and the chat template --


def with_tokenizer(folder, model, change):
    """A copy of a model whose tokenizer.json was changed."""
    base = shutil.copytree(model, folder)
    content = json.loads((base / "tokenizer.json").read_text())
    change(content["model"])
    (base / "tokenizer.json").write_text(json.dumps(content))
    return base


def swap_entries(model):
    vocab = model["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


def drop_merge(model):
    """The same entries; some texts become other tokens."""
    del model["merges"][0]


@pytest.mark.parametrize("change", [swap_entries, drop_merge])
@pytest.mark.parametrize("name", [name for name in READERS if name != "report"])
def test_the_same_weights_with_another_tokenizer_are_refused(
    run, refused_base, tmp_path, models, name, change
):
    base = with_tokenizer(tmp_path / "base", models("llama"), change)
    command = command_line(name, base)
    refused_base(command if str(base) in command else f"{command} --model {base}", base, "tokenizer")


def test_another_chat_template_of_the_base_is_said_and_used(run, tmp_path, models, capsys):
    base = shutil.copytree(models("llama"), tmp_path / "base")
    evaluate_run(run, samples=0, model=str(base))
    assert "WARNING" not in capsys.readouterr().err
    changed("tokenizer_config.json", '"chat_template": "', '"chat_template": "A new start. ')(base)
    assert evaluate_run(run, samples=0, model=str(base)).pairs == 2
    warning = said(capsys)
    assert f"WARNING: {run} was trained with another chat template" in warning and str(base) in warning


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_a_runs_own_chat_template_that_was_changed_is_refused_and_written_anew_by_the_runs_command(
    configure, tmp_path, refused_at
):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    template = "{{ bos_token }}" + template.replace("\n", "{{ eos_token }}")
    (tmp_path / "own.jinja").write_text(template)
    config = configure("llama", f"model.chat_template={tmp_path}/own.jinja", train=8)
    folder = train_run(config).folder
    kept = (folder / "chat_template.jinja").read_text()
    evaluate_run(folder, samples=0)
    changed("chat_template.jinja", "assistant: ", "robot: ")(folder)
    for command in (f"eval --run {folder}", f"fuse --run {folder} --output fused"):
        what = "is not the chat template that the run was trained with"
        refused_at(command, f"{folder}/chat_template.jinja", what, "train command again")
    train_run(config)
    assert (folder / "chat_template.jinja").read_text() == kept
    evaluate_run(folder, samples=0)


def test_an_adapter_of_a_version_that_kept_no_sum_of_the_tokenizer_is_taken(run, tmp_path, models):
    content = json.loads((run / CONFIG).read_text())
    for name in ("tokenizer", "chat_template"):
        del content["base_sha256"][name]
    del content["sha256"]
    (run / CONFIG).write_text(json.dumps(content))
    base = with_tokenizer(tmp_path / "base", models("llama"), swap_entries)
    assert evaluate_run(run, samples=0, model=str(base)).pairs == 2


# -- kills while an adapter is replaced --


class Killed(BaseException):
    """The process ends here; nothing tidies up after it."""


@pytest.fixture
def killed(monkeypatch):
    """Do something, but die at the so-many-th touch of the disk: True where it did."""

    def attempt(action, moment):
        count = 0

        def dying(own, half=False):
            def call(*arguments, **options):
                nonlocal count
                count += 1
                if count == moment and not half:
                    raise Killed
                done = own(*arguments, **options)
                if count == moment:
                    path = Path(arguments[0])
                    os.truncate(path, path.stat().st_size // 2)
                    raise Killed
                return done

            return call

        with monkeypatch.context() as patch:
            patch.setattr(files, "remove_any", lambda path: None)
            patch.setattr(files, "sync", dying(files.sync))
            patch.setattr(files.os, "replace", dying(os.replace))
            patch.setattr(adapters.mx, "save_safetensors", dying(mx.save_safetensors, half=True))
            patch.setattr(adapters, "stamp_weights", dying(stamp_weights))
            patch.setattr(Path, "write_text", dying(Path.write_text))
            try:
                action()
            except Killed:
                return True
        return False

    return attempt


def save(model, folder, first=lambda: None):
    """As a run begins: weights, then their config."""
    save_adapter_weights(model, folder, first)
    save_adapter_config(model, AdapterConfig(rank=4), "base", folder, {"base_sha256": {}})


def scaled(factor):
    """The tiny policy, its adapter so many times as large."""
    model = policy.__wrapped__("llama")
    model.load_weights([(n, w * factor) for n, w in trainable(model).items()], strict=False)
    return model


@pytest.mark.parametrize("older", ["none", "stamped", "of an older version"])
@pytest.mark.parametrize("moment", range(1, 11))
def test_an_adapter_whose_writer_was_killed_at_any_moment_is_the_old_or_the_new_one_and_never_refused(
    tmp_path, killed, older, moment
):
    """Writing, half written, stamping, flushing, renaming, and so on to the config."""
    run, old, new = tmp_path / "run", scaled(1.0), scaled(2.0)
    run.mkdir()
    if older != "none":
        save(old, run)
    if older == "of an older version":
        mx.save_safetensors(str(run / WEIGHTS), trainable(old), metadata={"format": "mlx"})
        content = json.loads((run / CONFIG).read_text())
        del content["sha256"], content["base_sha256"]
        (run / CONFIG).write_text(json.dumps(content))
    died = killed(lambda: save(new, run), moment)
    assert died == (moment < 10)
    if (run / CONFIG).exists():
        read_adapter_config(run)
    else:
        assert older == "none"
    if (run / WEIGHTS).exists():
        found = weights_of(run)
        assert any(
            all(np.array_equal(found[n], np.array(w)) for n, w in trainable(model).items())
            for model in (old, new)
        )
    save(new, run)  # the next process
    read_adapter_config(run)
    assert sorted(path.name for path in run.iterdir()) == sorted([WEIGHTS, CONFIG])
