"""The shared forward is the plain one, to rounding: scores and gradients, in every combination."""

import itertools
import os
from dataclasses import replace
from functools import cache, partial
from typing import Any

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.data.shared import build_shared, choose_bucket, shapes
from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.demo.tiny import ARCHITECTURES, initialise
from mlx_dpo.errors import DpoError
from mlx_dpo.losses import LossConfig, build_loss
from mlx_dpo.models import completions
from mlx_dpo.models import forward as forward_module
from mlx_dpo.models.adapters import AdapterConfig, attach, trainable
from mlx_dpo.models.checkpointing import checkpoint_layers
from mlx_dpo.models.forward import COMPLETION, PLAIN, SEPARATE, SHARED
from mlx_dpo.models.state import Arrays, Keys, empty_state, forked
from mlx_dpo.models.trunk import hidden_states
from mlx_dpo.models.vocabulary import Vocabulary
from mlx_dpo.training import checks
from mlx_dpo.training.arrange import arrange
from mlx_dpo.training.step import pair_gradient, window_gradient
from mlx_dpo.training.trainer import TrainingConfig

VOCABULARY = 320
COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    **{name: ARCHITECTURES[name][0](64, 4, VOCABULARY) for name in ("llama", "qwen3", "granite")},
    "gemma2": {**COMMON, "model_type": "gemma2", "query_pre_attn_scalar": 16.0},  # caps scores and logits
    "qwen3_next": {  # three gated-delta blocks, then one of attention; experts in all
        **COMMON,
        "model_type": "qwen3_next",
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "shared_expert_intermediate_size": 32,
        "partial_rotary_factor": 0.5,
    },
    "qwen3_moe": {**COMMON, "model_type": "qwen3_moe"},
}


@cache
def policy(architecture: str, adapter: str = "lora", bits: int | None = None) -> nn.Module:
    """A model with an adapter that has moved; not to be changed by a test."""
    from mlx_lm.utils import _get_classes

    config = CONFIGS[architecture]
    kind, arguments = _get_classes(config)
    mx.random.seed(0)  # a few vectors are drawn where the model is made
    model = kind(arguments.from_dict(config))
    initialise(model, seed=3)
    if bits:
        nn.quantize(model, group_size=32, bits=bits)
    experts = any("switch_mlp" in name for name, _ in model.named_modules())
    # DoRA has no form for stacked experts.
    targets = ["q_proj", "o_proj", "in_proj_qkvz", "out_proj"] if experts and adapter == "dora" else "all"
    if isinstance(targets, list):
        names = {n.rsplit(".", 1)[-1] for layer in model.layers for n, _ in layer.named_modules()}
        targets = [t for t in targets if t in names]
    mx.random.seed(1)
    attach(model, AdapterConfig(rank=4, type=adapter, targets=targets))
    moved = [(n, 0.05 * mx.random.normal(v.shape)) for n, v in trainable(model).items() if "lora_b" in n]
    model.load_weights(moved, strict=False)
    return model


def checkpointed(architecture: str, adapter: str, bits: int | None) -> nn.Module:
    model = policy.__wrapped__(architecture, adapter, bits)
    checkpoint_layers(model)
    return model


def pair(prompt: int, chosen: int, rejected: int, seed: int) -> TokenizedPair:
    """Random tokens in these numbers."""
    rng = np.random.default_rng(seed)
    parts = (rng.integers(1, VOCABULARY, n).astype(np.int32) for n in (prompt, chosen, rejected))
    return TokenizedPair(*parts, f"rows:{seed}")


# Two prompts of nearly one length, which share one family, and one far longer; answers alike and unlike.
PAIRS = [pair(23, 14, 15, 0), pair(25, 14, 16, 1), pair(71, 30, 6, 2)]
REFERENCE = np.array([[-80, -85], [-80, -90], [-170, -40]], np.float32)


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


EVERY = list(
    itertools.product(
        CONFIGS,
        ("stored", "checkpointed"),
        ("joint", "separate"),
        (1, 3),
        ("lora", "dora"),
        (None, 4),
        (False, True),
    )
)
"""All 384 combinations; compiling takes seconds each on a CPU, so by default few are compiled."""
TRACED = {
    (name, "checkpointed", branches, 3, "lora", None, True)
    for name, branches in itertools.product(CONFIGS, ("joint", "separate"))
    if (name, branches) != ("qwen3_next", "separate")
}
COMBINATIONS = [c for c in EVERY if not c[-1] or c in TRACED or os.environ.get("MLX_DPO_EVERY_COMBINATION")]


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


def tokens_of(batch):
    """Positions computed, padding included."""
    return sum(f.prompts.size + sum(s.inputs.size for s in f.segments) for f in batch.families)


def test_every_prompt_stands_once_and_its_branches_continue_it():
    batch = build_shared(
        [TokenizedPair(*(np.array(a, np.int32) for a in ([1, 2, 3], [4, 5], [6, 7])), "r:1")]
    )
    ((prompts, (segment,)),) = batch.families
    assert prompts.tolist() == [
        [1, 2]
    ]  # its last token predicts the answer's first and goes with the branches
    assert segment.inputs.tolist() == [[3, 4], [3, 6]]
    assert segment.targets.tolist() == [[4, 5], [6, 7]]
    assert segment.mask.tolist() == [[True, True], [True, True]]
    assert [batch.order.tolist(), batch.lengths.tolist()] == [[0, 1], [2, 2]]


def test_what_is_left_of_a_longer_prompt_is_not_scored():
    pairs = [TokenizedPair(*(np.array(a, np.int32) for a in parts), "r:1") for parts in (
        ([1, 2, 3], [4, 5, 6], [7, 8, 9]), ([1, 2, 3, 4], [5, 6], [7, 8]))]  # fmt: skip
    ((prompts, (segment,)),) = build_shared(pairs).families
    assert prompts.tolist() == [[1, 2], [1, 2]]
    assert segment.inputs.tolist() == [[3, 4, 5], [3, 7, 8], [3, 4, 5], [3, 4, 7]]
    assert segment.targets.tolist() == [[4, 5, 6], [7, 8, 9], [0, 5, 6], [0, 7, 8]]
    assert segment.mask.sum(axis=1).tolist() == [3, 3, 2, 2]
    pairs[1] = replace(pairs[1], prompt=np.array([1, 2, 3, 4, 5], np.int32))
    assert build_shared(pairs[1:]).families[0].segments[0].targets.tolist() == [[5, 6], [7, 8]]


def test_unequal_answers_do_not_pay_for_each_others_padding():
    assert tokens_of(build_shared([pair(50, 100, 20, 0)])) == 49 + 100 + 20
    four = [pair(50, 100, 20, 0), pair(300, 8, 90, 1), pair(16, 200, 210, 2), pair(120, 60, 61, 3)]
    exact = sum(p.tokens - 1 for p in four)
    assert exact <= tokens_of(build_shared(four)) <= 1.08 * exact


def test_pairs_of_like_length_are_computed_together():
    batch = build_shared([pair(64, 32, 32, seed) for seed in range(4)])
    assert [f.prompts.shape for f in batch.families] == [(4, 63)]
    assert [s.inputs.shape for s in batch.families[0].segments] == [(8, 32)]


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
    assert checks.disagreement(model, PAIRS, SHARED) is None


def test_peak_memory_does_not_grow_with_logits():
    """2,048 more scored tokens of a vocabulary of 30,000 cost their hidden states and slopes."""
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
    states = 2048 * 64 * 4
    assert peak(4096) - peak(2048) <= 6 * states  # whole logits would be 469 times as much


@pytest.mark.parametrize("separate", [False, True])
def test_filling_up_to_buckets_changes_no_score_and_no_gradient(separate):
    forward = (SEPARATE if separate else SHARED)._replace(
        build=partial(build_shared, separate=separate, bucket=16)
    )
    model = policy("granite")
    assert_same(gradient_of(model, PAIRS, forward, 3), plain_gradient("granite", "lora", None))


def test_buckets_are_chosen_from_the_data_so_that_shapes_are_few():
    rng = np.random.default_rng(0)
    pairs = [pair(*(int(n) for n in rng.integers(20, 300, 3)), seed) for seed in range(100)]
    bucket, count = choose_bucket([[p] for p in pairs], separate=False)
    assert bucket > 1
    assert count == len({shapes(build_shared([p], bucket=bucket)) for p in pairs}) <= 100
    assert choose_bucket([[pair(50, 20, 20, seed)] for seed in range(9)], separate=False) == (1, 1)


def test_a_bucket_costs_no_more_than_a_twelfth_of_the_tokens():
    rng = np.random.default_rng(1)
    pairs = [pair(*(int(n) for n in rng.integers(20, 120, 3)), seed) for seed in range(100)]
    bucket, _ = choose_bucket([[p] for p in pairs], separate=False)
    exact, filled = (sum(tokens_of(build_shared([p], bucket=b)) for p in pairs) for b in (1, bucket))
    assert exact < filled <= 1.08 * exact


def test_rows_that_are_checked_go_from_the_shortest_to_the_longest():
    """Whatever their order in the file: the longest is the one that a window of attention may cut."""
    pairs = [
        pair(300, 20, 20, 0),
        pair(20, 5, 5, 1),
        pair(100, 9, 9, 2),
        pair(50, 9, 9, 3),
        pair(60, 9, 9, 4),
    ]
    assert checks.spread_rows(pairs, 2) == [1, 0]
    assert checks.sample_rows(pairs) == [1, 3, 4]


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
    settled = {
        (branches, compile): arrange(SHARED, TrainingConfig(branches=branches, compile=compile), pairs)
        for branches, compile in itertools.product(("auto", "joint", "separate"), ("auto", "on", "off"))
    }
    on_gpu = mx.default_device().type == mx.gpu
    for (branches, compile), arrangement in settled.items():
        assert arrangement.forward.name == (SEPARATE if branches == "separate" else SHARED).name
        assert arrangement.compiled == (compile == "on") or on_gpu


def test_a_prompt_that_gets_no_gradient_from_its_answers_is_found_out(monkeypatch):
    """Right scores, wrong gradients: what a state that leaves a checkpointed block by mutation would give."""
    model = policy("llama")
    assert checks.disagreement(model, PAIRS, SHARED) is None
    own = Keys.forked

    def cut(self, branches):
        fork = own(self, branches)
        fork.prompt = tuple(map(mx.stop_gradient, fork.prompt))
        return fork

    monkeypatch.setattr(Keys, "forked", cut)
    assert checks.disagreement(model, PAIRS, SHARED).startswith("gradients differ by")
    for separate in (False, True):
        assert checks.choose_forward(model, PAIRS, "auto", separate=separate) is COMPLETION
    with pytest.raises(DpoError, match="the shared forward is not exact on this model: gradients differ by"):
        checks.choose_forward(model, PAIRS, "shared")


def test_the_layout_that_trains_is_the_one_that_is_proved(monkeypatch):
    """Right joint, wrong branch by branch: gradients of the first branch only."""
    model = policy("llama")
    assert checks.choose_forward(model, PAIRS, "auto", separate=True) is SEPARATE
    own = forward_module._with_gradient

    def first_only(model, segment, state, after):
        score = own(model, segment, state, after)
        return mx.stop_gradient(score) if after else score

    monkeypatch.setattr(forward_module, "_with_gradient", first_only)
    assert checks.choose_forward(model, PAIRS, "auto") is SHARED
    assert checks.choose_forward(model, PAIRS, "auto", separate=True) is COMPLETION


def test_rows_that_the_models_own_call_scores_are_cut_to_bounded_logits(monkeypatch):
    """Their whole logits exist at once: 2,000 tokens of 320 words are 640,000 of them."""
    model = policy("llama")
    pairs = [pair(1500, 500, 40, 0), pair(1500, 40, 900, 1), pair(40, 20, 20, 2)]
    monkeypatch.setattr(checks, "_LOGITS", 320 * 300)
    cut = checks.sample_pairs(model, pairs)
    assert [len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in cut] == [60, 300]
    assert cut[0] is pairs[2]
    assert [len(cut[1].chosen), len(cut[1].rejected)] == [150, 40]


def test_a_branch_that_starts_where_the_other_ended_is_found_out(monkeypatch):
    """Branches that write into one list of states: the second then continues the first."""
    model = policy("granite")
    monkeypatch.setattr(Arrays, "forked", lambda self, branches: self)
    monkeypatch.setattr(checks, "SHARED", SEPARATE)
    assert checks.disagreement(model, PAIRS, SEPARATE).startswith("scores differ by")
    assert checks.choose_forward(model, PAIRS, "auto") is COMPLETION
