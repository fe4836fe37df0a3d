"""Settings of the loop."""

from dataclasses import dataclass

from ..settings import LARGEST_SEED, LARGEST_WEIGHT, Section, setting

SFT_LENGTH = (100, 2, 10)
"""Updates after which a style has been learnt from curated answers, if they can teach it; least and most
passes over them."""
PAIRS_LENGTH = (24, 1, 6)
"""The same of pairs: fewer updates leave the policy where it was."""

MOST_STEPS = 10**9
"""More updates than any run makes."""


@dataclass(frozen=True)
class TrainingConfig(Section):
    """How long, in what portions, and how memory is saved."""

    epochs: int | None = setting(
        None,
        "times every pair is seen; null: until about 24 updates are made, 1 to 6 times, and by sft 100, 2 to "
        "10 times; the run ends earlier when the held-out loss stops falling (patience)",
        least=1,
        most=10_000,
        also={
            "num_epochs num_train_epochs n_epochs epoch": "",
            "iters max_steps num_steps num_iters train_steps steps": "epochs = updates · pairs an update "
            "(micro_batch · accumulation) / pairs.",
        },
    )
    micro_batch: int = setting(
        1,
        "pairs computed at a time; more needs more memory, results differ by rounding",
        least=1,
        most=100_000,
        also="batch_size micro_batch_size train_batch_size per_device_train_batch_size "
        "per_device_batch_size per_device_eval_batch_size eval_batch_size",
    )
    accumulation: int = setting(
        8,
        "micro-batches an update; micro_batch · accumulation pairs make a window",
        least=1,
        most=1_000_000,
        also={
            "gradient_accumulation_steps grad_accumulation_steps grad_accum accumulation_steps "
            "gradient_accumulation accumulate_grad_batches": "",
            "global_batch_size": "micro_batch · accumulation pairs make an update.",
        },
    )
    gradient_checkpointing: str = setting(
        "auto",
        "keep only each block's input and compute the rest again: far less memory, about half as slow again; "
        "auto: where it would not fit otherwise",
        choices=("auto", "on", "off"),
        also="grad_checkpoint gradient_checkpoint use_gradient_checkpointing",
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
        also="torch_compile",
    )
    attention: str = setting(
        "auto",
        "fused: MLX's kernel; blocks: the toolkit's own, some queries at a time; auto: on a GPU the start "
        "measures both on the longest pairs and takes the better exact one, on a CPU blocks",
        choices=("auto", "fused", "blocks"),
        also="attn_implementation flash_attn flash_attention use_flash_attention_2",
    )
    reference_sync_steps: int | None = setting(
        None,
        "updates after which the adapter as it is becomes the reference, again and again (TR-DPO); each pair "
        "then costs a forward more; null: the reference stays",
        least=1,
        most=MOST_STEPS,
        also="ref_model_sync_steps sync_ref_model",
    )
    memory_limit: float | None = setting(
        None,
        "GB that a run may need by its plan; null: what this machine lets it use",
        above=0,
        most=100_000,
        also="max_memory max_memory_gb",
        decides=False,
    )
    rehearsal: float | None = setting(
        None,
        "how strongly the policy is held to the model it starts from on texts that this model wrote itself: "
        "the weight of their divergence (nats a token) beside the loss; 0: not at all; null: 0, and 1 by sft",
        least=0,
        most=LARGEST_WEIGHT,
    )
    seed: int = setting(
        0,
        "of the adapter's first values and of the order of pairs",
        least=0,
        most=LARGEST_SEED,
        also="random_seed data_seed random_state",
    )
    report_steps: int = setting(
        1,
        "updates between lines of metrics.jsonl",
        least=1,
        most=MOST_STEPS,
        also="logging_steps steps_per_report log_steps log_every log_interval",
    )
    eval_steps: int | None = setting(
        None,
        "updates between held-out evaluations, each followed by a checkpoint; null: ten times a run",
        least=1,
        most=MOST_STEPS,
        also={
            "steps_per_eval eval_every eval_interval evaluation_steps": "",
            "eval_strategy evaluation_strategy": "it counts updates.",
        },
    )
    select: str = setting(
        "best",
        "the adapter that the run folder ends with; best: that of the lowest held-out loss, leaving out "
        "evaluations with an alarm that the policy is being damaged; last: the last",
        choices=("best", "last"),
        also="load_best_model_at_end",
    )
    patience: int | None = setting(
        3,
        "evaluations in a row without a lower held-out loss after which the run ends; null: it goes on",
        least=1,
        most=MOST_STEPS,
        also="early_stopping early_stopping_patience",
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
        least=0,
        most=100_000,
    )
    sample_tokens: int = setting(96, "longest of these answers, in tokens", least=1, most=1_000_000)
    save_minutes: float = setting(
        10.0,
        "a checkpoint is written at least so often, besides evaluations",
        above=0,
        most=1_000_000,
        also={
            "save_steps save_every save_interval save_strategy steps_per_save": "it is in minutes; "
            "a checkpoint also follows every evaluation (training.eval_steps).",
        },
        decides=False,
    )
    keep_checkpoints: int = setting(
        2,
        "newest checkpoints that are kept, besides that of the best adapter",
        least=1,
        most=10_000,
        also="save_total_limit max_checkpoints",
        decides=False,
    )
    max_skipped: int = setting(
        3,
        "windows in a row without a finite loss and gradient, which are skipped, after which the run stops",
        least=1,
        most=MOST_STEPS,
    )

    @property
    def window(self) -> int:
        """Pairs an update."""
        return self.micro_batch * self.accumulation

    def updates(self, pairs: int, epochs: int) -> int:
        """Updates of a whole run; a part-filled last window is one too."""
        return epochs * self._windows(pairs)

    def epochs_for(self, rows: int, *, answers_only: bool) -> int:
        """Passes over so many pairs, or answers alone, by PAIRS_LENGTH or SFT_LENGTH."""
        updates, least, most = SFT_LENGTH if answers_only else PAIRS_LENGTH
        return min(most, max(least, -(-updates // self._windows(rows))))

    def _windows(self, pairs: int) -> int:
        return -(-pairs // self.window)
