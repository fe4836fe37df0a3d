"""A learning rate for supervised fine-tuning, found in a short test on the user's rows."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from ..data.tokenize import TokenizedPair
from ..optimizers import OptimizerConfig, optimizer_at
from .step import PairGradient, update

RATES = np.geomspace(1e-5, 1e-1, 25)
"""Learning rates of the test's updates: each is 1.47 times the one before."""
BROKEN = 1.5
"""A rate is too high if the loss is above this factor times the first loss."""
CLEARLY = 0.98
"""The loss has fallen if it is below this times the first loss; half precision rounds by thousandths."""
ROWS = 4
"""Rows of every update, always the same, so that only the rate changes the loss."""


def found_rate(losses: Sequence[float]) -> float | None:
    """The rate at which the loss has fallen half-way from the first value to the lowest.

    This rate is in the steep part of the curve, far below the rates that break the model (Smith 2017,
    arXiv:1506.01186, section 3.3).

    Args:
        losses: the loss before each update of RATES and, last, after all of them; or fewer, from the first.

    Returns:
        The rate, interpolated between two updates by its logarithm; None if the loss did not fall clearly.
    """
    first, lowest = losses[0], min(losses)
    if not lowest < CLEARLY * first:
        return None
    half = (first + lowest) / 2
    for number, (before, after) in enumerate(pairwise(losses)):
        if after <= half:
            share = (before - half) / (before - after)
            previous = RATES[max(0, number - 1)]
            return float(previous * (RATES[number] / previous) ** share)
    raise AssertionError("the lowest loss is below half of the way")


def rate_test(
    policy: nn.Module,
    gradient: PairGradient,
    pairs: Sequence[TokenizedPair],
    config: OptimizerConfig,
    advance: Callable[[int], None] = lambda updates: None,
) -> list[float]:
    """The mean loss of a few rows before every update at a rising rate, for `found_rate`.

    The test ends when the loss is BROKEN times its first value, or not finite. It restores the policy's
    parameters.

    Args:
        gradient: of the loss, see `training.step.PairGradient`.
        pairs: rows to learn; the test takes ROWS of them, spread evenly.
        config: its optimiser and clipping are used, its learning rate is not.
        advance: called after every update.
    """
    rows = np.linspace(0, len(pairs) - 1, min(ROWS, len(pairs))).round().astype(int).tolist()
    batches = [gradient.build([pairs[row]]) for row in rows]
    mean_length = mx.array(np.mean([len(pairs[row].chosen) for row in rows]), mx.float32)
    start = tree_map(lambda array: array + 0, policy.trainable_parameters())
    training = policy.training
    policy.train()  # in evaluation mode, some models use code without a gradient
    rates = mx.array(RATES, mx.float32)
    optimizer = optimizer_at(config, lambda step: rates[step])
    optimizer.init(policy.trainable_parameters())
    losses: list[float] = []
    try:
        for _ in range(len(RATES) + 1):
            total, scores = None, []
            for batch in batches:
                slopes, own, _ = gradient.compute(batch, mx.zeros((1, 2)), mx.array(1.0), mean_length)
                total = slopes if total is None else tree_map(mx.add, total, slopes)
                mx.eval(total, own)
                scores.append(own.item())
            losses.append(float(np.mean(scores)))
            if not losses[-1] <= BROKEN * losses[0] or len(losses) > len(RATES):
                return losses
            update(policy, optimizer, tree_map(lambda g: g / len(batches), total), config.grad_clip)
            advance(1)
    finally:
        policy.update(start)
        policy.train(training)
    return losses
