"""`mlx-dpo push --lm-studio`: a fused model or a GGUF where LM Studio looks for models."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from mlx_dpo.export.lm_studio import models_folder
from mlx_dpo.models.load import load_model

from ..support.hub_uploads import REPO


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder in which LM Studio was started."""
    folder = tmp_path / "home"
    (folder / ".lmstudio").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_the_folder_is_the_one_of_lm_studios_settings(home, tmp_path):
    assert models_folder() == home / ".lmstudio" / "models"
    (home / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": str(tmp_path / "big")}))
    assert models_folder() == tmp_path / "big"
    (home / ".lmstudio" / "settings.json").write_text("{")
    assert models_folder() == home / ".lmstudio" / "models"
    (tmp_path / "moved").mkdir()
    (home / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'moved'}\n")
    assert models_folder() == tmp_path / "moved" / "models"


@pytest.mark.parametrize("name", ["~/big", "big"])
def test_a_folder_that_is_not_absolute_is_one_of_the_home_folder(home, name):
    (home / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": name}))
    assert models_folder() == home / "big"


def test_an_older_home_of_lm_studio_is_found(home):
    (home / ".cache" / "lm-studio").mkdir(parents=True)
    assert models_folder() == home / ".cache" / "lm-studio" / "models"


def test_a_fused_model_appears_whole_and_without_notes_of_ours(finished, home, outcome):
    fused = finished.parent / "fused"
    assert outcome("fuse", "--run", finished, "--output", fused)[0] == 0
    code, out, err = outcome("push", fused, REPO, "--lm-studio")
    target = home / ".lmstudio" / "models" / REPO
    assert (code, out) == (0, f"for LM Studio: {target}\n"), err
    names = {path.name for path in target.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names and "made_from.json" not in names
    assert (target / "model.safetensors").stat().st_ino == (fused / "model.safetensors").stat().st_ino
    load_model(target)
    shutil.rmtree(finished)  # it is not asked for
    assert [path.name for path in target.parent.iterdir()] == ["tiny-dpo"]
    code, _, err = outcome("push", fused, REPO, "--lm-studio")
    assert code == 1 and f"{target}: exists already" in err
    assert "remove it, or choose another OWNER/NAME" in err and "--output" not in err


@pytest.mark.skipif(find_spec("gguf") is None, reason="the package gguf is not installed")
def test_a_gguf_goes_there_too(finished, home, outcome):
    folder = finished.parent / "gguf"
    code, _, err = outcome("export", "gguf", "--run", finished, "--output", folder, "--no-prove")
    assert code == 0, err
    code, out, err = outcome("push", folder, REPO, "--lm-studio", "--json")
    assert code == 0, err
    target = Path(json.loads(out)["lm_studio"])
    assert sorted(path.name for path in target.iterdir()) == ["Modelfile", "gguf-f16.gguf"]


def test_what_lm_studio_cannot_load_is_refused(finished, home, mistake):
    error = mistake(f"push desk/whole {REPO} --lm-studio")
    assert error.what == "is the adapter of a run, for mlx_lm, which LM Studio does not load"
    assert "mlx-dpo fuse" in error.hint


def test_a_machine_without_lm_studio_is_told(finished, home, mistake, outcome):
    fused = finished.parent / "fused"
    assert outcome("fuse", "--run", finished, "--output", fused)[0] == 0
    (home / ".lmstudio").rmdir()
    error = mistake(f"push desk/fused {REPO} --lm-studio")
    assert error.where == str(home / ".lmstudio") and "start LM Studio once" in error.hint


def test_options_of_an_upload_are_wrong_usage_here(outcome):
    for option in (["--private"], ["--samples", "3"], ["--license", "mit"]):
        assert outcome("push", "a", REPO, "--lm-studio", *option)[0] == 2
    assert outcome("push", "a", REPO, "--output", "b")[0] == 2
