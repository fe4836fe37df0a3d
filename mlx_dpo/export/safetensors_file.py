"""Write safetensors files with one tensor in memory at a time.

MLX's own writer needs all tensors of a file in memory, beside the weights that they are made from.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mlx.core as mx

_NAMES = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.int64: "I64",
    mx.int32: "I32",
    mx.int16: "I16",
    mx.int8: "I8",
    mx.uint64: "U64",
    mx.uint32: "U32",
    mx.uint16: "U16",
    mx.uint8: "U8",
    mx.bool_: "BOOL",
}
_ALIGNMENT = 8


def write_safetensors(
    file: Path,
    names: Sequence[str],
    tensors: Mapping[str, mx.array],
    metadata: Mapping[str, str],
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Write the tensors of these names: the length of the header in 8 bytes, the header in JSON, the values.

    Each tensor is asked for twice, for its shape and for its values, and is not kept.

    Args:
        advance: called with 1 after each tensor.
    """
    header, place = {"__metadata__": dict(metadata)}, 0
    for name in names:
        value = tensors[name]
        end = place + value.nbytes
        own = {"dtype": _NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [place, end]}
        header[name], place = own, end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            out.write(memoryview(mx.view(mx.contiguous(tensors[name]).flatten(), mx.uint8)))
            advance(1)
