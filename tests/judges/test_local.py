"""A judge in this process."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.chat_protocol import Request
from mlx_dpo.data.templates import prompt_tokens
from mlx_dpo.judges.local import LocalJudge
from mlx_dpo.models.load import load_model, load_tokenizer

ASKED = [{"role": "user", "content": "Which answer is better? Reply with one letter, A or B."}]


@pytest.fixture
def judge(models):
    local = LocalJudge(str(models("granite")))
    local.check()
    return local


def test_the_log_probabilities_are_those_of_the_models_next_token(judge, models):
    reply = judge.ask(Request(ASKED, 1, top_logprobs=10))
    model, tokenizer = load_model(models("granite"))[0], load_tokenizer(models("granite"))
    tokens = mx.array([prompt_tokens(tokenizer, ASKED)])
    logits = model(tokens)[0, -1].astype(mx.float32)
    expected = np.array(logits - mx.logsumexp(logits))
    order = np.argsort(-expected)[: len(reply.top_logprobs)]
    np.testing.assert_allclose([value for _, value in reply.top_logprobs], expected[order], atol=1e-4)
    assert reply.top_logprobs[0][0] == tokenizer.decode([int(order[0])])
    assert reply.prompt_tokens == tokens.size


def test_a_written_reply_ends_at_the_limit_and_says_so(judge):
    reply = judge.ask(Request(ASKED, 5))
    assert (reply.finish_reason, reply.completion_tokens, reply.top_logprobs) == ("length", 5, ())


def test_the_key_is_the_models_content_and_not_its_place(models, tmp_path):
    (tmp_path / "moved").symlink_to(models("granite"))
    assert LocalJudge(str(tmp_path / "moved")).key == LocalJudge(str(models("granite"))).key
    assert LocalJudge(str(models("llama"))).key != LocalJudge(str(models("granite"))).key
