"""What the start of a run chooses for settings left open (`auto`, null); the settings stay as asked."""

from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

import mlx.core as mx

from ..data.batches import epoch_windows
from ..data.shared_prompts import build_shared, choose_bucket
from ..data.tokenize import TokenizedPair
from ..forward.mlx_attention import BLOCKS
from ..forward.pair_logps import SEPARATE, SHARED, Forward
from .config import TrainingConfig

_SAMPLE = 512
"""Number of micro-batches whose shapes are counted: the first of an epoch."""
_USES = 8
"""A trace takes longer than a step: it pays if each shape occurs this often."""


class Layout(NamedTuple):
    """How every batch is computed.

    checkpointing: blocks keep only their input for the backward pass.
    separate: the two answers of a pair are computed one after the other.
    attention: BLOCKS or FUSED, see `forward.mlx_attention`.
    compiled: the step is traced once per batch shape.
    bucket: lengths are padded to multiples of this number of tokens.
    """

    checkpointing: bool
    separate: bool
    attention: str = BLOCKS
    compiled: bool = False
    bucket: int = 1

    def __str__(self) -> str:
        names = "gradient checkpointing" if self.checkpointing else "no gradient checkpointing"
        return f"{names}, branches {'separate' if self.separate else 'joint'}"

    def arranged(self, forward: Forward) -> Forward:
        """The forward as this layout computes batches; only shared prompts have branches and buckets."""
        if forward not in (SHARED, SEPARATE):
            return forward
        forward = SEPARATE if self.separate else SHARED
        if self.bucket == 1:
            return forward
        return forward._replace(build=partial(build_shared, separate=self.separate, bucket=self.bucket))


class Amounts(NamedTuple):
    """How much is trained: passes over the pairs, weight of the rehearsal, and the peak learning rate.

    The learning rate is None until a test on the rows has found it.
    """

    epochs: int
    rehearsal: float
    learning_rate: float | None


def traced(
    layout: Layout,
    forward: Forward,
    config: TrainingConfig,
    epochs: int,
    pairs: Sequence[TokenizedPair],
    device: mx.DeviceType | None = None,
) -> tuple[Layout, int]:
    """The layout with `training.compile` decided, and the number of shapes; 0 if they were not counted.

    Traced steps need few shapes, so lengths are padded to a bucket chosen from the data; other steps use the
    real lengths. On a CPU tracing does not pay: it calls a C++ compiler.

    Args:
        device: of the run; by default the present device.
    """
    if forward not in (SHARED, SEPARATE):
        return layout._replace(compiled=config.compile == "on", bucket=1), 0
    on_gpu = (device or mx.default_device().type) == mx.gpu
    if config.compile == "off" or (config.compile == "auto" and not on_gpu):
        return layout._replace(compiled=False, bucket=1), 0
    windows = epoch_windows(pairs, config.window, config.micro_batch, config.seed, 0)
    sample = list(islice(chain.from_iterable(windows), _SAMPLE))
    bucket, shapes = choose_bucket([[pairs[i] for i in rows] for rows in sample], layout.separate)
    if config.compile == "auto" and shapes * _USES > epochs * len(sample):
        return layout._replace(compiled=False, bucket=1), shapes
    return layout._replace(compiled=True, bucket=bucket), shapes
