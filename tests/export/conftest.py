"""What several files of tests export: fused models, a finished run, and a Hub that takes uploads."""

import shutil

import pytest

from mlx_dpo.jobs.push import dry_run

from ..conftest import ROOT
from ..support.export_content import made, source_of
from ..support.hub_uploads import BASE, CARD, REPO, TOKEN, hub_for_uploads


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The fused model of a family."""
    folder, found = tmp_path_factory.mktemp("sources"), {}

    def get(family):
        if family not in found:
            found[family] = source_of(*made(folder, family))
        return found[family]

    return get


@pytest.fixture
def finished(tmp_path):
    """A copy of a finished run with held-out pairs, samples and an alarm; its base has a model card."""
    folder = shutil.copytree(ROOT / "tests" / "golden" / "run_0_1", tmp_path / "desk")
    for file in [*folder.glob("*/config.yaml"), *folder.glob("*/inspection.json")]:
        file.write_text(file.read_text().replace("FOLDER", str(folder)))
    (folder / "model" / "README.md").write_text(CARD)
    return folder / "whole"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that huggingface-hub uses without waits, with an empty cache and a token that may write."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http, disable_progress_bars

    disable_progress_bars()
    with hub_for_uploads() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        resolved = served.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolved)
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses.json"), False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


@pytest.fixture
def written(finished, hub, tmp_path):
    """Run a dry run on a folder; the folder that it wrote."""

    def write(source=finished, **asked):
        dry_run(source, REPO, tmp_path / "out", **{"base_model": BASE, **asked})
        return tmp_path / "out"

    return write


@pytest.fixture
def fused(finished, outcome):
    """The fused model of the run."""
    folder = finished.parent / "fused"
    code, _, err = outcome("fuse", "--run", finished, "--output", folder)
    assert code == 0, err
    return folder
