"""A run's folder is the run's alone: what is there of others stays, and two runs never share one."""

from pathlib import Path

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.jobs import prepare, run_folder
from mlx_dpo.jobs.train import train_run
from mlx_dpo.training.checkpoint_folder import CHECKPOINTS


@pytest.mark.parametrize(
    "names",
    [
        ["checkpoints/mine.ckpt"],
        ["checkpoints/500/a"],
        ["checkpoints/000001/a"],
        ["checkpoints/.hidden", "wandb/run"],
        ["wandb/run"],
        ["margins/a"],
        ["samples.jsonl"],
        ["checkpoints/.hidden", "events.jsonl", "trackio/a"],
    ],
)
def test_folders_of_others_are_not_replaced(configure, names):
    config = configure("llama", train=4)
    folder = Path(config.run.output)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    with pytest.raises(DpoError) as error:
        train_run(config)
    assert error.value.where.startswith(str(folder))
    assert all((folder / name).read_text() == "mine" for name in names)


def test_hidden_files_of_others_stay(configure):
    config = configure("llama", train=4)
    folder = Path(config.run.output)
    names = [".env.local", ".gitlab-ci.yml", ".adapters.bak", ".state.12.json"]
    for name in (*names, ".adapters.12.safetensors"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    train_run(config)
    assert sorted(path.name for path in folder.glob(".*")) == sorted(names)


def test_a_run_that_another_process_began_meanwhile_is_left_alone(configure, monkeypatch):
    config, own = configure("llama", train=4), prepare.planned_layout

    def planned_layout(*arguments):
        monkeypatch.setattr(prepare, "planned_layout", own)
        train_run(config)
        return own(*arguments)

    monkeypatch.setattr(prepare, "planned_layout", planned_layout)
    with pytest.raises(DpoError, match="a run that was started meanwhile"):
        train_run(config)
    assert train_run(config).held_out  # the other's: finished


def test_a_run_cannot_replace_the_adapter_that_it_starts_from(configure):
    folder = train_run(configure("llama", train=4)).folder
    newest = sorted((folder / CHECKPOINTS).iterdir())[-1]
    for adapter in (folder, newest):
        with pytest.raises(DpoError, match="the adapter that the run starts from"):
            train_run(configure("llama", f"model.adapter={adapter}", train=4), overwrite=True)
    assert newest.is_dir()


def test_room_that_a_run_takes_already_is_not_asked_for_again(configure, monkeypatch):
    asked, own = [], run_folder.check_writable

    def check(folder, need_bytes=0):
        asked.append(need_bytes)
        own(folder, need_bytes)

    monkeypatch.setattr(run_folder, "check_writable", check)
    config = configure("llama", "training.eval_steps=1", train=8)
    folder = train_run(config).folder
    taken = sum(path.stat().st_size for path in (folder / CHECKPOINTS).glob("*/*"))
    for path in sorted((folder / CHECKPOINTS).iterdir())[-1].iterdir():
        path.unlink()
    train_run(config)
    assert len(asked) == 2 and asked[0] - taken < asked[1] < asked[0]
