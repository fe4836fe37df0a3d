"""The shared forward is the plain one, to rounding: scores and gradients, in every combination."""

import itertools
import os
from functools import cache, partial

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.data.shared_prompts import build_shared, shapes
from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.forward import completion_logps as completions
from mlx_dpo.forward.body_and_head import hidden_states
from mlx_dpo.forward.kernels import attention, lean
from mlx_dpo.forward.pair_logps import COMPLETION, PLAIN, SEPARATE, SHARED
from mlx_dpo.forward.partial_vocabulary import Vocabulary
from mlx_dpo.forward.prompt_cache import empty_state, forked
from mlx_dpo.losses import LossConfig, build_loss
from mlx_dpo.training import forward_check
from mlx_dpo.training.config import TrainingConfig
from mlx_dpo.training.layout import Layout, traced
from mlx_dpo.training.step import pair_gradient
from mlx_dpo.training.window_gradient import window_gradient

from ..support.policies import COMMON, CONFIGS, PAIRS, REFERENCE, VOCABULARY, checkpointed, pair, policy


def gradient_of(model, pairs, forward, micro_batch, *, compiled=False, loss=None):
    """The window's mean gradient by name, and the policy's scores."""
    loss = loss or build_loss(LossConfig())
    rows = list(range(len(pairs)))
    window = [rows[i : i + micro_batch] for i in range(0, len(rows), micro_batch)]
    compute = pair_gradient(model, loss, forward, compiled=compiled)
    gradient, result = window_gradient(compute, pairs, window, REFERENCE, mx.array(0.1))
    return {n: np.array(g, np.float64) for n, g in tree_flatten(gradient)}, result.policy


@cache
def plain_gradient(architecture, adapter, bits):
    return gradient_of(policy(architecture, adapter, bits), PAIRS, PLAIN, 1)


def assert_same(actual, expected, relative=1e-4):
    """Scores, and every trained array by its norm."""
    (gradient, scores), (expected_gradient, expected_scores) = actual, expected
    np.testing.assert_allclose(scores, expected_scores, rtol=relative)
    assert gradient.keys() == expected_gradient.keys()
    for name, value in expected_gradient.items():
        size = np.linalg.norm(value)
        assert size > 0, name
        assert np.linalg.norm(gradient[name] - value) <= relative * size, name


CHOICES = (("stored", "checkpointed"), ("joint", "separate"), (1, 3), ("lora", "dora"), (None, 4))
EVERY = list(itertools.product(CONFIGS, *CHOICES, (False, True)))
"""All 384 combinations."""
TRACED = {
    (name, "checkpointed", branches, 3, "lora", None, True)
    for name, branches in itertools.product(CONFIGS, ("joint", "separate"))
    if (name, branches) != ("qwen3_next", "separate")
}
"""Compiling takes seconds each on a CPU, so by default few are compiled."""


def in_half(architecture, *chosen):
    """Whether a combination is in the half in which any four choices come in each of their combinations."""
    seconds = sum(choice == both[1] for choice, both in zip(chosen, CHOICES, strict=True))
    return (seconds + list(CONFIGS).index(architecture)) % 2 == 0


def usual(*case):
    """Whether a combination runs by default."""
    return case in TRACED or (not case[-1] and in_half(*case[:-1]))


COMBINATIONS = [c for c in EVERY if usual(*c) or os.environ.get("MLX_DPO_EVERY_COMBINATION")]


@pytest.mark.parametrize(
    ("architecture", "keeping", "branches", "micro_batch", "adapter", "bits", "compiled"),
    COMBINATIONS,
    ids=lambda v: str(v),
)
def test_shared_prompts_give_the_plain_scores_and_gradients(
    architecture, keeping, branches, micro_batch, adapter, bits, compiled
):
    build = policy if keeping == "stored" else checkpointed
    forward = SHARED if branches == "joint" else SEPARATE
    actual = gradient_of(build(architecture, adapter, bits), PAIRS, forward, micro_batch, compiled=compiled)
    assert_same(actual, plain_gradient(architecture, adapter, bits))


def ranked(answers=3):
    """All pairs of some ranked answers to one prompt."""
    rng = np.random.default_rng(9)
    prompt = rng.integers(1, VOCABULARY, 40).astype(np.int32)
    completions = [rng.integers(1, VOCABULARY, n).astype(np.int32) for n in (20, 21, 9, 30)[:answers]]
    return [
        TokenizedPair(prompt, better, worse, "ranked:1")
        for better, worse in itertools.combinations(completions, 2)
    ]


@pytest.mark.parametrize("architecture", ["llama", "granite"])
def test_ranked_answers_share_one_prompt_and_are_computed_once_each(architecture):
    pairs = ranked()
    batch = build_shared(pairs)
    assert [f.prompts.shape for f in batch.families] == [(1, 39)]
    assert sum(len(s.inputs) for s in batch.families[0].segments) == 3
    model = policy(architecture)
    assert_same(gradient_of(model, pairs, SHARED, 3), gradient_of(model, pairs, PLAIN, 1))
    assert_same(gradient_of(model, pairs, SEPARATE, 3), gradient_of(model, pairs, PLAIN, 1))


@pytest.mark.parametrize(("prompt", "answer"), [(1, 1), (1, 7), (2, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("architecture", ["llama", "granite"])
def test_the_shortest_prompts_and_answers_are_exact(architecture, prompt, answer):
    """A single token never continues a recurrent state: mlx_lm's kernel for that has no gradient."""
    pairs = [pair(prompt, answer, answer + 1, 5)]
    for family in build_shared(pairs).families:
        assert not family.prompts.size or all(s.inputs.shape[1] > 1 for s in family.segments)
    model = policy(architecture)
    assert_same(gradient_of(model, pairs, SHARED, 1), gradient_of(model, pairs, PLAIN, 1))


def test_one_branch_does_not_continue_from_another():
    """Each of two equal branches sees the prompt's state, not what the other one left."""
    model = policy("granite")
    state = empty_state(model)
    hidden_states(model, mx.array([[5, 6, 7, 8]]), state)
    first, second = (hidden_states(model, mx.array([[9, 10]]), forked(state, 1)) for _ in range(2))
    np.testing.assert_array_equal(np.array(first), np.array(second))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "granite"])
def test_logits_in_chunks_are_those_of_the_whole(architecture, monkeypatch):
    """Tied and scaled, soft-capped: whatever the head does is in the slopes formed chunk by chunk."""
    model = policy(architecture)
    whole = gradient_of(model, PAIRS, SHARED, 1)
    for piece in ((5, 37), (1000, 100), (3, 11)):
        monkeypatch.setattr(completions, "_PIECE", {mx.cpu: piece, mx.gpu: piece})
        assert_same(gradient_of(model, PAIRS, SHARED, 1), whole, relative=1e-5)
    monkeypatch.setattr(Vocabulary, "_answers_for_some", lambda self, hidden: False)
    assert_same(gradient_of(model, PAIRS, SHARED, 1), whole, relative=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_trained_head_gets_its_gradient(architecture):
    """Tied to the embedding, and of its own."""
    model = policy.__wrapped__(architecture)
    (model.model.embed_tokens if architecture == "llama" else model.lm_head).unfreeze()
    for forward in (SHARED, COMPLETION):
        assert_same(gradient_of(model, PAIRS, forward, 1), gradient_of(model, PAIRS, PLAIN, 1))


def test_a_windowed_cache_cuts_as_the_models_own_mask_does():
    """Gemma 3's local layers see 16 tokens; prompt and answer are longer."""
    CONFIGS["gemma3_text"] = {
        **COMMON,
        "model_type": "gemma3_text",
        "sliding_window": 16,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 16.0,
    }
    model = policy("gemma3_text")
    assert_same(gradient_of(model, PAIRS, SHARED, 3), gradient_of(model, PAIRS, PLAIN, 1))
    assert forward_check.disagreement(model, PAIRS, SHARED) is None


def test_peak_memory_does_not_grow_with_logits():
    """1,024 more scored tokens of a vocabulary of 30,000 cost their hidden states and slopes."""
    from mlx_lm.models.llama import Model, ModelArgs

    config = {**CONFIGS["llama"], "vocab_size": 30_000, "num_hidden_layers": 1}
    model = Model(ModelArgs.from_dict(config))
    model.freeze()
    mx.eval(model.parameters())

    def peak(tokens):
        hidden, targets = mx.zeros((1, tokens, 64)), mx.zeros((1, tokens), mx.int32)
        mx.eval(hidden, targets)

        def score(h):
            return completions.score_tokens(model, h, targets, targets == 0, gradient=True).sum()

        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(mx.grad(score)(hidden))
        return mx.get_peak_memory() - before

    peak(64)
    states = 1024 * 64 * 4
    assert peak(2048) - peak(1024) <= 6 * states  # whole logits would be 469 times as much


@pytest.mark.parametrize("separate", [False, True])
def test_filling_up_to_buckets_changes_no_score_and_no_gradient(separate):
    forward = (SEPARATE if separate else SHARED)._replace(
        build=partial(build_shared, separate=separate, bucket=16)
    )
    model = policy("granite")
    assert_same(gradient_of(model, PAIRS, forward, 3), plain_gradient("granite", "lora", None))


def test_a_traced_step_is_traced_once_a_shape():
    calls = []
    model = policy("llama")

    def score(model, batch, *, gradient):
        calls.append(shapes(batch))
        return SHARED.score(model, batch, gradient=gradient)

    compute = pair_gradient(model, build_loss(LossConfig()), SHARED._replace(score=score), compiled=True)
    pairs = [pair(20, 8, 8, 0), pair(20, 8, 8, 1), pair(30, 8, 8, 2), pair(20, 8, 8, 3)]
    window_gradient(compute, pairs, [[0], [1], [2], [3]], REFERENCE[[0, 0, 0, 0]], mx.array(0.1))
    assert len(calls) == len(set(calls)) == 2


def test_compiling_and_branches_are_settled_as_set():
    pairs = [pair(20, 8, 8, seed) for seed in range(4)]
    on_gpu = mx.default_device().type == mx.gpu
    for separate, compile in itertools.product((False, True), ("auto", "on", "off")):
        layout, _ = traced(Layout(False, separate), SHARED, TrainingConfig(compile=compile), 1, pairs)
        assert layout.arranged(SHARED).name == (SEPARATE if separate else SHARED).name
        assert layout.compiled == (compile == "on") or on_gpu


def test_scoring_keeps_no_softmax_of_attention():
    """8,192 tokens, 2 heads: weights below the diagonal are 268 MB, those of one block at most 8 MB."""
    queries, keys, values = mx.random.normal((3, 1, 2, 8192, 16))
    mx.eval(queries, keys, values)
    outputs, peaks = [], []
    for gradient in (True, False):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        with lean(gradient):
            outputs.append(attention(queries, keys, values, None, 0.25, "causal"))
            mx.eval(outputs)
        peaks.append(mx.get_peak_memory() - before)
    assert mx.array_equal(*outputs)
    assert 2 * peaks[1] < 268e6 < peaks[0]


def test_what_attention_keeps_does_not_grow_with_the_number_of_lengths():
    def attended(length):
        given = mx.ones((1, 2, length, 4))
        with lean():
            mx.eval(mx.grad(lambda q: attention(q, given, given, None, 0.5, "causal").sum())(given))

    for length in (64, 128, 191):
        attended(length)
    before = mx.get_active_memory()
    for length in range(1, 191, 6):
        attended(length)
    assert mx.get_active_memory() == before


def test_checkpointed_answers_and_their_prompt_go_back_one_after_the_other(monkeypatch):
    """MLX left to itself holds what a block of the prompt and one of the answers work with, at once."""
    monkeypatch.setitem(CONFIGS, "llama", {**CONFIGS["llama"], "num_hidden_layers": 4})
    model = checkpointed.__wrapped__("llama", "lora", None)
    pairs = [pair(400, 300, 90, 0)]

    def peak():
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        gradient = gradient_of(model, pairs, SHARED, 1)
        return mx.get_peak_memory() - before, gradient

    peak()
    own, gradient = peak()
    monkeypatch.setattr("mlx_dpo.forward.pair_logps._one_by_one", lambda done, state: (done, state))
    unordered, expected = peak()
    assert own < 0.8 * unordered
    assert_same(gradient, expected, 1e-5)
