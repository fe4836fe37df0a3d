"""Whose attention is computed: MLX's kernel or the toolkit's blocks; exact, as measured, and as planned."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.config import load_config
from mlx_dpo.data.shared_prompts import build_shared
from mlx_dpo.forward.mlx_attention import BLOCKS, FUSED, Call, attending, kernel, takes_kernel
from mlx_dpo.forward.pair_logps import SHARED
from mlx_dpo.jobs.attention import attention_of, measured_attention
from mlx_dpo.planning import attention_choice
from mlx_dpo.planning.attention_choice import Measured, attention_calls, choose, measured, settle
from mlx_dpo.planning.model_without_weights import skeleton
from mlx_dpo.planning.step_memory import LAYOUTS, _step
from mlx_dpo.training.layout import Layout

from ..support.policies import checkpointed, pair


def settings(*overrides):
    return load_config(None, [*overrides])


ANSWERS = Call((4, 6, 21, 16), (4, 2, 58, 16), (4, 2, 58, 16), 2, 37, mx.float32, 0.25)
PROMPT = Call((1, 6, 150, 16), (1, 2, 150, 16), (1, 2, 150, 16), 1, 0, mx.float32, 0.25)
KINDS = {"answers after their prompts": ANSWERS, "whole": PROMPT}


@pytest.mark.parametrize("call", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("how", [BLOCKS, FUSED])
def test_values_and_gradients_are_exact_against_float64(call, how):
    assert measured(call, how).error < 1e-6


@pytest.mark.parametrize("how", [BLOCKS, FUSED])
def test_half_precision_is_off_by_its_rounding_alone(how):
    assert 1e-4 < measured(ANSWERS._replace(dtype=mx.bfloat16), how).error < 0.01


FAULTS = {
    "sees one token ahead": lambda q, k, v, m: (
        q,
        k,
        v,
        np.tri(q.shape[2], k.shape[2], 1 + k.shape[2] - q.shape[2]),
    ),
    "misses the last token": lambda q, k, v, m: (
        q,
        k,
        v,
        np.tri(q.shape[2], k.shape[2], k.shape[2] - q.shape[2] - 1),
    ),
    "aligned with the first token": lambda q, k, v, m: (q, k, v, np.tri(q.shape[2], k.shape[2])),
    "two heads swapped": lambda q, k, v, m: (q[:, ::-1], k, v, m),
    "no gradient to keys": lambda q, k, v, m: (q, mx.stop_gradient(k), v, m),
}


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_kernel_of_mlx_is_never_taken(fault, dtype, monkeypatch):
    theirs = mx.fast.scaled_dot_product_attention

    def faulty(queries, keys, values, *, scale, mask):
        queries, keys, values, mask = FAULTS[fault](queries, keys, values, mask)
        mask = mx.array(mask.astype(bool)) if isinstance(mask, np.ndarray) else mask
        return theirs(queries, keys, values, scale=scale, mask=mask)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", faulty)
    how, why = settle([ANSWERS._replace(dtype=dtype)])
    assert how == BLOCKS and "not exact" in why


def test_a_kernel_that_fails_is_not_taken_and_its_words_are_kept(monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("no such kernel\nat line 3")

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", fails)
    how, why = settle([PROMPT])
    assert how == BLOCKS and why.endswith("(no such kernel)")


OWN = Measured(3e-7, 0.010, 100_000_000)


@pytest.mark.parametrize(
    ("fused", "how", "why"),
    [
        (Measured(3e-7, 0.004, 30_000_000), FUSED, "no slower"),
        (Measured(3e-7, 0.0104, 124_000_000), FUSED, "no slower"),
        (Measured(3e-7, 0.002, 126_000_000), BLOCKS, "more memory"),
        (Measured(3e-7, 0.0149, 50_000_000), FUSED, "half the memory"),
        (Measured(3e-7, 0.0151, 1_000_000), BLOCKS, "slower"),
        (Measured(3e-7, 0.011, 51_000_000), BLOCKS, "slower"),
        (Measured(1.7e-6, 0.001, 1_000_000), BLOCKS, "not exact"),
        (Measured(1.5e-6, 0.001, 1_000_000), FUSED, "no slower"),
        (Measured(float("nan"), 0.001, 1_000_000), BLOCKS, "not exact"),
    ],
)
def test_the_better_exact_one_is_taken(fused, how, why):
    chosen, words = choose(OWN, fused)
    assert chosen == how and why in words


def test_in_half_precision_a_kernel_may_round_as_the_blocks_do_but_never_by_2_percent():
    own = OWN._replace(error=0.005)
    assert choose(own, OWN._replace(error=0.0099))[0] == FUSED
    assert choose(own, OWN._replace(error=0.011))[0] == BLOCKS
    assert choose(OWN._replace(error=0.5), OWN._replace(error=0.03))[0] == BLOCKS


def test_times_of_all_kinds_of_calls_count_and_the_largest_peak():
    def measure(call, how):
        long = call == PROMPT
        if how == BLOCKS:
            return Measured(1e-7, 0.010 if long else 0.002, 100 if long else 10)
        return Measured(1e-7, 0.004 if long else 0.009, 60 if long else 90)

    # A layer has two calls for answers: 10 + 2 · 2 ms in blocks, 4 + 2 · 9 ms fused.
    how, why = settle([PROMPT, ANSWERS, ANSWERS], measure)
    assert how == BLOCKS and "22.0 ms" in why and "blocks 14.0 ms" in why


def test_the_calls_are_those_of_the_largest_pairs_with_their_prompt_once(models):
    model = skeleton(models("llama"), settings().adapter)

    def calls(separate):
        pairs = [pair(20, 8, 8, 0), pair(60, 30, 29, 1)]
        found = attention_calls(model, pairs, 1, "auto", separate=separate)
        return {(c.queries[0], c.queries[2], c.keys[2], c.prompts, c.prompt, c.dtype) for c in found}

    prompt = (1, 59, 59, 1, 0, mx.float32)
    assert calls(separate=False) == {prompt, (2, 30, 89, 1, 59, mx.float32)}
    assert calls(separate=True) == {prompt, (1, 30, 89, 1, 59, mx.float32), (1, 29, 88, 1, 59, mx.float32)}


def test_measuring_works_where_a_gpu_would_be_and_takes_a_moment(models):
    config = settings()
    how, why = measured_attention(config, models("granite"), [pair(60, 30, 12, 1)])
    assert how in (BLOCKS, FUSED) and " ms and " in why


def test_on_a_cpu_auto_is_blocks_and_what_is_asked_for_is_kept(models):
    if mx.default_device().type == mx.gpu:
        pytest.skip("a GPU measures")
    pairs = [pair(20, 8, 8, 0)]
    for asked, settled in (("auto", BLOCKS), ("fused", FUSED), ("blocks", BLOCKS)):
        config = settings(f"training.attention={asked}")
        assert attention_of(config, models("llama"), pairs) == settled


def test_a_resumed_run_keeps_its_attention():
    before = Layout(False, False, FUSED)
    assert attention_of(settings(), None, [], before) == FUSED
    assert attention_of(settings("training.attention=blocks"), None, [], before) == BLOCKS


@pytest.mark.parametrize("kind", ["llama", "granite"])
def test_a_model_scores_and_learns_the_same_with_either(kind):
    model = checkpointed(kind, "lora", None)
    batch = build_shared([pair(40, 30, 9, 0), pair(17, 5, 22, 1)])
    results = []
    for how in (BLOCKS, FUSED):
        with attending(how):
            scores = SHARED.score(model, batch, gradient=False)

            def loss(parameters):
                model.update(parameters)
                return (SHARED.score(model, batch, gradient=True) * mx.array([1.0, 0.5, -1, -2])).sum()

            parameters = model.trainable_parameters()
            gradients = mx.grad(loss)(parameters)
            model.update(parameters)
            results.append((np.array(scores), [np.array(g) for _, g in tree_flatten(gradients)]))
    (own, slopes), (theirs, others) = results
    assert np.abs(own - theirs).max() < 1e-4
    size = np.sqrt(sum((g**2).sum() for g in slopes))
    assert np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(slopes, others, strict=True))) < 1e-5 * size


def test_mlx_is_never_given_a_mask_array_where_causal_says_it(monkeypatch):
    theirs, masks = mx.fast.scaled_dot_product_attention, []

    def heard(*args, mask, **more):
        masks.append(mask)
        return theirs(*args, mask=mask, **more)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", heard)
    model = checkpointed("llama", "lora", None)
    with attending(FUSED):
        mx.eval(SHARED.score(model, build_shared([pair(40, 30, 9, 0)]), gradient=False))
    assert masks and set(masks) == {"causal"}


def test_without_a_kernel_scoring_stays_in_blocks():
    """On a CPU MLX holds the scores of all queries: at 2,048 tokens 2.6 times the memory."""
    if mx.default_device().type == mx.gpu:
        pytest.skip("a GPU has kernels")
    queries = mx.zeros((1, 2, 32, 64))
    assert not takes_kernel(queries, queries, queries, gradient=False)
    with attending("auto"):
        assert not takes_kernel(queries, queries, queries, gradient=True)


def shapes(length, size=64, total=None):
    return (2, 8, length, size), (2, 2, total or length, size), (2, 2, total or length, size)


def test_which_kernels_mlx_has():
    def has(backend, given, dtype=mx.bfloat16, **more):
        return kernel(backend, *given, dtype, **more) is not None

    assert has("metal", shapes(500), gradient=True, mlx="0.32.4")
    assert not has("metal", shapes(500), gradient=True, mlx="0.32.3")
    assert has("metal", shapes(500), mlx="0.32.3")
    assert has("metal", shapes(500, 512), gradient=True, mlx="0.33.0.dev1")
    assert not has("metal", shapes(500, 40), gradient=True, mlx="0.32.4")
    assert not has("metal", shapes(8), gradient=True, mlx="0.32.4")
    assert has("cuda", shapes(256), gradient=True)
    assert not has("cuda", shapes(250), gradient=True)
    assert not has("cuda", shapes(256), mx.float32, gradient=True)
    assert not has("cuda", shapes(256, 192), gradient=True)
    assert not has("cpu", shapes(256), gradient=True) and not has("cpu", shapes(256))


def test_the_plan_knows_what_the_kernel_saves_on_a_gpu(models, monkeypatch):
    """Long answers, head size 64: with the kernel of MLX 0.32.4 no softmax is kept; before, all of it."""
    import mlx_dpo.forward.mlx_attention as module
    from mlx_dpo.losses import build_loss

    config = settings()
    model = skeleton(wide(models("llama")), config.adapter)
    loss = build_loss(config.loss)
    peaks = {}
    for name, how, mlx in (("blocks", BLOCKS, "0.32.4"), ("new", FUSED, "0.32.4"), ("old", FUSED, "0.32.0")):
        monkeypatch.setattr(module, "version", lambda package, mlx=mlx: mlx)
        with attending(how):
            inside, outside, _ = _step(model, [pair(2, 3000, 3000, 0)], LAYOUTS[0], SHARED, loss, mx.gpu)
        peaks[name] = inside + outside
    assert peaks["new"] < peaks["blocks"] < peaks["old"]


def wide(folder):
    """Its config with heads of 64, which kernels have."""
    from mlx_dpo.models.config_files import read_model_config

    config = read_model_config(folder)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 128, "head_dim": 64}
    return {**config, **heads, "torch_dtype": "float32"}


def test_the_work_of_a_call_is_its_queries_times_its_keys():
    """Four answers and six heads: 4 · 6 · 21 queries · 58 keys · 16 numbers; a prompt: 6 · 150 · 150 · 16."""
    assert attention_choice._work(ANSWERS) == 467_712
    assert attention_choice._work(PROMPT) == 2_160_000


@pytest.mark.parametrize(
    ("found", "layer"),
    [
        ([(Measured(1e-7, 0.25, 100), 1)], (1e-7, 0.25, 100, "")),
        ([(Measured(1e-7, 0.25, 100), 3)], (1e-7, 0.25, 100, "")),  # three layers of one call each
        ([(Measured(1e-7, 0.25, 100), 1), (Measured(3e-7, 0.5, 60), 2)], (3e-7, 1.25, 100, "")),
        ([(Measured(1e-7, 0.25, 100), 2), (Measured(3e-7, 0.5, 160), 4)], (3e-7, 1.25, 160, "")),
        ([(Measured(1.0, 0.25, 9, "no"), 1), (Measured(1e-7, 0.5, 9), 1)], (1.0, 0.75, 9, "no")),
    ],
)
def test_the_calls_of_a_layer_add_up_their_seconds_and_have_the_largest_error_and_peak(found, layer):
    assert attention_choice._together(found) == layer


def test_an_error_that_is_no_number_is_never_lost():
    unknown, known = (Measured(error, 0.25, 9) for error in (float("nan"), 1e-7))
    for found in ([unknown, known], [known, unknown]):
        assert np.isnan(attention_choice._together([(m, 1) for m in found]).error)
