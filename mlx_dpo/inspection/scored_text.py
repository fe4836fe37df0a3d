"""Rows as a model gets them: its input, and the scored part."""

from typing import Any, NamedTuple

import numpy as np

from ..console import plural
from ..data.batches import build_batch
from ..data.tokenize import TokenizedPair
from ..records import Preference

_BEFORE, _SCORED = 100, 160
"""Characters shown of the text before the answer, and of the answer."""


class Masked(NamedTuple):
    """One pair as decoded text: the tokens before the answers, and the scored tokens of each answer.

    `tokens`: number of each. Special tokens are written out; an answer that was cut ends without one.
    `cut_off`: whether chosen and rejected are marked as cut off.
    """

    where: str
    prompt: str
    chosen: str
    rejected: str
    tokens: tuple[int, int, int]
    cut_off: tuple[bool, bool]

    def text(self) -> str:
        """The pair as lines, with scored tokens between bars and without the middle of long answers."""
        before = _line(self.prompt)
        lines = [
            f"{self.where}",
            f"  {'…' * (len(before) > _BEFORE)}{before[-_BEFORE:]}  {plural(self.tokens[0], 'token')}",
        ]
        for name, answer, count, cut_off in zip(
            ("chosen", "rejected"), (self.chosen, self.rejected), self.tokens[1:], self.cut_off, strict=True
        ):
            shown = _line(answer)
            if len(shown) > _SCORED:
                shown = f"{shown[: _SCORED // 2]} … {shown[-_SCORED // 2 :]}"
            lines.append(f"  {name:<8} |{shown}|  {plural(count, 'token')}{', cut off' if cut_off else ''}")
        return "\n".join(lines)


def masked(pair: TokenizedPair, row: Preference, tokenizer: Any) -> Masked:
    """The pair of this row, decoded from the arrays that the model gets in training."""
    batch = build_batch([pair])
    targets, mask = np.array(batch.targets), np.array(batch.mask)
    first = int(np.array(batch.positions)[0, 0]) + 1
    before = np.array(batch.inputs)[0, :first]
    scored = [targets[branch][mask[branch]] for branch in (0, 1)]
    texts = [tokenizer.decode(tokens.tolist(), skip_special_tokens=False) for tokens in (before, *scored)]
    counts = (len(before), len(scored[0]), len(scored[1]))
    return Masked(pair.where, *texts, counts, (row.chosen_cut, row.rejected_cut))


def _line(text: str) -> str:
    """The text on one line."""
    return text.replace("\n", "⏎")
