"""mlx-dpo export hf and export gguf, as a user gives them."""

import json
import shlex
from importlib.util import find_spec

import pytest

from mlx_dpo.demo.family_models import make_adapter
from mlx_dpo.errors import DpoError
from mlx_dpo.export import hub_model
from mlx_dpo.export.gguf import export_gguf
from mlx_dpo.jobs.export import PROOF_ROWS, PROOF_TOKENS, proof_rows
from mlx_dpo.jobs.open_run import open_run
from mlx_dpo.models.load import load_model, load_tokenizer

from ..support.mistakes import lines

needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="the package gguf is not installed")


@pytest.fixture(scope="module")
def run(tmp_path_factory, models, pair_rows):
    """A run's folder: what export reads of it, with a random adapter."""
    folder = make_adapter(models("llama"), tmp_path_factory.mktemp("runs") / "run")
    data = {name: str(folder.parent / f"{name}.jsonl") for name in ("train", "valid")}
    (folder.parent / "train.jsonl").write_text(lines(*pair_rows[:2]))
    (folder.parent / "valid.jsonl").write_text(lines(*pair_rows[2:4]))
    settings = {"model": {"path": str(models("llama"))}, "data": data}
    (folder / "config.yaml").write_text(json.dumps(settings))
    return folder


def test_a_run_is_exported_to_a_folder_that_mlx_lm_loads(run, models, outcome, tmp_path):
    code, out, _ = outcome("export", "hf", "--run", run, "--output", "out", "--no-prove", "--json")
    assert code == 0
    assert json.loads(out) == {"exported": "out", "proof": "not proved"}
    load_model(tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").chat_template == load_tokenizer(models("llama")).chat_template


def test_the_export_of_a_hybrid_says_what_the_limit_on_time_steps_changes(
    models, outcome, pair_rows, tmp_path
):
    """Also without a proof; mlx_lm has that limit, and no program that reads the export."""
    folder = make_adapter(models("granite"), tmp_path / "run")
    (tmp_path / "rows.jsonl").write_text(lines(*pair_rows[:2]))
    data = {"train": str(tmp_path / "rows.jsonl"), "valid": None}
    (folder / "config.yaml").write_text(json.dumps({"model": {"path": str(models("granite"))}, "data": data}))
    code, _, told = outcome("export", "hf", "--run", folder, "--output", "out", "--no-prove")
    assert code == 0
    assert "mlx_lm limits Mamba's time steps, transformers and llama.cpp do not: on these rows" in told


@needs_gguf
@pytest.mark.parametrize("kind", ["peft", "gguf"])
def test_a_command_for_another_program_can_be_pasted_whatever_the_folder_is_called(kind, run, outcome):
    code, out, err = outcome("export", kind, "--run", run, "--output", "my $(x) model", "--no-prove")
    assert code == 0
    commands = [
        line for line in (out + err).splitlines() if "ollama create" in line or "convert_lora" in line
    ]
    folder = "my $(x) model" + ("/Modelfile" if kind == "gguf" else "")
    assert commands and all(folder in shlex.split(line) for line in commands)


@needs_gguf
def test_a_run_is_exported_as_gguf_with_the_next_command(run, models, outcome, tmp_path):
    code, out, _ = outcome("export", "gguf", "--run", run, "--output", "out", "--no-prove")
    assert code == 0
    exported, proof, compared, following = out.splitlines()
    assert (exported, proof) == ("exported model: out/out-f16.gguf", "not proved")
    assert compared.startswith("compared with the adapter: KL ratio ")
    assert following == "next: ollama create NAME -f out/Modelfile"
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert files == ["Modelfile", "made_from.json", "out-f16.gguf"]
    code, out, _ = outcome("export", "gguf", "--run", run, "--output", "lora", "--lora")
    assert (code, out.splitlines()[0]) == (0, "exported adapter: lora/lora-lora.gguf")


@pytest.mark.parametrize("kind", ["hf", pytest.param("gguf", marks=needs_gguf)])
def test_mistakes_are_told_before_anything_is_loaded(kind, run, refused_at, tmp_path):
    (tmp_path / "there").mkdir()
    export = f"export {kind} --no-prove"
    refused_at(f"{export} --run {run} --output there", "there", "exists already", "--output", "exists")
    refused_at(f"{export} --run there --output out", "there", "is not a run folder", "mlx-dpo train")
    refused_at(f"{export} --run {run} --output out --model ./gone", "./gone", "is missing", "--model FOLDER")


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_a_proof_that_is_asked_for_needs_torch(run, refused_at):
    command = f"export hf --run {run} --output out --prove"
    refused_at(command, "--prove", "torch is not installed", "mlx-dpo[prove]", "not-installed")


@pytest.mark.skipif(find_spec("gguf") is not None, reason="gguf is installed")
def test_gguf_needs_its_package(run, refused_at):
    command = f"export gguf --run {run} --output out"
    refused_at(
        command, "export gguf", "gguf is not installed", "pip install 'mlx-dpo[gguf]'", "not-installed"
    )


@needs_gguf
@pytest.mark.parametrize("kind", ["olmo2", "gemma2"])
def test_a_family_without_gguf_is_told_the_other_way_before_it_is_loaded(
    kind, run, models, tmp_path, monkeypatch
):
    base = tmp_path / "base"
    base.mkdir()
    config = json.loads((models("llama") / "config.json").read_text()) | {"model_type": kind, "head_dim": 16}
    (base / "config.json").write_text(json.dumps(config))
    (base / "model.safetensors").symlink_to(models("llama") / "model.safetensors")
    monkeypatch.setattr(hub_model, "fused_model", None)  # nothing is fused
    with pytest.raises(DpoError, match=f"no GGUF for the architecture '{kind}'") as error:
        export_gguf(str(base), run, tmp_path / "out")
    assert "mlx-dpo export hf" in error.value.hint


def test_the_proof_asks_what_the_run_has_held_out(run, models, capsys):
    config, tokenizer = open_run(run), load_tokenizer(models("llama"))
    rows = proof_rows(config, tokenizer)
    assert 0 < len(rows) <= PROOF_ROWS and all(0 < len(row) < PROOF_TOKENS for row in rows)
    held = json.loads((run.parent / "valid.jsonl").read_text().splitlines()[0])
    assert held["prompt"] in tokenizer.decode(rows[0])


def test_the_proof_has_its_own_questions_where_the_data_is_gone(run, models, tmp_path, capsys):
    from dataclasses import replace

    config, tokenizer = open_run(run), load_tokenizer(models("llama"))
    gone = replace(config, data=replace(config.data, valid=str(tmp_path / "gone.jsonl")))
    rows = proof_rows(gone, tokenizer)
    assert len(rows) == 4 and "copper kettle" in tokenizer.decode(rows[0])
    assert "the proof uses its own questions" in capsys.readouterr().err
