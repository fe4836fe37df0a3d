"""A pair's score and gradient do not depend on how they are computed."""

import gc
import sys

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.data.batches import build_batch
from mlx_dpo.data.own_format import to_preference
from mlx_dpo.data.tokenize import tokenize_pairs
from mlx_dpo.forward.body_and_head import head
from mlx_dpo.forward.checkpointing import checkpoint_layers
from mlx_dpo.forward.pair_logps import COMPLETION, PLAIN, SHARED
from mlx_dpo.forward.scoring import score_pairs
from mlx_dpo.logps import token_logps
from mlx_dpo.losses import LossConfig, build_loss
from mlx_dpo.models.adapters import AdapterConfig, attach, trainable
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.training.step import pair_gradient
from mlx_dpo.training.window_gradient import window_gradient

ARCHITECTURES = ["granite", "llama", "qwen3"]


@pytest.fixture(params=ARCHITECTURES)
def folder(request, models):
    return models(request.param)


def policy_of(folder, **adapter):
    """A model with a LoRA adapter that has moved: B is not 0, so that every part has a gradient."""
    model, _ = load_model(folder)
    mx.random.seed(1)
    attach(model, AdapterConfig(rank=4, **adapter))
    moved = [(n, 0.05 * mx.random.normal(v.shape)) for n, v in trainable(model).items() if "lora_b" in n]
    model.load_weights(moved, strict=False)
    return model


def pairs_of(folder, rows, count=5):
    """Pairs of unequal prompts and answers."""
    picked = [to_preference(r, f"rows:{i}") for i, r in enumerate(rows[:: len(rows) // count][:count])]
    picked[1] = to_preference({**rows[3], "prompt": "Well then. " * 6 + rows[3]["prompt"]}, "rows:1")
    pairs, _ = tokenize_pairs(picked, load_tokenizer(folder), 200)
    assert len({len(p.prompt) for p in pairs}) > 2
    return pairs


def score_by_hand(model, pair):
    """The definition: the model's own logits on one unpadded sequence, token by token, in float64."""
    scores = []
    for completion in (pair.chosen, pair.rejected):
        tokens = np.concatenate([pair.prompt, completion])
        logits = np.array(model(mx.array(tokens[None])), dtype=np.float64)[0]
        logps = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        logps -= logits.max(-1, keepdims=True)
        start = len(pair.prompt)
        scores.append(sum(logps[t - 1, tokens[t]] for t in range(start, len(tokens))))
    return scores


@pytest.mark.parametrize("forward", [PLAIN, COMPLETION, SHARED], ids=lambda f: f.name)
def test_a_score_is_the_sum_over_the_answers_own_tokens(folder, pair_rows, forward):
    model, pairs = policy_of(folder), pairs_of(folder, pair_rows)
    expected = [score_by_hand(model, pair) for pair in pairs]
    scores = score_pairs(model, pairs, forward, [[0, 1, 2], [3, 4]])
    np.testing.assert_allclose(scores, expected, rtol=2e-6, atol=2e-4)


@pytest.mark.parametrize("forward", [PLAIN, COMPLETION, SHARED], ids=lambda f: f.name)
def test_a_pair_scores_the_same_alone_and_padded_in_a_batch(folder, pair_rows, forward):
    model, pairs = policy_of(folder), pairs_of(folder, pair_rows)
    alone = score_pairs(model, pairs, forward, [[i] for i in range(len(pairs))])
    together = score_pairs(model, pairs, forward, [range(len(pairs))])
    np.testing.assert_allclose(together, alone, rtol=2e-6, atol=2e-4)


def test_what_stands_in_the_padding_does_not_change_scores(folder, pair_rows):
    model, pairs = policy_of(folder), pairs_of(folder, pair_rows)
    batch = build_batch(pairs)
    inputs = np.array(batch.inputs)
    for row, pair in enumerate(pairs):
        inputs[row, len(pair.prompt) + len(pair.chosen) - 1 :] = 77
        inputs[row + len(pairs), len(pair.prompt) + len(pair.rejected) - 1 :] = 99
    filled = batch._replace(inputs=mx.array(inputs))
    np.testing.assert_array_equal(
        np.array(COMPLETION.score(model, filled, gradient=False)),
        np.array(COMPLETION.score(model, batch, gradient=False)),
    )


def gradient_of(model, pairs, reference, forward, window):
    gradient, _ = window_gradient(
        pair_gradient(model, build_loss(LossConfig()), forward), pairs, window, reference, mx.array(0.1)
    )
    return {n: np.array(g) for n, g in tree_flatten(gradient)}


def assert_same_gradient(actual, expected, relative):
    """Largest difference of each array against that array's largest entry."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        assert scale > 0, name
        assert np.abs(actual[name] - value).max() <= relative * scale, name


def test_checkpointing_changes_neither_scores_nor_gradients(folder, pair_rows):
    pairs = pairs_of(folder, pair_rows)
    reference = np.zeros((len(pairs), 2), np.float32)
    plain, saving = policy_of(folder), policy_of(folder)
    checkpoint_layers(saving)
    window = [[0, 1, 2, 3, 4]]
    np.testing.assert_array_equal(
        score_pairs(saving, pairs, COMPLETION, window), score_pairs(plain, pairs, COMPLETION, window)
    )
    assert_same_gradient(
        gradient_of(saving, pairs, reference, COMPLETION, window),
        gradient_of(plain, pairs, reference, COMPLETION, window),
        1e-5,
    )


def test_both_forwards_have_the_same_gradient(folder, pair_rows):
    pairs = pairs_of(folder, pair_rows)
    reference = np.zeros((len(pairs), 2), np.float32)
    model = policy_of(folder)
    assert_same_gradient(
        gradient_of(model, pairs, reference, COMPLETION, [[0, 1], [2], [3, 4]]),
        gradient_of(model, pairs, reference, PLAIN, [[0, 1], [2], [3, 4]]),
        1e-4,
    )


def test_padding_changes_no_gradient(folder, pair_rows):
    pairs = pairs_of(folder, pair_rows)
    reference = np.zeros((len(pairs), 2), np.float32)
    model = policy_of(folder)
    assert_same_gradient(
        gradient_of(model, pairs, reference, COMPLETION, [[0, 1, 2, 3, 4]]),
        gradient_of(model, pairs, reference, COMPLETION, [[i] for i in range(5)]),
        1e-4,
    )


def test_the_gradient_agrees_with_finite_differences(models, pair_rows):
    folder = models("granite")
    pairs = pairs_of(folder, pair_rows)[:2]
    model = policy_of(folder)
    batch, reference = build_batch(pairs), mx.zeros((2, 2))
    compute = pair_gradient(model, build_loss(LossConfig()), COMPLETION).compute

    def summed():
        return compute(batch, reference, mx.array(0.1), mx.array(1.0))[1].sum().item()

    gradient, _, _ = compute(batch, reference, mx.array(0.1), mx.array(1.0))
    name = "model.layers.0.mamba.in_proj.lora_b"
    slope = dict(tree_flatten(gradient))[name]
    value, direction = trainable(model)[name], slope / mx.sqrt((slope**2).sum())
    step = 1e-2
    model.load_weights([(name, value + step * direction)], strict=False)
    above = summed()
    model.load_weights([(name, value - step * direction)], strict=False)
    below = summed()
    assert (above - below) / (2 * step) == pytest.approx((slope * direction).sum().item(), rel=1e-2)


def test_the_head_is_the_models_own(folder):
    """Logits of hidden states picked before the head equal logits picked after it."""
    model, _ = load_model(folder)
    tokens = mx.array([[5, 9, 300, 41, 7]])
    hidden = model.model(tokens)
    np.testing.assert_allclose(
        np.array(token_logps(mx.stack([head(model, row) for row in hidden[:, 2:4]]), tokens[:, 3:])),
        np.array(token_logps(model(tokens)[:, 2:4], tokens[:, 3:])),
        rtol=1e-6,  # a product of two rows rounds otherwise than one of five
    )
    assert type(model.model).__call__(model.model, tokens).shape == hidden.shape


def test_checkpointing_one_model_leaves_others_alone(models):
    first, _ = load_model(models("llama"))
    second, _ = load_model(models("llama"))
    checkpoint_layers(first)
    assert type(first.layers[0]) is not type(second.layers[0])
    assert isinstance(first.layers[0], type(second.layers[0]))


def test_the_head_keeps_no_hidden_states_alive(models):
    model, _ = load_model(models("llama"))
    hidden = mx.zeros((1, 4, 64))
    before = sys.getrefcount(hidden)
    gc.collect()
    gc.disable()
    try:
        mx.eval(head(model, hidden[0]))
        assert sys.getrefcount(hidden) == before
    finally:
        gc.enable()
