"""What a snapshot and a filter make of preferences: which topics they guide, and which an anchor holds."""

import json

import numpy as np
import pytest

from mlx_dpo.topics.coherence import npmi
from mlx_dpo.topics.config import load_topics_config
from mlx_dpo.topics.guidance import build_guidance
from mlx_dpo.topics.model_files import write_array
from mlx_dpo.topics.preference_files import write_preferences
from mlx_dpo.topics.preferences import LOGITS, build_preferences
from mlx_dpo.topics.preferences_config import PreferencesConfig
from mlx_dpo.topics.top_words import log_beta, top_words
from mlx_dpo.topics.win_lose import WinLose

from ..support.topic_server import corpus

TOPICS = 6
SETTINGS = (
    f"model.topics={TOPICS}",
    "dpo.start_epoch=1",
    "dpo.topic_filter=npmi_below_average",
    "preferences.file=wanted.jsonl",
)


@pytest.fixture
def logits(tmp_path, monkeypatch):
    """A snapshot, (6, 96); wanted.jsonl has preferences for all of its topics."""
    monkeypatch.chdir(tmp_path)
    write_preferences(tmp_path / "wanted.jsonl", {k: WinLose((k,), (k + 50,)) for k in range(TOPICS)})
    return np.random.default_rng(0).normal(0, 3, (TOPICS, 96)).astype(np.float32)


def below_average(scores, count):
    own = corpus()
    found = npmi(own.texts, own.vocabulary, top_words(scores, count))
    return [k for k in range(TOPICS) if found[k] < found.mean()]


def test_the_filter_looks_at_15_words_by_their_share_and_the_anchor_holds_the_other_topics(logits, tmp_path):
    found = build_guidance(tmp_path / "preferences", corpus(), load_topics_config(None, SETTINGS), logits, "")
    expected = below_average(log_beta(logits), 15)
    assert expected != below_average(log_beta(logits), 10)
    assert expected != below_average(logits, 15)
    rows = (tmp_path / "preferences" / "dpo_selected_topics.jsonl").read_text().splitlines()
    assert [json.loads(row)["k"] for row in rows] == expected
    assert found.others.tolist() == [k for k in range(TOPICS) if k not in expected] != []


def test_five_words_outside_of_the_top_25_are_compared_too(logits, tmp_path):
    write_array(tmp_path / LOGITS, logits)
    build_preferences(tmp_path, corpus(), PreferencesConfig())
    ranked = np.argsort(-log_beta(logits), axis=1)
    for line in (tmp_path / "extra_words.jsonl").read_text().splitlines():
        row = json.loads(line)
        extra = [index for pair in row["extra_words"] for index in pair.values()]
        assert len(set(extra)) == 5 and not set(extra) & set(ranked[row["k"], :25].tolist())
