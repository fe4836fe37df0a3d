"""Copies of a model and of a run, to be damaged."""

import shutil

import pytest


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
