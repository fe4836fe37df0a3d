"""The one reader of a file of rows: every line is good or refused, and a row may give several pairs."""

import json

import pytest

from mlx_dpo.data import format_registry
from mlx_dpo.data.own_format import to_curated_rows, to_pairs
from mlx_dpo.data.pair_store import open_pairs
from mlx_dpo.data.row_files import open_rows
from mlx_dpo.data.row_index import index_rows, shared_prompts
from mlx_dpo.data.row_reader import RowReader
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.data.tokenize import tokenize_pairs
from mlx_dpo.errors import DpoError
from mlx_dpo.inspection.row_checks import build_context
from mlx_dpo.inspection.scan import scan

from ..support.mistakes import curated, lines, pair
from ..support.runs import tokens_of

# ---- lines


@pytest.fixture
def bad_file(tmp_path):
    """Blank lines, good rows, and three kinds of bad ones between them."""
    file = tmp_path / "rows.jsonl"
    rows = [pair(id="é", source="a"), {"prompt": "How?"}, pair(source="b", note=1), ["How?"]]
    file.write_text("\n" + lines(rows[0]) + '{"prompt": \n' + " \n" + lines(*rows[1:]))
    return file


def test_a_reader_goes_on_where_a_row_is_refused(bad_file):
    found = [
        (line.number, line.error and (line.error.where, line.error.code), [r.id for r in line.records])
        for line in RowReader(open_rows(bad_file), to_pairs)
    ]
    assert found == [
        (2, None, ["é"]),
        (3, (f"{bad_file}:3", "not-json"), []),
        (5, (f"{bad_file}:5", "missing-chosen"), []),
        (6, None, ["line-6"]),
        (7, (f"{bad_file}:7", "not-an-object"), []),
    ]


def test_the_place_and_the_end_of_a_line_are_its_bytes(bad_file):
    content = bad_file.read_bytes()
    every = content.splitlines(keepends=True)
    for line in RowReader(open_rows(bad_file), to_pairs):
        assert content[line.place : line.end] == every[line.number - 1]


def test_rows_are_counted_good_or_bad_and_unused_columns_of_the_good_ones(bad_file):
    reader = RowReader(open_rows(bad_file), to_pairs)
    for _ in range(2):  # read again, counted anew
        assert len(list(reader)) == reader.rows == 5
        assert reader.unused == {"source": 2, "note": 1}


def test_the_first_bad_row_is_raised_where_only_good_ones_are_wanted(bad_file):
    good = RowReader(open_rows(bad_file), to_pairs).good()
    assert next(good).row["id"] == "é"
    with pytest.raises(DpoError, match=r"rows.jsonl:3: not JSON"):
        next(good)


def test_curated_rows_are_read_by_the_same_reader(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(lines(curated(), {"answer": "So."}))
    good, bad = RowReader(open_rows(file), to_curated_rows)
    assert (good.records[0].answer, bad.error.code) == ("So.", "missing-prompt")


def test_a_reader_refuses_a_file_without_rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n\n")
    with pytest.raises(DpoError, match="has no rows"):
        list(RowReader(open_rows(file), to_pairs))


# ---- a row that gives several pairs


def ranked(*texts, **more):
    """Answers, the best one first."""
    answers = [{"answer": text, "rank": rank} for rank, text in enumerate(texts, 1)]
    return {"prompt": "How?", "answers": answers} | more


RANKED = "\n".join(
    [
        "",
        json.dumps(ranked("So.", "Thus.", id="a")),
        "",
        json.dumps(ranked("One.", "Two.", "Three.", prompt="Why?", id="b", note=5)),
        json.dumps(ranked("I.", "I.", "You.", prompt="Who?")),  # of its pairs one has no difference
        json.dumps(ranked("So.", "Thus.", prompt="When?")),
        "",
    ]
)
IDS = ["a", "b/1", "b/2", "line-5/1", "line-5/2", "line-6"]
REJECTED = ["Thus.", "Two.", "Three.", "I.", "You.", "Thus."]
LINES = [2, 4, 4, 5, 5, 6]


@pytest.fixture
def ranked_file(tmp_path):
    file = tmp_path / "ranked.jsonl"
    file.write_text(RANKED)
    return file


def test_an_index_says_which_pair_of_which_row_an_entry_is(ranked_file):
    for _ in range(2):  # made, then found
        index = index_rows(ranked_file)
        assert index.lines.tolist() == LINES
        assert index.numbers.tolist() == [0, 0, 1, 0, 1, 0]
        assert index.unused == {"note": 1}
        read = [index.read(i) for i in range(len(index))]
        assert read == list(index.records()) == read_pairs(ranked_file)
        assert [row.id for row in read] == IDS
        assert [row.rejected for row in read] == REJECTED
        assert [row.where for row in read] == [f"{ranked_file}:{line}" for line in LINES]


def test_a_store_holds_every_pair_of_a_row_but_those_without_a_difference(ranked_file, tokenizer):
    expected, counts = tokenize_pairs(read_pairs(ranked_file), tokenizer, 64)
    kept = [0, 1, 2, 4, 5]
    for _ in range(2):  # made, then found
        pairs = open_pairs(index_rows(ranked_file), tokenizer, 64)
        assert tokens_of(pairs) == tokens_of(expected)
        assert pairs.counts == counts
        assert (counts.rows, counts.kept, counts.same) == (6, 5, 1)
        assert [p.where for p in pairs] == [f"{ranked_file}:{LINES[i]}" for i in kept]
        assert [text.id for text in pairs.texts] == [IDS[i] for i in kept]
        assert [text.rejected for text in pairs.texts] == [REJECTED[i] for i in kept]


def test_inspect_finds_the_pairs_of_a_row_that_a_run_would_train_on(ranked_file, tokenizer):
    found = scan(ranked_file, build_context(tokenizer, 64, 0.95))
    assert (found.rows, len(found.index), found.index.unused) == (4, 6, {"note": 1})
    assert [(d.line, d.code) for d in found.defects] == [(5, "identical-answers")]
    assert tokens_of(found.pairs) == tokens_of(open_pairs(index_rows(ranked_file), tokenizer, 64))
    assert [text.id for text in found.pairs.texts] == ["a", "b/1", "b/2", "line-5/2", "line-6"]


def test_the_prompt_of_a_row_is_found_in_another_file_for_each_of_its_pairs(ranked_file, write_rows):
    others = index_rows(write_rows("others.jsonl", [pair(prompt="why?")]))
    assert shared_prompts(index_rows(ranked_file), others).tolist() == [1, 2]


def test_a_row_of_another_form_than_its_file_is_named_by_its_line(ranked_file, tokenizer):
    with open(ranked_file, "a") as more:
        more.write(lines({"prompt": "How?", "answers": ["So."]}))
    with pytest.raises(DpoError, match=r"ranked.jsonl:7: does not look like the first rows"):
        index_rows(ranked_file)
    defects = scan(ranked_file, build_context(tokenizer, 64, 0.95)).defects
    assert [(d.line, d.code) for d in defects] == [(5, "identical-answers"), (7, "other-format")]


def test_an_id_that_is_written_as_the_id_of_another_rows_pair_is_refused(ranked_file):
    with open(ranked_file, "a") as more:
        more.write(lines(ranked("So.", "Thus.", id="b/2")))
    for read in (index_rows, read_pairs):
        with pytest.raises(DpoError, match=r"ranked.jsonl:7: the id 'b/2' is also used at .*ranked.jsonl:4"):
            read(ranked_file)


def test_a_file_is_read_again_when_its_format_has_become_known(write_rows, monkeypatch):
    file = write_rows("rows.jsonl", [pair(best="So.", others=["Thus.", "Then."])])
    before = index_rows(file).numbers.tolist()
    monkeypatch.setattr(format_registry, "FORMATS", dict(format_registry.FORMATS))
    format_registry.row_format("best of three", {"best": format_registry.TEXT}, "others")(
        lambda row: [pair(chosen=row["best"], rejected=other) for other in row["others"]]
    )
    assert (before, index_rows(file).numbers.tolist()) == ([0], [0, 1])


def test_a_pair_that_is_gone_since_the_file_was_read_is_an_error(ranked_file):
    index = index_rows(ranked_file)
    ranked_file.write_text(RANKED.replace(', {"answer": "Three.", "rank": 3}]', "]"))
    with pytest.raises(DpoError, match=r"ranked.jsonl: changed while it was read"):
        index.read(2)
    assert index.read(1).id == "b", "the row gives one pair now"


def test_a_file_of_plain_pairs_has_one_pair_a_row(mixed_file):
    index = index_rows(mixed_file)
    assert set(index.numbers.tolist()) == {0}
    assert len(set(index.lines.tolist())) == len(index)
