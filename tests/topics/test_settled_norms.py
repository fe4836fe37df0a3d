"""The encoder's batch norms after training: statistics of all documents, by the final weights."""

import mlx.core as mx
import numpy as np
import pytest
import scipy.sparse

from mlx_dpo.topics.ecrtm import ECRTM, TopicModelConfig
from mlx_dpo.topics.model_files import document_topics, settle_norms

WORDS, DOCUMENTS, BATCH = 40, 60, 20


@pytest.fixture
def bags():
    return scipy.sparse.csr_matrix(np.random.default_rng(0).poisson(0.5, (DOCUMENTS, WORDS)).astype(np.int32))


@pytest.fixture
def moved(bags):
    """A model whose weights moved after its running statistics were made."""
    mx.random.seed(0)
    model = ECRTM(WORDS, TopicModelConfig(topics=4, encoder_size=8, embedding_size=6))
    for start in range(0, DOCUMENTS, BATCH):
        model.encode(mx.array(bags[start : start + BATCH].toarray().astype(np.float32)))
    model.hidden2.bias = model.hidden2.bias + 0.05
    return model


def in_one_batch(model, bags):
    """Topics of the documents by the statistics of a batch that has them all."""
    model.train()
    mean, _ = model.encode(mx.array(bags.toarray().astype(np.float32)))
    model.eval()
    return np.array(mx.softmax(mean, axis=1))


def test_documents_have_the_topics_that_one_batch_of_all_documents_gives(moved, bags):
    before = document_topics(moved, bags)
    settle_norms(moved, bags)
    settled = document_topics(moved, bags)
    expected = in_one_batch(moved, bags)
    np.testing.assert_allclose(settled, expected, atol=1e-5)
    assert np.abs(before - expected).max() > 0.1


def test_a_topic_that_hardly_varies_does_not_lead_in_every_document(moved, bags):
    """Its output varies by 1e-4; its running mean lags behind by 1e-2, as after some updates."""
    moved.mean.weight = mx.concatenate([1e-3 * moved.mean.weight[:1], moved.mean.weight[1:]])
    outputs, _ = moved.before_norm(mx.array(bags.toarray().astype(np.float32)))
    moved.mean_norm.running_mean = outputs.mean(axis=0) - mx.array([1e-2, 0, 0, 0])
    moved.mean_norm.running_variance = mx.var(outputs, axis=0)
    assert (document_topics(moved, bags).argmax(axis=1) == 0).all()
    settle_norms(moved, bags)
    assert (document_topics(moved, bags).argmax(axis=1) == 0).mean() < 0.2


def test_both_norms_get_the_mean_and_the_variance_of_all_documents(moved, bags):
    settle_norms(moved, bags)
    outputs = moved.before_norm(mx.array(bags.toarray().astype(np.float32)))
    for norm, values in zip((moved.mean_norm, moved.log_variance_norm), outputs, strict=True):
        np.testing.assert_allclose(np.array(norm.running_mean), np.array(values).mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(np.array(norm.running_variance), np.array(values).var(axis=0), rtol=1e-3)
