"""Pairs of log-probabilities for the tests of losses."""

import mlx.core as mx
import numpy as np

from mlx_dpo.losses import LOSSES, PairLogps

ALONE = [name for name, loss in LOSSES.items() if not loss.window]
REFERENCED = [name for name, loss in LOSSES.items() if loss.uses_reference]
OPTIONS = [(name, option) for name, loss in LOSSES.items() for option in loss.options]


def pairs_of(margins, dtype=mx.float32):
    """Pairs with these margins, half of each from the chosen answer and half from the rejected one."""
    half = mx.array(np.asarray(margins, np.float64) / 2, dtype)
    lengths, zero = mx.array([8] * len(margins)), mx.zeros_like(half)
    return PairLogps(half - 40, -half - 50, zero - 40, zero - 50, lengths, lengths, mx.array(8.0))


def unlike_pairs(count=7, seed=0):
    """Pairs of unlike lengths whose policy has moved, some of them the wrong way."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 40, (2, count))
    reference = -lengths * rng.uniform(0.5, 3, (2, count))
    policy = np.minimum(reference + rng.normal(0, 3, (2, count)), -0.3)
    rows = [mx.array(row.astype(np.float32)) for row in (*policy, *reference)]
    return PairLogps(*rows, *map(mx.array, lengths), mx.array(lengths[0].mean(), mx.float32))


def far_apart():
    """One pair, told apart by 20,000 nats; its chosen answer of 8 tokens has 5 nats per token."""
    logps = (mx.array([x]) for x in (-40.0, -1e4, -1e4, -50.0))
    return PairLogps(*logps, mx.array([8]), mx.array([8]), mx.array(8.0))


def reference_pair():
    """The check values' pair: policy (−10, −14), reference (−12, −13): log-ratios 2 and −1, margin 3."""
    logps = (mx.array([x]) for x in (-10.0, -14.0, -12.0, -13.0))
    return PairLogps(*logps, mx.array([8]), mx.array([10]), mx.array(8.0))
