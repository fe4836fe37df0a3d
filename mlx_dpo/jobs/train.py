"""A whole training run: check everything cheap, load, score the reference, train, save."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from rich.table import Table

from ..config import RunConfig, save_config
from ..console import console, progress, say
from ..data.index import RowIndex
from ..data.store import PairStore, open_pairs
from ..data.tokenize import TokenizedPair
from ..errors import DpoError
from ..files import check_writable, make_folder
from ..losses import beta_rule, build_loss
from ..models.adapters import (
    CONFIG,
    WEIGHTS,
    AdapterConfig,
    adapted_table,
    attach,
    check_attachable,
    load_adapter,
    save_adapter_config,
    save_adapter_weights,
    trainable,
)
from ..models.checkpointing import checkpoint_layers
from ..models.forward import COMPLETION, PLAIN, Forward, desensitised
from ..models.load import find_model, load_model, load_tokenizer, weight_bytes
from ..optimizers import build_optimizer
from ..reference import reference_key
from ..scoring import score_pairs, singles
from ..training.arrange import Arrangement, arrange
from ..training.checks import (
    check_as_before,
    check_batching,
    check_masks,
    checked_reference,
    choose_forward,
    sample_pairs,
)
from ..training.interrupt import between_micro_batches
from ..training.log import METRICS, RunLog
from ..training.margins import MARGINS, write_margins
from ..training.step import DIVERGED, pair_gradient
from ..training.trainer import Data, evaluation_metrics, train
from ..training.window import Objective
from .inputs import read_rows, starting_adapter
from .plan import settled

SETTINGS = "config.yaml"

_CHECKPOINTING_BYTES = 1e9
_FEW = 8
"""Pairs a window below which the share of margins above a threshold says little."""
_CACHE_BYTES = 2**30
"""Freed memory that MLX may keep for reuse; without a cap it grows with every new shape."""


class TrainResult(NamedTuple):
    """Where the run lies and its last row of held-out metrics, if there were held-out pairs."""

    folder: Path
    held_out: dict[str, float] | None


def train_run(config: RunConfig, *, overwrite: bool = False) -> TrainResult:
    """Train as configured; the run folder holds a loadable adapter from the first update to the last.

    Raises:
        DpoError: anything a user can mend, before slow work where it can be known before.
        KeyboardInterrupt: after the adapter was saved.
    """
    folder = _output_folder(config, overwrite)
    rows, held_rows = read_rows(config)
    if config.model.adapter:
        config = replace(config, adapter=starting_adapter(config))
    base = find_model(config.model.path)
    config = _with_absolute_paths(config)
    tokenizer = load_tokenizer(base)
    pairs = _tokenize("train", rows, tokenizer, config.data.max_length)
    held = _tokenize("valid", held_rows, tokenizer, config.data.max_length) if held_rows else None

    _check_rule(config, len(pairs))
    asked = config
    config = settled(asked, base, pairs, held)
    policy, before = _load_policy(config, base, pairs)
    forward = choose_forward(
        policy, pairs, config.training.forward, separate=config.training.branches == "separate"
    )
    if config.training.forward != "plain" and forward in (COMPLETION, PLAIN):
        config, forward = _settled_again(asked, config, base, pairs, held, policy, forward)
    arrangement = arrange(forward, config.training, pairs)
    check_batching(policy, pairs, arrangement.forward)
    check_as_before(policy, pairs, arrangement.forward, before)
    forward = desensitised(arrangement.forward, config.loss.ld_alpha)
    arrangement = arrangement._replace(forward=forward)
    data = _with_reference("train pairs", policy, base, pairs, forward, config)
    held_out = Data([], np.zeros((0, 2), np.float32))
    if held:
        held_out = _with_reference("held-out pairs", policy, base, held, forward, config)
    say("start-up checks passed: unmoved policy, answer masks, shared prompts, forward, batching")

    _start_folder(folder, policy, config)
    return _train(policy, data, held_out, arrangement, config, folder)


def _check_rule(config: RunConfig, pairs: int) -> None:
    """Whether a beta or a reference that is to move would.

    Raises:
        DpoError: the run is too short for it.
    """
    warmup, steps = config.beta.risk.warmup_steps, config.training.steps(pairs)
    first = warmup + (1 if config.beta.risk.generation == "A" else 2)  # window that could have another beta
    sync = config.training.reference_sync_steps
    if sync and sync >= steps:
        raise DpoError(
            f"the reference would move after {sync} updates, the run has {steps}",
            where="training.reference_sync_steps",
            hint="set a smaller number, or more training.epochs",
        )
    if config.beta.rule != "fixed" and config.training.window < _FEW:
        say(f"beta.rule={config.beta.rule}: a window of {config.training.window} pairs tells it little")
    if config.beta.rule == "risk" and first > steps:
        raise DpoError(
            f"the warm-up takes {warmup} updates, the run has {steps}: beta would never move",
            where="beta.risk.warmup_steps",
            hint=f"set beta.risk.warmup_steps={steps // 4}, or more training.epochs",
        )


def _output_folder(config: RunConfig, overwrite: bool) -> Path:
    """The run's folder.

    Raises:
        DpoError: it has no name, cannot be written, holds a run, or is the adapter that the run starts from.
    """
    if not config.run.output.strip():
        raise DpoError("names no folder", where="run.output", hint="name the folder of the run: --output")
    folder = Path(config.run.output)
    check_writable(folder, need_bytes=50_000_000)
    held = [name for name in (WEIGHTS, METRICS, SETTINGS) if (folder / name).exists()]
    if held and not overwrite:
        raise DpoError(
            f"holds a {SETTINGS}, which a run would replace" if held == [SETTINGS] else "holds a run already",
            where=folder,
            hint="choose another folder with --output, or replace it with --overwrite",
        )
    if config.model.adapter and folder.resolve() == Path(config.model.adapter).resolve():
        raise DpoError(
            "is the adapter that the run starts from, its reference",
            where=folder,
            hint="choose another folder with --output",
        )
    return folder


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Local files by their full names, so that eval and fuse work from any folder."""

    def full(path: str | None) -> str | None:
        return str(Path(path).expanduser().absolute()) if path and Path(path).expanduser().exists() else path

    model = replace(config.model, path=full(config.model.path), adapter=full(config.model.adapter))
    data = replace(config.data, train=full(config.data.train), valid=full(config.data.valid))
    return replace(config, model=model, data=data)


def _tokenize(name: str, rows: RowIndex, tokenizer: Any, max_length: int) -> PairStore:
    pairs = open_pairs(rows, tokenizer, max_length)
    say(f"{name}: {pairs.counts}")
    check_masks(pairs.texts, pairs, tokenizer)
    return pairs


def _load_policy(
    config: RunConfig, base: Path, pairs: Sequence[TokenizedPair]
) -> tuple[nn.Module, np.ndarray]:
    """The model with its adapter, and sample scores from before a fresh adapter was attached."""
    from mlx_lm.utils import maybe_set_recommended_wired_limit

    maybe_set_recommended_wired_limit()  # on Metal only: keeps weights from being paged out
    mx.set_cache_limit(_CACHE_BYTES)
    model, _ = load_model(base)
    if config.model.adapter:
        load_adapter(model, config.model.adapter, config.adapter.dropout)
    else:
        check_attachable(model, config.adapter)
    sample = sample_pairs(model, pairs)
    before = score_pairs(model, sample, PLAIN, singles(sample))
    if not config.model.adapter:
        mx.random.seed(config.training.seed)
        attach(model, config.adapter)
    _say_adapted(model, config.adapter)
    if checkpointing(config, model):
        checkpoint_layers(model)
    return model, before


def checkpointing(config: RunConfig, model: nn.Module) -> bool:
    """Whether blocks are checkpointed: as set; where no plan settled it, above 1 GB of weights."""
    setting = config.training.gradient_checkpointing
    if setting == "auto":
        return weight_bytes(model) > _CHECKPOINTING_BYTES and not config.adapter.dropout
    return setting == "on"


def _settled_again(
    asked: RunConfig,
    config: RunConfig,
    base: Path,
    pairs: PairStore,
    held: PairStore | None,
    policy: nn.Module,
    forward: Forward,
) -> tuple[RunConfig, Forward]:
    """The settings where prompts cannot be shared after all, which needs more memory; and what is exact then.

    Raises:
        DpoError: it does not fit.
    """
    again = settled(asked, base, pairs, held, forward.name)
    if checkpointing(again, policy) and not checkpointing(config, policy):
        checkpoint_layers(policy)
        separate = again.training.branches == "separate"
        forward = choose_forward(policy, pairs, again.training.forward, separate=separate)
    return again, forward


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
    """Pairs with the scores of the policy as it is now, which is the reference; see `checked_reference`."""
    key = reference_key(policy, base, config.model.adapter, pairs, forward)
    return Data(pairs, checked_reference(policy, pairs, forward, key, label))


def _start_folder(folder: Path, policy: nn.Module, config: RunConfig) -> None:
    make_folder(folder)
    save_adapter_weights(policy, folder)  # the largest first: where it finds no room, an older run is whole
    save_adapter_config(policy, config.adapter, config.model.path, folder)
    save_config(config, folder / SETTINGS)
    (folder / METRICS).unlink(missing_ok=True)
    shutil.rmtree(folder / MARGINS, ignore_errors=True)


def _train(
    policy: nn.Module,
    data: Data,
    held_out: Data,
    arrangement: Arrangement,
    config: RunConfig,
    folder: Path,
) -> TrainResult:
    """Train, evaluating and saving as it goes; on an interrupt save and pass it on."""
    forward = arrangement.forward
    steps = config.training.steps(len(data.pairs))
    log = RunLog(folder, steps)
    loss, rule = build_loss(config.loss), beta_rule(config.beta)
    gradient = pair_gradient(policy, loss, forward, compiled=arrangement.compiled)
    last: dict[str, float] = {}

    def evaluate(step: int, check_interrupt: Callable[[], None] = lambda: None) -> None:
        if not held_out.pairs:
            save_adapter_weights(policy, folder)
            return
        beta = mx.array(config.beta.value)  # also where it moves: held-out losses stay comparable
        scores = score_pairs(
            policy, held_out.pairs, forward, singles(held_out.pairs), lambda pairs: check_interrupt()
        )
        metrics = evaluation_metrics(scores, held_out, loss, beta)
        if not np.isfinite(list(metrics.values())).all():
            raise DpoError(f"held-out scores are not finite at step {step}", where=folder, hint=DIVERGED)
        save_adapter_weights(policy, folder)
        last.update({"step": step, **metrics})
        log.row(dict(last))

    mx.reset_peak_memory()
    with (
        between_micro_batches() as check_interrupt,
        progress("training", config.training.epochs * len(data.pairs), "pairs") as advance,
    ):
        try:
            evaluate(0, check_interrupt)
            train(
                policy,
                build_optimizer(config.optimizer, steps),
                data,
                Objective(gradient, loss, rule, config.passes, config.loss.wpo, config.loss.bco_shift),
                config.training,
                config.optimizer.grad_clip,
                evaluate=partial(evaluate, check_interrupt=check_interrupt),
                log=log.row,
                keep_margins=partial(write_margins, folder) if config.run.margin_files else None,
                advance=advance,
                check_interrupt=check_interrupt,
            )
        except KeyboardInterrupt:
            save_adapter_weights(policy, folder)
            say(f"interrupted: {folder / WEIGHTS} and {CONFIG} hold the adapter as it was")
            raise
    return TrainResult(folder, last or None)
