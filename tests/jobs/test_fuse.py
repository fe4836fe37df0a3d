"""`mlx-dpo fuse`: which rows it compares on, and what it prints."""

import json
import shutil
from pathlib import Path

import pytest

import mlx_dpo
from mlx_dpo.config import load_config
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.errors import DpoError
from mlx_dpo.export.grids import grids_of
from mlx_dpo.export.likeness import few_rows
from mlx_dpo.jobs.fuse import fuse_folder
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.settings import as_plain, to_yaml

from ..support.mistakes import lines
from ..support.planted import planted


@pytest.fixture(scope="module")
def made(tmp_path_factory, models, pair_rows):
    """A run folder with a planted change of 14 %, on this model, with two rows held out."""
    folder = tmp_path_factory.mktemp("made")

    def get(model):
        run = folder / model
        if not run.exists():
            planted(models(model), run, 0.14)
            for name, rows in (("train", pair_rows[:2]), ("valid", pair_rows[2:4])):
                (run / f"{name}.jsonl").write_text(lines(*rows))
            settings = [f"model.path={models(model)}", f"data.train={run / 'train.jsonl'}"]
            settings += [f"data.valid={run / 'valid.jsonl'}"]
            (run / "config.yaml").write_text(to_yaml(as_plain(load_config(None, settings))))
        return run

    return get


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run on this model, whose files are in the copy."""

    def copied(model):
        to = shutil.copytree(made(model), tmp_path / "run")
        config = to / "config.yaml"
        config.write_text(config.read_text().replace(str(made(model)), str(to)))
        return to

    return copied


def answer_tokens(model, file):
    """How many answer tokens the rows of a file have for the comparison."""
    return sum(len(row.chosen) for row in few_rows(index_rows(file), load_tokenizer(model), 1024))


def test_a_quantised_base_stays_quantised_and_figures_are_printed(made, models, outcome):
    code, out, err = outcome("fuse", "--run", made("llama-4bit"), "--output", "fused", "--json")
    printed = json.loads(out)
    assert code == 0, err
    assert printed == {"fused": "fused", "likeness": json.loads(Path("fused/likeness.json").read_text())}
    assert printed["likeness"]["precision"] in ("6", "mixed", "8")
    held_out = answer_tokens(models("llama-4bit"), made("llama-4bit") / "valid.jsonl")
    assert printed["likeness"]["positions"] == held_out
    assert {4, 8} & {grid.bits for grid in grids_of(load_model(Path("fused"))[0]).values()}


def test_a_plain_base_stays_plain(made, outcome):
    code, out, err = outcome("fuse", "--run", made("llama"), "--output", "fused")
    assert code == 0, err
    folder, compared, following = out.splitlines()
    assert folder == "fused model: fused"
    assert compared.startswith("compared: plain, 0.7 MB; KL ratio ") and compared.endswith(", top-1 100 %")
    assert following.startswith("next: python -m mlx_lm generate --model fused")


def test_without_held_out_rows_those_of_training_are_used(run, models, tmp_path):
    folder = run("llama")
    config = folder / "config.yaml"
    held = f"valid: {folder / 'valid.jsonl'}"
    assert held in config.read_text()
    config.write_text(config.read_text().replace(held, "valid: null"))
    (folder / "valid.jsonl").unlink()
    report = json.loads((fuse_folder(folder, tmp_path / "fused") / "likeness.json").read_text())
    assert report["positions"] == answer_tokens(models("llama"), folder / "train.jsonl")


def test_a_run_whose_rows_are_gone_is_fused_unseen_only_in_plain_precision(run, tmp_path, capsys):
    folder = run("llama")
    for name in ("train", "valid"):
        (folder / f"{name}.jsonl").unlink()
    with pytest.raises(DpoError) as told:
        fuse_folder(folder, tmp_path / "fused", precision="8")
    assert told.value.where == f"{folder}/valid.jsonl"
    assert "--data FILE" in told.value.hint
    assert not (fuse_folder(folder, tmp_path / "fused") / "likeness.json").exists()
    assert "WARNING: the fused model is not compared with the adapter" in capsys.readouterr().err


def test_rows_can_be_named(made, models, pair_rows, write_rows, outcome):
    file = write_rows("others.jsonl", pair_rows[10:13])
    command = [
        "fuse",
        "--run",
        made("llama-4bit"),
        "--output",
        "fused",
        "--precision",
        "8",
        "--data",
        file,
        "--json",
    ]
    code, out, err = outcome(*command)
    assert code == 0, err
    assert json.loads(out)["likeness"]["positions"] == answer_tokens(models("llama-4bit"), file)


def test_a_refused_fuse_says_what_to_do(made, refused_at):
    refused_at(
        f"fuse --run {made('llama-4bit')} --output fused --precision 4",
        str(made("llama-4bit")),
        "the fused model does not behave like the adapter",
        "use --precision auto",
        "not-like-the-adapter",
    )


def test_the_api_takes_the_same_choices(made, models, pair_rows, tmp_path):
    run, base = made("llama-4bit"), models("llama")
    options = {"precision": 8, "max_kl_ratio": 2, "base": base, "pairs": pair_rows[:1]}
    report = json.loads((mlx_dpo.fuse(run, tmp_path / "fused", **options) / "likeness.json").read_text())
    assert (report["precision"], report["max_kl_ratio"]) == ("8", 2)
    assert report["positions"] < 64 and report["kept"] == pytest.approx(1, abs=0.01)
    with pytest.raises(DpoError, match="cannot be '5'"):
        mlx_dpo.fuse(run, tmp_path / "other", precision=5)


def test_wrong_usage_is_told(outcome):
    for words in (["--precision", "5"], ["--max-kl-ratio", "0"]):
        assert outcome("fuse", "--run", "a", "--output", "b", *words)[0] == 2
