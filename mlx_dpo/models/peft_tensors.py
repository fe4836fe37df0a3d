"""Low-rank parts of layers, joined and padded as PEFT needs them, and taken apart again, bit for bit."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx


class Part(NamedTuple):
    """The adapter of one layer, as mlx_lm has it: A (in, r), B (r, out), and DoRA's magnitude (out,)."""

    a: mx.array
    b: mx.array
    m: mx.array | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[1]


def padded(part: Part, rank: int) -> Part:
    """The part with zeros up to this rank."""
    more = rank - part.rank
    return Part(mx.pad(part.a, [(0, 0), (0, more)]), mx.pad(part.b, [(0, more), (0, 0)]), part.m)


def trimmed(part: Part) -> Part:
    """The part without the last ranks whose columns of A and rows of B are zero: undoes `padded`."""
    used = (part.a != 0).any(axis=0) | (part.b != 0).any(axis=1)
    rank = max((i + 1 for i, one in enumerate(used.tolist()) if one), default=0)
    return Part(part.a[:, :rank], part.b[:rank], part.m)


def joined(halves: Mapping[int, Part], outputs: Sequence[int]) -> Part:
    """Parts of layers with the same input as a part of one layer whose outputs follow each other.

    A = [A0 A1], B = [B0 0; 0 B1]. A half without a part keeps its outputs: its columns of B are zero.

    Args:
        halves: the first (0) and the second (1) half; for DoRA both.
        outputs: of each half.
    """
    parts = [halves[number] for number in sorted(halves)]
    rows = [mx.pad(halves[n].b, [(0, 0), (sum(outputs[:n]), sum(outputs[n + 1 :]))]) for n in sorted(halves)]
    magnitudes = [part.m for part in parts if part.m is not None]
    return Part(
        mx.concatenate([part.a for part in parts], axis=1),
        mx.concatenate(rows, axis=0),
        mx.concatenate(magnitudes) if magnitudes else None,
    )


def halved(part: Part, outputs: Sequence[int]) -> dict[int, Part]:
    """The parts of both halves of a layer: undoes `joined`; other parts are shared by both halves.

    Args:
        outputs: of each half.
    """
    first, middle = outputs[0], part.rank // 2
    b, m = (part.b[:, :first], part.b[:, first:]), part.m
    ms = (None, None) if m is None else (m[:first], m[first:])
    if part.rank % 2 == 0 and _zero(b[0][middle:]) and _zero(b[1][:middle]):
        return {
            0: Part(part.a[:, :middle], b[0][:middle], ms[0]),
            1: Part(part.a[:, middle:], b[1][middle:], ms[1]),
        }
    # Without DoRA, a half whose B is zero is as if it had no adapter.
    kept = [n for n in (0, 1) if m is not None or not _zero(b[n])]
    return {n: Part(part.a, b[n], ms[n]) for n in kept}


def _zero(value: mx.array) -> bool:
    return not mx.any(value != 0).item()
