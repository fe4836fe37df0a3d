"""A reference that follows the policy (TR-DPO, Gorbatovski et al. 2024, arXiv:2404.09656, hard updates)."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.nn as nn
import numpy as np

from ..data.tokenize import TokenizedPair
from .step import PairGradient
from .window_gradient import Window


class MovingReference:
    """The reference's log-probs of all pairs: those before the run; after a sync, those of the synced policy.

    The average of two adapters is not the average of their models, so a sync replaces the whole reference by
    the policy. Its trainable parameters are kept, and score a window's pairs when they are trained on.
    """

    def __init__(
        self,
        policy: nn.Module,
        gradient: PairGradient,
        pairs: Sequence[TokenizedPair],
        scores: np.ndarray,
        kept: Any = None,
    ):
        """`kept`: the parameters of the last sync, if there was one."""
        self._policy, self._gradient, self._pairs = policy, gradient, pairs
        self._scores = scores if kept is None else scores.copy()
        self.kept = kept

    def sync(self) -> None:
        """Make the present policy the reference."""
        if self.kept is None:
            self._scores = self._scores.copy()
        self.kept = self._policy.trainable_parameters()

    def of(self, window: Window, check_interrupt: Callable[[], None]) -> np.ndarray:
        """Scores, float32 (n, 2), nats; up to date for the rows of this window only."""
        if self.kept is None:
            return self._scores
        now = self._policy.trainable_parameters()
        self._policy.update(self.kept)
        try:
            for micro in window:
                check_interrupt()
                logps = self._gradient.score(self._gradient.build([self._pairs[i] for i in micro]), False)
                self._scores[micro] = np.array(logps).reshape(2, -1).T
        finally:
            self._policy.update(now)
        return self._scores
