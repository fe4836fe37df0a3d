"""Settings of the loop."""

from dataclasses import dataclass

from ..settings import LARGEST_SEED, LARGEST_WEIGHT, Section, setting

SFT_LENGTH = (100, 2, 10)
"""For sft: updates in which a style can be learnt from curated answers; fewest and most passes."""
PAIRS_LENGTH = (24, 1, 6)
"""The same for pairs: with fewer updates the policy hardly changes."""

MOST_STEPS = 10**9
"""More updates than any run has."""


@dataclass(frozen=True)
class TrainingConfig(Section):
    """Length of a run, size of its batches, and how it saves memory."""

    epochs: int | None = setting(
        None,
        "passes over the pairs; null: as many as make about 24 updates (1 to 6 passes), for sft about 100 "
        "updates (2 to 10 passes). A run ends earlier when the held-out loss stops falling "
        "(training.patience)",
        least=1,
        most=10_000,
        also={
            "num_epochs num_train_epochs n_epochs epoch": "",
            "iters max_steps num_steps num_iters train_steps steps": "epochs = updates · pairs per update "
            "(micro_batch · accumulation) / pairs.",
        },
    )
    micro_batch: int = setting(
        1,
        "pairs computed at the same time; more need more memory and change the result by rounding only",
        least=1,
        most=100_000,
        also="batch_size micro_batch_size train_batch_size per_device_train_batch_size "
        "per_device_batch_size per_device_eval_batch_size eval_batch_size",
    )
    accumulation: int = setting(
        8,
        "micro-batches per update; an update sees micro_batch · accumulation pairs (a window)",
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
        "on: keep only the input of every block and compute the rest again in the backward pass; far less "
        "memory, about 1.5x the time. auto: on if the run does not fit otherwise",
        choices=("auto", "on", "off"),
        also="grad_checkpoint gradient_checkpoint use_gradient_checkpointing",
    )
    forward: str = setting(
        "auto",
        "shared: compute every prompt once for both answers, and logits for answer tokens only; plain: the "
        "model's own call; auto: shared if a check at the start finds equal scores and gradients",
        choices=("auto", "shared", "plain"),
    )
    branches: str = setting(
        "auto",
        "joint: both answers of a pair at the same time; separate: one after the other, in less memory; "
        "auto: joint if it fits",
        choices=("auto", "joint", "separate"),
    )
    compile: str = setting(
        "auto",
        "on: compile the step once per batch shape; auto: on for a GPU if many batches share few shapes",
        choices=("auto", "on", "off"),
        also="torch_compile",
    )
    attention: str = setting(
        "auto",
        "fused: the attention kernel of MLX; blocks: attention over blocks of queries, part of this "
        "toolkit; auto: on a GPU, both are measured on your longest pairs and the better exact one is used; "
        "on a CPU, blocks",
        choices=("auto", "fused", "blocks"),
        also="attn_implementation flash_attn flash_attention use_flash_attention_2",
    )
    reference_sync_steps: int | None = setting(
        None,
        "TR-DPO: number of updates after which the current adapter becomes the reference, again and again; "
        "every pair then needs one more forward pass; null: the reference stays the same",
        least=1,
        most=MOST_STEPS,
        also="ref_model_sync_steps sync_ref_model",
    )
    memory_limit: float | None = setting(
        None,
        "memory that a run may need according to its plan, in GB; null: what this machine allows",
        above=0,
        most=100_000,
        also="max_memory max_memory_gb",
        decides=False,
    )
    rehearsal: float | None = setting(
        None,
        "keeps the policy close to its starting model on texts which that model wrote: weight of their "
        "divergence (nats per token), added to the loss; 0: off; null: 1 for sft, else 0",
        least=0,
        most=LARGEST_WEIGHT,
    )
    seed: int = setting(
        0,
        "seed of the adapter's initial values and of the order of the pairs",
        least=0,
        most=LARGEST_SEED,
        also="random_seed data_seed random_state",
    )
    report_steps: int = setting(
        1,
        "updates between two lines of metrics.jsonl",
        least=1,
        most=MOST_STEPS,
        also="logging_steps steps_per_report log_steps log_every log_interval",
    )
    eval_steps: int | None = setting(
        None,
        "updates between two held-out evaluations; a checkpoint follows each of them; null: ten evaluations "
        "per run",
        least=1,
        most=MOST_STEPS,
        also={
            "steps_per_eval eval_every eval_interval evaluation_steps": "",
            "eval_strategy evaluation_strategy": "it counts updates.",
        },
    )
    select: str = setting(
        "best",
        "which adapter the run folder keeps; best: the one with the lowest held-out loss, except "
        "evaluations whose alarm says that the policy is damaged; last: the last one",
        choices=("best", "last"),
        also="load_best_model_at_end",
    )
    patience: int | None = setting(
        3,
        "number of evaluations in a row without a lower held-out loss after which the run ends; null: never "
        "ends early",
        least=1,
        most=MOST_STEPS,
        also="early_stopping early_stopping_patience",
    )
    guard: str = setting(
        "stop",
        "what happens when the run's figures show that training damages the policy; warn: a message; stop: "
        "a message and the end of the run, with the best adapter so far if training.select is best",
        choices=("stop", "warn", "off"),
    )
    samples: int = setting(
        4,
        "number of held-out prompts answered at every evaluation; they show answers that repeat or never "
        "end; 0: none",
        least=0,
        most=100_000,
    )
    sample_tokens: int = setting(96, "maximum length of these answers, in tokens", least=1, most=1_000_000)
    save_minutes: float = setting(
        10.0,
        "minutes between two checkpoints at most; an evaluation also writes one",
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
        "number of newest checkpoints kept; the checkpoint of the best adapter is kept too",
        least=1,
        most=10_000,
        also="save_total_limit max_checkpoints",
        decides=False,
    )
    max_skipped: int = setting(
        3,
        "number of windows in a row with a loss or gradient that is not finite after which the run stops; "
        "such windows are skipped",
        least=1,
        most=MOST_STEPS,
    )

    @property
    def window(self) -> int:
        """Pairs per update."""
        return self.micro_batch * self.accumulation

    def updates(self, pairs: int, epochs: int) -> int:
        """Updates of a whole run; a partly filled last window counts as one."""
        return epochs * self._windows(pairs)

    def epochs_for(self, rows: int, *, answers_only: bool) -> int:
        """Passes over this number of pairs, by PAIRS_LENGTH, or of answers, by SFT_LENGTH."""
        updates, least, most = SFT_LENGTH if answers_only else PAIRS_LENGTH
        return min(most, max(least, -(-updates // self._windows(rows))))

    def _windows(self, pairs: int) -> int:
        return -(-pairs // self.window)
