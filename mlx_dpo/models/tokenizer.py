"""The tokenizer of a model folder: checked, loaded, tried, and compared with the model's embedding."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..console import say
from ..data.chat_template import render
from ..errors import DpoError, first_line, first_ten, quoted
from ..storage.reading import is_there, opened, read_object, read_text
from .weights import DOWNLOAD

_SETTINGS, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_OBJECTS = (_SETTINGS, "special_tokens_map.json", "added_tokens.json", "chat_template.json")
_OTHERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")


def read_tokenizer(folder: Path, ends: int | list[int] | None) -> Any:
    """The tokenizer of a folder; code in the folder is not executed.

    Args:
        ends: token ids that end an answer.

    Raises:
        DpoError: the tokenizer is missing, or cannot be read or used.
    """
    from mlx_lm.utils import load_tokenizer

    settings = _checked_files(folder)
    try:
        tokenizer = load_tokenizer(folder, {"trust_remote_code": False}, eos_token_ids=ends)
        _check_length(tokenizer.model_max_length, folder)
        tokenizer.decode(tokenizer.encode("a"))
    except (DpoError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # transformers raises many kinds; a panic in Rust code is not an Exception
        raise _unloadable(folder, settings, error) from None
    _check_template(tokenizer.chat_template, folder)
    return tokenizer


def _checked_files(folder: Path) -> dict[str, Any]:
    """The content of tokenizer_config.json, after a check that all files of the tokenizer can be read."""
    found = {name: read_object(folder / name, DOWNLOAD) for name in _OBJECTS if is_there(folder / name)}
    for name in _OTHERS:
        if is_there(folder / name):
            with opened(folder / name, DOWNLOAD) as file:
                file.read(1)
    if is_there(folder / _TEMPLATE):
        read_text(folder / _TEMPLATE, DOWNLOAD)
    return found.get(_SETTINGS, {})


def _unloadable(folder: Path, settings: Mapping[str, Any], error: BaseException) -> DpoError:
    """What to raise when the tokenizer's library fails."""
    hint = "the folder needs tokenizer.json and tokenizer_config.json; download the model again"
    if "trust_remote_code" in str(error):
        what = "the tokenizer needs its own code (auto_map)"
        hint = "code in model folders is never executed: choose a model whose tokenizer transformers supports"
        return DpoError(what, where=folder / _SETTINGS, hint=hint)
    if not is_there(folder / "tokenizer.json"):
        return DpoError("the tokenizer cannot be loaded: there is no tokenizer.json", where=folder, hint=hint)
    read_object(folder / "tokenizer.json", DOWNLOAD)  # its error names the line that is not JSON
    return DpoError(f"the tokenizer cannot be loaded: {first_line(error)}", where=folder, hint=hint)


def _check_length(value: Any, folder: Path) -> None:
    if not isinstance(value, int | float):
        what = f"model_max_length is {quoted(value)}, not a number"
        raise DpoError(what, where=folder / _SETTINGS, hint=DOWNLOAD)


def _check_template(template: Any, folder: Path) -> None:
    """Check that each chat template is text that can be written as UTF-8."""
    file = folder / (_TEMPLATE if is_there(folder / _TEMPLATE) else _SETTINGS)
    texts = template.values() if isinstance(template, dict) else [] if template is None else [template]
    for text in texts:
        if not isinstance(text, str):
            raise DpoError(f"chat_template is {quoted(text)}, not text", where=file, hint=DOWNLOAD)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = ascii(text[error.start])
            raise DpoError(
                f"chat_template contains half of a character: {half}", where=file, hint=DOWNLOAD
            ) from None


def check_embedded(tokenizer: Any, rows: int | None, where: Path) -> None:
    """Check that every token that can occur has a row in the model's embedding.

    Beyond the last row MLX reads other memory, without an error. Ordinary tokens can occur in any text, and
    so can the special tokens that start or end a text and those of the chat template. Other special tokens,
    such as Gemma 3's <image_soft_token>, occur only in a text that spells them: a note says so, and such a
    row is refused, see `data.tokenize.check_known`.

    Args:
        rows: number of token ids in the embedding; None if unknown.

    Raises:
        DpoError: a token has no row.
    """
    if rows is None:
        return
    tokenizer.embedded_tokens = rows
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    ends = {number for number in tokenizer.eos_token_ids if number >= rows}
    if not beyond and not ends:
        return
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    used = sorted((beyond.keys() & (_template_tokens(tokenizer) | (beyond.keys() - special))) | ends)
    if used:
        number = used[-1]
        names = first_ten([f"{n} {beyond[n]!r}" if n in beyond else f"{n}" for n in used])
        raise DpoError(
            f"the tokenizer has tokens beyond the {rows:,} rows of the model's embedding: {names}",
            where=where,
            hint="use the tokenizer that belongs to this model, or give the model more rows: in transformers "
            f"model.resize_token_embeddings({number + 1})",
        )
    names = first_ten([f"{beyond[n]} ({n})" for n in sorted(beyond)])
    say(
        f"note: the model's embedding has {rows:,} rows, but none for {names}; data rows that contain such a "
        "token are refused"
    )


def _template_tokens(tokenizer: Any) -> set[int]:
    """Tokens that the chat template and the tokenizer add around the texts."""
    system, user, answer = ({"role": role, "content": role} for role in ("system", "user", "assistant"))
    found = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    for turns, asked in (([user], True), ([system, user], True), ([user, answer], False)):
        with suppress(DpoError):  # some templates accept no system turn
            text = render(tokenizer, turns, generation_prompt=asked)
            found |= {*tokenizer.encode(text, add_special_tokens=not tokenizer.has_chat_template)}
    return found
