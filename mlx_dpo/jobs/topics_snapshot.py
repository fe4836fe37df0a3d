"""A run that begins with the snapshot of an earlier run: nothing before it is trained or paid again.

The result is that of a whole run, byte for byte, so only settings that count after the snapshot may differ.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..console import say
from ..errors import DpoError
from ..storage.checksummed_folder import Sealed
from ..storage.files import link_or_copy, make_folder, replace_folder, with_replacement
from ..storage.reading import entries, is_there, opened, path_text
from ..topics.batches import batch_count
from ..topics.checkpoint import KIND
from ..topics.config import TopicsConfig
from ..topics.corpus import Corpus
from ..topics.model_files import WEIGHTS
from ..topics.preference_files import PREFERENCES as PREFERRED
from ..topics.preferences import LOGITS, check_replies
from ..topics.state import TopicState
from ..training.checkpoint_folder import (
    CHECKPOINTS,
    checkpoint_of,
    newest_checkpoint,
    read_arrays,
    save_checkpoint,
)
from .topics_folder import PREFERENCES, check_same, clear_folder, run_key

_AFTER = (
    *("dpo.weight", "dpo.alpha", "dpo.topic_filter", "dpo.anchor_weight"),
    *("training.epochs", "training.patience"),
)
"""Settings that count after the snapshot only."""
_UNDO = (
    f"undo the change, or leave out --snapshot to train from the start; only {', '.join(_AFTER)} may differ"
)


class Snapshot(NamedTuple):
    """Where an earlier run was at dpo.start_epoch.

    `run`: its folder. `checkpoint`: of that moment. `logs`: what its files of metrics had, by name.
    """

    run: Path
    checkpoint: Sealed
    logs: Mapping[str, bytes]


def open_snapshot(run: Path, config: TopicsConfig, corpus: Corpus) -> Snapshot:
    """The snapshot in the folder of a run, from which a run with this configuration may begin.

    Raises:
        DpoError: there is none, its preferences are not complete, or the settings or the corpus differ.
    """
    start = config.dpo.start_epoch
    if start is None:
        hint = "set it as in the run with the snapshot, or leave out --snapshot"
        raise DpoError("is null, so --snapshot has no effect", where="dpo.start_epoch", hint=hint)
    if Path(os.path.realpath(run)).is_relative_to(os.path.realpath(config.run.output)):
        raise DpoError(
            "is or contains the run with the snapshot",
            where=path_text(config.run.output),
            hint="choose another folder with --output",
        )
    newest = newest_checkpoint(run)
    if newest is None or newest.facts.get("kind") != KIND:
        hint = "give --snapshot the folder that mlx-dpo topics train wrote"
        raise DpoError("contains no run of a topic model", where=path_text(run), hint=hint)
    key = newest.facts["key"]
    check_same(_before(key), _before(run_key(config, corpus, key)), run, _UNDO)
    step = start * batch_count(corpus.bags.shape[0], config.training.batch_size)
    checkpoint = checkpoint_of(run, step)
    missing = [] if checkpoint else [f"{CHECKPOINTS}/{step:06d}"]
    missing += [f"{PREFERENCES}/{n}" for n in (LOGITS, PREFERRED) if not is_there(run / PREFERENCES / n)]
    if missing:
        raise DpoError(
            f"has no snapshot with preferences: {', '.join(missing)} missing or damaged",
            where=path_text(run),
            hint="continue that run until its preferences are built, or leave out --snapshot",
        )
    try:
        check_replies(run / PREFERENCES, config.preferences, corpus)
    except DpoError as error:
        raise error.instead(hint=_UNDO) from None
    return Snapshot(
        run, checkpoint, {n: _start_of(run / n, size) for n, size in checkpoint.facts["sizes"].items()}
    )


def _before(key: Mapping[str, Any]) -> dict[str, Any]:
    """A run's key without the settings that count after the snapshot only."""
    return {**key, "settings": {n: value for n, value in key["settings"].items() if n not in _AFTER}}


def _start_of(path: Path, size: int) -> bytes:
    hint = "restore the file, or leave out --snapshot to train from the start"
    with opened(path, hint) as file:
        content = file.read(size)
    if len(content) < size:
        what = f"has {len(content):,} bytes, but had {size:,} at the snapshot"
        raise DpoError(what, where=path_text(path), hint=hint)
    return content


def begin_with(snapshot: Snapshot, folder: Path, key: Mapping[str, Any]) -> Sealed:
    """Begin a run of this key in a folder, instead of an older one; its first checkpoint, written last."""
    make_folder(folder / CHECKPOINTS)  # first: marks the folder as a run, even if the process ends soon
    clear_folder(folder)
    replace_folder(folder / PREFERENCES, lambda beside: _copy_files(snapshot.run / PREFERENCES, beside))
    for name, content in snapshot.logs.items():
        with_replacement(folder / name, lambda beside, content=content: beside.write_bytes(content))
    own = snapshot.checkpoint
    state = replace(TopicState(**own.facts["state"]), guided="")
    say(f"beginning with the snapshot of {path_text(snapshot.run)} and its preferences")
    return save_checkpoint(
        folder,
        state.step,
        read_arrays(own),
        {**own.facts, "key": key, "state": state.facts()},
        lambda beside: link_or_copy(own.folder / WEIGHTS, beside / WEIGHTS),
    )


def _copy_files(source: Path, target: Path) -> None:
    """Copy all files; those with hidden names are locks, or being written."""
    for file in entries(source):
        if file.is_file() and not file.name.startswith("."):
            shutil.copyfile(file, target / file.name)


def check_began_with(snapshot: Snapshot, folder: Path) -> None:
    """Check that the run in a folder has this snapshot.

    Raises:
        DpoError: it has another one, or none yet.
    """
    own = snapshot.checkpoint
    found = checkpoint_of(folder, own.facts["state"]["step"])
    if not found or found.sums[WEIGHTS] != own.sums[WEIGHTS]:
        raise DpoError(
            "contains a run that did not begin with this snapshot",
            where=path_text(folder),
            hint="choose another folder with --output, or replace the run with --overwrite",
        )
