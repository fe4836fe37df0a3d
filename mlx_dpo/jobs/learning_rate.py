"""The learning rate of sft if none is set."""

import mlx.nn as nn

from ..config import RunConfig
from ..console import plural, progress, say
from ..data.pair_store import PairStore
from ..errors import DpoError
from ..forward.pair_logps import Forward
from ..losses import build_loss
from ..randomness import random_untouched
from ..training.learning_rate_test import RATES, ROWS, found_rate, rate_test
from ..training.step import pair_gradient


def found_learning_rate(
    config: RunConfig, policy: nn.Module, pairs: PairStore, forward: Forward, *, compiled: bool
) -> float:
    """The learning rate that a short test on some rows of `pairs` finds.

    Raises:
        DpoError: no rate lowers the loss.
    """
    loss = build_loss(config.loss)
    gradient = pair_gradient(policy, loss, forward, compiled=compiled)
    with random_untouched(), progress("learning rate", len(RATES), "updates") as advance:
        losses = rate_test(policy, gradient, pairs, config.optimizer, advance)
    rate = found_rate(losses)
    if rate is None:
        raise DpoError(
            f"no learning rate from {RATES[0]:g} to {RATES[-1]:g} lowers the loss on these rows",
            where="optimizer.learning_rate",
            hint="check the rows (mlx-dpo inspect), or set optimizer.learning_rate",
        )
    rows = plural(min(ROWS, len(pairs)), "row")
    say(
        f"learning rate: {rate:.1e}, found in a test that lowered the loss of {rows} from {losses[0]:.2f} "
        f"to {min(losses):.2f} (set optimizer.learning_rate to choose another)"
    )
    return rate
