"""A whole training run: make every cheap check, load, score the reference, train, save."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..console import plural, say
from ..data.pair_store import PairStore, open_pairs
from ..data.row_index import RowIndex
from ..errors import DpoError
from ..machine.resources import shorten_gpu_work
from ..models.base_of_adapter import check_base
from ..models.end_of_turn import end_note
from ..models.load import find_model, load_tokenizer
from ..models.peft_adapter import check_adapter
from ..monitoring.callback import Callback
from ..monitoring.run_log import RunLog
from ..storage.files import make_folder
from ..storage.reading import expanded, is_there
from ..training.checkpoint_folder import only_process, remove_leftovers
from ..training.mask_check import check_masks
from .continuing import check_resumed
from .output_folder import checkpoint_in, is_finished, last_good, output_folder
from .plan import Start
from .prepare import prepared
from .resume import as_asked, check_acceptable, check_same, run_key, settled_before
from .run_folder import put_back_adapter, write_template
from .run_inputs import (
    amounts_of,
    check_rule,
    read_rows,
    say_if_small_beta,
    say_without_template,
    starting_adapter,
)
from .training_run import TrainResult, fit, selected


def train_run(
    config: RunConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    accept_changes: bool = False,
    callback: Callback | None = None,
) -> TrainResult:
    """Train as configured, or continue the run in the folder from its newest checkpoint.

    The run folder contains a loadable adapter from the first update to the last.

    Args:
        overwrite: replace an existing run.
        resume: fail if there is no run to continue.
        accept_changes: continue although data, template, model or settings have changed.
        callback: called with every row of metrics; if it returns False, the run ends.

    Raises:
        DpoError: anything a user can fix; before slow work, if it can be known before.
        KeyboardInterrupt: a stop was requested, and a checkpoint was written; or it was requested twice.
    """
    folder = output_folder(config)
    if config.run.short_gpu_work:
        shorten_gpu_work()
    with only_process(folder) if is_there(folder) else nullcontext(False) as locked:
        return _run(config, folder, overwrite, resume, accept_changes, locked, callback)


def _run(
    config: RunConfig,
    folder: Path,
    overwrite: bool,
    resume: bool,
    accept_changes: bool,
    locked: bool,
    callback: Callback | None,
) -> TrainResult:
    """Make all checks that need no weights, then train.

    Args:
        locked: this process has locked the folder; False if the folder did not exist.
    """
    if overwrite:
        remove_leftovers(folder)  # fails before the slow part if the folder cannot be read
    checkpoint = None if overwrite else checkpoint_in(folder)
    check_resumed(resume, checkpoint, folder)
    rows, held_rows = read_rows(config)
    if config.model.adapter:
        check_adapter(config.model.adapter)
    base = find_model(config.model.path)
    if config.model.adapter:
        config = replace(config, adapter=starting_adapter(config, base))
    tokenizer = load_tokenizer(base, config.model)
    if config.model.adapter:
        check_base(config.model.adapter, base, tokenizer)
    config = _with_absolute_paths(config)
    say_without_template(tokenizer)
    if note := end_note(base, tokenizer):
        say(note)
    pairs = _tokenize("train", rows, tokenizer, config.data.max_length)
    held = _tokenize("valid", held_rows, tokenizer, config.data.max_length) if held_rows else None
    key, layout, amounts = run_key(config, base, pairs, held), None, None
    if checkpoint:
        facts = checkpoint.facts
        key = as_asked(key, facts)
        if not accept_changes:
            check_same(facts["key"], key, folder)
        layout, amounts = settled_before(facts, key)
    amounts = amounts_of(config, len(pairs), amounts)
    updates = config.training.updates(len(pairs), amounts.epochs)
    check_rule(config, updates)
    say_if_small_beta(config)
    if checkpoint:
        if facts["key"] == key and is_finished(facts, updates):
            put_back_adapter(folder, checkpoint, config)
            write_template(config, tokenizer, folder)
            say(f"{folder}: this run is finished; to train further, start another one with model.adapter")
            return TrainResult(folder, selected(facts["best"], facts["held_out"], config))
        if facts["key"] != key:
            check_acceptable(facts["key"], key, folder)
            checkpoint = last_good(folder, checkpoint)
        RunLog(folder, 0).check(checkpoint.facts["sizes"])
    start = Start(base, pairs, held, amounts)
    with prepared(config, start, tokenizer, folder, key, layout) as run:
        make_folder(folder)
        with nullcontext() if locked else only_process(folder):
            if not locked and checkpoint_in(folder):
                hint = "choose another folder with --output"
                raise DpoError("contains a run that was started meanwhile", where=folder, hint=hint)
            return fit(run, folder, checkpoint, callback)


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """The settings with full paths of local files, so that eval and fuse work from any folder."""

    def full(path: Any) -> Any:
        if isinstance(path, list):
            return [full(one) for one in path]
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
            f"  the answers of {plural(pairs.counts.same, 'dropped row')} are the same up to "
            "data.max_length: change the rejected answers, raise data.max_length or remove the rows; "
            "mlx-dpo inspect lists them"
        )
    check_masks(pairs.texts, pairs, tokenizer, max_length)
    return pairs
