"""Names of files and folders: which are refused, where they are looked for, and that Hub names stay."""

import os

import pytest

from mlx_dpo.config import RunConfig, load_config
from mlx_dpo.data.sources import DataConfig
from mlx_dpo.errors import DpoError
from mlx_dpo.settings import described
from mlx_dpo.storage.names import path_fault

MAY_BE_NULL = {
    *("model.adapter", "pairs.valid_source", "pairs.embedder", "data.valid", "judge.model"),
    "judge.examples",
}
READ = ["model.path", "pairs.source", "data.train", "judge.completions", "judge.rubric", *sorted(MAY_BE_NULL)]
WRITTEN = ["pairs.output", "run.output", "judge.output"]
NO_FILES = {"adapter.targets", "endpoint.key_variable", "judge.key_variable"}
FAULTS = {
    "": "is not the name of a file or folder",
    " \t": "is not the name of a file or folder",
    "a\0b": "contains a NUL character",
    "a\x1b]0;title\x07": "contains a control character",
    "a\nb": "contains a control character",
    "a\ud800b": "contains half of a character",
    "c\udcffd": "is not UTF-8 text",
    "x" * 256: "is too long for the name of a file",
    "folder/" + "é" * 128: "is too long for the name of a file",
    "x/" * 2049: "is too long for the name of a file",
    "~nosuchuser/m": "names a user that this machine does not have",
}


def refusal(path, *overrides):
    with pytest.raises(DpoError) as caught:
        load_config(path, overrides)
    return caught.value


@pytest.mark.parametrize("name", [*READ, *WRITTEN])
@pytest.mark.parametrize("text", FAULTS)
def test_a_name_that_no_file_can_have_is_refused_by_its_setting(name, text):
    error = refusal(None, f"{name}='{text}'" if text.isspace() else f"{name}={text}")
    assert error.what.startswith(f"{name} {FAULTS[text]}, got '")
    assert error.where == f"--set {name}"
    assert error.hint.startswith(f"set {name} to the name of a file or folder")
    assert (f"{name}=null for none" in error.hint) == (name in MAY_BE_NULL)
    assert len(str(error)) < 400


def test_a_link_to_itself_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    error = refusal(None, "data.train=loop")
    assert error.what.startswith("data.train cannot be followed: Too many levels of symbolic links")


@pytest.mark.parametrize(
    "name", ["x" * 255, "Überblick/n° 1", "run #2", "a b", "2024-13-45", "0b_", "...", "org/model"]
)
def test_a_strange_name_that_a_file_can_have_is_taken(name):
    assert path_fault(name) == ""
    assert load_config(None, [f"run.output={name}"]).run.output == name


def test_settings_made_in_python_are_checked_too():
    with pytest.raises(ValueError, match="train is not the name of a file or folder"):
        DataConfig(train="")


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config(None, ["data.train=~/rows.jsonl"]).data.train == f"{tmp_path}/rows.jsonl"


def test_every_setting_of_a_file_is_declared_as_one():
    """One that is not would miss all of the above."""
    paths = {
        name
        for name, default, _, choices in described(RunConfig)
        if not choices and (isinstance(default, str) or name in MAY_BE_NULL)
    }
    assert paths - NO_FILES == {*READ, *WRITTEN}


# ---- relative to the settings file


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A settings file in a folder with files of its own; the current folder is beside it."""
    folder = tmp_path / "project"
    (folder / "pairs").mkdir(parents=True)
    (folder / "pairs" / "train.jsonl").write_text("{}")
    (folder / "tiny").mkdir()
    (folder / "run.yaml").write_text(
        "model: {path: tiny, adapter: tiny}\n"
        "data: {train: pairs/train.jsonl, valid: pairs/valid.jsonl}\n"
        "pairs: {source: ./pairs/train.jsonl, valid_source: pairs/train.jsonl, output: pairs}\n"
        "run: {output: tiny}\n"
    )
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_what_a_settings_file_names_is_looked_for_beside_it(project):
    config = load_config("../project/run.yaml")
    assert os.path.samefile(config.model.path, project / "tiny")
    assert os.path.samefile(config.model.adapter, project / "tiny")
    for found in (config.data.train, config.pairs.source, config.pairs.valid_source):
        assert os.path.samefile(found, project / "pairs" / "train.jsonl")


def test_what_is_written_and_what_is_nowhere_stays_as_it_was_named(project):
    config = load_config("../project/run.yaml")
    assert (config.run.output, config.pairs.output) == ("tiny", "pairs")
    assert config.data.valid == "pairs/valid.jsonl"


def test_the_current_folder_comes_first(project):
    os.mkdir("tiny")
    assert load_config("../project/run.yaml").model.path == "tiny"


def test_an_override_is_not_looked_for_beside_the_file(project):
    assert load_config("../project/run.yaml", ["data.train=run.yaml"]).data.train == "run.yaml"


def test_a_name_on_the_hub_stays(project):
    (project / "run.yaml").write_text("model: {path: ibm-granite/granite-4.0-h-micro}\n")
    assert load_config("../project/run.yaml").model.path == "ibm-granite/granite-4.0-h-micro"


# ---- of commands


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "--config", ""],
        ["inspect", "--data", ""],
        ["inspect", "--valid", ""],
        ["eval", "--run", ""],
        ["eval", "--run", "run", "--data", ""],
        ["eval", "--run", "run", "--model", ""],
        ["report", "--run", ""],
        ["fuse", "--run", "", "--output", "out"],
        ["fuse", "--run", "run", "--output", ""],
        ["demo", "--output", ""],
    ],
)
def test_an_empty_name_as_of_a_variable_that_is_not_set_is_refused(arguments, capsys, tmp_path, monkeypatch):
    from mlx_dpo.cli import main

    monkeypatch.chdir(tmp_path)
    flag = arguments[arguments.index("") - 1]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(f"Error: {flag}: '' is not the name of a file or folder\n  ")
    assert list(tmp_path.iterdir()) == []
