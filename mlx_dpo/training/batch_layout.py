"""How a run lays its batches out: branch by branch or not, in which buckets, traced or not."""

from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

import mlx.core as mx

from ..data.batches import epoch_windows
from ..data.shared_prompts import build_shared, choose_bucket
from ..data.tokenize import TokenizedPair
from ..forward.pair_logps import SEPARATE, SHARED, Forward
from .config import TrainingConfig

_SAMPLE = 512
"""Micro-batches whose shapes are counted; an epoch of more is judged by its first."""
_USES = 8
"""A trace takes longer than a step: it pays where each shape comes so often."""


class Arrangement(NamedTuple):
    """The forward with its layout, and whether its step is traced; `shapes` is 0 where none were counted."""

    forward: Forward
    compiled: bool
    bucket: int = 1
    shapes: int = 0


def arrange(
    forward: Forward,
    config: TrainingConfig,
    pairs: Sequence[TokenizedPair],
    device: mx.DeviceType | None = None,
) -> Arrangement:
    """Settle `training.branches` (auto counts as joint) and `training.compile`.

    Traced steps need few shapes, so lengths are filled up to a bucket chosen from the data; untraced ones are
    computed at their own lengths. On a CPU tracing does not pay: it calls a C++ compiler.

    Args:
        device: where the run will be; by default here.
    """
    if forward not in (SHARED, SEPARATE):
        return Arrangement(forward, config.compile == "on")
    separate = forward is SEPARATE or config.branches == "separate"
    forward = SEPARATE if separate else SHARED
    on_gpu = (device or mx.default_device().type) == mx.gpu
    if config.compile == "off" or (config.compile == "auto" and not on_gpu):
        return Arrangement(forward, False)
    windows = epoch_windows(pairs, config.window, config.micro_batch, config.seed, 0)
    sample = list(islice(chain.from_iterable(windows), _SAMPLE))
    bucket, shapes = choose_bucket([[pairs[i] for i in rows] for rows in sample], separate)
    if config.compile == "auto" and shapes * _USES > config.epochs * len(sample):
        return Arrangement(forward, False, 1, shapes)
    build = partial(build_shared, separate=separate, bucket=bucket)
    return Arrangement(forward._replace(build=build), True, bucket, shapes)
