"""Prove a fused folder: mlx_lm reads every tensor, setting and token from it that the fused model has."""

from pathlib import Path
from typing import Any

from mlx.utils import tree_flatten

from ..data.conversation_tokens import end_of_turn
from ..errors import quoted
from ..models.config_files import CONFIG, SAMPLING, read_model_config
from ..models.end_of_turn import mlx_lm_stops
from ..models.load import load_tokenizer
from .end_of_turn_files import read_configs, with_end
from .fused_model import FusedModel
from .hub_layout import base_tensors, check_read_back
from .read_back import check_fields, check_tensor_names, damaged

_END = "eos_token_id"


def prove_fused(folder: Path, base: Path, fused: FusedModel) -> None:
    """Read a finished folder back and compare it with the fused model.

    Raises:
        DpoError: names the tensor, the field or the token that differs.
    """
    weights = dict(tree_flatten(fused.model.parameters()))
    check_tensor_names(base_tensors(folder).tensors.keys(), weights, folder)
    check_read_back(fused.model, fused.config, iter(base_tensors(folder).tensors.items()), folder)
    end, stops = end_of_turn(fused.tokenizer), mlx_lm_stops(base, fused.tokenizer)
    config, sampling = with_end(fused.config, read_configs(base)[1], end, stops)
    if _END in sampling:
        config[_END] = sampling[_END]  # as mlx_lm reads it
    check_fields(folder / CONFIG, read_model_config(folder), config)
    check_fields(folder / SAMPLING, read_configs(folder)[1], sampling)
    check_tokenizer(folder, load_tokenizer(folder), fused.tokenizer)


def check_tokenizer(folder: Path, found: Any, wanted: Any) -> None:
    """Check that two tokenizers have the same entries, cut a text alike, and have the same chat template.

    Raises:
        DpoError: names the token, the text or the template.
    """
    entries, own = found.get_vocab(), wanted.get_vocab()
    if other := sorted(token for token in entries.keys() | own if entries.get(token) != own.get(token)):
        raise damaged(f"the token {quoted(other[0])} is not what it should be", folder)
    text = wanted.decode(sorted(own.values()), clean_up_tokenization_spaces=False)
    if found.encode(text, verbose=False) != wanted.encode(text, verbose=False):
        raise damaged("a text of all entries has other tokens than in the base model", folder)
    if _lines(found.chat_template) != _lines(wanted.chat_template):
        raise damaged("has another chat template than the run", folder)


def _lines(template: Any) -> Any:
    """A template with the line ends that Jinja gives it."""
    return template.replace("\r\n", "\n") if isinstance(template, str) else template
