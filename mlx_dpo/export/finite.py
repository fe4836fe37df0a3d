"""Weights that a diverged run leaves are refused."""

import mlx.core as mx

from ..errors import DpoError


def check_finite(value: mx.array, name: str) -> None:
    """Check the weights called `name`.

    Raises:
        DpoError: a number in them is not finite.
    """
    if not mx.isfinite(value).all().item():
        raise DpoError(
            "contains numbers that are not finite",
            where=name,
            hint="the run diverged; train again with a lower optimizer.learning_rate",
        )
