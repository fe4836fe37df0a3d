"""A run goes on as itself or not at all: what changed is named, what is damaged is left for what is whole."""

import json
import os
import shutil

import pytest

from mlx_dpo.cli import main
from mlx_dpo.config import load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.train import train_run
from mlx_dpo.settings import save_settings
from mlx_dpo.training import trainer
from mlx_dpo.training.checkpoint_folder import CHECKPOINTS

from ..support.mistakes import changed
from ..support.runs import rows_of


@pytest.fixture
def own_stopped(configure, monkeypatch, tmp_path, models):
    """Settings of a run with its own copy of a model, and what runs it until its third update."""
    model = shutil.copytree(models("llama"), tmp_path / "model")
    config = configure("llama", f"model.path={model}", "training.eval_steps=1", "training.accumulation=2")

    def update(*arguments):
        if (tmp_path / "run/checkpoints/000002").exists():
            raise KeyboardInterrupt
        return own(*arguments)

    def run():
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "update", update)
            with pytest.raises(KeyboardInterrupt):
                train_run(config)

    own = trainer.update
    return config, run


@pytest.fixture
def stopped(own_stopped, once):
    """Settings of a run that was interrupted at its third update, perhaps in another test's folder."""
    config, run = own_stopped
    once("a run interrupted at its third update", run)
    return config


def another_row(folder):
    path = folder / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["chosen"] += " Really."
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def another_held_out_row(folder):
    path = folder / "valid.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def another_weight(folder):
    path = folder / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


CHANGES = {
    "a row": (another_row, (), "the pairs (data.train) changed"),
    "a held-out row": (another_held_out_row, (), "the held-out pairs (data.valid) changed"),
    "a weight of the base": (another_weight, (), "the base model (model.path) changed"),
    "the template": (
        lambda folder: changed("tokenizer_config.json", "<|end_header_id|>\\n\\n", "<|end_header_id|>\\n")(
            folder / "model"
        ),
        (),
        "the chat template changed",
    ),
    "a setting": (lambda folder: None, ("beta.value=0.2",), "beta.value is 0.2, was 0.1"),
    "two settings": (
        lambda folder: None,
        ("training.seed=3", "adapter.rank=8"),
        "adapter.rank is 8, was 4, training.seed is 3, was 0",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_run_does_not_go_on_as_another_and_says_what_differs(stopped, tmp_path, case):
    change, settings, named = CHANGES[case]
    change(tmp_path)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    config = again(stopped, tmp_path, *settings)
    with pytest.raises(DpoError) as error:
        train_run(config)
    assert error.value.what.startswith("the run in this folder ")
    assert named in error.value.what
    assert "--accept-changes" in error.value.hint and "--overwrite" in error.value.hint
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def again(config, tmp_path, *settings):
    """The same settings but for these; the files that they name stay as they are."""
    save_settings(config, tmp_path / "given.yaml")
    return load_config(tmp_path / "given.yaml", settings)


def test_what_changed_can_be_accepted(stopped, tmp_path):
    another_row(tmp_path)
    folder = train_run(stopped, accept_changes=True).folder
    assert [row["step"] for row in rows_of(folder)[0]] == [1, 2, 3, 4]


def test_a_layout_that_is_set_counts_where_one_was_settled_before(stopped, tmp_path):
    smaller = again(stopped, tmp_path, "training.gradient_checkpointing=on", "training.keep_checkpoints=9")
    folder = train_run(smaller, accept_changes=True).folder
    settled = {
        facts["step"]: facts["layout"]["checkpointing"]
        for facts in (json.loads(p.read_text())["facts"] for p in folder.glob("checkpoints/*/state.json"))
    }
    assert not settled[1] and settled[2] and settled[4]


def test_settings_that_do_not_change_what_is_computed_may_change(stopped, tmp_path):
    free = ["training.save_minutes=1", "training.keep_checkpoints=5", "generate.seed=7", "pairs.limit=3"]
    shutil.move(tmp_path / "train.jsonl", tmp_path / "moved.jsonl")
    free += [f"data.train={tmp_path / 'moved.jsonl'}"]
    folder = train_run(again(stopped, tmp_path, *free)).folder
    assert [row["step"] for row in rows_of(folder)[0]] == [1, 2, 3, 4]


def test_settings_that_end_a_run_earlier_end_it_where_it_is(stopped, tmp_path):
    short = again(stopped, tmp_path, "training.accumulation=16")  # one update; it has made two
    folder = train_run(short, accept_changes=True).folder
    assert [row["step"] for row in rows_of(folder)[0]] == [1, 2]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert train_run(short).folder == folder  # finished
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_settings_that_a_run_wrote_go_on_with_it(own_stopped, tmp_path):
    """They name what a plan made of auto."""
    stopped, run = own_stopped
    run()
    written = load_config(tmp_path / "run" / "config.yaml")
    assert written.training.branches != stopped.training.branches == "auto"
    folder = train_run(written).folder
    assert [row["step"] for row in rows_of(folder)[0]] == [1, 2, 3, 4]
    assert train_run(written).folder == folder  # finished: nothing to refuse


def test_a_checkpoint_that_was_set_aside_for_one_that_never_came_is_put_back(stopped, tmp_path, capsys):
    newest = sorted((tmp_path / "run" / CHECKPOINTS).iterdir())[-1]
    newest.rename(newest.with_name(f".{newest.name}.4711.before"))
    folder = train_run(stopped).folder
    assert f"continuing from {newest}" in capsys.readouterr().err
    assert [row["step"] for row in rows_of(folder)[0]] == [1, 2, 3, 4]


DAMAGES = {
    "a byte of the adapter": ("adapters.safetensors", lambda p: flip(p)),
    "a byte of the state": ("state.npz", lambda p: flip(p)),
    "half the adapter": ("adapters.safetensors", lambda p: os.truncate(p, p.stat().st_size // 2)),
    "half the state": ("state.npz", lambda p: os.truncate(p, p.stat().st_size // 2)),
    "half the facts": ("state.json", lambda p: os.truncate(p, p.stat().st_size // 2)),
    "no facts": ("state.json", lambda p: p.unlink()),
    "no state": ("state.npz", lambda p: p.unlink()),
    "other facts": ("state.json", lambda p: p.write_text(p.read_text().replace('"step": 2', '"step": 3'))),
    "an empty adapter's config": ("adapter_config.json", lambda p: p.write_text("")),
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(stopped, capsys, tmp_path, case):
    name, damage = DAMAGES[case]
    newest = sorted((tmp_path / "run" / CHECKPOINTS).iterdir())[-1]
    damage(newest / name)
    folder = train_run(stopped).folder
    said = capsys.readouterr().err
    assert f"{newest}: is damaged" in said
    assert f"from {newest.with_name('000001')}" in said
    assert [row["step"] for row in rows_of(folder)[0]] == [1, 2, 3, 4]


def test_with_every_checkpoint_damaged_nothing_is_overwritten(stopped, tmp_path):
    for path in (tmp_path / "run" / CHECKPOINTS).rglob("state.npz"):
        flip(path)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(DpoError, match=r"no intact checkpoint \(damaged: 2, 1\)"):
        train_run(stopped)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_run_whose_checkpoints_were_deleted_is_not_replaced(stopped, tmp_path):
    for path in (tmp_path / "run" / CHECKPOINTS).iterdir():
        shutil.rmtree(path)
    with pytest.raises(DpoError, match="without checkpoints"):
        train_run(stopped)


def test_overwrite_begins_anew(stopped, tmp_path):
    folder = train_run(stopped, overwrite=True).folder
    assert [row["step"] for row in rows_of(folder)[1]] == [0, 1, 2, 3, 4]


def test_overwrite_and_resume_exclude_one_another(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--overwrite", "--resume"])
    assert stop.value.code == 2
    assert "--overwrite" in capsys.readouterr().err
