"""Checkpoints with right checksums that hold what no run writes."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from mlx_dpo.cli import main

from ..support.mistakes import changed


def sealed_again(checkpoint, change=lambda body: None):
    """Make the checksums fit what the folder holds now."""
    body = json.loads((checkpoint / "state.json").read_text())
    body.pop("sum")
    change(body["facts"])
    arrays = checkpoint / "state.npz"
    body["files"]["state.npz"] = [arrays.stat().st_size, hashlib.sha256(arrays.read_bytes()).hexdigest()]
    body["sum"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (checkpoint / "state.json").write_text(json.dumps(body))


@pytest.fixture
def going_on(tmp_path, trained, monkeypatch, capsys):
    """The newest checkpoint of a copied run, and a way to go on from it: the error."""
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    changed("config.yaml", str(trained("llama")), "run")(run)
    monkeypatch.chdir(tmp_path)
    newest = sorted((run / "checkpoints").iterdir())[-1]

    def go_on():
        with pytest.raises(SystemExit) as stop:
            main(["train", "--config", "run/config.yaml", "--set", "training.epochs=9", "--accept-changes"])
        err = capsys.readouterr().err
        assert (stop.value.code, "Traceback" in err) == (1, False)
        return err[err.index("Error: ") :]

    return newest, go_on


def test_arrays_of_objects_are_refused_and_not_executed(going_on):
    newest, go_on = going_on
    arrays = dict(np.load(newest / "state.npz"))
    arrays[min(arrays)] = np.array([print], object)
    np.savez(newest / "state.npz", **arrays)
    sealed_again(newest)
    error = go_on()
    assert f"run/checkpoints/{newest.name}: is damaged: " in error
    assert "remove this folder" in error and "--overwrite" in error


@pytest.mark.parametrize(
    "forged",
    [{"key": 3}, {"step": "four"}, {"layout": []}, {"best": 1}, {"sizes": None}, {"interval": {"said": 1}}],
    ids=lambda forged: next(iter(forged)),
)
def test_facts_of_no_run_are_refused(forged, going_on):
    newest, go_on = going_on
    sealed_again(newest, lambda facts: facts.update(forged))
    assert f"run/checkpoints/{newest.name}: is damaged: " in go_on()


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_a_run_whose_log_is_a_folder_does_not_go_on_and_keeps_its_checkpoints(name, going_on, tmp_path):
    newest, go_on = going_on
    before = sorted(newest.parent.iterdir())
    (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / name).mkdir()
    assert f"run/{name}: is a folder, not a file" in go_on()
    assert sorted(newest.parent.iterdir()) == before
