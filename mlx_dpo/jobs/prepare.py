"""The slow part of starting a run: load the policy, check its forward, score the reference."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from rich.table import Table

from ..config import RunConfig
from ..console import console, say
from ..data.pair_store import PairStore
from ..data.tokenize import TokenizedPair
from ..forward.checkpointing import checkpoint_layers
from ..forward.mlx_attention import attending
from ..forward.pair_logps import COMPLETION, PLAIN, Forward, desensitised
from ..inspection.report import as_facts, sampled, short_report
from ..machine.out_of_memory import explained
from ..machine.resources import awake
from ..models.adapters import (
    AdapterConfig,
    adapted_table,
    attach,
    check_attachable,
    load_adapter,
    trainable,
)
from ..models.base_of_adapter import base_sums
from ..models.load import load_model, weight_bytes
from ..models.peft_adapter import mlx_adapter
from ..training.forward_check import check_batching, choose_forward
from ..training.layout import Amounts, Layout, traced
from ..training.reference import reference_key
from ..training.reference_check import Before, before_attaching, check_as_before, checked_reference
from ..training.rehearsal import Rehearsal
from ..training.trainer import Data
from .attention import attention_of
from .inspect import plan_of
from .learning_rate import found_learning_rate
from .open_run import SETTINGS
from .plan import Start, less_memory, planned_layout
from .rehearsal_texts import rehearsal
from .run_inputs import say_if_slow

_CHECKPOINTING_BYTES = 1e9
"""Size of the weights above which blocks are checkpointed if there is no plan."""
_CACHE_BYTES = 2**30
"""Freed memory that MLX may keep for reuse; without a limit it grows with every new shape."""


class Memory(NamedTuple):
    """Bytes planned for the run (None if the model cannot be planned), and bytes in use before it began."""

    planned: int | None
    before: int

    def row(self) -> dict[str, float]:
        """The plan as a part of a row of metrics."""
        return {} if self.planned is None else {"planned_memory_gb": self.planned / 1e9}

    def summary(self, start: int, training: int) -> str:
        """Planned and measured memory, from the peaks (bytes) of the start-up checks and of training."""
        peak = max(start, training) - self.before
        measured = f"the peak memory was {peak / 1e9:.3f} GB"
        if self.planned is None:
            return f"{measured}; this model could not be planned"
        return (
            f"{measured}; the plan was {self.planned / 1e9:.3f} GB ({self.planned / peak:.2f} times as much)"
        )


@dataclass(frozen=True)
class Prepared:
    """A run whose start-up checks have passed: the policy is loaded, the reference is scored.

    `config`: as asked; `layout` and `amounts`: what the start chose for settings left open. `key`: everything
    that decides what the run computes, see `jobs.resume`. `base_sums`: see `models.base_of_adapter`.
    `inspection`: findings about the pairs; None for sft. `rehearsal`: texts that the model wrote, if the
    settings ask for them.
    """

    config: RunConfig
    layout: Layout
    amounts: Amounts
    base: Path
    tokenizer: Any
    policy: nn.Module
    forward: Forward
    data: Data
    held_out: Data | None
    rehearsal: Rehearsal | None
    key: Mapping[str, Any]
    base_sums: Mapping[str, str]
    inspection: Mapping[str, Any] | None
    memory: Memory


@contextmanager
def prepared(
    config: RunConfig,
    start: Start,
    tokenizer: Any,
    folder: Path,
    key: Mapping[str, Any],
    before: Layout | None,
) -> Iterator[Prepared]:
    """The prepared run; within it, running out of memory is explained and the Mac is kept awake.

    Args:
        before: the layout that an earlier start of the run chose, if there was one.

    Raises:
        DpoError: the run does not fit into memory, or a start-up check failed.
    """
    attention = attention_of(config, start.base, start.pairs, before)
    with (
        explained(lambda: less_memory(config, start, attention)),
        awake(config.run.keep_awake),
        attending(attention),
    ):
        yield _prepare(config, start, tokenizer, folder, key, before, attention)


def _prepare(
    config: RunConfig,
    start: Start,
    tokenizer: Any,
    folder: Path,
    key: Mapping[str, Any],
    before: Layout | None,
    attention: str,
) -> Prepared:
    held_before = mx.get_active_memory()
    mx.reset_peak_memory()
    base, pairs, held, amounts = start
    planned_for, planned = planned_layout(config, start, attention, before)
    policy, unattached = _load_policy(config, base, pairs)
    layout = planned_for or _usual_layout(config, policy, attention, before)
    if layout.checkpointing:
        checkpoint_layers(policy)
    forward = choose_forward(policy, pairs, config.training.forward, separate=layout.separate)
    if config.training.forward != "plain" and forward in (COMPLETION, PLAIN):
        # Prompts cannot be shared after all, and the forward needs more memory.
        again, planned = planned_layout(config, start, attention, before, forward.name)
        if again and again.checkpointing and not layout.checkpointing:
            checkpoint_layers(policy)
            forward = choose_forward(policy, pairs, config.training.forward, separate=again.separate)
        layout = again or layout
    layout, _ = traced(layout, forward, config.training, amounts.epochs, pairs)
    forward = layout.arranged(forward)
    check_batching(policy, pairs, forward)
    check_as_before(policy, pairs, forward, unattached)
    forward = desensitised(forward, config.loss.ld_alpha)
    data = _with_reference("train pairs", policy, base, pairs, forward, config)
    inspection = None
    if not config.loss.answers_only:
        plan = plan_of(config, len(pairs))._replace(output=str(folder.absolute()), ours=True)
        found, advice = sampled(pairs, data.reference, plan)
        inspection = as_facts(found, advice, plan, folder.absolute() / SETTINGS)
        say(short_report(found, advice))
    held_out = _with_reference("held-out pairs", policy, base, held, forward, config) if held else None
    say("start-up checks passed: unmoved policy, answer masks, shared prompts, forward, batching")
    if amounts.learning_rate is None:
        rate = found_learning_rate(config, policy, pairs, forward, compiled=layout.compiled)
        amounts = amounts._replace(learning_rate=rate)
    return Prepared(
        config,
        layout,
        amounts,
        base,
        tokenizer,
        policy,
        forward,
        data,
        held_out,
        rehearsal(policy, base, tokenizer, pairs, config, amounts.rehearsal),
        key,
        base_sums(base, tokenizer),
        inspection,
        Memory(planned, held_before),
    )


def _load_policy(config: RunConfig, base: Path, pairs: Sequence[TokenizedPair]) -> tuple[nn.Module, Before]:
    """The model with its adapter, and its output before a fresh adapter was attached."""
    from mlx_lm.utils import maybe_set_recommended_wired_limit

    maybe_set_recommended_wired_limit()  # on Metal only: keeps weights from being paged out
    mx.set_cache_limit(_CACHE_BYTES)
    model, _ = load_model(base)
    say_if_slow(model, config.model.path)
    if config.model.adapter:
        load_adapter(model, mlx_adapter(config.model.adapter, base), config.adapter.dropout)
    else:
        check_attachable(model, config.adapter)
    before = before_attaching(model, pairs)
    mx.random.seed(config.training.seed)
    if not config.model.adapter:
        attach(model, config.adapter)
    _say_adapted(model, config.adapter)
    return model, before


def _usual_layout(config: RunConfig, model: nn.Module, attention: str, before: Layout | None) -> Layout:
    """The layout of a model that cannot be planned: as set or as before; otherwise blocks are checkpointed
    above 1 GB of weights, and branches are joint."""
    checkpointing, branches = config.training.gradient_checkpointing, config.training.branches
    usual = before or Layout(
        weight_bytes(model) > _CHECKPOINTING_BYTES and not config.adapter.dropout, separate=False
    )
    return Layout(
        usual.checkpointing if checkpointing == "auto" else checkpointing == "on",
        usual.separate if branches == "auto" else branches == "separate",
        attention,
    )


def _say_adapted(model: nn.Module, config: AdapterConfig) -> None:
    table = Table(
        "layer", "blocks", "trained parameters", title=f"adapter: {config.type}", title_justify="left"
    )
    for name, blocks, size in adapted_table(model):
        table.add_row(name, str(blocks), f"{size:,}")
    total = sum(v.size for v in trainable(model).values())
    table.add_row("all", str(len(model.layers)), f"{total:,}", style="bold")
    console.print(table)


def _with_reference(
    label: str,
    policy: nn.Module,
    base: Path,
    pairs: PairStore,
    forward: Forward,
    config: RunConfig,
) -> Data:
    """Pairs with the scores of the present policy, which is the reference; see `checked_reference`.

    For sft the scores are not used, and they are 0.
    """
    if config.loss.answers_only:
        return Data(pairs, np.zeros((len(pairs), 2), np.float32), answers_only=True)
    key = reference_key(policy, base, config.model.adapter, pairs, forward)
    return Data(pairs, checked_reference(policy, pairs, forward, key, label))
