"""The settings of a topic model: the shipped file, and mistakes in them."""

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.settings import as_plain, described, save_settings
from mlx_dpo.settings_file import read_yaml
from mlx_dpo.topics.config import TopicsConfig, load_topics_config

from ..conftest import ROOT

SHIPPED = ROOT / "config" / "topics.yaml"


def test_the_shipped_file_has_every_setting():
    values = read_yaml(SHIPPED).values
    written = {f"{section}.{name}" for section, own in values.items() for name in own}
    assert written == {name for name, *_ in described(TopicsConfig)}


def test_the_shipped_file_has_the_length_and_the_schedule_of_the_paper():
    config = load_topics_config(SHIPPED)
    assert (config.training.epochs, config.training.batch_size, config.optimizer.halve_epochs) == (
        500,
        200,
        125,
    )
    assert [config.optimizer.rate(epoch) for epoch in (0, 124, 125, 250)] == [0.002, 0.002, 0.001, 0.0005]


def test_settings_are_the_same_again_after_a_file(tmp_path):
    config = load_topics_config(
        SHIPPED, ["model.topics=7", "word_vectors.source=random", "training.train_words=true"]
    )
    save_settings(config, tmp_path / "config.yaml")
    assert as_plain(load_topics_config(tmp_path / "config.yaml")) == as_plain(config)


@pytest.mark.parametrize(
    ("override", "where", "what"),
    [
        ("model.topics=1", "--set model.topics", "model.topics must be at least 2"),
        ("model.num_topics=5", "--set model.num_topics", "unknown setting 'model.num_topics'"),
        ("training.batch_size=1", "--set training.batch_size", "training.batch_size must be at least 2"),
        ("model.temperature=0", "--set model.temperature", "model.temperature must be at least 1e-06"),
        ("dpo.topic_filter=best", "--set dpo.topic_filter", "dpo.topic_filter cannot be 'best'"),
        ("dpo.start_epoch=200", "dpo.start_epoch", "is 200, but the run ends after 200 epochs"),
        (
            "word_vectors.source=random",
            "training.train_words",
            "is false, but the word vectors start at random",
        ),
        ("word_vectors.source=file", "word_vectors.path", "word_vectors.path must be set"),
        ("word_vectors.path=x.txt", "--set word_vectors.path", "word_vectors.path has no effect"),
    ],
)
def test_a_mistake_is_told_with_its_place(override, where, what):
    with pytest.raises(DpoError) as error:
        load_topics_config(None, [override])
    assert error.value.what.startswith(what), error.value
    assert error.value.where == where
    assert error.value.hint
