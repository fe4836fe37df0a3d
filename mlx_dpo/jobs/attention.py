"""Settle `training.attention` before any weight is loaded."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from ..config import RunConfig
from ..console import say
from ..data.tokenize import TokenizedPair
from ..errors import first_line
from ..forward.mlx_attention import BLOCKS
from ..forward.pair_logps import PLAIN
from ..planning.attention_choice import attention_calls, settle
from ..planning.weightless import skeleton


def with_attention(config: RunConfig, base: Path, pairs: Sequence[TokenizedPair]) -> RunConfig:
    """The settings with `training.attention` settled; on a GPU it is measured, and said.

    On a CPU MLX has no kernel: it forms all scores at once and keeps them for the backward pass.
    """
    if config.training.attention != "auto" or config.training.forward == PLAIN.name:
        return config
    how = BLOCKS
    if mx.default_device().type == mx.gpu:
        how, why = measured_attention(config, base, pairs)
        say(f"attention: {why}")
    return replace(config, training=replace(config.training, attention=how))


def measured_attention(config: RunConfig, base: Path, pairs: Sequence[TokenizedPair]) -> tuple[str, str]:
    """Which attention is better on this device and these pairs, and why in words."""
    training = config.training
    try:
        model = skeleton(base, config.adapter)
        calls = attention_calls(
            model, pairs, training.micro_batch, training.forward, separate=training.branches == "separate"
        )
    except Exception as error:  # a model's own code may raise anything
        return BLOCKS, f"own blocks: this model's attention could not be looked at ({first_line(error)})"
    return settle(calls) if calls else (BLOCKS, "own blocks: no plain causal attention was found to measure")
