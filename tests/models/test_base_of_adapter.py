"""An adapter is used on the model that it was trained on, wherever that lies, and on no other one."""

import json
import shutil

import pytest

from mlx_dpo.cli import main
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.jobs.evaluate import evaluate_run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.models.adapters import CONFIG
from mlx_dpo.training.checkpoint_folder import CHECKPOINTS

from ..support.adapter_commands import READERS, command_line, flip
from ..support.mistakes import assert_told, changed


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
