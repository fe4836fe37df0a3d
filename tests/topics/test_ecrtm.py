"""ECRTM: its matrices, its modes, and one whole training step against float64 NumPy."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.topics.batch_norm import ShiftedBatchNorm
from mlx_dpo.topics.ecrtm import ECRTM, TopicModelConfig
from mlx_dpo.topics.objective import Batch, Guidance, draw_batch, loss_terms
from mlx_dpo.topics.topic_dpo import word_pairs
from mlx_dpo.topics.training_config import TopicDpoConfig
from mlx_dpo.topics.win_lose import WinLose

from ..support import exact_topics

WORDS, DOCUMENTS = 11, 5
CONFIG = TopicModelConfig(topics=3, encoder_size=4, embedding_size=3, ecr_weight=7.0)
PREFERENCES = {0: WinLose((1, 4, 7), (2, 3)), 2: WinLose((0,), (5, 6, 8, 9))}
OTHERS = [1]
DPO = TopicDpoConfig(weight=3.0, alpha=1.7, anchor_weight=0.6)


@pytest.fixture
def model():
    mx.random.seed(3)
    model = ECRTM(WORDS, CONFIG)
    for norm in (model.mean_norm, model.log_variance_norm, model.decoder_norm):
        norm.shift = 0.3 * mx.random.normal(norm.shift.shape)
    return model


@pytest.fixture
def bags():
    return np.random.default_rng(1).poisson(0.8, (DOCUMENTS, WORDS)).astype(np.float64) + np.eye(
        DOCUMENTS, WORDS
    )


@pytest.fixture
def noise():
    return np.random.default_rng(2).normal(size=(DOCUMENTS, CONFIG.topics))


def guidance_of(model, seed=5):
    """A snapshot that differs from the model, with preferences for two of three topics."""
    drawn = mx.random.normal((CONFIG.topics, WORDS), key=mx.random.key(seed))
    reference = model.get_beta_logits() + drawn
    return Guidance(mx.stop_gradient(reference), word_pairs(PREFERENCES), mx.array(OTHERS), "digest")


def test_a_vocabulary_of_three_words_gives_the_worked_matrix():
    """Vectors in the plane whose squared distances are those of the example."""
    model = ECRTM(3, TopicModelConfig(topics=2, encoder_size=2, temperature=0.2))
    cost = np.array([[0.1, 0.5, 1.0], [0.9, 0.4, 0.2]])
    along = (cost[0] - cost[1] + 1) / 2
    model.topic_vectors = mx.array([[0.0, 0.0], [1.0, 0.0]])
    model.word_vectors = mx.array(np.stack([along, np.sqrt(cost[0] - along**2)], axis=1), mx.float32)
    np.testing.assert_allclose(np.array(model.get_beta_logits()), -cost / 0.2, rtol=1e-5)
    expected = [[0.982014, 0.377541, 0.017986], [0.017986, 0.622459, 0.982014]]
    np.testing.assert_allclose(np.array(model.beta()), expected, atol=1e-5)


def test_distances_are_squared_and_each_word_is_shared_among_the_topics(model):
    exact = exact_topics.distances(np.array(model.topic_vectors), np.array(model.word_vectors))
    np.testing.assert_allclose(np.array(model.distances()), exact, atol=1e-5)
    np.testing.assert_allclose(np.array(model.beta().sum(axis=0)), 1, atol=1e-6)


def test_vectors_start_with_length_one_and_are_free_afterwards(model):
    given = np.array([[3.0, 4.0], [0.0, 0.0], *[[0.0, 2.0]] * 9])
    started = ECRTM(WORDS, CONFIG, given)
    np.testing.assert_allclose(np.array(started.word_vectors[:3]), [[0.6, 0.8], [0, 0], [0, 1]], atol=1e-6)
    for vectors in (model.word_vectors, model.topic_vectors, started.topic_vectors):
        assert np.linalg.norm(np.array(vectors), axis=1) == pytest.approx(1, abs=1e-5)
    assert started.topic_vectors.shape == (3, 2)


@pytest.mark.parametrize("guided", [False, True])
def test_a_training_step_is_that_of_float64(model, bags, noise, guided):
    """Every term of the loss, and the gradient of every parameter, by central differences."""
    guidance = guidance_of(model) if guided else None
    batch = Batch(mx.array(bags, mx.float32), mx.array(noise, mx.float32), 1.0)
    (loss, terms), gradient = nn.value_and_grad(model, lambda: loss_terms(model, batch, guidance, DPO))()
    own = {name: np.array(value, np.float64) for name, value in tree_flatten(model.trainable_parameters())}
    given = guided and (np.array(guidance.reference, np.float64), PREFERENCES, OTHERS, 3.0, 1.7, 0.6)

    def exact(parameters):
        return exact_topics.terms(parameters, bags, noise, CONFIG, guidance=given)

    expected = exact(own)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name
    assert loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)
    found = dict(tree_flatten(gradient))
    assert found.keys() == own.keys()
    for name, value in own.items():
        slope = exact_topics.slope(lambda x, name=name: sum(exact({**own, name: x}).values()), value)
        scale = np.abs(slope).max()
        np.testing.assert_allclose(np.array(found[name]), slope, atol=1e-4 * max(1, scale), err_msg=name)


def test_without_preferences_the_snapshot_changes_nothing_but_the_anchor(model, bags, noise):
    batch = Batch(mx.array(bags, mx.float32), mx.array(noise, mx.float32), 1.0)
    snapshot = model.get_beta_logits()
    nothing = Guidance(snapshot, None, mx.arange(3), "digest")
    _, plain = loss_terms(model, batch, None, DPO)
    _, guided = loss_terms(model, batch, nothing, DPO)
    assert guided["anchor"].item() == 0
    assert [plain[name].item() for name in plain] == [guided[name].item() for name in plain]
    assert "anchor" not in loss_terms(model, batch, nothing, replace(DPO, anchor_weight=0.0))[1]


def test_in_evaluation_a_document_has_the_same_topics_whatever_its_batch(model, bags):
    counts = mx.array(bags, mx.float32)
    model.encode(counts)  # moves the running statistics
    model.eval()
    together = np.array(model.theta(counts))
    alone = np.concatenate([np.array(model.theta(counts[i : i + 1])) for i in range(DOCUMENTS)])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)


def test_batch_norm_keeps_the_mean_and_the_variance_without_bias():
    norm, rows = ShiftedBatchNorm(2), np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    norm(mx.array(rows, mx.float32))
    np.testing.assert_allclose(np.array(norm.running_mean), 0.1 * rows.mean(axis=0), rtol=1e-6)
    expected = 0.9 + 0.1 * rows.var(axis=0, ddof=1)
    np.testing.assert_allclose(np.array(norm.running_variance), expected, rtol=1e-6)


def test_batch_norm_trains_its_shift_alone():
    assert [name for name, _ in tree_flatten(ShiftedBatchNorm(2).trainable_parameters())] == ["shift"]


def test_frozen_words_have_no_gradient_and_topics_have_one(model, bags, noise):
    model.freeze_words()
    batch = Batch(mx.array(bags, mx.float32), mx.array(noise, mx.float32), 1.0)
    _, gradient = nn.value_and_grad(model, lambda: loss_terms(model, batch, None, DPO))()
    assert "word_vectors" not in gradient and "topic_vectors" in gradient


def test_dropout_drops_its_share_of_units_and_keeps_the_mean():
    model = ECRTM(WORDS, replace(CONFIG, encoder_size=400, dropout=0.25))
    keys = mx.random.split(mx.random.key(0))
    kept = np.array(draw_batch(mx.zeros((50, WORDS)), model, keys).kept)
    assert (kept == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert set(np.unique(kept).round(5)) == {0, np.float32(4 / 3).round(5)}


def test_the_noise_of_a_step_is_drawn_from_its_key_alone(model):
    bags, keys = mx.zeros((4, WORDS)), mx.random.split(mx.random.key(7))
    first = np.array(draw_batch(bags, model, keys).noise)
    mx.random.normal((3,))
    assert (np.array(draw_batch(bags, model, keys).noise) == first).all()
