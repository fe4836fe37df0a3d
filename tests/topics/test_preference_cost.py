"""What an LLM will cost is known before it is asked."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.topics.preference_cost import TopicsEstimate, expected_cost, sample_words
from mlx_dpo.topics.preferences import LOGITS, answered, build_preferences
from mlx_dpo.topics.preferences_config import PreferencesConfig
from mlx_dpo.topics.top_words import top_words
from mlx_dpo.topics.topic_words import TopicWords

from ..support.openai_server import content_of
from ..support.topic_server import VOCABULARY, by_function, corpus, logits


def test_the_estimate_is_close_to_what_is_sent(serve, tmp_path):
    np.save(tmp_path / LOGITS, logits())
    server = serve(by_function)
    build_preferences(tmp_path, corpus(), PreferencesConfig(url=server.url, key_variable="NO_KEY"))
    found = expected_cost(TopicWords(top_words(logits(), 25), VOCABULARY), PreferencesConfig())
    assert (found.rows, found.requests) == (4, 12)
    sent = sum(len(content_of(body)) for body in server.bodies) / 4
    assert sent < found.prompt_tokens < 1.4 * sent  # the schema is counted too
    assert str(found).startswith("4 topics: at most 12 requests to send, about ")


def test_replies_that_are_kept_and_stages_with_a_file_are_not_counted_again(serve, tmp_path):
    np.save(tmp_path / LOGITS, logits())
    words, server = TopicWords(top_words(logits(), 25), VOCABULARY), serve(by_function)
    for sent in (5, 10, 12):
        settings = PreferencesConfig(url=server.url, key_variable="NO_KEY", max_calls=5, concurrency=1)
        with pytest.raises(DpoError, match="stopped after 5") if sent < 12 else nullcontext():
            build_preferences(tmp_path, corpus(), settings)
        found = expected_cost(words, settings, answered(tmp_path, corpus(), settings))
        assert (found.requests, server.calls) == (12 - sent, sent)
    assert str(found) == ("4 topics: at most 0 requests to send, about 0 prompt tokens and 0 tokens written")
    (tmp_path / "replies.jsonl").write_text("")
    (tmp_path / "preferences.jsonl").unlink()
    found = expected_cost(words, settings, answered(tmp_path, corpus(), settings))
    assert found.requests == 4
    with pytest.raises(DpoError, match="made with another LLM"):
        answered(tmp_path, corpus(), replace(settings, model="another"))


def test_what_an_unreadable_reply_adds_is_told():
    found = TopicsEstimate(4, 12, 3600, 600, None)
    assert str(found) == (
        "4 topics: at most 12 requests to send, about 3,600 prompt tokens and 600 tokens written; an "
        "unreadable reply adds a request of about 350 prompt tokens"
    )


def test_before_there_are_topics_words_of_the_vocabulary_stand_in():
    settings = PreferencesConfig(input_price=2.0, output_price=10.0)
    known = expected_cost(TopicWords(top_words(logits(), 25), VOCABULARY), settings)
    guessed = expected_cost(sample_words(VOCABULARY, 4), settings)
    assert guessed.prompt_tokens == pytest.approx(known.prompt_tokens, rel=0.05)
    assert guessed.price == pytest.approx((2 * guessed.prompt_tokens + 10 * 4 * 155) / 1e6)


def test_more_topics_than_words_still_give_an_estimate():
    assert expected_cost(sample_words(["cat", "dog"], 5), PreferencesConfig()).requests == 15
