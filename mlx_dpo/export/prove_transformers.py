"""Prove an export in the Hub's layout: mlx_lm and transformers read it as the fused model."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from mlx.utils import tree_flatten

from ..errors import DpoError, first_line
from ..models.end_of_turn import mlx_lm_stops
from ..storage.reading import read_object
from .end_of_turn_files import NAMES, read_configs, with_end
from .hub_layout import base_tensors, check_read_back
from .hub_model import Source, text_files
from .predictions import (
    EXACT,
    Agreement,
    Predictions,
    check_alike,
    computes_exactly,
    log_softmax,
    mlx_predictions,
    predictions,
)
from .read_back import check_fields, check_tensor_names, damaged, octets

_HINT = "nothing was exported; please report this with the model's name"


def can_prove() -> bool:
    """Whether torch is installed, so that transformers can run the model."""
    return find_spec("torch") is not None


def prove_transformers(folder: Path, source: Source, rows: Sequence[Sequence[int]]) -> Agreement:
    """Read a finished folder back and compare it with the fused model: files, tokens, predictions.

    Raises:
        DpoError: names the tensor, the field, the file or the text that differs.
    """
    check_files(folder, source)
    check_tokens(folder, source, rows)
    exact = EXACT if computes_exactly(source.fused.model) else None
    wanted = mlx_predictions(source.fused.model, rows)
    return check_alike(wanted, transformers_predictions(folder, rows), "transformers", folder, exact)


def check_files(folder: Path, source: Source) -> None:
    """Check every tensor bit for bit, every field of the config, and every file copied from the base.

    Raises:
        DpoError: names what differs.
    """
    check_tensor_names(base_tensors(folder).tensors.keys(), source.tensors.keys(), folder)
    model, config = source.fused.model, source.fused.config
    check_read_back(model, config, iter(base_tensors(folder).tensors.items()), folder)
    written = base_tensors(folder).tensors
    others = written.keys() - _of_the_model(source)
    for name in sorted(others):
        if not np.array_equal(octets(written[name]), octets(source.tensors[name])):
            raise damaged(f"the tensor {name} differs from the base's", folder)
    _, sampling = read_configs(source.base)
    stops = mlx_lm_stops(source.base, source.tokenizer)
    meant = with_end(source.config, sampling, source.end, stops)
    for name, found, wanted in zip(NAMES, read_configs(folder), meant, strict=True):
        check_fields(folder / name, found, wanted)
    for file in text_files(source.base):
        own = folder / file.name
        if file.name == "tokenizer_config.json":
            check_fields(own, read_object(own), read_object(file), ["chat_template"])
        elif file.name not in NAMES and "template" not in file.name and file.read_bytes() != own.read_bytes():
            raise damaged("differs from the base's file", own)


def _of_the_model(source: Source) -> set[str]:
    from .hub_layout import HubTensors

    kind = str(source.config.get("model_type"))
    return {*HubTensors(kind, dict(tree_flatten(source.fused.model.parameters())))}


def check_tokens(folder: Path, source: Source, rows: Sequence[Sequence[int]]) -> None:
    """Check that transformers' tokenizer of the folder reads the rows' text as the run did.

    Raises:
        DpoError: names the text that differs.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises many kinds
        raise DpoError(
            f"transformers cannot read the tokenizer: {first_line(error)}", where=folder, hint=_HINT
        ) from None
    for row in rows:
        text = source.tokenizer.decode(list(row))
        own = source.tokenizer.encode(text, add_special_tokens=False)
        if tokenizer.encode(text, add_special_tokens=False) != own:
            raise DpoError(f"other tokens for {text[:80]!r}", where=folder, hint=_HINT, code="damaged")
    if tokenizer.chat_template != source.tokenizer.chat_template:
        raise DpoError("has another chat template than the run", where=folder, hint=_HINT, code="damaged")


def transformers_predictions(folder: Path, rows: Sequence[Sequence[int]]) -> Predictions:
    """Computed by transformers on torch, in float32 on the CPU.

    Raises:
        DpoError: it cannot load the folder.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, about = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers raises many kinds
        raise DpoError(
            f"transformers cannot load it: {first_line(error)}", where=folder, hint=_HINT
        ) from None
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if wrong := sorted(map(str, about.get(kind) or ())):
            raise DpoError(
                f"{kind.replace('_keys', '')} in transformers: {wrong[0]}",
                where=folder,
                hint=_HINT,
                code="damaged",
            )

    def after(tokens: Sequence[int]) -> np.ndarray:
        with torch.no_grad():
            return log_softmax(model(torch.tensor([list(tokens)])).logits[0, -1].numpy())

    return predictions("transformers", after, rows)
