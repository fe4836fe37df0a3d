"""Answers whose first line was indented, as code that goes on: that indentation is stripped."""

import re
from collections.abc import Mapping
from typing import Any

from .defects import KINDS, WARNING, Defect, Kind, defect

INDENT = "indent-stripped"
KINDS[INDENT] = Kind(
    WARNING,
    "the first line of an answer was indented, and white space around answers is stripped",
    "let the answer begin with a line that is not indented, such as the fence of a code block",
)
_INDENTED = re.compile(r"(?:[ \t]*\n)*(?: {2,}|\t)\s*\S[^\n]*\n")


def of_indents(row: Mapping[str, Any], where: str) -> list[Defect]:
    """Whether an answer of the row, as it is in the file, begins with indentation and has more lines."""
    found = [name for name in ("chosen", "rejected") if _INDENTED.match(_text(row.get(name)))]
    return [defect(where, INDENT, f"{' and '.join(found)}: the first line was indented")] if found else []


def _text(value: Any) -> str:
    last = value[-1] if isinstance(value, list) and value else value
    content = last.get("content") if isinstance(last, dict) else last
    return content if isinstance(content, str) else ""
