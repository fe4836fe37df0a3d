"""Which command follows a supervised run: inspect where its file holds pairs, else gen-pairs."""

from mlx_dpo.cli.next_command import _all_pairs

from ..support.mistakes import cases, curated, lines, pair

RANKED = {"prompt": "Why?", "responses": ["One.", "Two.", "Three."], "ranks": [1, 2, 3]}
FILES = {
    "pairs": (lines(pair(), pair(prompt="Why?")), True),
    "blank lines between pairs": ("\n" + lines(pair()) + "\n\n" + lines(pair(prompt="Why?")), True),
    "rows that rank several answers": (lines(RANKED, RANKED), True),
    "curated answers": (lines(curated(), curated(prompt="Why?")), False),
    "a curated answer among pairs": (lines(pair(), curated(prompt="Why?")), False),
    "no rows": ("\n", False),
    "a table of pairs": ("prompt,chosen,rejected\nHow?,So.,Thus.\n", True),
    "a table without rejected answers": ("prompt,chosen\nHow?,So.\n", False),
    "a line that is no row": (lines(pair()) + "{", False),
}


@cases(FILES)
def test_a_file_is_of_pairs_where_training_on_pairs_would_read_every_row(case, tmp_path):
    content, of_pairs = case
    (tmp_path / "rows.jsonl").write_text(content)
    assert _all_pairs(str(tmp_path / "rows.jsonl")) == of_pairs


def test_a_file_that_is_gone_is_not_of_pairs(tmp_path):
    assert not _all_pairs(str(tmp_path / "rows.jsonl"))
