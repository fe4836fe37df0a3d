"""An adapter is what the run wrote, or the old one, whatever happened to its writer; else it is refused."""

import json
import os
import random
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.evaluate import evaluate_run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.models import adapter_checksum, adapters
from mlx_dpo.models.adapter_checksum import UNSTAMPED, check_weights, stamp_weights
from mlx_dpo.models.adapters import (
    CONFIG,
    WEIGHTS,
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

from ..support.adapter_commands import DAMAGED, READERS, command_line, flip
from ..support.mistakes import assert_told, changed
from ..support.policies import policy
from ..support.runs import weights_of


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


def test_a_run_that_starts_from_a_damaged_adapter_of_another_run_is_not_judged(run, tmp_path):
    """Its reference would be another one."""
    first = shutil.copytree(run, tmp_path / "first")
    flip(first / WEIGHTS, -3, 0)
    changed("config.yaml", "\n  adapter: null\n", f"\n  adapter: {first}\n")(run)
    with pytest.raises(DpoError) as error:
        evaluate_run(run)
    assert_told(error.value, f"{first}/{WEIGHTS}", DAMAGED, "copy the whole run folder again")


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
