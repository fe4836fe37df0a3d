"""How like the adapter a fused model is: how far apart their next-token distributions are on answers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..console import progress
from ..data.row_index import RowIndex
from ..data.tokenize import RowTokenizer, TokenizedPair
from ..errors import DpoError
from ..forward.body_and_head import float32_activations
from ..models.adapters import load_adapter
from ..models.config_files import read_model_config
from ..models.load import load_model
from ..models.peft_adapter import mlx_adapter
from ..models.weights import embedded_tokens
from ..storage.files import check_writable
from .predictions import divergences, log_softmax

_HINT = "free some space, or set TMPDIR to a folder on another disk"
ROWS, TOKENS = 8, 64
"""Rows that are compared, and answer tokens of each at most."""
FLOOR = 1e-5
"""Nats a token. An adapter nearer to its base changes nothing that anybody could notice: the probabilities of
whole answers of 100 tokens differ by at most 2.2 % in total (Pinsker's inequality).
"""


class Likeness(NamedTuple):
    """Means over answer positions. `to_base`, `to_fused`, `to_start`: KL(adapter || ...) in nats a token,
    over the whole vocabulary; the start is the adapter that the run began from, if it began from one.
    `top_1`: share of positions with the same likeliest token as the adapter.
    """

    to_base: float
    to_fused: float
    top_1: float
    positions: int
    to_start: float | None = None

    @property
    def ratio(self) -> float:
        """The larger of the two ratios, which the limit holds for; nan if one of them is nan."""
        return float(np.max([self.ratio_to_base, self.ratio_to_start or 0.0]))

    @property
    def ratio_to_base(self) -> float:
        """KL(adapter || fused) / KL(adapter || base); of an adapter that does nothing, / FLOOR."""
        return self.to_fused / max(self.to_base, FLOOR)

    @property
    def ratio_to_start(self) -> float | None:
        """KL(adapter || fused) / KL(adapter || start); None without a start.

        None also for a run that does nothing beyond its start: there is nothing that a fuse could lose.
        """
        if self.to_start is None or self.to_start < FLOOR:
            return None
        return self.to_fused / self.to_start


def few_rows(index: RowIndex, tokenizer: Any, max_length: int, tokens: int = TOKENS) -> list[TokenizedPair]:
    """Up to ROWS answers with different prompts, spread over the file, each cut to so many tokens.

    Raises:
        DpoError: all prompts are too long, or the chat template refuses a row.
    """
    first = np.sort(np.unique(index.prompts, return_index=True)[1])
    chosen = np.linspace(0, len(first) - 1, min(ROWS, len(first))).round().astype(int)
    work = RowTokenizer(tokenizer, max_length, answers=True)
    pairs = [pair for row in first[chosen] if (pair := work.pair(index.read(int(row))))]
    if not pairs:
        work.counts()
    return [TokenizedPair(p.prompt, p.chosen[:tokens], p.chosen[:tokens], p.where) for p in pairs]


def check_room(rows: Sequence[TokenizedPair], vocabulary: int, models: int) -> None:
    """Check that the logits of so many models on these rows have room where they are kept.

    Raises:
        DpoError: they have not.
    """
    numbers = models * sum(len(row.chosen) for row in rows) * vocabulary
    try:
        check_writable(Path(gettempdir()), need_bytes=4 * numbers)
    except DpoError as error:
        raise error.instead(hint=_HINT) from None


class Yardstick:
    """The logits of an adapter on a few rows, computed once; one row at a time is in memory.

    Call `see_base` with the base model, `see_start` with base and first adapter if there is one,
    `see_adapter` with base and adapter, then `likeness` with fused models. Activations are float32 whatever
    the dtype of the weights, so that only the weights make a difference.
    """

    def __init__(self, rows: Sequence[TokenizedPair]):
        self.rows = rows
        self._base, self._start, self._adapter = _Arrays(), _Arrays(), _Arrays()
        self.to_base, self.to_start = float("nan"), None

    @property
    def vocabulary(self) -> int:
        """Entries of the vocabulary."""
        return self._adapter[0].shape[-1]

    def see_base(self, model: nn.Module) -> None:
        """Keep the base model's logits."""
        for row in self._each("measuring the base model"):
            self._base.add(answer_logits(model, row))

    def see_start(self, model: nn.Module) -> None:
        """Keep the logits of the model that the run began from.

        Raises:
            DpoError: they are not finite.
        """
        for row in self._each("measuring the first adapter"):
            self._start.add(_finite_logits(model, row, "the first adapter"))

    def see_adapter(self, model: nn.Module) -> None:
        """Keep the logits of base and adapter, and compute KL(adapter || base) and KL(adapter || start).

        Raises:
            DpoError: they are not finite.
        """
        base, start = [], []
        for number, row in enumerate(self._each("measuring the adapter")):
            logits = _finite_logits(model, row, "the tuned model")
            self._adapter.add(logits)
            base.append(divergence(logits, self._base[number]))
            if self._start:
                start.append(divergence(logits, self._start[number]))
        self.to_base = float(np.concatenate(base).mean())
        self.to_start = float(np.concatenate(start).mean()) if start else None

    def likeness(self, fused: nn.Module) -> Likeness:
        """How like the adapter this model is."""
        return self.likeness_of(lambda row: answer_logits(fused, row))

    def likeness_of(self, logits_of: Callable[[TokenizedPair], np.ndarray]) -> Likeness:
        """How like the adapter a model is, of which a function gives the logits at a row's answer, (C, V)."""
        apart, same = [], []
        for number, row in enumerate(self._each("measuring the fused model")):
            adapter, logits = self._adapter[number], logits_of(row)
            apart.append(divergence(adapter, logits))
            same.append(adapter.argmax(axis=-1) == logits.argmax(axis=-1))
        top_1, to_fused = np.concatenate(same), float(np.concatenate(apart).mean())
        return Likeness(self.to_base, to_fused, float(top_1.mean()), len(top_1), self.to_start)

    def _each(self, label: str):
        with progress(label, len(self.rows), "rows") as advance:
            for row in self.rows:
                yield row
                advance(1)


def run_yardstick(
    base: Path, adapter: Path | str, rows: Sequence[TokenizedPair], start: str | None = None
) -> Yardstick:
    """The logits of a run's adapter; one model at a time is in memory, and none afterwards.

    Args:
        start: the adapter that the run began from.

    Raises:
        DpoError: an adapter does not fit, or its logits are not finite.
    """
    vocabulary = embedded_tokens(base, read_model_config(base)) or 0
    check_room(rows, vocabulary, models=3 if start else 2)
    yardstick = Yardstick(rows)
    if start:
        model, _ = load_model(base)
        load_adapter(model, mlx_adapter(start, base))
        yardstick.see_start(model)
        del model
        mx.clear_cache()
    model, _ = load_model(base)
    yardstick.see_base(model)
    load_adapter(model, adapter)
    yardstick.see_adapter(model)
    del model
    mx.clear_cache()
    return yardstick


def answer_logits(model: nn.Module, row: TokenizedPair) -> np.ndarray:
    """Logits at the positions that predict the answer's tokens, float32 (C, V)."""
    tokens = mx.array(np.concatenate([row.prompt, row.chosen[:-1]])[None])
    with float32_activations(model):
        logits = model(tokens)[0, len(row.prompt) - 1 :].astype(mx.float32)
        mx.eval(logits)
    return np.array(logits)


def _finite_logits(model: nn.Module, row: TokenizedPair, whose: str) -> np.ndarray:
    """As `answer_logits`.

    Raises:
        DpoError: they are not finite.
    """
    logits = answer_logits(model, row)
    if not np.isfinite(logits).all():
        raise DpoError(
            f"the logits of {whose} are not finite",
            where=row.where,
            hint="its run diverged; train again with a lower optimizer.learning_rate",
        )
    return logits


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of softmax distributions, computed in float64: logits (N, V) to nats (N,)."""
    return divergences(log_softmax(p), log_softmax(q))


class _Arrays:
    """Arrays in a file without a name, which is gone when the process ends."""

    def __init__(self):
        self._file, self._places = TemporaryFile(), []  # noqa: SIM115  (as long as this object)

    def add(self, array: np.ndarray) -> None:
        self._places.append(self._file.seek(0, 2))
        try:
            np.save(self._file, array)
            self._file.flush()
        except OSError as error:
            raise DpoError(
                f"logits cannot be kept there: {error.strerror}",
                where=gettempdir(),
                hint=_HINT,
            ) from None

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> np.ndarray:
        self._file.seek(self._places[number])
        return np.load(self._file)
