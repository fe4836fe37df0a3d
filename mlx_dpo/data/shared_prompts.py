"""Pairs to arrays that hold each prompt once: the tokens of a prompt, then the branches that continue it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from .batches import counted_as, token_weights
from .tokenize import TokenizedPair

_BUCKETS = (1, 8, 16, 32, 64, 128)
_SHAPES = 24
"""Most shapes of a run's traced steps; each takes a second or more to trace."""
_WASTE = 1.08
"""Rows of different lengths are computed together only if padding costs no more than this factor."""


class Segment(NamedTuple):
    """Branches computed together, the same number for every prompt, side by side; right-padded with 0.

    `inputs` (N, L) int32: each row is the rest of its prompt and its completion without the last token. For
    the last T places, `targets` (N, T) int32 is the next token, and `mask` (N, T) says whether it is scored
    (bool) or how much it counts (float32).
    """

    inputs: mx.array
    targets: mx.array
    mask: mx.array


class Family(NamedTuple):
    """Prompts of one length, `prompts` (G, P) int32, and all their branches. At P = 0 nothing is shared."""

    prompts: mx.array
    segments: tuple[Segment, ...]


class SharedBatch(NamedTuple):
    """B pairs: families, and the place of each branch's score among the concatenated scores of all families.

    `order` (2B,): places of the chosen branches, then of the rejected ones; `lengths` (2B,): completion
    tokens.
    """

    families: tuple[Family, ...]
    order: mx.array
    lengths: mx.array


class Tree(NamedTuple):
    """A prompt and its distinct completions, (P,) and (C,) int32, and how many tokens of each count fully."""

    prompt: np.ndarray
    completions: list[np.ndarray]
    full: list[int]


def build_shared(
    pairs: Sequence[TokenizedPair],
    *,
    separate: bool = False,
    bucket: int = 1,
    ld_alpha: float | None = None,
) -> SharedBatch:
    """Arrange pairs so that every prompt, and every completion after it, is computed once.

    Prompts are not padded inside. Prompts of different lengths share the length of the shortest; the rest of
    a longer prompt is computed with its branches. Where padding would cost more than 8 %, different lengths
    get separate families and segments.

    Args:
        separate: every branch in a segment of its own.
        bucket: shared prompts are shortened, and rows padded, to a multiple of this many tokens, so that
            there are few shapes.
        ld_alpha: see `token_weights`.
    """
    trees, places = _trees(pairs, ld_alpha is not None)
    families, starts, count = [], {}, 0
    for group in _groups(trees, separate):
        family, rows = _family([trees[i] for i in group], separate, bucket, ld_alpha)
        families.append(family)
        for place, (tree, branch) in enumerate(rows):
            starts[group[tree], branch] = count + place
        count += len(rows)
    order = [starts[place] for side in (0, 1) for place in (pair[side] for pair in places)]
    lengths = [len(p.chosen) for p in pairs] + [len(p.rejected) for p in pairs]
    return SharedBatch(tuple(families), mx.array(order, mx.int32), mx.array(lengths, mx.int32))


def _trees(
    pairs: Sequence[TokenizedPair], weighed: bool
) -> tuple[list[Tree], list[tuple[tuple[int, int], ...]]]:
    """Distinct prompts with their distinct completions, and for each pair the places of its two branches.

    Args:
        weighed: tokens beyond the shorter completion count less, so a completion differs between pairs.
    """
    trees: list[Tree] = []
    known: dict[bytes, int] = {}
    branches: dict[tuple[int, bytes, int], int] = {}
    places = []
    for pair in pairs:
        tree = known.setdefault(pair.prompt.tobytes(), len(trees))
        if tree == len(trees):
            trees.append(Tree(pair.prompt, [], []))
        sides = []
        shorter = min(len(pair.chosen), len(pair.rejected))
        for completion in (pair.chosen, pair.rejected):
            completions, full = trees[tree].completions, shorter if weighed else len(completion)
            branch = branches.setdefault((tree, completion.tobytes(), full), len(completions))
            if branch == len(completions):
                completions.append(completion)
                trees[tree].full.append(full)
            sides.append((tree, branch))
        places.append(tuple(sides))
    return trees, places


def _groups(trees: Sequence[Tree], separate: bool) -> list[list[int]]:
    """Trees computed together: one or two branches each, the same number, and of similar lengths."""
    order = sorted(range(len(trees)), key=lambda i: (len(trees[i].prompt), *map(len, trees[i].completions)))
    groups: list[list[int]] = []
    for i in order:
        if groups and not separate and _together([trees[j] for j in (*groups[-1], i)]):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _together(trees: Sequence[Tree]) -> bool:
    if len(trees[0].completions) > 2 or len({len(t.completions) for t in trees}) > 1:
        return False
    return _tokens(trees) <= _WASTE * sum(_tokens([t]) for t in trees)


def _tokens(trees: Sequence[Tree]) -> int:
    """Tokens computed for these trees in one family."""
    shared = _shared_length(trees)
    segments = _segments(trees, shared, separate=False)
    return len(trees) * (
        shared + sum(len(s) * max(_row_length(t, b, shared) for t in trees for b in s) for s in segments)
    )


def _shared_length(trees: Sequence[Tree]) -> int:
    """Prompt tokens that are shared. A branch keeps at least the prompt's last token, and two tokens in all.

    The last prompt token predicts the completion's first. mlx_lm's Mamba-2 kernel for single tokens has no
    gradient.
    """
    shortest = min(len(t.prompt) for t in trees)
    single = any(len(c) == 1 for t in trees for c in t.completions)
    return max(0, shortest - 1 - single)


def _row_length(tree: Tree, branch: int, shared: int) -> int:
    return len(tree.prompt) - shared + len(tree.completions[branch]) - 1


def _segments(trees: Sequence[Tree], shared: int, separate: bool) -> list[list[int]]:
    """Numbers of the branches computed together, longest first, so that there is little padding."""

    def longest(branch):
        return max(_row_length(t, branch, shared) for t in trees)

    segments: list[list[int]] = []
    for branch in sorted(range(len(trees[0].completions)), key=longest, reverse=True):
        if segments and not separate:
            rows = [*segments[-1], branch]
            if len(rows) * longest(rows[0]) <= _WASTE * sum(map(longest, rows)):
                segments[-1] = rows
                continue
        segments.append([branch])
    return segments


def _family(
    trees: Sequence[Tree], separate: bool, bucket: int, ld_alpha: float | None
) -> tuple[Family, list[tuple[int, int]]]:
    """The arrays of the family, and (tree, branch) of every row of its segments, concatenated."""
    shared = _shared_length(trees) // bucket * bucket
    segments, rows = [], []
    for branches in _segments(trees, shared, separate):
        own = [(tree, branch) for tree in range(len(trees)) for branch in branches]
        segments.append(_segment(trees, own, shared, bucket, ld_alpha))
        rows += own
    prompts = np.stack([t.prompt[:shared] for t in trees])
    return Family(mx.array(prompts), tuple(segments)), rows


def _segment(
    trees: Sequence[Tree],
    rows: Sequence[tuple[int, int]],
    shared: int,
    bucket: int,
    ld_alpha: float | None,
) -> Segment:
    length = _filled(max(_row_length(trees[tree], branch, shared) for tree, branch in rows), bucket)
    kinds = (np.int32, np.int32, counted_as(ld_alpha))
    inputs, targets, mask = (np.zeros((len(rows), length), kind) for kind in kinds)
    first = length
    for row, (tree, branch) in enumerate(rows):
        rest, completion = trees[tree].prompt[shared:], trees[tree].completions[branch]
        tokens = np.concatenate([rest, completion])
        inputs[row, : len(tokens) - 1] = tokens[:-1]
        scored = slice(len(rest) - 1, len(tokens) - 1)
        targets[row, scored] = completion
        mask[row, scored] = token_weights(len(completion), trees[tree].full[branch], ld_alpha)
        first = min(first, scored.start)
    unscored = first // bucket * bucket
    return Segment(mx.array(inputs), mx.array(targets[:, unscored:]), mx.array(mask[:, unscored:]))


def _filled(n: int, bucket: int) -> int:
    return -(-n // bucket) * bucket


def shapes(batch: SharedBatch) -> tuple:
    """The shapes of a batch: each needs a traced step of its own."""
    return tuple(
        (f.prompts.shape, *((s.inputs.shape, s.targets.shape) for s in f.segments)) for f in batch.families
    )


def choose_bucket(batches: Iterable[Sequence[TokenizedPair]], separate: bool) -> tuple[int, int]:
    """The smallest bucket with which these batches have few shapes, and the number of shapes.

    If that would cost more than 8 % of the tokens, the largest bucket that costs no more.
    """
    batches = list(batches)
    found, exact = (1, 0), None
    for bucket in _BUCKETS:
        built = [build_shared(b, separate=separate, bucket=bucket) for b in batches]
        tokens = sum(
            f.prompts.size + sum(s.inputs.size for s in f.segments) for b in built for f in b.families
        )
        exact = exact or tokens
        if tokens > _WASTE * exact:
            break
        found = bucket, len(set(map(shapes, built)))
        if found[1] <= _SHAPES:
            break
    return found
