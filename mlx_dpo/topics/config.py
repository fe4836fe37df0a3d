"""All settings of a topic model in one dataclass."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DpoError
from ..settings import Section, build, section, setting
from ..settings_file import read_settings
from .corpus_config import CorpusConfig
from .ecrtm import TopicModelConfig
from .preferences_config import PreferencesConfig
from .training_config import TopicDpoConfig, TopicOptimizerConfig, TopicTrainingConfig
from .word_vectors_config import WordVectorsConfig


@dataclass(frozen=True)
class TopicOutputConfig(Section):
    """The folder of a run."""

    output: str = setting("runs/topics", "folder of the run", path="written", also="output_dir save_dir")


@dataclass(frozen=True)
class TopicsConfig:
    """Every section of a settings file for topics."""

    corpus: CorpusConfig = section(CorpusConfig, also="data dataset")
    word_vectors: WordVectorsConfig = section(WordVectorsConfig, also="embeddings")
    model: TopicModelConfig = section(TopicModelConfig)
    optimizer: TopicOptimizerConfig = section(TopicOptimizerConfig, also="optim optimiser")
    training: TopicTrainingConfig = section(TopicTrainingConfig, also="train trainer")
    preferences: PreferencesConfig = section(PreferencesConfig, also="llm judge", decides=False)
    dpo: TopicDpoConfig = section(TopicDpoConfig)
    run: TopicOutputConfig = section(TopicOutputConfig, also="output", decides=False)

    def __post_init__(self):
        if self.word_vectors.source == "random" and not self.training.train_words:
            raise DpoError(
                "is false, but the word vectors start at random",
                where="training.train_words",
                hint="set it to true, or set word_vectors.source=corpus",
            )
        start, epochs = self.dpo.start_epoch, self.training.epochs
        if start and start >= epochs:
            raise DpoError(
                f"is {start}, but the run ends after {epochs} epochs",
                where="dpo.start_epoch",
                hint="set it below training.epochs, or to null for no preferences",
            )


def load_topics_config(path: Path | str | None = None, overrides: Sequence[str] = ()) -> TopicsConfig:
    """Defaults, then the YAML file, then each "section.key=value".

    Raises:
        DpoError: with file and line, or the override, of what is wrong.
    """
    return build(TopicsConfig, read_settings(path, overrides))
