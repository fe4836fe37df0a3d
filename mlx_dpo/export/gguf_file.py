"""Write and read GGUF files with the package gguf."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..console import progress
from ..errors import DpoError
from .gguf_fields import Field
from .gguf_tensors import GgufTensor

BYTES_A_NUMBER = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}
_BLOCK = 32
"""Numbers that share a scale in q8_0."""


def check_installed() -> None:
    """Check that the package gguf is there.

    Raises:
        DpoError: it is not.
    """
    if find_spec("gguf") is None:
        raise DpoError(
            "the package gguf is not installed",
            where="export gguf",
            hint="pip install 'mlx-dpo[gguf]'",
            code="not-installed",
        )


def type_of(tensor: GgufTensor, asked: str) -> Any:
    """gguf's type of a tensor in a file of type `asked`.

    Norms and other vectors stay float32; rows that q8_0 cannot divide into blocks become f16.
    """
    from gguf import GGMLQuantizationType as Types

    if tensor.float32:
        return Types.F32
    if asked == "q8_0" and tensor.shape[-1] % _BLOCK:
        return Types.F16
    return Types[asked.upper()]


def write_gguf(
    file: Path, architecture: str, fields: Sequence[Field], tensors: Sequence[GgufTensor], asked: str
) -> None:
    """Write a file; one tensor at a time is in memory.

    Raises:
        DpoError: a number is not finite in the file's type.
        OSError: the disk is full.
    """
    from gguf import GGUFWriter, quants

    writer = GGUFWriter(file, architecture)
    for field in fields:
        getattr(writer, f"add_{field.kind}")(field.key, field.value)
    for tensor in tensors:
        kind = type_of(tensor, asked)
        shape = (
            quants.quant_shape_to_byte_shape(tensor.shape, kind)
            if kind.name in ("Q8_0", "BF16")
            else tensor.shape
        )
        dtype = {"F32": np.float32, "F16": np.float16}.get(kind.name, np.uint8)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        writer.add_tensor_info(tensor.name, shape, np.dtype(dtype), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with progress("writing", len(tensors), "tensors") as advance:
        for tensor in tensors:
            writer.write_tensor_data(stored(tensor, asked))
            advance(1)
    end = writer.fout[0].tell()
    writer.close()
    if file.stat().st_size < end:  # numpy, which writes for gguf, does not say that a disk is full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stored(tensor: GgufTensor, asked: str) -> np.ndarray:
    """The tensor's values as they are in the file.

    Raises:
        DpoError: a number is not finite in that type.
    """
    from gguf import quants

    kind = type_of(tensor, asked)
    values = np.ascontiguousarray(tensor.make())
    with np.errstate(over="ignore"):
        packed = quants.quantize(values, kind)
    finite = packed if kind.name in ("F32", "F16") else values
    if not np.isfinite(finite).all():
        raise DpoError(
            f"has numbers that are not finite in {kind.name}",
            where=tensor.name,
            hint="choose --type bf16 or f32",
            code="not-finite",
        )
    return packed


class StoredTensors(Mapping[str, tuple[str, np.ndarray]]):
    """The type and the values of each tensor in a file; values are read when they are asked for, not kept."""

    def __init__(self, file: Path, tensors: Iterable[Any]):
        self._file = file
        self._places = {
            t.name: (t.tensor_type.name, t.data.dtype, t.data.shape, t.data_offset) for t in tensors
        }

    def __getitem__(self, name: str) -> tuple[str, np.ndarray]:
        kind, dtype, shape, offset = self._places[name]
        return kind, np.fromfile(self._file, dtype, prod(shape), offset=offset).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_gguf(file: Path) -> tuple[dict[str, Any], StoredTensors]:
    """Fields by key, and the tensors.

    Raises:
        DpoError: it is not a GGUF file.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
    except Exception as error:  # gguf raises many kinds on damaged files
        raise DpoError(
            f"is not a GGUF file: {error}", where=file, hint="write it again", code="damaged"
        ) from None
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return fields, StoredTensors(file, reader.tensors)
