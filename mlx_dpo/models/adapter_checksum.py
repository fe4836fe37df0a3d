"""The SHA-256 stored inside both files of an adapter, so that a changed bit is noticed wherever they are.

adapters.safetensors    metadata `mlx_dpo.sha256`: of the whole file, with zeros in place of the checksum
adapter_config.json     key `sha256`: of all other keys

One rename puts a file and its checksum in place, so they always belong together. If a process is killed
- while the new file is written, stamped or flushed: the old file and its checksum are there, or no file;
- after the rename: the new file and its checksum are there;
- between the weights and the config of a run that replaces another one: the new weights are there with the
  config of the earlier run. Each file is complete, and neither says anything about the other.
So a good file is never refused. mlx_lm reads both files as before. A file without a checksum (from mlx_lm or
an older version) is accepted as it is.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DpoError
from ..storage.cache import file_state, is_settled
from ..storage.checksummed_folder import digest
from ..storage.reading import readable

KEY = "sha256"
"""Key of the checksum in adapter_config.json."""
_KEY, _PREFIX = "mlx_dpo.sha256", "mlx_dpo:"
_ZEROS = "0" * 64
_SIGNS = (f'"{_KEY}"'.encode(), f'"{_PREFIX}'.encode())
"""Both mark a stamped file: with two marks, one changed bit cannot hide that it was stamped."""
_VALUE = re.compile(f'"{_PREFIX}([0-9a-f]{{64}})"'.encode())
_BLOCK, _LARGEST_HEADER = 2**20, 100_000_000
_WHOLE: list[dict[str, Any]] = []
"""States of files that this process has read and found whole."""

UNSTAMPED = {"format": "mlx", _KEY: _PREFIX + _ZEROS}
"""Metadata of a safetensors file before it is stamped."""


def stamp_weights(path: Path) -> None:
    """Write the checksum into a safetensors file that was saved with the metadata `UNSTAMPED`."""
    header = _header(path)
    place = header.index(_ZEROS.encode(), header.index(_SIGNS[1]))
    own = _sha256(path, header)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(own.encode())


def check_weights(path: Path) -> None:
    """Check that a safetensors file with a checksum is unchanged.

    A file that did not change since this process found it whole is not read again.

    Raises:
        DpoError: the file changed, or cannot be read.
    """
    with readable(path):
        begun, state = time.time(), file_state(path.resolve())
        if state in _WHOLE:
            return
        header = _header(path)
        if not any(sign in header for sign in _SIGNS):
            return
        found = _VALUE.search(header)
        whole = found and _sha256(path, header.replace(found[1], _ZEROS.encode(), 1)) == found[1].decode()
        if whole and is_settled(state, begun) and file_state(path.resolve()) == state:
            _WHOLE.append(state)
    if not whole:
        raise _damaged(path)


def stamped(content: Mapping[str, Any]) -> dict[str, Any]:
    """These plain values, with their checksum."""
    return {**content, KEY: digest(content)}


def check_config(content: Mapping[str, Any], path: Path) -> None:
    """Check that the content of `path`, if it has a checksum, is what `stamped` gave.

    Raises:
        DpoError: the content changed.
    """
    if KEY in content and stamped({k: v for k, v in content.items() if k != KEY}) != content:
        raise _damaged(path, f'; if you changed the file on purpose, remove the key "{KEY}" from it')


def _header(path: Path) -> bytes:
    """All that precedes the arrays of a safetensors file."""
    with open(path, "rb") as file:
        length = file.read(8)
        return length + file.read(min(int.from_bytes(length, "little"), _LARGEST_HEADER))


def _sha256(path: Path, header: bytes) -> str:
    """SHA-256 of a file whose header is replaced by this header of the same length."""
    own = hashlib.sha256(header)
    with open(path, "rb") as file:
        file.seek(len(header))
        while block := file.read(_BLOCK):
            own.update(block)
    return own.hexdigest()


def _damaged(path: Path, more: str = "") -> DpoError:
    return DpoError(
        "differs from what the run wrote (its checksum does not match)",
        where=path,
        hint="copy the whole run folder again, or give the run's train command again: it restores the "
        f"adapter of the best checkpoint{more}",
    )
