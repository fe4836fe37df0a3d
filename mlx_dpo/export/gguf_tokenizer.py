"""The fields of a GGUF file that describe the tokenizer, from tokenizer.json.

Source: ggml-org/llama.cpp, conversion/base.py; the names of split patterns from src/llama-vocab.cpp.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DpoError, quoted
from ..storage.reading import is_there, read_object
from .gguf_fields import Field, unsupported

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.cpp's kinds of tokens: control tokens are special, unused ones fill the embedding's rows."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS, _REST = r"|[^\r\n\p{L}\p{N}]?\p{L}+|", r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_THREE_DIGITS = _CONTRACTIONS + _LETTERS + r"\p{N}{1,3}" + _REST
_ONE_DIGIT = _CONTRACTIONS + _LETTERS + r"\p{N}" + _REST
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<pad>|<mask>")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "▁"
_HINT = "export the model with mlx-dpo export hf, and convert it with llama.cpp's convert_hf_to_gguf.py"


def tokenizer_fields(folder: Path, tokenizer: Any, end: int, rows: int) -> list[Field]:
    """All fields whose names start with "tokenizer.".

    Args:
        folder: the base's folder, with tokenizer.json.
        tokenizer: with the chat template that the run used.
        end: the token that ends an answer.
        rows: rows of the embedding; the list of tokens gets the same length.

    Raises:
        DpoError: llama.cpp does not have such a tokenizer.
    """
    file = folder / "tokenizer.json"
    if not is_there(file):
        raise unsupported("no GGUF without a tokenizer.json", folder)
    content = read_object(file)
    model = content.get("model") or {}
    if model.get("type") != "BPE":
        raise unsupported(f"no GGUF with a tokenizer of type {quoted(model.get('type'))}", file)
    byte_level = _steps(content.get("decoder"), "decoders", "ByteLevel")
    fields = _byte_level(content, file) if byte_level else _sentencepiece(content, rows, file)
    tokens, kinds = token_list(content, rows, byte_level=bool(byte_level))
    return [
        *fields,
        Field("tokenizer.ggml.tokens", "array", tokens),
        Field("tokenizer.ggml.token_type", "array", kinds),
        *_special(tokenizer, end, rows),
        *_template(tokenizer),
    ]


def _byte_level(content: Mapping[str, Any], file: Path) -> list[Field]:
    return [
        Field("tokenizer.ggml.model", "string", "gpt2"),
        Field("tokenizer.ggml.pre", "string", split_name(content, file)),
        Field("tokenizer.ggml.merges", "array", [_merge(pair) for pair in content["model"]["merges"]]),
    ]


def _merge(pair: str | Sequence[str]) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)


def split_name(content: Mapping[str, Any], file: Path) -> str:
    """llama.cpp's name for the way a byte-level tokenizer splits text before merging.

    Raises:
        DpoError: the way is not known.
    """
    whole = content.get("pre_tokenizer") or {}
    steps = whole.get("pretokenizers") if whole.get("type") == "Sequence" else [whole]
    kinds = [step.get("type") for step in steps]
    plain = bool(steps and steps[-1].get("use_regex", True)) and not steps[-1].get("add_prefix_space")
    if kinds == ["ByteLevel"] and plain:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and plain and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        pattern = steps[0].get("pattern", {}).get("Regex")
        if pattern == _THREE_DIGITS:
            return "llama-bpe" if content["model"].get("ignore_merges") else "dbrx"
        if pattern == _ONE_DIGIT:
            return "qwen2"
    raise unsupported("llama.cpp's name for this tokenizer's pre_tokenizer is not known", file)


def token_list(content: Mapping[str, Any], rows: int, *, byte_level: bool) -> tuple[list[str], list[int]]:
    """Text and kind of every token id from 0 to `rows`; ids that the tokenizer does not use are filled."""
    by_id = {number: token for token, number in content["model"]["vocab"].items()}
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(rows)]
    kinds = [NORMAL if number in by_id else UNUSED for number in range(rows)]
    if not byte_level:
        kinds = [
            BYTE if kind == NORMAL and _BYTE_TOKEN.fullmatch(token) else kind
            for token, kind in zip(tokens, kinds, strict=True)
        ]
        unknown = content["model"]["vocab"].get(content["model"].get("unk_token"))
        if unknown is not None and unknown < rows:
            kinds[unknown] = UNKNOWN
    for added in content.get("added_tokens", []):
        number, text = added["id"], added["content"]
        if number >= rows:
            continue
        special = added.get("special") or bool(_LOOKS_SPECIAL.fullmatch(text))
        if kinds[number] != UNKNOWN:
            kinds[number] = CONTROL if special else USER_DEFINED
        tokens[number] = text if special else text.replace(_SPACE, " ")
    return tokens, kinds


def _sentencepiece(content: Mapping[str, Any], rows: int, file: Path) -> list[Field]:
    """A tokenizer that came from SentencePiece's BPE, as Gemma's: llama.cpp merges by scores.

    The score of a token is minus the rank of the first merge that makes it, so that llama.cpp merges in the
    same order.
    """
    if not content["model"].get("byte_fallback"):
        raise unsupported("no GGUF with a tokenizer that has neither bytes nor a byte fallback", file)
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(content["model"]["merges"]):
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        ranks.setdefault(left + right, rank)
    tokens, _ = token_list(content, rows, byte_level=False)
    scores = [-float(ranks[token]) if token in ranks else -1e6 for token in tokens]
    prepends = _steps(content.get("normalizer"), "normalizers", "Prepend")
    return [
        Field("tokenizer.ggml.model", "string", "llama"),
        Field("tokenizer.ggml.pre", "string", "default"),
        Field("tokenizer.ggml.scores", "array", scores),
        Field("tokenizer.ggml.add_space_prefix", "bool", bool(prepends)),
    ]


def _steps(part: Mapping[str, Any] | None, several: str, kind: str) -> list[Mapping[str, Any]]:
    """Steps of that kind in a part of tokenizer.json, which is one step or a sequence of them."""
    steps = (part or {}).get(several) or [part or {}]
    return [step for step in steps if step.get("type") == kind]


def _special(tokenizer: Any, end: int, rows: int) -> list[Field]:
    named = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id if tokenizer.eos_token_id is not None else end,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    if named["eos"] != end:
        named["eot"] = end
    fields = [
        Field(f"tokenizer.ggml.{name}_token_id", "uint32", number)
        for name, number in named.items()
        if number is not None and number < rows
    ]
    encoded = tokenizer.encode("a")
    begins = tokenizer.bos_token_id is not None and encoded[:1] == [tokenizer.bos_token_id]
    ends = len(encoded) > 1 and encoded[-1] == named["eos"]
    return [
        *fields,
        Field("tokenizer.ggml.add_bos_token", "bool", begins),
        Field("tokenizer.ggml.add_eos_token", "bool", ends),
    ]


def _template(tokenizer: Any) -> list[Field]:
    """The chat template; of several, the one named default.

    Raises:
        DpoError: mlx_lm renders conversations with its own code.
    """
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    if template is None and tokenizer.has_chat_template:
        raise DpoError("has a chat template that is code of mlx_lm", where="model.path", hint=_HINT)
    return [Field("tokenizer.chat_template", "string", template)] if template else []
