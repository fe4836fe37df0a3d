"""Export the adapter of a run for PEFT: checks, files and proof."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..console import say
from ..errors import DpoError
from ..models.adapters import read_adapter_config
from ..models.config_files import read_model_config
from ..models.hub_blocks import blocks_of
from ..models.load import ModelConfig, find_model
from ..storage.files import check_writable, replace_folder
from ..storage.reading import expanded, is_there
from .base_card import card_base, hub_name
from .made_from import write_made_from
from .own_template import FILE as TEMPLATE
from .own_template import write_own_template
from .peft import consumer_notes, peft_adapter
from .prove_peft import PeftProof, proof_or_note
from .start import checked_tokenizer, find_base, named

_TEXT = "How do I clean a copper kettle? Rub it with half a lemon and some salt, rinse it, and dry it well."
_TOKENS = 64


class PeftExport(NamedTuple):
    """An exported adapter. `notes`: what other programs need; `proof`: None if there is none."""

    folder: Path
    config: dict[str, Any]
    notes: list[str]
    proof: PeftProof | None


def export_peft(
    model: ModelConfig,
    adapter: Path,
    output: Path,
    *,
    base_name: str | None = None,
    prove: bool | None = None,
    rows: Callable[[Any], Sequence[Sequence[int]]] = lambda tokenizer: [tokenizer.encode(_TEXT)],
) -> PeftExport:
    """Write the adapter of a run as a PEFT adapter, and prove that PEFT computes the same with it.

    The folder appears only when it is complete and proved.

    Args:
        model: the run's model settings.
        base_name: Hub name or folder of the unquantised base model, for base_model_name_or_path.
        prove: None proves where transformers, PEFT and torch are installed.
        rows: gives the token ids on which to compare; the first 64 of each are used.

    Raises:
        DpoError: the target exists, the run trained all weights, PEFT has no adapter for a layer, the disk is
            full, or the proof failed.
    """
    base = find_base(model.path, adapter, output)
    own = read_adapter_config(adapter)
    if own.type == "full":
        raise DpoError(
            "was trained with adapter.type=full: it has no adapter that PEFT could read",
            where=adapter,
            hint="export the whole model instead: mlx-dpo export hf, or mlx-dpo fuse",
        )
    config = read_model_config(base)
    blocks = blocks_of(config)
    name = _full(base_name) if base_name else _base_name(model.path, base, "quantization" in config)
    tokenizer = checked_tokenizer(base, adapter, model)
    made = peft_adapter(adapter, own, blocks, name)
    check_writable(output, need_bytes=sum(value.nbytes for value in made.tensors().values()))
    proof: PeftProof | None = None
    notes = consumer_notes(made.config, output)

    def write(beside: Path) -> None:
        nonlocal proof
        made.write(beside)
        if write_own_template(beside, tokenizer, model):
            notes.append(
                f"the run has its own chat template: vLLM needs --chat-template {output / TEMPLATE}; in "
                "transformers, set tokenizer.chat_template to the text of that file"
            )
        with named(beside, output):
            made.check(beside)
        if prove is not False:
            shown = find_model(base_name) if base_name and (prove or is_there(expanded(base_name))) else base
            compared = [np.array(row[:_TOKENS], np.int32) for row in rows(tokenizer)]
            with named(beside, output):
                proof = proof_or_note(prove, beside, made, adapter, shown, compared)
        write_made_from(beside, output, "peft", adapter, {"proof": proof.text()} if proof else None)

    replace_folder(output, write)
    return PeftExport(output, made.config, notes, proof)


def _full(name: str) -> str:
    """The full path of a folder, which holds in every folder; a name on the Hub unchanged."""
    return os.path.abspath(expanded(name)) if is_there(expanded(name)) else name


def _base_name(path: str, base: Path, quantised: bool) -> str:
    """What other programs should load as base model: its name on the Hub, or its full path.

    Raises:
        DpoError: it is quantised for MLX, and its card does not name the model that it was made from.
    """
    if quantised:
        if name := card_base(base):
            say(f"the base model is quantised for MLX: the adapter names {name}, from its model card")
            return name
        raise DpoError(
            "is quantised for MLX, and other programs cannot load it",
            where=path,
            hint="name the model that it was made from: --base ORGANISATION/MODEL, or a folder",
        )
    if name := hub_name(path):
        return name
    full = os.path.abspath(base)
    say(f"the adapter names its base model by the path {full}; --base ORGANISATION/MODEL names it for others")
    return full
