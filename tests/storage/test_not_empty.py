"""A folder that may not be read is not an empty one: nothing in it is replaced, nor is that advised."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.pairs.completions import completions_log
from mlx_dpo.storage.cache import find, kept
from mlx_dpo.storage.reading import entries, is_there
from mlx_dpo.training.checkpoint_folder import CHECKPOINTS

from ..conftest import files_in

REASONS = {errno.EACCES: "Permission denied", errno.EIO: "Input/output error"}


@pytest.fixture(params=REASONS, ids=REASONS.values())
def locked(request, monkeypatch):
    """Lock a folder, as `chmod 000` does for all but root, or a failing disk; what the system says then."""
    code = request.param

    def lock(folder):
        folder = str(Path(folder).absolute())

        def refusing(own, itself):
            def call(path=".", *arguments, **options):
                name = os.path.abspath(os.fspath(path)) if not isinstance(path, int) else ""
                if name.startswith(folder + os.sep) or (itself and name == folder):
                    raise OSError(code, REASONS[code], str(path))
                return own(path, *arguments, **options)

            return call

        for name in ("scandir", "listdir", "open"):
            monkeypatch.setattr(os, name, refusing(getattr(os, name), True))
        for name in ("stat", "lstat", "rename", "unlink", "rmdir", "mkdir"):
            monkeypatch.setattr(os, name, refusing(getattr(os, name), False))
        return REASONS[code]

    return lock


@pytest.fixture
def copied_run(configure, trained, tmp_path):
    """Settings whose output is a copy of a finished run."""
    config = configure("llama", train=4)
    shutil.copytree(trained("llama"), config.run.output)
    return config, Path(config.run.output)


@pytest.mark.parametrize(
    "how", [{}, {"resume": True}, {"accept_changes": True}, {"overwrite": True}], ids=str
)
def test_a_run_whose_checkpoints_cannot_be_read_is_left_alone_and_overwriting_is_not_advised(
    copied_run, locked, monkeypatch, how
):
    config, run = copied_run
    before = files_in(run)
    reason = locked(run / CHECKPOINTS)
    with pytest.raises(DpoError) as error:
        train_run(config, **how)
    assert (error.value.what, error.value.where) == (f"cannot be read: {reason}", str(run / CHECKPOINTS))
    assert error.value.hint and "overwrite" not in error.value.hint
    monkeypatch.undo()
    assert files_in(run) == before


def test_one_checkpoint_that_cannot_be_read_is_not_passed_over(copied_run, locked):
    config, run = copied_run
    newest = sorted((run / CHECKPOINTS).iterdir())[-1]
    reason = locked(newest)
    with pytest.raises(DpoError, match=f"{newest}.*: cannot be read: {reason}") as error:
        train_run(config)
    assert "--overwrite" not in str(error.value)


def test_a_run_folder_that_cannot_be_read_is_not_a_free_one(copied_run, locked):
    config, run = copied_run
    reason = locked(run)
    with pytest.raises(DpoError) as error:
        train_run(config)
    assert reason in error.value.what and "--overwrite" not in str(error.value)


def test_what_is_not_there_and_what_cannot_be_read_are_told_apart(tmp_path, locked):
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert is_there(tmp_path / "a" / "b") and not is_there(tmp_path / "c")
    assert (entries(tmp_path / "a"), entries(tmp_path / "c")) == ([tmp_path / "a" / "b"], [])
    reason = locked(tmp_path / "a")
    for look in (lambda: entries(tmp_path / "a"), lambda: is_there(tmp_path / "a" / "b")):
        with pytest.raises(DpoError, match=f"cannot be read: {reason}"):
            look()


def test_answers_in_a_folder_that_cannot_be_read_are_not_taken_for_none(tmp_path, locked):
    (tmp_path / "pairs").mkdir()
    reason = locked(tmp_path / "pairs")
    with pytest.raises(DpoError, match=f"completions.json: cannot be read: {reason}"):
        completions_log(tmp_path / "pairs", {"generate": {}}).check()


def test_an_entry_of_the_cache_that_cannot_be_read_is_not_made_again(cache, locked):
    kept("kind", {"a": 1}, lambda folder: {}, "a test")
    reason = locked(cache / "kind")
    with pytest.raises(DpoError, match=f"cannot be read: {reason}") as error:
        find("kind", {"a": 1}, "a test")
    assert "MLX_DPO_CACHE" in error.value.hint


def test_an_output_that_cannot_be_looked_at_is_not_a_free_one(tmp_path, trained, models, locked):
    (tmp_path / "models").mkdir()
    reason = locked(tmp_path / "models")
    with pytest.raises(DpoError, match=f"cannot be read: {reason}"):
        fuse_run(str(models("llama")), trained("llama"), tmp_path / "models" / "fused")
