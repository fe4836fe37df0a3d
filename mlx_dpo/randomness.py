"""Read and set MLX's stream of random numbers, which dropout uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx


def random_key() -> mx.array:
    """The present state of the stream: uint32 (2,)."""
    return mx.random.state[0]


def set_random_key(key: mx.array) -> None:
    """Continue the stream from this state. A seed is a state: its upper and its lower half."""
    high, low = key.tolist()
    mx.random.seed(high << 32 | low)


@contextmanager
def random_untouched() -> Iterator[None]:
    """Random numbers drawn within it do not change the stream outside."""
    key = random_key()
    try:
        yield
    finally:
        set_random_key(key)
