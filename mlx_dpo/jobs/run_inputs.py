"""Checks of a run's inputs before anything slow: rows, starting adapter, the model's types."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.nn as nn

from ..config import RunConfig
from ..console import plural, say
from ..data.row_files import Source
from ..data.row_index import RowIndex, index_rows, shared_prompts
from ..data.row_reader import NO_ROWS
from ..data.sources import say_of_rows
from ..errors import DpoError, first_ten
from ..losses import BETA_RULES, beta_rule
from ..models.adapters import AdapterConfig, read_adapter_config
from ..models.peft_adapter import mlx_adapter
from ..models.slow_types import slow_products
from ..optimizers import PAIRS_RATE
from ..settings import as_plain
from ..storage.reading import files_in
from ..training.layout import Amounts

_FEW = 8
"""Pairs per window below which the share of margins above a threshold is too coarse."""
SFT_REHEARSAL = 1.0
"""Weight of the divergence on the model's own texts, for sft."""


def read_rows(config: RunConfig) -> tuple[RowIndex, RowIndex | None]:
    """Train and valid rows, all of them checked.

    Raises:
        DpoError: bad rows, or prompts that are in both files.
    """
    answers = config.loss.answers_only
    rows = index_rows(config.data.train, answers=answers)
    held = _read_held_out(config.data.valid, answers) if config.data.valid else None
    for index in (rows, held):
        if index:
            say_of_rows(index.source, index.left_out, index.unused)
    both = [held.where(row) for row in shared_prompts(held, rows)] if held else []
    if both:
        raise DpoError(
            f"has prompts that are in data.train too: {first_ten(both)}",
            where=held.source.label,
            hint="held-out numbers would be too good; remove these rows from one of the files",
        )
    return rows, held


def _read_held_out(source: Source, answers: bool) -> RowIndex:
    try:
        return index_rows(source, answers=answers)
    except DpoError as error:
        if error.what != NO_ROWS:
            raise
        raise error.instead(hint="set data.valid=null to train without held-out pairs") from None


def amounts_of(config: RunConfig, rows: int, before: Amounts | None = None) -> Amounts:
    """How much is trained on this number of rows: as set; settings left open are as before, or the default.

    The learning rate of sft may stay None: a test with the model finds it.

    Args:
        before: what an earlier start of the run chose.
    """
    answers = config.loss.answers_only
    usual = before or Amounts(
        config.training.epochs_for(rows, answers_only=answers),
        SFT_REHEARSAL if answers else 0.0,
        None if answers else PAIRS_RATE,
    )
    asked = Amounts(config.training.epochs, config.training.rehearsal, config.optimizer.learning_rate)
    return Amounts(*(own if own is not None else open_ for own, open_ in zip(asked, usual, strict=True)))


def check_rule(config: RunConfig, steps: int) -> None:
    """Check that the run is long enough for its beta rule and its moving reference.

    Raises:
        DpoError: the run is too short for it.
    """
    name, rule = config.beta.rule, beta_rule(config.beta)
    sync = config.training.reference_sync_steps
    if sync and sync >= steps:
        raise DpoError(
            f"the reference would move after {plural(sync, 'update')}, but the run has only {steps}",
            where="training.reference_sync_steps",
            hint="set a smaller number, or more training.epochs",
        )
    if BETA_RULES[name].moves and config.training.window < _FEW:
        few = plural(config.training.window, "pair")
        say(f"beta.rule={name} needs more than {few} per update: set training.accumulation to 16")
    if rule.warmup_steps is not None and rule.first_move > steps:
        raise DpoError(
            f"the warm-up takes {plural(rule.warmup_steps, 'update')}, but the run has only {steps}: "
            "beta would never change",
            where=f"beta.{name}.warmup_steps",
            hint=f"set beta.{name}.warmup_steps={steps // 4}, or more training.epochs",
        )


def check_memory_limit(config: RunConfig, base: Path) -> None:
    """Check that the model's weights fit into the memory that a run may use; a plan checks the rest.

    Raises:
        DpoError: they do not fit.
    """
    limit = config.training.memory_limit
    weights = sum(file.stat().st_size for file in files_in(base, "model*.safetensors"))
    if limit and weights > limit * 1e9:
        raise DpoError(
            f"is {limit} GB, but the model's weights alone take {weights / 1e9:.3f} GB",
            where="training.memory_limit",
            hint="set a larger number, or train a quantised copy of the model",
        )


def starting_adapter(config: RunConfig, base: Path) -> AdapterConfig:
    """The settings of the adapter that the run starts from; only dropout can be changed.

    Raises:
        DpoError: a setting of this run is neither the adapter's value nor the default.
    """
    asked, default = config.adapter, AdapterConfig()
    own = replace(read_adapter_config(mlx_adapter(config.model.adapter, base)), dropout=asked.dropout)
    for name, value in as_plain(asked).items():
        theirs = getattr(own, name)
        if value not in (theirs, getattr(default, name)) and not (name == "rank" and own.type == "full"):
            raise DpoError(
                f"is {value}, but the adapter that the run starts from has {theirs}",
                where=f"adapter.{name}",
                hint=f"remove the setting, or start without model.adapter ({config.model.adapter})",
            )
    say(f"adapter: the one in {config.model.adapter}: {own.type}, rank {own.rank}, scale {own.scale}")
    return own


def say_without_template(tokenizer: Any) -> None:
    """Say how prompts are given to a model without a chat template."""
    if not tokenizer.has_chat_template:
        say(
            "the model has no chat template: prompts are given as plain text that ends in a blank line; "
            "model.chat_template (chatml, or a .jinja file) sets one"
        )


def say_if_small_beta(config: RunConfig) -> None:
    """Warn at the start if beta does not suit the scale of the loss."""
    if note := config.loss.beta_note(config.beta.value):
        say(f"WARNING: {note}")


def say_if_slow(model: nn.Module, path: str) -> None:
    """Say at the start if this device is slow with the model's data types, and what to do.

    Args:
        path: of the model.
    """
    if slow := slow_products(model, path):
        say(slow)
