"""Which command follows a supervised run: inspect where its file holds pairs, else gen-pairs."""

import pytest

from mlx_dpo.cli.next_command import _all_pairs
from mlx_dpo.data import formats
from mlx_dpo.data.formats import ROW_KINDS, RowKind

from ..support.mistakes import cases, curated, lines, pair

RANKED = {"prompt": "Why?", "best_first": ["One.", "Two.", "Three."]}
FILES = {
    "pairs": (lines(pair(), pair(prompt="Why?")), True),
    "blank lines between pairs": ("\n" + lines(pair()) + "\n\n" + lines(pair(prompt="Why?")), True),
    "rows that rank several answers": (lines(pair(), RANKED), True),
    "curated answers": (lines(curated(), curated(prompt="Why?")), False),
    "a curated answer among pairs": (lines(pair(), curated(prompt="Why?")), False),
    "no rows": ("\n", False),
    "another format": ("prompt,chosen\nHow?,So.\n", False),
    "a line that is no row": (lines(pair()) + "{", False),
}


@pytest.fixture(autouse=True)
def ranks(monkeypatch):
    """Rows with the column `best_first` are of a kind of their own, made up for these tests."""

    def ranked(row, where):
        best, *others = row["best_first"]
        texts = ({"prompt": row["prompt"], "chosen": best, "rejected": other} for other in others)
        return [formats.to_preference(text, where) for text in texts]

    monkeypatch.setitem(ROW_KINDS, "best_first", RowKind(ranked, frozenset({"best_first"})))


@cases(FILES)
def test_a_file_is_of_pairs_where_training_on_pairs_would_read_every_row(case, tmp_path):
    content, of_pairs = case
    (tmp_path / "rows.jsonl").write_text(content)
    assert _all_pairs(str(tmp_path / "rows.jsonl")) == of_pairs


def test_a_file_that_is_gone_is_not_of_pairs(tmp_path):
    assert not _all_pairs(str(tmp_path / "rows.jsonl"))
