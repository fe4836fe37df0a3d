"""What a model predicts after some rows, in MLX and in another program, and how far the two are apart."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..console import progress
from ..errors import DpoError
from ..upstream import replaced_gelu

GREEDY_TOKENS, GREEDY_AFTER = 32, 64
"""Length of the greedy answer; it follows the first tokens of the first row."""
EXACT, EXACT_GEMMA = 1e-4, 5e-3
"""Largest difference of a log-probability where both compute in float32. On a CPU, llama.cpp looks Gemma's
GELU up in a half-precision table, and so does MLX for the comparison. A number between two entries falls to
one or the other: a tiny Gemma moves by 0.0007 where numbers move by 1e-7, and is 0.0015 from llama.cpp.
"""
MOST_DIVERGENCE = 0.01
"""Largest KL divergence in nats where one of the two computes or stores in less than float32."""


class Predictions(NamedTuple):
    """Of R rows and a vocabulary of V.

    `logps`: of the token after each row, float64 (R, V). `greedy`: likeliest tokens after the start of the
    first row, one after the other; `leads`: by how many nats each was ahead, (G,).
    """

    logps: np.ndarray
    greedy: list[int]
    leads: list[float]


class Agreement(NamedTuple):
    """`difference`: the largest of a log-probability; `divergence`: mean KL, nats; `same_top`: share of rows
    with the same likeliest token; `same_greedy`: tokens of the greedy answer before the first other one.
    """

    difference: float
    divergence: float
    same_top: float
    same_greedy: int

    def __str__(self) -> str:
        return (
            f"log-probabilities differ by at most {self.difference:.1e} nat, KL {self.divergence:.1e} nat, "
            f"likeliest token the same in {self.same_top:.0%} of rows, "
            f"first {self.same_greedy} greedy tokens the same"
        )


def mlx_predictions(
    model: nn.Module, rows: Sequence[Sequence[int]], steps: int = GREEDY_TOKENS
) -> Predictions:
    """Computed without Mamba's limit on time steps, as other programs do."""
    with without_step_limit(model):
        return predictions("MLX", lambda tokens: _after(model, tokens), rows, steps)


def predictions(
    program: str,
    after: Callable[[Sequence[int]], np.ndarray],
    rows: Sequence[Sequence[int]],
    steps: int = GREEDY_TOKENS,
    likeliest: Callable[[Sequence[int]], np.ndarray] | None = None,
) -> Predictions:
    """Predictions by a function that gives the log-probabilities of the next token, (V,).

    Args:
        program: whose it is, for people who wait.
        likeliest: the same for the greedy answer, where only the two likeliest tokens matter.
    """
    logps, greedy, leads, tokens = [], [], [], list(rows[0][:GREEDY_AFTER])
    with progress(f"asking {program}", len(rows) + steps, "tokens") as advance:
        for row in rows:
            logps.append(after(row))
            advance(1)
        for _ in range(steps):
            found = (likeliest or after)(tokens)
            second, first = np.partition(found, -2)[-2:]
            greedy.append(int(found.argmax()))
            leads.append(float(first - second))
            tokens.append(greedy[-1])
            advance(1)
    return Predictions(np.stack(logps), greedy, leads)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities (..., V) in float64: a float32 sum over a large vocabulary is off by up to 1e-3."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def _after(model: nn.Module, tokens: Sequence[int]) -> np.ndarray:
    """Log-probabilities of the next token, float64 (V,)."""
    return log_softmax(
        np.array(model(mx.array(np.asarray(tokens, np.int32)[None]))[0, -1].astype(mx.float32))
    )


@contextmanager
def llama_cpp_gelu() -> Iterator[None]:
    """Within it, Gemma's GELU is looked up in half precision, as llama.cpp does on a CPU.

    Source: ggml_vec_geglu_f32 in ggml/src/ggml-cpu/vec.h of ggml-org/llama.cpp.
    """

    def looked_up(x: mx.array) -> mx.array:
        entry = x.astype(mx.float16).astype(mx.float32)
        found = exact(entry).astype(mx.float16).astype(mx.float32)
        return mx.where(x <= -10, 0.0, mx.where(x >= 10, x, found))

    exact = nn.gelu_approx
    with replaced_gelu(looked_up):
        yield


@contextmanager
def without_step_limit(model: nn.Module) -> Iterator[None]:
    """Within it, the Mamba layers of a Granite hybrid do not limit their time steps.

    mlx_lm limits them to [0.001, 100]; transformers and llama.cpp do not.
    """
    layers = [m for m in model.modules() if hasattr(m, "time_step_limit")]
    before = [layer.time_step_limit for layer in layers]
    for layer in layers:
        layer.time_step_limit = (0.0, float("inf"))
    try:
        yield
    finally:
        for layer, limit in zip(layers, before, strict=True):
            layer.time_step_limit = limit


def has_step_limit(model: nn.Module) -> bool:
    """Whether mlx_lm limits the time steps of Mamba layers of this model."""
    return any(hasattr(module, "time_step_limit") for module in model.modules())


def step_limit_note(model: nn.Module, rows: Sequence[Sequence[int]]) -> str:
    """What mlx_lm's limit on time steps changes on these rows."""
    limited = np.stack([_after(model, row) for row in rows])
    with without_step_limit(model):
        free = np.stack([_after(model, row) for row in rows])
    return (
        "mlx_lm limits Mamba's time steps, transformers and llama.cpp do not: on these rows "
        f"log-probabilities differ by at most {np.abs(limited - free).max():.1e} nat, "
        f"KL {divergence(free, limited):.1e} nat"
    )


def divergence(wanted: np.ndarray, got: np.ndarray) -> float:
    """Mean over rows of KL(wanted || got), in nats."""
    return float(np.maximum(0.0, divergences(wanted, got).mean()))


def divergences(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """KL(p || q) of each row, log-probabilities (..., V) to nats (...)."""
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def likeness(wanted: Predictions, got: Predictions) -> Agreement:
    """Compare predictions for the same rows."""
    pairs = zip(wanted.greedy, got.greedy, strict=False)
    same = next((n for n, (one, other) in enumerate(pairs) if one != other), len(wanted.greedy))
    return Agreement(
        float(np.abs(wanted.logps - got.logps).max()),
        divergence(wanted.logps, got.logps),
        float((wanted.logps.argmax(-1) == got.logps.argmax(-1)).mean()),
        same,
    )


def computes_exactly(model: nn.Module) -> bool:
    """Whether all weights are float32, so that MLX computes in float32."""
    return all(
        value.dtype == mx.float32
        for _, value in tree_flatten(model.parameters())
        if mx.issubdtype(value.dtype, mx.floating)
    )


def check_alike(
    wanted: Predictions, got: Predictions, program: str, where: Any, exact: float | None
) -> Agreement:
    """Check that another program predicts what MLX predicts.

    Args:
        program: its name, for the message.
        exact: largest difference of a log-probability; None where one of the two is not in float32.

    Raises:
        DpoError: it predicts something else.
    """
    found = likeness(wanted, got)
    other_token = found.same_greedy < len(wanted.greedy)
    if other_token and exact is not None and wanted.leads[found.same_greedy] < 2 * exact:
        other_token = False  # two tokens are so close that the allowed difference decides between them
    if exact is None:
        wrong = found.divergence > MOST_DIVERGENCE or not np.isfinite(found.divergence)
    else:
        wrong = not found.difference <= exact or other_token
    if wrong:
        allowed = (
            f"KL {MOST_DIVERGENCE:g} nat" if exact is None else f"{exact:g} nat and the same greedy tokens"
        )
        bug = "please report this with the model's name, or export with --no-prove"
        coarse = "export gguf with a finer --type, f16 or f32; or with --no-prove"
        raise DpoError(
            f"{program} does not predict what MLX predicts: {found}; allowed are {allowed}",
            where=where,
            hint=f"nothing was exported; {coarse if exact is None else bug}",
            code="not-alike",
        )
    return found
