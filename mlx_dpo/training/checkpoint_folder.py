"""Checkpoints of a run: folders run/checkpoints/000200, complete or absent; a run resumes the newest.

adapters.safetensors, adapter_config.json    the adapter, as mlx_lm loads it
state.npz                                    all other arrays
state.json                                   facts, and the checksums of all files
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..console import say
from ..errors import DpoError, first_line
from ..losses.beta_rule import exact
from ..models.adapters import WEIGHTS, read_adapter_config, trainable
from ..models.config_files import read_model_config
from ..randomness import random_untouched
from ..storage.checksummed_folder import DAMAGE, Sealed, seal, sha256, unseal
from ..storage.files import MARK, remove_any, unwritable
from ..storage.locks import BusyError, locked
from ..storage.reading import entries, is_there, readable, unreadable

CHECKPOINTS = "checkpoints"
_FACTS, _ARRAYS = "state.json", "state.npz"
_LEFT = re.compile(rf"\.(adapters|adapter_config|config|inspection|report|\d{{6,}}){MARK}(\.\w+)?")
"""Names of temporary files in a run's folder, see `storage.files`: name, process, suffix."""


def save_checkpoint(
    run: Path,
    step: int,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    write_adapter: Callable[[Path], None],
) -> Sealed:
    """Write the checkpoint of `step` completely; an older one of the same step is replaced.

    Raises:
        DpoError: the disk refused; all other checkpoints are unchanged.
    """

    def write(folder: Path) -> Mapping[str, Any]:
        write_adapter(folder)
        np.savez(folder / _ARRAYS, **arrays)
        return facts

    return seal(_folder(run, step), _FACTS, write, over=True)


def newest_checkpoint(run: Path) -> Sealed | None:
    """The newest intact checkpoint; damaged ones are skipped with a message.

    Raises:
        DpoError: all checkpoints are damaged, or they cannot be read.
    """
    damaged: list[str] = []
    for step in sorted(_steps(run), reverse=True):
        folder = _folder(run, step)
        try:
            return unseal(folder, _FACTS, sha256)
        except DAMAGE as error:
            damaged.append(str(step))
            say(f"{folder}: is damaged ({first_line(error)}); the checkpoint before it is used")
        except OSError as error:
            raise unreadable(error.filename or folder, error) from None
    if damaged:
        raise DpoError(
            f"has no intact checkpoint (damaged: {', '.join(damaged)})",
            where=run / CHECKPOINTS,
            hint="restore them from a backup, or start anew with --overwrite",
        )
    return None


def read_arrays(checkpoint: Sealed) -> dict[str, np.ndarray]:
    """The arrays that `save_checkpoint` was given.

    Raises:
        DpoError: the file contains no arrays of numbers, although its checksum is right.
    """
    with told_damaged(checkpoint.folder), np.load(checkpoint.folder / _ARRAYS) as file:
        return dict(file)


@contextmanager
def told_damaged(folder: Path) -> Iterator[None]:
    """Within it, errors from a checkpoint with wrong content but the right checksum become a DpoError.

    Raises:
        DpoError: the content is wrong.
    """
    try:
        yield
    except (*DAMAGE, BadZipFile, EOFError) as error:
        raise DpoError(
            f"is damaged: {first_line(error)}",
            where=folder,
            hint="remove this folder to continue from an earlier checkpoint, or start anew with --overwrite",
        ) from None


def checkpoint_of(run: Path, step: int) -> Sealed | None:
    """The checkpoint of `step`; None if it is missing or damaged.

    Raises:
        DpoError: the checkpoint cannot be read.
    """
    folder = _folder(run, step)
    with readable(folder):
        try:
            return unseal(folder, _FACTS, sha256)
        except DAMAGE:
            return None


def remove_checkpoints(run: Path, after: int = -1) -> None:
    """Remove the checkpoints of steps after `after`, the last one first.

    Raises:
        DpoError: the disk refused.
    """
    for step in sorted(_steps(run), reverse=True):
        if step > after:
            try:
                shutil.rmtree(_folder(run, step))
            except OSError as error:
                raise unwritable(_folder(run, step), error) from None


def remove_run(run: Path, folders: Iterable[str], files: Iterable[str]) -> None:
    """Remove an older run: its checkpoints, then what else it wrote.

    Args:
        folders, files: their names in the run's folder; they may be missing.

    Raises:
        DpoError: as `remove_checkpoints`.
    """
    remove_checkpoints(run)
    for name in folders:
        shutil.rmtree(run / name, ignore_errors=True)
    for name in files:
        (run / name).unlink(missing_ok=True)


def holds_others(run: Path) -> bool:
    """Whether the folder of checkpoints contains anything else, except hidden files."""
    names = [found.name for found in entries(run / CHECKPOINTS)]
    return not all(_is_step(name) for name in names if not name.startswith("."))


def adapter_bytes(trained: int, keep: int) -> int:
    """Bytes of an adapter and its checkpoints at most: `keep` of them, the best, and one being written.

    Args:
        trained: bytes of what is trained; a checkpoint holds them, and two moments of the optimiser.
    """
    return trained * (1 + 3 * (keep + 2))


def prune_checkpoints(run: Path, keep: int, best: int | None) -> None:
    """Remove all checkpoints except the newest `keep` and the one of step `best`."""
    steps = sorted(_steps(run))
    for step in steps[:-keep]:
        if step != best:
            shutil.rmtree(_folder(run, step), ignore_errors=True)


def remove_leftovers(run: Path) -> None:
    """Remove half-written files that a killed process has left in the run's folder.

    A checkpoint that was set aside for a new one of the same step is put back if the new one is missing.

    Raises:
        DpoError: the folder cannot be read, or the disk refused.
    """
    for left in entries(run / CHECKPOINTS):
        step = left.name.split(".")[1] if left.name.endswith(".before") else ""
        if step.isdigit() and not is_there(_folder(run, int(step))):
            try:
                os.rename(left, _folder(run, int(step)))
            except OSError as error:
                raise unwritable(left, error) from None
    for left in [*entries(run), *entries(run / CHECKPOINTS)]:
        if _LEFT.fullmatch(left.name):
            remove_any(left)


def _folder(run: Path, step: int) -> Path:
    return run / CHECKPOINTS / f"{step:06d}"


def _steps(run: Path) -> list[int]:
    return [int(f.name) for f in entries(run / CHECKPOINTS) if _is_step(f.name) and f.is_dir()]


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 20 and name == f"{int(name):06d}"


@contextmanager
def only_process(run: Path) -> Iterator[bool]:
    """Lock the run's folder, and give True; the system removes the lock when the process ends in any way.

    Raises:
        DpoError: another process has locked the folder, or the folder cannot be read.
    """
    entries(run)
    with ExitStack() as stack:
        try:
            with suppress(OSError):  # the folder is read-only: the first write reports it
                stack.enter_context(locked(run / ".lock"))
        except BusyError:
            raise DpoError(
                "another process is training in this folder",
                where=run,
                hint="wait for it, or choose another folder with --output",
            ) from None
        yield True


def flattened(tree: Any) -> dict[str, np.ndarray]:
    """Every array of a tree of dicts, lists and (named) tuples by its dotted name; float64 stays float64."""
    return {name: np.array(value) for name, value in tree_flatten(tree)}


def refilled(like: Any, arrays: Mapping[str, np.ndarray], name: str) -> Any:
    """A tree with the structure of `like`, filled with the arrays that `flattened` named below `name`.

    Raises:
        KeyError: an array is missing.
    """
    if isinstance(like, dict):
        return {key: refilled(value, arrays, f"{name}.{key}") for key, value in like.items()}
    if isinstance(like, (list, tuple)):
        parts = [refilled(value, arrays, f"{name}.{place}") for place, value in enumerate(like)]
        return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
    found = arrays[name]
    if isinstance(like, np.ndarray):
        return found
    return exact(found) if found.dtype == np.float64 else mx.array(found)


def check_saved(model: nn.Module, folder: Path, base: Path) -> None:
    """Check that the adapter in `folder`, read by our loader and by mlx_lm's, is the live one, bit for bit.

    The base model's weights are not loaded into memory.

    Raises:
        DpoError: the adapters differ.
    """
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    live = trainable(model)
    try:
        with random_untouched():  # a fresh adapter draws random initial values
            read, _ = load_model(base, lazy=True, model_config=read_model_config(base))
            read = dict(tree_flatten(load_adapters(read, str(folder)).parameters()))
        wrong = [n for n, value in live.items() if n not in read or not _same(read[n], value)]
    except (OSError, RuntimeError, ValueError) as error:
        wrong = [first_line(error)]
    if wrong:
        raise DpoError(
            f"the adapter read back from disk differs from the saved one: {wrong[0]}",
            where=folder / WEIGHTS,
            hint="the disk may be failing: choose an output folder on another disk",
        )
    read_adapter_config(folder)


def _same(one: mx.array, other: mx.array) -> bool:
    return one.shape == other.shape and mx.array_equal(one.astype(other.dtype), other).item()
