"""Faults to be planted into the shared forward: contexts, each with one fault in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from mlx_dpo.forward import kernels
from mlx_dpo.forward import pair_logps as forwards
from mlx_dpo.forward.prompt_cache import Arrays, Keys
from mlx_dpo.training import forward_errors

Fault = Callable[[], Any]


def _forked(kind: type, change: Callable[[Any], None]) -> Any:
    """What branches continue is changed after the fork."""
    own = kind.forked

    def forked(self, branches):
        fork = own(self, branches)
        change(fork)
        return fork

    return mock.patch.object(kind, "forked", forked)


@contextmanager
def _all(*patches: Any) -> Iterator[None]:
    with patches[0], _all(*patches[1:]) if patches[1:] else nullcontext():
        yield


def swapped_branches() -> Any:
    """Chosen scores come out as rejected ones."""
    return _scored(lambda score, *args, **kwargs: mx.roll(score(*args, **kwargs), 1, axis=0))


def _scored(instead: Callable[..., mx.array]) -> Any:
    own = forwards.shared_score
    return mock.patch.object(forwards, "shared_score", lambda *a, **k: instead(own, *a, **k))


def prompt_without_gradient() -> Any:
    """What answers ask of their prompt gets no gradient."""

    def cut_keys(fork):
        fork.prompt = fork.prompt and tuple(map(mx.stop_gradient, fork.prompt))

    def cut_arrays(fork):
        fork.cache = [a if a is None else mx.stop_gradient(a) for a in fork.cache]

    return _all(_forked(Keys, cut_keys), _forked(Arrays, cut_arrays))


def rope_off_by_one() -> Any:
    """Answers stand one place further from their prompt."""
    own = mx.fast.rope

    def rope(*args, offset, **kwargs):
        return own(*args, offset=offset + (offset > 0), **kwargs)

    return mock.patch.object(mx.fast, "rope", rope)


def mask_off_by_one() -> Any:
    """Every token sees the one after it."""

    def square(size, dtype):
        return mx.array(np.where(np.tri(size, k=1), 0.0, -np.inf), dtype=dtype)

    return mock.patch.object(kernels, "_causal_square", square)


def window_off_by_one() -> Any:
    """Sliding windows are one token wider."""
    own = Keys.make_mask

    def make_mask(self, n, window_size=None, return_array=False):
        with mock.patch.object(self, "window", self.window and self.window + 1):
            return own(self, n, window_size and window_size + 1, return_array)

    return mock.patch.object(Keys, "make_mask", make_mask)


def head_not_forked() -> Any:
    """The branches' first head finds no keys of the prompt."""

    def lose(fork):
        if fork.prompt:
            keys, values = fork.prompt
            first = mx.arange(keys.shape[1])[:, None, None] == 0
            fork.prompt = mx.where(first, 0, keys).astype(keys.dtype), values

    return _forked(Keys, lose)


def lost_state() -> Any:
    """A recurrent block's branches start from nothing."""

    def lose(fork):
        fork.cache[-1] = None if fork.cache[-1] is None else mx.zeros_like(fork.cache[-1])

    return _forked(Arrays, lose)


def detached_block() -> Any:
    """The first block's output carries no gradient."""
    own = forwards.hidden_states

    def hidden_states(model, *args):
        def cut(call, *given, **named):
            return tree_map(lambda a: mx.stop_gradient(a), call(*given, **named))

        first = type("Of", (), {"layers": model.layers[:1]})
        with forward_errors._blocks_called(first, cut):
            return own(model, *args)

    return mock.patch.object(forwards, "hidden_states", hidden_states)


def scored_off_by_one() -> Any:
    """The mask of what is scored is one token early."""

    def early(score, model, batch, **kwargs):
        families = tuple(
            f._replace(
                segments=tuple(
                    s._replace(mask=mx.concatenate([s.mask[:, 1:], 0 * s.mask[:, :1]], axis=1))
                    for s in f.segments
                )
            )
            for f in batch.families
        )
        return score(model, batch._replace(families=families), **kwargs)

    return _scored(early)


FAULTS: dict[str, Fault] = {
    "none": nullcontext,
    "swapped branches": swapped_branches,
    "prompt without its answers' gradient": prompt_without_gradient,
    "rope off by one": rope_off_by_one,
    "mask off by one": mask_off_by_one,
    "window off by one": window_off_by_one,
    "one head's keys not forked": head_not_forked,
    "lost recurrent state": lost_state,
    "detached first block": detached_block,
    "scored tokens off by one": scored_off_by_one,
}
"""Contexts, each with one fault in it."""
ABSENT = {
    "Llama, sliding windows": {"lost recurrent state"},
    "Granite hybrid": {"rope off by one", "window off by one"},
    "Qwen3-Next": {"window off by one"},
    "SmolLM2": {"lost recurrent state", "window off by one"},
}
"""What a model has not, a fault cannot be in: state, positions, windows."""
