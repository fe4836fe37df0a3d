"""A run's state as arrays and facts for a checkpoint, and back."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np

from ..randomness import set_random_key
from .checkpoint_folder import flattened, refilled
from .state import Best, Interval, TrainState

_PLAIN = ("step", "pairs", "tokens", "skipped", "evaluated", "held_out", "forgotten", "stopped")
_COLUMNS = ("policy", "reference", "losses", "betas", "divergences")


def to_snapshot(
    state: TrainState, optimizer: optimizers.Optimizer
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The state as arrays and facts, without the policy's weights."""
    seen = state.interval
    arrays = {
        "optimizer": optimizer.state,
        "beta": state.beta,
        "random": state.random,
        "reference": state.reference or {},
        "interval": {name: getattr(seen, name) for name in _COLUMNS},
    }
    facts = {name: getattr(state, name) for name in _PLAIN}
    facts |= {
        "best": state.best and {"row": dict(state.best.row), "since": state.best.since},
        "moved": state.reference is not None,
        "interval": {"said": dict(seen.said), "tokens": seen.tokens, "seconds": seen.seconds},
    }
    return flattened(arrays), facts


def from_snapshot(
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    optimizer: optimizers.Optimizer,
    parameters: Any,
    first: TrainState,
    *,
    same_beta: bool = True,
) -> TrainState:
    """The saved state; also sets the optimiser's state and MLX's random key.

    Args:
        parameters: the policy's trainable parameters, for their names.
        first: the state before the first update, for its structure.
        same_beta: restore the state of the beta rule; otherwise the rule starts anew.

    Raises:
        KeyError: the policy, the optimiser or the beta rule is of another kind.
    """
    optimizer.init(parameters)
    optimizer.state = refilled(optimizer.state, arrays, "optimizer")
    random = mx.array(arrays["random"])
    set_random_key(random)
    names = [name for name in _COLUMNS if f"interval.{name}" in arrays]  # older versions have fewer
    interval = {name: arrays[f"interval.{name}"] for name in names}
    return TrainState(
        beta=refilled(first.beta, arrays, "beta") if same_beta else first.beta,
        random=random,
        reference=refilled(parameters, arrays, "reference") if facts["moved"] else None,
        best=facts["best"] and Best(**facts["best"]),
        interval=Interval(**interval, **facts["interval"]),
        **{name: facts[name] for name in _PLAIN if name in facts},
    )
