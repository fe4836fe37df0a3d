"""A whole training run: check everything cheap, load, score the reference, train, save."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from rich.table import Table

from ..config import RunConfig
from ..console import console, plural, say
from ..data.pair_store import PairStore, open_pairs
from ..data.row_index import RowIndex
from ..data.tokenize import TokenizedPair
from ..errors import DpoError
from ..forward.checkpointing import checkpoint_layers
from ..forward.mlx_attention import attending
from ..forward.pair_logps import COMPLETION, PLAIN, Forward, desensitised
from ..inspection.report import as_facts, sampled, short_report
from ..machine.out_of_memory import explained
from ..machine.resources import awake, shorten_gpu_work
from ..models.adapters import (
    AdapterConfig,
    adapted_table,
    attach,
    check_attachable,
    load_adapter,
    trainable,
)
from ..models.base_of_adapter import base_sums, check_base
from ..models.end_of_turn import end_note
from ..models.load import find_model, load_model, load_tokenizer, weight_bytes
from ..monitoring.run_log import RunLog
from ..monitoring.trackers import check_trackers
from ..storage.checksummed_folder import Sealed
from ..storage.files import make_folder
from ..storage.reading import expanded, is_there
from ..training.batch_layout import arrange
from ..training.checkpoint_folder import (
    only_process,
    remove_leftovers,
)
from ..training.checks import (
    Before,
    before_attaching,
    check_as_before,
    check_batching,
    check_masks,
    checked_reference,
    choose_forward,
)
from ..training.reference import reference_key
from ..training.trainer import Data
from .attention import with_attention
from .inspect import plan_of
from .learning_rate import with_found_rate
from .output_folder import checkpoint_in, is_finished, last_good, output_folder
from .plan import less_memory, settled
from .rehearsal_texts import rehearsal
from .resume import as_asked, check_acceptable, check_same, layout_for, run_key, with_layout
from .run_folder import SETTINGS, Memory, Prepared, TrainResult, fit, put_back_adapter, selected
from .run_inputs import (
    read_rows,
    say_if_slow,
    say_if_small_beta,
    say_without_template,
    starting_adapter,
    with_length,
)

_CHECKPOINTING_BYTES = 1e9
_FEW = 8
"""Pairs a window below which the share of margins above a threshold says little."""
_CACHE_BYTES = 2**30
"""Freed memory that MLX may keep for reuse; without a cap it grows with every new shape."""


def train_run(
    config: RunConfig, *, overwrite: bool = False, resume: bool = False, accept_changes: bool = False
) -> TrainResult:
    """Train as configured, or go on with the run that the folder holds, from its newest checkpoint.

    The run folder holds a loadable adapter from the first update to the last.

    Args:
        overwrite: a run that is there is replaced.
        resume: there must be one to go on with.
        accept_changes: go on although data, template, model or settings are not those of the run.

    Raises:
        DpoError: anything a user can mend, before slow work where it can be known before.
        KeyboardInterrupt: a stop was asked for, after a checkpoint was written; or asked for twice.
    """
    folder = output_folder(config)
    check_trackers(config.run.report_to)
    if config.run.short_gpu_work:
        shorten_gpu_work()
    with only_process(folder) if is_there(folder) else nullcontext(False) as locked:
        return _run(config, folder, overwrite, resume, accept_changes, locked)


def _run(
    config: RunConfig, folder: Path, overwrite: bool, resume: bool, accept_changes: bool, locked: bool
) -> TrainResult:
    """All that can be known before the first weight is loaded; then the rest."""
    if overwrite:
        remove_leftovers(folder)  # what cannot be read cannot be replaced either: said before the slow part
    checkpoint = None if overwrite else checkpoint_in(folder)
    if resume and not checkpoint:
        raise DpoError("holds no checkpoint to go on from", where=folder, hint="leave out --resume to begin")
    rows, held_rows = read_rows(config)
    if config.model.adapter:
        config = replace(config, adapter=starting_adapter(config))
    base = find_model(config.model.path)
    if config.model.adapter:
        check_base(config.model.adapter, base)
    config = _with_absolute_paths(config)
    tokenizer = load_tokenizer(base, config.model)
    say_without_template(tokenizer)
    if note := end_note(base, tokenizer):
        say(note)
    pairs = _tokenize("train", rows, tokenizer, config.data.max_length)
    held = _tokenize("valid", held_rows, tokenizer, config.data.max_length) if held_rows else None
    key = run_key(config, base, pairs, held)
    if checkpoint:
        facts = checkpoint.facts
        key = as_asked(key, facts["key"], facts["layout"])
        if not accept_changes:
            check_same(facts["key"], key, folder)
        config = with_layout(config, layout_for(facts, key))
    config = with_length(config, len(pairs))
    _check_rule(config, len(pairs))
    say_if_small_beta(config)
    if checkpoint:
        if facts["key"] == key and is_finished(facts, config.training.steps(len(pairs))):
            put_back_adapter(folder, checkpoint, config)
            say(f"{folder}: this run is finished; to train on, start another from it with model.adapter")
            return TrainResult(folder, selected(facts["best"], facts["held_out"], config))
        if facts["key"] != key:
            check_acceptable(facts["key"], key, folder)
            checkpoint = last_good(folder, checkpoint)
        RunLog(folder, 0).check(checkpoint.facts["sizes"])
    config = with_attention(config, base, pairs)
    with (
        explained(lambda: less_memory(config, base, pairs, held)),
        awake(config.run.keep_awake),
        attending(config.training.attention),
    ):
        return _load_and_train(config, base, tokenizer, pairs, held, folder, key, checkpoint, locked)


def _load_and_train(
    asked: RunConfig,
    base: Path,
    tokenizer: Any,
    pairs: PairStore,
    held: PairStore | None,
    folder: Path,
    key: Mapping[str, Any],
    checkpoint: Sealed | None,
    locked: bool,
) -> TrainResult:
    """The slow part, from the first weight on.

    Args:
        locked: the folder is this process's; it was not there else.
    """
    held_before = mx.get_active_memory()
    mx.reset_peak_memory()
    config, planned = settled(asked, base, pairs, held)
    policy, before = _load_policy(config, base, pairs)
    forward = choose_forward(
        policy, pairs, config.training.forward, separate=config.training.branches == "separate"
    )
    if config.training.forward != "plain" and forward in (COMPLETION, PLAIN):
        config, planned, forward = _settled_again(asked, config, base, pairs, held, policy, forward)
    arrangement = arrange(forward, config.training, pairs)
    check_batching(policy, pairs, arrangement.forward)
    check_as_before(policy, pairs, arrangement.forward, before)
    forward = desensitised(arrangement.forward, config.loss.ld_alpha)
    arrangement = arrangement._replace(forward=forward)
    data = _with_reference("train pairs", policy, base, pairs, forward, config)
    inspection = None
    if not config.loss.answers_only:
        plan = plan_of(config, len(pairs))._replace(output=str(folder.absolute()), ours=True)
        found, advice = sampled(pairs, data.reference, plan)
        inspection = as_facts(found, advice, plan, folder.absolute() / SETTINGS)
        say(short_report(found, advice))
    held_out = None
    if held:
        held_out = _with_reference("held-out pairs", policy, base, held, forward, config)
    say("start-up checks passed: unmoved policy, answer masks, shared prompts, forward, batching")

    if config.optimizer.learning_rate is None:
        config = with_found_rate(config, policy, pairs, arrangement)
    texts = rehearsal(policy, base, tokenizer, pairs, config)
    memory = Memory(planned, held_before)
    prepared = Prepared(
        config,
        base,
        tokenizer,
        policy,
        data,
        held_out,
        arrangement,
        texts,
        key,
        base_sums(base),
        inspection,
        memory,
    )
    make_folder(folder)
    with nullcontext() if locked else only_process(folder):
        if not locked and checkpoint_in(folder):
            hint = "choose another folder with --output"
            raise DpoError("holds a run that was begun meanwhile", where=folder, hint=hint)
        return fit(prepared, folder, checkpoint)


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
            f"the reference would move after {plural(sync, 'update')}, the run has {steps}",
            where="training.reference_sync_steps",
            hint="set a smaller number, or more training.epochs",
        )
    if config.beta.rule != "fixed" and config.training.window < _FEW:
        few = plural(config.training.window, "pair")
        say(f"beta.rule={config.beta.rule}: a window of {few} tells it little")
    if config.beta.rule == "risk" and first > steps:
        raise DpoError(
            f"the warm-up takes {plural(warmup, 'update')}, the run has {steps}: beta would never move",
            where="beta.risk.warmup_steps",
            hint=f"set beta.risk.warmup_steps={steps // 4}, or more training.epochs",
        )


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Local files by their full names, so that eval and fuse work from any folder."""

    def full(path: str | None) -> str | None:
        return str(expanded(path).absolute()) if path and is_there(expanded(path)) else path

    own = config.model
    model = replace(
        own, path=full(own.path), adapter=full(own.adapter), chat_template=full(own.chat_template)
    )
    data = replace(config.data, train=full(config.data.train), valid=full(config.data.valid))
    return replace(config, model=model, data=data)


def _tokenize(name: str, rows: RowIndex, tokenizer: Any, max_length: int) -> PairStore:
    pairs = open_pairs(rows, tokenizer, max_length)
    say(f"{name}: {pairs.counts}")
    if pairs.counts.same:
        say(
            f"  the answers of {plural(pairs.counts.same, 'dropped row')} are the same within "
            "data.max_length: give other rejected answers, raise data.max_length or remove the rows; "
            "mlx-dpo inspect names them"
        )
    check_masks(pairs.texts, pairs, tokenizer, max_length)
    return pairs


def _load_policy(config: RunConfig, base: Path, pairs: Sequence[TokenizedPair]) -> tuple[nn.Module, Before]:
    """The model with its adapter, and what it gave before a fresh adapter was attached."""
    from mlx_lm.utils import maybe_set_recommended_wired_limit

    maybe_set_recommended_wired_limit()  # on Metal only: keeps weights from being paged out
    mx.set_cache_limit(_CACHE_BYTES)
    model, _ = load_model(base)
    say_if_slow(model, config.model.path)
    if config.model.adapter:
        load_adapter(model, config.model.adapter, config.adapter.dropout)
    else:
        check_attachable(model, config.adapter)
    before = before_attaching(model, pairs)
    mx.random.seed(config.training.seed)
    if not config.model.adapter:
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
) -> tuple[RunConfig, int | None, Forward]:
    """Settings and bytes where prompts cannot be shared after all, which needs more; and what is exact then.

    Raises:
        DpoError: it does not fit.
    """
    again, planned = settled(asked, base, pairs, held, forward.name)
    if checkpointing(again, policy) and not checkpointing(config, policy):
        checkpoint_layers(policy)
        separate = again.training.branches == "separate"
        forward = choose_forward(policy, pairs, again.training.forward, separate=separate)
    return again, planned, forward


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
    """Pairs with the scores of the policy as it is now, which is the reference; see `checked_reference`.

    Where only answers are learnt, nothing looks at them, and they are 0.
    """
    if config.loss.answers_only:
        return Data(pairs, np.zeros((len(pairs), 2), np.float32), answers_only=True)
    key = reference_key(policy, base, config.model.adapter, pairs, forward)
    return Data(pairs, checked_reference(policy, pairs, forward, key, label))
