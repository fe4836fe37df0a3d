"""Sampling: the nucleus, the temperature, and one stream of random numbers a prompt."""

from types import SimpleNamespace

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.sample_utils import apply_top_p

from mlx_dpo.models.generate import GenerateConfig, drawn_token, generate_answers

from ..support.tiny_architectures import build

CHANCES = np.array([0.05, 0.4, 0.1, 0.25, 0.2])


def drawn(top_p, temperature=1.0, count=20_000):
    """The share of each token among tokens drawn with evenly spread numbers."""
    numbers = (np.arange(count) + 0.5) / count
    tokens = [drawn_token(np.log(CHANCES), temperature, top_p, number) for number in numbers]
    return np.bincount(tokens, minlength=len(CHANCES)) / count


def test_tokens_come_with_their_chances():
    assert drawn(1.0) == pytest.approx(CHANCES, abs=1e-4)


def test_only_the_likeliest_tokens_that_hold_top_p_are_drawn():
    """0.4 + 0.25 is below 0.8, so the token of 0.2 belongs to it; the others do not."""
    assert drawn(0.8) == pytest.approx(np.array([0, 0.4, 0, 0.25, 0.2]) / 0.85, abs=1e-4)
    assert drawn(0.3) == pytest.approx([0, 1, 0, 0, 0])


def test_a_temperature_of_one_half_squares_the_chances():
    assert drawn(1.0, temperature=0.5) == pytest.approx(CHANCES**2 / (CHANCES**2).sum(), abs=1e-4)


@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.95, 0.999])
def test_the_nucleus_is_that_of_mlx_lm(top_p):
    logits = mx.random.normal((1, 1000), key=mx.random.key(3)) * 4
    logprobs = logits - mx.logsumexp(logits)
    theirs = {int(i) for i in np.flatnonzero(np.isfinite(np.array(apply_top_p(logprobs, top_p))[0]))}
    row = np.array(logprobs[0])
    ours = {drawn_token(row, 50.0, top_p, number) for number in np.linspace(0, 0.9999, 20_000)}
    assert ours == theirs


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "falcon_h1", "mamba2", "qwen3_next"])
def test_equal_prompts_share_every_kind_of_memory(architecture):
    """Windows, states and both in one block; texts are longer than the window and continue what has begun."""
    model = build(architecture)
    tokenizer = SimpleNamespace(eos_token_ids=set(), decode=str)
    prompts = [[(7 * i + 3 * j) % 40 + 5 for j in range(5 + 9 * i)] for i in range(3)]
    rows = [prompt for prompt in prompts for _ in range(3)]
    config = GenerateConfig(max_tokens=8, temperature=0.9, batch_size=4)
    alone = [next(generate_answers(model, tokenizer, [r], config, [i])).ids for i, r in enumerate(rows)]
    assert [a.ids for a in sorted(generate_answers(model, tokenizer, rows, config))] == alone
    begun = [ids[: i % 5] for i, ids in enumerate(alone)]
    assert [a.ids for a in sorted(generate_answers(model, tokenizer, rows, config, begun=begun))] == alone


def test_one_token_prompts_have_nothing_to_share():
    model, tokenizer = build("llama"), SimpleNamespace(eos_token_ids=set(), decode=str)
    config = GenerateConfig(max_tokens=4, temperature=0.9, batch_size=2)
    processed = []
    answers = sorted(generate_answers(model, tokenizer, [[7]] * 5, config, processed=processed.append))
    assert [len(a.ids) for a in answers] == [4] * 5 and processed == [0]
