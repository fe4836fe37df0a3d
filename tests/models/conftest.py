"""Copies of a model and of a run, to be damaged."""

import shutil

import pytest

from ..support.mistakes import curated, lines, pair


@pytest.fixture
def model(tmp_path, models, monkeypatch):
    """A copy of the tiny Llama in the test's folder, under the name `model`."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(models("llama"), tmp_path / "model")


@pytest.fixture
def adapter(tmp_path, trained, monkeypatch):
    """A copy of a run of the tiny Llama in the test's folder, under the name `run`."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(trained("llama"), tmp_path / "run")


@pytest.fixture
def run(tmp_path, trained):
    """A copy of a finished run in the test's folder, and rows for the commands."""
    (tmp_path / "rows.jsonl").write_text(lines(pair()))
    (tmp_path / "curated.jsonl").write_text(lines(curated()))
    return shutil.copytree(trained("llama"), tmp_path / "run")
