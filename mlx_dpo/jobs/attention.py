"""Which attention a run uses, decided before any weight is loaded."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx

from ..config import RunConfig
from ..console import say
from ..data.tokenize import TokenizedPair
from ..errors import first_line
from ..forward.mlx_attention import BLOCKS
from ..forward.pair_logps import PLAIN
from ..planning.attention_choice import attention_calls, settle
from ..planning.model_without_weights import skeleton
from ..training.layout import Layout


def attention_of(
    config: RunConfig, base: Path, pairs: Sequence[TokenizedPair], before: Layout | None = None
) -> str:
    """BLOCKS or FUSED: as set, as an earlier start of the run decided, or as measured on a GPU.

    On a CPU, MLX has no kernel: it computes all scores at once and keeps them for the backward pass.
    """
    asked = config.training.attention
    if asked != "auto":
        return asked
    if before:
        return before.attention
    if config.training.forward == PLAIN.name or mx.default_device().type != mx.gpu:
        return BLOCKS
    how, why = measured_attention(config, base, pairs)
    say(f"attention: {why}")
    return how


def measured_attention(config: RunConfig, base: Path, pairs: Sequence[TokenizedPair]) -> tuple[str, str]:
    """Which attention is better on this device and these pairs, and why in words."""
    training = config.training
    try:
        model = skeleton(base, config.adapter)
        calls = attention_calls(
            model, pairs, training.micro_batch, training.forward, separate=training.branches == "separate"
        )
    except Exception as error:  # a model's own code may raise anything
        return BLOCKS, f"blocks, because this model's attention cannot be traced ({first_line(error)})"
    return (
        settle(calls)
        if calls
        else (BLOCKS, "blocks, because this model has no plain causal attention to measure")
    )
