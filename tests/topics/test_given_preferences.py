"""Preferences from a file of the user's, or from files that the stages wrote: which are taken, and when."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.topics.preferences import LOGITS, build_preferences
from mlx_dpo.topics.preferences_config import PreferencesConfig
from mlx_dpo.topics.win_lose import WinLose

from ..support.mistakes import lines
from ..support.openai_server import Says
from ..support.topic_server import (
    CAR,
    CAT,
    SUN,
    TAX,
    VOCABULARY,
    by_function,
    corpus,
    function_of,
    logits,
    reply,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a snapshot."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "preferences").mkdir()
    np.save(tmp_path / "preferences" / LOGITS, logits())
    return tmp_path / "preferences"


def take(folder, *rows):
    """Build preferences from a file with these rows."""
    (folder.parent / "wanted.jsonl").write_text(lines(*rows))
    return build_preferences(folder, corpus(), PreferencesConfig(file="wanted.jsonl"))


def row(k, win, lose):
    return {"k": k, "w_win_indices": win, "w_loose_indices": lose}


def test_losers_that_are_no_top_words_of_their_topic_are_warned_about(folder, capsys):
    take(folder, row(0, CAR[:3], SUN[:3]), row(1, CAT[:2], [SUN[0], TAX[9]]))
    assert capsys.readouterr().err.splitlines()[0] == (
        "WARNING: only 1 of the 5 losers in wanted.jsonl are among the top 25 words of their topics; the "
        "file seems to be of another run"
    )


def test_losers_of_which_half_are_top_words_are_not_warned_about(folder, capsys):
    assert take(folder, row(1, CAT[:2], [SUN[0], TAX[9]])).win_lose == {
        1: WinLose(tuple(CAT[:2]), (SUN[0], TAX[9]))
    }
    assert capsys.readouterr().err.startswith("preferences: 1 of 4 topics")


def test_a_file_never_replaces_other_preferences(folder):
    take(folder, row(1, CAT[:2], SUN[:2]))
    before = (folder / "preferences.jsonl").read_bytes()
    with pytest.raises(DpoError) as error:
        take(folder, row(1, CAT[:2], SUN[:1]))
    assert str(error.value) == (
        f"{folder}/preferences.jsonl: has other preferences than wanted.jsonl\n"
        "  set preferences.file=null to use them, or delete them to use the file"
    )
    assert (folder / "preferences.jsonl").read_bytes() == before
    assert set(take(folder, row(1, CAT[:2], SUN[:2])).win_lose) == {1}


def test_preferences_for_no_topic_are_read_again(folder, serve, capsys):
    """The LLM describes no topic, so none is compared, and the file has no lines."""

    def undescribed(body):
        blank = {"main_meaning": ""} if function_of(body) == "describe_topic" else {}
        return Says(None, call=json.dumps(reply(body) | blank))

    server = serve(undescribed)
    settings = PreferencesConfig(url=server.url, key_variable="NO_KEY")
    found = build_preferences(folder, corpus(), settings)
    assert (folder / "preferences.jsonl").read_text() == ""
    assert found.win_lose == {} and build_preferences(folder, corpus(), settings) == found
    assert server.calls == 12  # scores, and two questions for each description
    assert "no topic has both winners and losers" in capsys.readouterr().err


def test_preferences_of_another_vocabulary_are_refused(folder, serve):
    settings = PreferencesConfig(url=serve(by_function).url, key_variable="NO_KEY")
    build_preferences(folder, corpus(), settings)
    other = replace(corpus(), vocabulary=VOCABULARY[::-1])
    with pytest.raises(DpoError) as error:
        build_preferences(folder, other, settings)
    assert str(error.value) == (
        f"{folder}: contains preferences made with another vocabulary\n"
        "  choose another run.output, or delete this folder to start over"
    )
