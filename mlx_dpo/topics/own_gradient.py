"""Functions that know their gradient: it is computed only if it is asked for."""

from collections.abc import Callable

import mlx.core as mx


def with_own_gradient(
    function: Callable[[mx.array], tuple[mx.array, mx.array]], argument: mx.array
) -> mx.array:
    """The value of a function, (), which MLX differentiates by the gradient that the function gives.

    Args:
        function: gives value, (), and gradient, of the shape of its argument.
    """
    own = mx.custom_function(function)

    @own.vjp
    def backward(
        argument: mx.array, cotangents: tuple[mx.array, mx.array], outputs: tuple[mx.array, mx.array]
    ) -> mx.array:
        return cotangents[0] * outputs[1]

    return own(argument)[0]
