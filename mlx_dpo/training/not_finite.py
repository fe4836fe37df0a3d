"""A loss or gradient that is not finite: its update is skipped and its rows named; several end the run.

trainer.py finds a loss that is not finite, and `update` in step.py a gradient; neither changes the policy.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..console import plural
from ..data.tokenize import TokenizedPair
from ..errors import DpoError, first_ten
from .state import TrainState
from .window_gradient import WindowResult

DIVERGED = "lower optimizer.learning_rate; the run folder still has the last good adapter"
"""The remedy."""


def report_skipped(
    result: WindowResult,
    divergences: Sequence[float],
    pairs: Sequence[TokenizedPair],
    state: TrainState,
    most: int,
    note: Callable[[int, str, str], None],
) -> None:
    """Report the rows of a skipped window; the policy, the optimiser and beta do not change.

    Args:
        most: so many skipped windows in a row end the run.

    Raises:
        DpoError: with the rows and the remedy, where the run ends.
    """
    bad = [row for row, loss in zip(result.rows, result.losses, strict=True) if not np.isfinite(loss)]
    what = "the loss is not finite" if bad else "the gradient is not finite"
    hint = f"check these rows, or {DIVERGED}"
    if not np.isfinite(divergences).all():
        what = "the divergence on the rehearsal texts is not finite"
        hint = f"set training.rehearsal=0, or {DIVERGED}"
    places = first_ten([pairs[row].where for row in bad or result.rows])
    note(state.step, "skipped", f"{what} at step {state.step}, which is skipped: {places}")
    if state.skipped >= most:
        raise DpoError(
            f"{what} at step {state.step}, nor in the {plural(state.skipped - 1, 'step')} before"
            if state.skipped > 1
            else f"{what} at step {state.step}",
            where=places,
            hint=hint,
        )
