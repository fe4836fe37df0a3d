"""MLX's own stream of random numbers, which dropout draws from: read and set."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx


def random_key() -> mx.array:
    """Where the stream stands: uint32 (2,)."""
    return mx.random.state[0]


def set_random_key(key: mx.array) -> None:
    """Let the stream go on from here. A seed is a key: its upper and its lower half."""
    high, low = key.tolist()
    mx.random.seed(high << 32 | low)


@contextmanager
def random_untouched() -> Iterator[None]:
    """Whatever is drawn within it, the stream goes on as if it had not been."""
    key = random_key()
    try:
        yield
    finally:
        set_random_key(key)
