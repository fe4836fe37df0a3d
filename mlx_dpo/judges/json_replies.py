"""Replies that are one JSON object."""

import json
import re
from typing import Any

from ..storage.jsonl import TwiceError, once

_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


class UnreadableReplyError(Exception):
    """Why a reply cannot be read, as the end of "Your reply cannot be used: ..."."""


def json_of(text: str, finish_reason: str | None) -> Any:
    """The JSON value that is the whole reply, maybe in a code fence. Reasoning up to </think> is left out.

    Raises:
        UnreadableReplyError: there is other text around it, the reply was cut off, or it has half of a
            character, which no file can store.
    """
    if finish_reason in ("length", "refusal", "content_filter"):
        raise UnreadableReplyError(f"the reply ended early ({finish_reason})")
    text = text.strip()
    if not text.startswith(("{", "```")):  # some templates open the reasoning in the prompt
        text = text.partition("</think>")[2].strip() or text
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text, object_pairs_hook=once)
        json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise UnreadableReplyError("the reply has half of a character") from None
    except (ValueError, RecursionError, TwiceError):
        why = "the reply is empty" if not text else "the reply is not one JSON object"
        raise UnreadableReplyError(why) from None
