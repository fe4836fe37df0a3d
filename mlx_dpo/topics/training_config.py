"""Settings of the training of a topic model."""

from dataclasses import dataclass

from ..settings import LARGEST_SEED, LARGEST_WEIGHT, Section, setting

MOST_EPOCHS = 1_000_000
FILTERS = ("cv_below_average", "npmi_below_average", "llm_score", "either", "none")


@dataclass(frozen=True)
class TopicOptimizerConfig(Section):
    """Adam, and how its learning rate falls."""

    learning_rate: float = setting(0.002, "learning rate at the start", above=0, most=1, also="lr")
    halve_epochs: int | None = setting(
        None,
        "epochs after which the learning rate halves, again and again (the paper: 125); null: constant",
        least=1,
        most=MOST_EPOCHS,
        also="lr_step_size lr_step",
    )

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.learning_rate * 0.5 ** (epoch // self.halve_epochs if self.halve_epochs else 0)


@dataclass(frozen=True)
class TopicTrainingConfig(Section):
    """Length of a run, and when it is saved."""

    epochs: int = setting(
        200, "passes over the documents", least=1, most=MOST_EPOCHS, also="num_epochs n_epochs"
    )
    batch_size: int = setting(200, "documents per update", least=2, most=100_000)
    train_words: bool = setting(
        False,
        "train the word vectors too, until preferences are used, as random ones must be; false: topics alone "
        "move",
        also="train_WE",
    )
    seed: int = setting(
        0,
        "seed of the initial values, the order of the documents and the noise",
        least=0,
        most=LARGEST_SEED,
        also="random_seed random_state",
    )
    patience: int | None = setting(
        None,
        "epochs in a row without a lower training loss after which the run ends, but never before "
        "dpo.start_epoch; null: never ends early",
        least=1,
        most=MOST_EPOCHS,
        also="early_stopping early_stopping_patience",
    )
    report_epochs: int = setting(
        1, "epochs between two lines of metrics.jsonl", least=1, most=MOST_EPOCHS, also="log_interval"
    )
    save_minutes: float = setting(
        5.0, "minutes between two checkpoints at most", above=0, most=1_000_000, decides=False
    )
    keep_checkpoints: int = setting(
        2,
        "number of newest checkpoints kept; the one before preferences are used is kept too",
        least=1,
        most=10_000,
        decides=False,
    )


@dataclass(frozen=True)
class TopicDpoConfig(Section):
    """Preferences between words: from when, for which topics, and how strongly they count."""

    start_epoch: int | None = setting(
        None,
        "epochs without preferences; then the words of each topic are scored, and weak topics are improved. "
        "null: no preferences",
        least=1,
        most=MOST_EPOCHS,
        also="dpo_start_epoch",
    )
    weight: float = setting(
        1.0,
        "weight of the DPO loss; the source has used 10 to 30",
        least=0,
        most=LARGEST_WEIGHT,
        also="dpo_weight",
    )
    alpha: float = setting(
        1.0,
        "factor of the margins in the DPO loss (elsewhere beta); larger stays closer to the snapshot",
        above=0,
        most=LARGEST_WEIGHT,
        also="dpo_alpha beta dpo_beta",
    )
    topic_filter: str = setting(
        "npmi_below_average",
        "which topics are improved. npmi_below_average, cv_below_average: coherence of the top 15 words is "
        "below the mean (on short texts, NPMI tells themes from rare words, C_V cannot); llm_score: 1 or 2; "
        "either: cv_below_average or llm_score; none: all",
        choices=FILTERS,
        also="dpo_topic_filter filter",
    )
    anchor_weight: float = setting(
        0.0,
        "weight of the mean squared change of the other topics' logits since the snapshot; 0: they move as "
        "before",
        least=0,
        most=LARGEST_WEIGHT,
    )
