"""Where an answer ends: the end of turn of the chat template, and the tokens at which mlx_lm stops."""

from pathlib import Path
from typing import Any

from ..data.conversation_tokens import end_of_turn
from ..printed_commands import command_line
from ..upstream import tokenizer_defaults
from .config_files import read_model_config


def token_ids(value: Any) -> list[int]:
    """The ids in a config's `eos_token_id`, which is an int, a list or absent."""
    if isinstance(value, int):
        return [value]
    return list(value or [])


def mlx_lm_stops(folder: Path, tokenizer: Any) -> list[int]:
    """Token ids at which mlx_lm ends an answer, by the model's files: its configs, then its tokenizer.

    Args:
        folder: the model's folder.
        tokenizer: of that folder.
    """
    ends = read_model_config(folder).get("eos_token_id")
    if ends is None:
        ends = tokenizer_defaults(folder).get("eos_token_ids")
    own = tokenizer.eos_token_id
    return list(dict.fromkeys([*token_ids(ends), *([] if own is None else [own])]))


def unlisted_end(folder: Path, tokenizer: Any) -> int | None:
    """The end of turn if mlx_lm does not stop at it with the files in `folder`; None if it does.

    Raises:
        DpoError: the tokenizer has no end of turn.
    """
    end = end_of_turn(tokenizer)
    return None if end in mlx_lm_stops(folder, tokenizer) else end


def stop_flags(folder: Path, tokenizer: Any) -> list[str]:
    """Options that `mlx_lm generate` needs to stop at the end of turn; empty if it stops without them."""
    end = unlisted_end(folder, tokenizer)
    return [] if end is None else ["--extra-eos-token", _as_argument(tokenizer, end)]


def _as_argument(tokenizer: Any, end: int) -> str:
    """The token as text, or its id if mlx_lm would read the text as another id or as an option."""
    token = tokenizer.convert_ids_to_tokens(end)
    return str(end) if token[0] in "+-" or token[0].isdigit() else token


def end_note(folder: Path, tokenizer: Any) -> str | None:
    """A note for a user whose model files do not list the end of turn; None if they do."""
    flags = stop_flags(folder, tokenizer)
    if not flags:
        return None
    token = tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer))
    return (
        f"note: the chat template ends a turn with {token}, but the model's own files do not list that "
        "token as an end token. mlx_lm continues after the end of the answer unless you add "
        f"{command_line(flags)} to `mlx_lm generate`. mlx-dpo itself stops at {token}, and mlx-dpo fuse "
        "adds it to the fused model."
    )
