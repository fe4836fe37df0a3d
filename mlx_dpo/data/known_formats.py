"""All formats of rows that are known, in the order in which they are tried: importing this registers them."""

from . import (  # noqa: F401
    answer_formats,
    open_webui_format,
    pair_formats,
    ranked_formats,
    transcripts,
    voted_formats,
)
from .format_registry import (
    FORMATS,
    NoPairError,
    RowFormat,
    converted,
    detected,
    format_of,
    in_their_words,
    other_format,
)

__all__ = [
    "FORMATS",
    "NoPairError",
    "RowFormat",
    "converted",
    "detected",
    "format_of",
    "in_their_words",
    "other_format",
]
