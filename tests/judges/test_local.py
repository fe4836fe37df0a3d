"""A judge in this process."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.chat_protocol import Failure, Reply, Request
from mlx_dpo.data.conversation_tokens import prompt_tokens
from mlx_dpo.judges.asking import label_request, written_request
from mlx_dpo.judges.local import LocalJudge
from mlx_dpo.judges.prompts import Quoted, Rubric
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


def test_a_request_that_is_longer_than_the_model_reads_gets_no_verdict(models, tmp_path):
    for file in models("llama").iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 60}))
    local = LocalJudge(str(tmp_path))
    local.check()
    length = local.ask(Request(ASKED, 1)).prompt_tokens
    assert isinstance(local.ask(Request(ASKED, 60 - length)), Reply)
    assert local.ask(Request(ASKED, 61 - length)) == Failure(
        "the request has 61 tokens, but the judge reads at most 60"
    )


def test_the_key_is_the_models_content_and_not_its_place(models, tmp_path):
    (tmp_path / "moved").symlink_to(models("granite"))
    assert LocalJudge(str(tmp_path / "moved")).key == LocalJudge(str(models("granite"))).key
    assert LocalJudge(str(models("llama"))).key != LocalJudge(str(models("granite"))).key


TOLD = "Criterion: the better answer is true, short and polite, and it names a remedy."


def comparisons(prompt, *answers):
    """Label requests about every two of the answers, in both orders."""
    quoted = [({"role": "user", "content": prompt}, a, b) for a in answers for b in answers if a != b]
    return [label_request(Rubric("mine", TOLD), Quoted([turn], a, b)) for turn, a, b in quoted]


@pytest.mark.parametrize("architecture", ["granite", "llama", "qwen3"])
def test_requests_that_begin_alike_are_not_processed_anew_and_give_the_same_verdict(models, architecture):
    requests = [
        *comparisons(
            "How do I clean a copper pan that has stood in the rain?", "Rub it.", "Use salt.", "No."
        ),
        written_request(
            Rubric("mine", TOLD), Quoted([{"role": "user", "content": "Why?"}], "So.", "Thus."), 5, False
        ),
        *comparisons("How do I keep basil?", "In water.", "In a jar."),
    ]
    local = LocalJudge(str(models(architecture)))
    local.check()
    alone = LocalJudge(str(models(architecture)))
    alone.check()
    tokens = 0
    for request in requests:
        kept = local.ask(request)
        alone._kept, alone._last = [], []
        anew = alone.ask(request)
        tokens += anew.prompt_tokens
        assert (kept.text, kept.finish_reason, kept.prompt_tokens) == (
            anew.text,
            anew.finish_reason,
            anew.prompt_tokens,
        )
        chances = [dict(reply.top_logprobs) for reply in (kept, anew)]
        assert len(chances[0].keys() & chances[1].keys()) >= 0.9 * len(chances[1])
        for token in chances[0].keys() & chances[1].keys():
            assert chances[0][token] == pytest.approx(chances[1][token], abs=1e-4)
    assert local.processed < 0.6 * tokens


def test_the_text_before_the_answers_is_processed_once_even_for_a_single_comparison(models):
    long = "How do I clean a copper pan? " * 40
    local = LocalJudge(str(models("llama")))
    local.check()
    forward, swapped = comparisons(long, "Rub it.", "Use salt.")
    before = local.ask(forward).prompt_tokens
    local.ask(swapped)
    assert local.processed < 1.3 * before
