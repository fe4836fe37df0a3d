"""A mistake keeps its kind where it is told in other words; programs know it by its code."""

import re

import pytest

from mlx_dpo.errors import DpoError

from ..conftest import ROOT

FIRST = DpoError("is empty", where="rows.jsonl:3", hint="write text", code="empty-text")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "rows.jsonl:3: is empty\n  write text"),
        ({"where": "pair 2"}, "pair 2: is empty\n  write text"),
        ({"what": "has no text"}, "rows.jsonl:3: has no text\n  write text"),
        ({"hint": "leave it out"}, "rows.jsonl:3: is empty\n  leave it out"),
        ({"where": "", "hint": ""}, "is empty"),
    ],
)
def test_an_error_in_other_words_is_of_the_same_kind(changes, told):
    other = FIRST.instead(**changes)
    assert (str(other), other.code) == (told, "empty-text")
    assert str(FIRST) == "rows.jsonl:3: is empty\n  write text"


def test_no_error_is_told_again_without_its_code():
    """`error.instead(...)` keeps it; a new error with the words of another one does not."""
    again = re.compile(r"DpoError\((?:[^()]|\([^()]*\))*\berror\.(?:what|hint|where)\b")
    assert [p.name for p in (ROOT / "mlx_dpo").rglob("*.py") if again.search(p.read_text())] == []
    assert again.search('raise DpoError(f"no: {error.what}", where=place(error)) from None')
