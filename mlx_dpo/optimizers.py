"""MLX's own optimisers and schedules, from settings."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.optimizers as optimizers

from .settings import Section, setting

PAIRS_RATE = 2e-5
"""The default learning rate for adapters on pairs."""


@dataclass(frozen=True)
class OptimizerConfig(Section):
    """How the adapter is updated."""

    name: str = setting(
        "adamw",
        "the optimiser",
        choices=("adamw", "adam", "lion"),
        also="optim optimizer optimiser optimizer_type",
    )
    learning_rate: float | None = setting(
        None,
        "peak learning rate; usual for pairs: 5e-6 to 5e-5 with adapters, a tenth of that in full training; "
        "null: 2e-5 for pairs; for sft, a short test on your rows finds the rate",
        above=0,
        most=1,
        also="lr peak_lr max_lr base_lr step_size",
    )
    schedule: str = setting(
        "cosine",
        "shape of the learning rate after the warm-up",
        choices=("cosine", "linear", "constant"),
        also="lr_scheduler_type lr_scheduler lr_schedule scheduler scheduler_type lr_decay",
    )
    warmup_ratio: float = setting(
        0.1,
        "share of the updates during which the learning rate rises from 0, 0 to 1",
        least=0,
        most=1,
        also={
            "warmup_steps warmup num_warmup_steps warmup_iters": "warmup_ratio = updates that ramp up "
            "/ all updates of the run.",
        },
    )
    weight_decay: float = setting(
        0.0, "weight decay, for adamw and lion", least=0, most=1000, also="wd decay"
    )
    grad_clip: float = setting(
        1.0,
        "maximum norm of the whole gradient; 0: no clipping",
        least=0,
        most=10**9,
        also="max_grad_norm gradient_clipping gradient_clip clip_grad_norm grad_clip_norm",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.weight_decay and self.name == "adam":
            raise ValueError("weight_decay has no effect with adam; use adamw")


def learning_rate_schedule(
    config: OptimizerConfig, peak: float, steps: int
) -> Callable[[mx.array], mx.array]:
    """Learning rate of update 0 .. steps − 1.

    With W = ceil(warmup_ratio · steps) warm-up updates the k-th (counted from 1) has peak · k / W, so no
    update is wasted on a rate of 0; then the schedule falls from the peak towards 0.
    """
    warmup = min(steps, math.ceil(round(config.warmup_ratio * steps, 9)))  # 0.07 * 100 > 7
    rest = max(1, steps - warmup)
    if config.schedule == "cosine":
        after = optimizers.cosine_decay(peak, rest)
    elif config.schedule == "linear":
        after = optimizers.linear_schedule(peak, 0.0, rest)
    else:
        after = lambda step: mx.array(peak)  # noqa: E731
    if warmup == 0:
        return after
    ramp = optimizers.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optimizers.join_schedules([ramp, after], [warmup])


def build_optimizer(config: OptimizerConfig, peak: float, steps: int) -> optimizers.Optimizer:
    """The configured optimiser for a run of `steps` updates that reaches the learning rate `peak`."""
    return optimizer_at(config, learning_rate_schedule(config, peak, steps))


def optimizer_at(
    config: OptimizerConfig, rate: float | Callable[[mx.array], mx.array]
) -> optimizers.Optimizer:
    """The configured optimiser with this learning rate: a number, or a function of the update.

    Adam and AdamW correct their bias. MLX does not by default, which makes the first update
    0.1 / sqrt(0.001) = 3.2 times too large.
    """
    if config.name == "adam":
        return optimizers.Adam(rate, bias_correction=True)
    if config.name == "lion":
        return optimizers.Lion(rate, weight_decay=config.weight_decay)
    return optimizers.AdamW(rate, weight_decay=config.weight_decay, bias_correction=True)
