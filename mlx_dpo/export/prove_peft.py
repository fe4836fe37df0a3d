"""The proof that transformers and PEFT compute what mlx_lm computes with the adapter."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..console import say
from ..errors import DpoError, first_line, first_ten
from ..models.adapters import load_adapter
from ..models.load import load_model, weight_bytes
from .peft import PREFIX, PeftAdapter
from .predictions import has_step_limit, log_softmax, step_limit_note, without_step_limit

NEEDS = ("torch", "transformers", "peft")
_FLOAT32_BYTES = 4e9
"""Models whose weights are smaller in float32 are compared in float32, others in their own type. Where they
are smaller in float64, PEFT computes in float64, so that the difference is mlx_lm's own rounding: on
SmolLM2-135M, rounding to float32 moves a logit by up to 9e-5 in mlx_lm and 8e-5 in torch.
"""
_TOLERANCE = 1e-4
_NOISES = 4
"""How many times the difference of the two programs without adapter the difference with it may be."""
_SAME_BASE = {True: 0.1, False: 0.5}
"""Largest difference without adapter, in nats, by whether both compute in float32.

mlx_lm rounds the factor of Gemma's embeddings to bfloat16.
"""


class PeftProof(NamedTuple):
    """Largest differences of log-probabilities over all next tokens, in nats.

    `difference`: PEFT against mlx_lm, both with the adapter; `noise`: both without it; `effect`: of the
    adapter. `same_token`: share of places where both have the same most likely token.
    """

    rows: int
    tokens: int
    difference: float
    noise: float
    effect: float
    same_token: float

    def text(self) -> str:
        """The figures, on one line."""
        return (
            f"proved: read by transformers and PEFT, log-probabilities differ from mlx_lm's by at most "
            f"{self.difference:.1e} nats on {self.tokens} tokens of {self.rows} rows (without adapter "
            f"{self.noise:.1e}; the adapter changes up to {self.effect:.2g}); most likely token equal at "
            f"{100 * self.same_token:.4g} %"
        )


class _Cannot(DpoError):
    """There is no proof, which does not mean that the export is wrong."""


class Module(NamedTuple):
    """What PEFT has read for one module: float32 A (r, in), B (out, r), magnitude (out,), and the scale."""

    a: np.ndarray
    b: np.ndarray
    m: np.ndarray | None
    scale: float


def can_prove() -> bool:
    """Whether transformers, PEFT and torch are installed."""
    return all(find_spec(name) for name in NEEDS)


def prove_peft(
    exported: Path, wanted: PeftAdapter, adapter: Path, base: Path, rows: Sequence[np.ndarray]
) -> PeftProof:
    """Read the export with transformers and PEFT, and compare it with the adapter in mlx_lm.

    Args:
        exported: the folder to prove.
        wanted: what was written there.
        adapter: the adapter's own folder, as mlx_lm reads it.
        base: the base model, in the Hub's layout.
        rows: token ids.

    Raises:
        DpoError: they differ; the message names the module, the tensor or the setting.
    """
    model, config = load_model(base)
    if "quantization" in config:
        raise _Cannot(
            "is quantised, and transformers cannot read it",
            where=base,
            hint="name the model before quantisation with --base FOLDER",
        )
    count = sum(v.size for v in _arrays(model))
    exact = 4 * count <= _FLOAT32_BYTES or weight_bytes(model) >= 4 * count
    if exact:
        model.set_dtype(mx.float32)
    without = log_probs(model, rows)
    load_adapter(model, adapter)
    ours = log_probs(model, rows)
    if has_step_limit(model):
        say(f"note: {step_limit_note(model, rows)}")
    del model
    mx.clear_cache()
    bits = 64 if 8 * count <= _FLOAT32_BYTES else 32
    theirs, theirs_without = _by_peft(exported, wanted, base, rows, f"float{bits}" if exact else None)
    proof = PeftProof(
        len(rows),
        sum(map(len, rows)),
        _largest(ours, theirs),
        _largest(without, theirs_without),
        _largest(ours, without),
        _same_token(ours, theirs),
    )
    if not proof.noise <= _SAME_BASE[exact]:
        raise DpoError(
            f"transformers computes other log-probabilities for the base model than mlx_lm, by up to "
            f"{proof.noise:.2g} nats, also without the adapter",
            where=base,
            hint="name the model that the run was trained on with --base FOLDER, or add --no-prove",
        )
    if not proof.difference <= max(_TOLERANCE, _NOISES * proof.noise):
        raise DpoError(
            f"log-probabilities in PEFT differ from mlx_lm's by up to {proof.difference:.2g} nats (without "
            f"adapter by {proof.noise:.1e}), although PEFT has read every tensor as written",
            where=exported,
            hint="this is a bug in mlx_dpo or in one of these packages: please report it with this message",
        )
    return proof


def log_probs(model: Any, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Log-probabilities of every next token, float64 (T, V) for each row of T tokens.

    Computed without Mamba's limit on time steps, as transformers does.
    """
    with without_step_limit(model):
        return [log_softmax(np.array(model(mx.array(tokens)[None])[0].astype(mx.float32))) for tokens in rows]


def _arrays(model: Any) -> list[mx.array]:
    from mlx.utils import tree_flatten

    return [value for _, value in tree_flatten(model.parameters())]


def _largest(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    return max(float(np.abs(one - other).max()) for one, other in zip(some, others, strict=True))


def _same_token(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    same = [one.argmax(-1) == other.argmax(-1) for one, other in zip(some, others, strict=True)]
    return float(np.concatenate(same).mean())


def _by_peft(
    exported: Path, wanted: PeftAdapter, base: Path, rows: Sequence[np.ndarray], dtype: str | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Log-probabilities with and without the adapter, after a check of every tensor that PEFT has read.

    Args:
        dtype: in which torch computes; None: in that of the model.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, read = AutoModelForCausalLM.from_pretrained(
            base, dtype=dtype or "auto", output_loading_info=True, local_files_only=True
        )
    except Exception as error:  # any error of transformers means that it does not read this folder
        raise _unreadable(base, first_line(error)) from None
    wrong = sorted(map(str, [*read["missing_keys"], *read["mismatched_keys"]]))
    if wrong:
        raise _unreadable(base, f"it lacks {first_ten(wrong)}")
    try:
        adapted = PeftModel.from_pretrained(model, str(exported)).eval()
    except Exception as error:
        told = " ".join(str(error).split()) or first_line(error)
        raise _wrong(exported, f"PEFT does not read the adapter: {told}") from None
    if found := differences(wanted, _read_by_peft(adapted)):
        raise _wrong(exported, f"PEFT has read something else than was written: {first_ten(found)}")
    if dtype:
        adapted.to(getattr(torch, dtype))  # PEFT keeps adapters in float32

    def all_log_probs() -> list[np.ndarray]:
        with torch.no_grad():
            tokens = [torch.tensor(row.astype(np.int64))[None] for row in rows]
            return [log_softmax(adapted(one).logits[0].double().numpy()) for one in tokens]

    try:
        theirs = all_log_probs()
        with adapted.disable_adapter():
            return theirs, all_log_probs()
    except RuntimeError as error:
        raise _wrong(exported, f"PEFT cannot compute with the adapter: {first_line(error)}") from None


def _unreadable(base: Path, reason: str) -> DpoError:
    return _Cannot(
        f"transformers cannot load the base model: {reason}",
        where=base,
        hint="name the model as it is on the Hub with --base FOLDER, or add --no-prove",
    )


def _wrong(exported: Path, what: str) -> DpoError:
    return DpoError(
        what,
        where=exported,
        hint="nothing was exported; please report this message with the versions of peft and transformers",
    )


def _read_by_peft(model: Any) -> dict[str, Module]:
    """What PEFT has read, by the names of the base model's modules."""
    found = {}
    for name, module in model.named_modules():
        if "default" not in getattr(module, "lora_A", {}):
            continue
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        m = module.lora_magnitude_vector["default"].weight if len(module.lora_magnitude_vector) else None
        arrays = [None if value is None else value.detach().float().numpy() for value in (a, b, m)]
        found[name.removeprefix(PREFIX)] = Module(*arrays, scale=float(module.scaling["default"]))
    return found


def differences(wanted: PeftAdapter, found: Mapping[str, Module]) -> list[str]:
    """The parts that PEFT has not read as they were written: a module, one of its tensors, or the scale."""
    wrong = [f"{name} is not adapted" for name in sorted(wanted.parts.keys() - found.keys())]
    wrong += [f"{name} is adapted" for name in sorted(found.keys() - wanted.parts.keys())]
    scales = {one.scale for one in found.values()}
    if off := sorted(one for one in scales if not np.isclose(one, wanted.scale, rtol=1e-9)):
        wrong.append(f"lora_alpha / r is {off[0]:g} instead of {wanted.scale:g}")
    for name in sorted(wanted.parts.keys() & found.keys()):
        part, own = wanted.parts[name], found[name]
        for key, value, read in (
            ("lora_A", part.a.T, own.a),
            ("lora_B", part.b.T, own.b),
            ("lora_magnitude_vector", part.m, own.m),
        ):
            if not _equal(value, read):
                wrong.append(f"{name}.{key}")
    return wrong


def _equal(value: mx.array | None, read: np.ndarray | None) -> bool:
    if value is None or read is None:
        return value is None and read is None
    return np.array_equal(np.array(value.astype(mx.float32)), read)


def proof_or_note(asked: bool | None, *arguments: Any) -> PeftProof | None:
    """The proof; None, with a message, if it cannot be made and was not asked for.

    Args:
        asked: None if the user has not said whether there must be a proof.
        arguments: of `prove_peft`.
    """
    if not can_prove():
        missing = next(name for name in NEEDS if not find_spec(name))
        error = _Cannot(
            f"the proof needs torch, transformers and PEFT; {missing} is missing",
            hint="install them: pip install 'mlx-dpo[prove]'; or add --no-prove",
        )
        if asked:
            raise error
        say(f"not proved: {error.what} (pip install 'mlx-dpo[prove]')")
        return None
    try:
        return prove_peft(*arguments)
    except _Cannot as error:
        if asked:
            raise
        say(f"WARNING: not proved: {error.where}: {error.what}")
        return None
