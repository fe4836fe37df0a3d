"""The SHA-256 that both files of an adapter carry inside, so that a changed bit is noticed wherever they lie.

adapters.safetensors    metadata `mlx_dpo.sha256`: of the whole file, with zeros in the checksum's place
adapter_config.json     key `sha256`: of all other keys

A file and its checksum are put in place by one rename, so they cannot be of two ages. A process may be killed
- while the new file is written, stamped or flushed: the old file is there with the old checksum, or no file;
- after the rename: the new file is there with the new checksum;
- between the weights and the config of a run that replaces another one: the new weights are there with the
  config of the run before. Each is whole, and neither file says anything about the other.
So no moment leaves a good file that is refused. mlx_lm reads both files as before. A file that carries no
checksum, from mlx_lm or from an older version, is taken as it is.
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
"""Of the checksum in adapter_config.json."""
_KEY, _PREFIX = "mlx_dpo.sha256", "mlx_dpo:"
_ZEROS = "0" * 64
_SIGNS = (f'"{_KEY}"'.encode(), f'"{_PREFIX}'.encode())
"""Each says that a file was stamped: two, so that one changed bit cannot hide it."""
_VALUE = re.compile(f'"{_PREFIX}([0-9a-f]{{64}})"'.encode())
_BLOCK, _LARGEST_HEADER = 2**20, 100_000_000
_WHOLE: list[dict[str, Any]] = []
"""States of files that this process has read and found whole."""

UNSTAMPED = {"format": "mlx", _KEY: _PREFIX + _ZEROS}
"""Metadata of a safetensors file that is to be stamped."""


def stamp_weights(path: Path) -> None:
    """Write its checksum into a safetensors file that was saved with the metadata `UNSTAMPED`."""
    header = _header(path)
    place = header.index(_ZEROS.encode(), header.index(_SIGNS[1]))
    own = _sha256(path, header)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(own.encode())


def check_weights(path: Path) -> None:
    """Check that a safetensors file which carries a checksum is what was written.

    A file that did not change since this process found it whole is not read again.

    Raises:
        DpoError: it is not, or it cannot be read.
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
    """Plain values with their checksum."""
    return {**content, KEY: digest(content)}


def check_config(content: Mapping[str, Any], path: Path) -> None:
    """Check that what was read from `path` is what `stamped` gave, where it carries a checksum.

    Raises:
        DpoError: it is not.
    """
    if KEY in content and stamped({k: v for k, v in content.items() if k != KEY}) != content:
        raise _damaged(path, f'; if you changed it on purpose, remove its key "{KEY}"')


def _header(path: Path) -> bytes:
    """All that precedes the arrays of a safetensors file."""
    with open(path, "rb") as file:
        length = file.read(8)
        return length + file.read(min(int.from_bytes(length, "little"), _LARGEST_HEADER))


def _sha256(path: Path, header: bytes) -> str:
    """Of a file, with another header of the same length."""
    own = hashlib.sha256(header)
    with open(path, "rb") as file:
        file.seek(len(header))
        while block := file.read(_BLOCK):
            own.update(block)
    return own.hexdigest()


def _damaged(path: Path, more: str = "") -> DpoError:
    return DpoError(
        "is not what the run wrote (its checksum does not match)",
        where=path,
        hint="copy the whole run folder again, or give the run's train command again, which puts the adapter "
        f"of its best checkpoint back{more}",
    )
