"""What the proofs of folders share: a finished folder is read back, and the part that differs is named."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import DpoError

_HINT = "nothing was written; please report this with the model's name"


def check_tensor_names(found: Collection[str], wanted: Collection[str], where: Path) -> None:
    """Check that a folder has the tensors that it should have; raises as `check_names`."""
    check_names("tensor", found, wanted, where)


def check_names(what: str, found: Collection[str], wanted: Collection[str], where: Path) -> None:
    """Check that all the names that should be there are, and no others.

    Args:
        what: has these names, for the message.

    Raises:
        DpoError: names the first that is missing or too much.
    """
    if names := {*found} ^ {*wanted}:
        name = min(names)
        raise damaged(f"the {what} {name} is {'missing' if name in wanted else 'too much'}", where)


def check_fields(
    file: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], free: Collection[str] = ()
) -> None:
    """Check that two JSON objects have the same fields; those that are `free`, at any depth, may differ.

    Raises:
        DpoError: names the first that differs.
    """

    def bound(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name not in free}

    found, wanted = (json.loads(json.dumps(dict(each)), object_hook=bound) for each in (found, wanted))
    for field in sorted(found.keys() | wanted.keys()):
        if found.get(field, ...) != wanted.get(field, ...):
            raise damaged(f"the field {field} is not what it should be", file)


def same_bits(one: mx.array | None, other: mx.array | None) -> bool:
    """Whether two arrays have the same bits."""
    if one is None or other is None:
        return False
    if one is other:
        return True
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and bool(mx.array_equal(one, other, equal_nan=True).item())


def octets(value: mx.array) -> np.ndarray:
    """The bytes of an array, uint8: also of numbers that are nan, and of dtypes that numpy does not have."""
    return np.array(mx.view(value.flatten(), mx.uint8))


def damaged(what: str, where: Path) -> DpoError:
    """What to raise for a part of a finished folder that is not as it was meant."""
    return DpoError(what, where=where, hint=_HINT, code="damaged")
