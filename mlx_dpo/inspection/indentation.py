"""Answers whose first line is indented, as in code: this indentation is stripped."""

import re
from collections.abc import Mapping
from typing import Any

from .defects import KINDS, WARNING, Defect, Kind, defect

INDENT = "indent-stripped"
KINDS[INDENT] = Kind(
    WARNING,
    "the first line of an answer is indented, but white space around answers is stripped",
    "begin the answer with a line that is not indented, such as the fence of a code block",
)
_INDENTED = re.compile(r"(?:[ \t]*\n)*(?: {2,}|\t)\s*\S[^\n]*\n")


def of_indents(row: Mapping[str, Any], where: str) -> list[Defect]:
    """The defect if an answer in the row of the file begins with indentation and has more lines."""
    found = [name for name in ("chosen", "rejected") if _INDENTED.match(_text(row.get(name)))]
    return [defect(where, INDENT, f"{' and '.join(found)}: the first line is indented")] if found else []


def _text(value: Any) -> str:
    last = value[-1] if isinstance(value, list) and value else value
    content = last.get("content") if isinstance(last, dict) else last
    return content if isinstance(content, str) else ""
