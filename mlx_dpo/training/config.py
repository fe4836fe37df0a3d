"""Settings of the loop."""

import math
from dataclasses import dataclass

from ..settings import setting

SFT_LENGTH = (100, 2, 10)
"""Updates after which a style has been learnt from curated answers, if they can teach it; least and most
passes over them."""
PAIRS_LENGTH = (24, 1, 6)
"""The same of pairs: fewer updates leave the policy where it was."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long, in what portions, and how memory is saved."""

    epochs: int | None = setting(
        None,
        "times every pair is seen; null: until about 24 updates are made, 1 to 6 times, and by sft 100, 2 to "
        "10 times; the run ends earlier when the held-out loss stops falling (patience)",
    )
    micro_batch: int = setting(
        1, "pairs computed at a time; more needs more memory, results differ by rounding"
    )
    accumulation: int = setting(8, "micro-batches an update; micro_batch · accumulation pairs make a window")
    gradient_checkpointing: str = setting(
        "auto",
        "keep only each block's input and compute the rest again: far less memory, about half as slow again; "
        "auto: where it would not fit otherwise",
        choices=("auto", "on", "off"),
    )
    forward: str = setting(
        "auto",
        "shared: every prompt once for all its answers, logits of answer tokens only; plain: the model's own "
        "call; auto: shared where a check at the start shows the same scores and gradients",
        choices=("auto", "shared", "plain"),
    )
    branches: str = setting(
        "auto",
        "joint: both answers of a pair at a time; separate: one after the other, in less memory; "
        "auto: joint where that fits",
        choices=("auto", "joint", "separate"),
    )
    compile: str = setting(
        "auto",
        "trace the step once a shape of batch; auto: on a GPU, where many batches share few shapes",
        choices=("auto", "on", "off"),
    )
    attention: str = setting(
        "auto",
        "fused: MLX's kernel; blocks: the toolkit's own, some queries at a time; auto: on a GPU the start "
        "measures both on the longest pairs and takes the better exact one, on a CPU blocks",
        choices=("auto", "fused", "blocks"),
    )
    reference_sync_steps: int | None = setting(
        None,
        "updates after which the adapter as it is becomes the reference, again and again (TR-DPO); each pair "
        "then costs a forward more; null: the reference stays",
    )
    memory_limit: float | None = setting(
        None, "GB that a run may need by its plan; null: what this machine lets it use"
    )
    rehearsal: float | None = setting(
        None,
        "how strongly the policy is held to the model it starts from on texts that this model wrote itself: "
        "the weight of their divergence (nats a token) beside the loss; 0: not at all; null: 0, and 1 by sft",
    )
    seed: int = setting(0, "of the adapter's first values and of the order of pairs")
    report_steps: int = setting(1, "updates between lines of metrics.jsonl")
    eval_steps: int | None = setting(
        None, "updates between held-out evaluations, each followed by a checkpoint; null: ten times a run"
    )
    select: str = setting(
        "best",
        "the adapter that the run folder ends with; best: that of the lowest held-out loss, leaving out "
        "evaluations with an alarm that the policy is being damaged; last: the last",
        choices=("best", "last"),
    )
    patience: int | None = setting(
        3, "evaluations in a row without a lower held-out loss after which the run ends; null: it goes on"
    )
    guard: str = setting(
        "stop",
        "what is done when a run's own figures say that the policy is being damaged: warn says it, stop "
        "also ends the run, where select is best with the best adapter from before",
        choices=("stop", "warn", "off"),
    )
    samples: int = setting(
        4,
        "held-out prompts answered at every evaluation, to see answers that repeat or run on; 0: none",
    )
    sample_tokens: int = setting(96, "longest of these answers, in tokens")
    save_minutes: float = setting(10.0, "a checkpoint is written at least so often, besides evaluations")
    keep_checkpoints: int = setting(2, "newest checkpoints that are kept, besides that of the best adapter")
    max_skipped: int = setting(
        3, "windows in a row without a finite loss and gradient, which are skipped, after which the run stops"
    )

    def __post_init__(self):
        counts = (
            "micro_batch",
            "accumulation",
            "report_steps",
            "keep_checkpoints",
            "max_skipped",
            "sample_tokens",
        )
        if self.samples < 0:
            raise ValueError(f"samples must not be negative, got {self.samples}")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("epochs", "eval_steps", "patience", "reference_sync_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be null or at least 1, got {value}")
        if self.memory_limit is not None and self.memory_limit <= 0:
            raise ValueError(f"memory_limit must be null or above 0, got {self.memory_limit}")
        if self.rehearsal is not None and not 0 <= self.rehearsal < math.inf:
            raise ValueError(f"rehearsal must be null or at least 0, got {self.rehearsal}")
        if not self.save_minutes > 0:
            raise ValueError(f"save_minutes must be above 0, got {self.save_minutes}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    @property
    def window(self) -> int:
        """Pairs an update."""
        return self.micro_batch * self.accumulation

    def steps(self, pairs: int) -> int:
        """Updates of the whole run, where `epochs` is a number; a part-filled last window is one too."""
        return self.epochs * self._windows(pairs)

    def epochs_for(self, rows: int, *, answers_only: bool) -> int:
        """Passes over so many pairs, or answers alone, by PAIRS_LENGTH or SFT_LENGTH."""
        updates, least, most = SFT_LENGTH if answers_only else PAIRS_LENGTH
        return min(most, max(least, -(-updates // self._windows(rows))))

    def _windows(self, pairs: int) -> int:
        return -(-pairs // self.window)
