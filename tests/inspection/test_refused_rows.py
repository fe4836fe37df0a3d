"""Every error about a row says by its code what kind it is, and inspect knows that kind."""

import ast
import re
from types import SimpleNamespace

import pytest

from mlx_dpo.data.own_format import to_curated, to_preference
from mlx_dpo.data.sources import read_curated, read_pairs
from mlx_dpo.data.tokenize import check_known
from mlx_dpo.data.unusable_rows import _LAYOUTS
from mlx_dpo.errors import DpoError
from mlx_dpo.inspection.defects import ERROR, KINDS
from mlx_dpo.inspection.refused_rows import refused
from mlx_dpo.storage.jsonl import ROW_BYTES

from ..conftest import ROOT
from ..data.test_bad_curated_rows import CURATED
from ..data.test_bad_rows import PAIRS
from ..support.mistakes import cases, chat, curated, lines, pair, write

NOT_OF_A_ROW = {
    *(
        "append_jsonl",
        "row_files",
        "_check_no_file",
        "__iter__",
        "changed",
        "no_pairs",
        "_read",
        *("_refused", "_unpacked", "check_pyarrow", "_unreadable", "hub_files", "_downloaded", "of_split"),
    ),  # of a file or a store
    *("end_of_turn", "check_template", "template_source", "render"),  # of a tokenizer
    *("_check_options", "_day"),  # of settings
}
"""Functions whose errors are about something else than a row."""


def refusals(path):
    """(function, line, the code's expression or None) of every DpoError that a file makes."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "DpoError":
                    code = next((k.value for k in call.keywords if k.arg == "code"), None)
                    yield function.name, call.lineno, code


FILES = [*sorted((ROOT / "mlx_dpo/data").glob("*.py")), ROOT / "mlx_dpo/storage/jsonl.py"]


def without_code(files):
    """Names and lines of the errors about a row that have no code."""
    found = [(path.name, *refusal) for path in files for refusal in refusals(path)]
    return [(file, line) for file, name, line, code in found if not code and name not in NOT_OF_A_ROW]


def test_every_error_about_a_row_is_raised_with_a_code():
    assert without_code(FILES) == []
    assert sum(len(list(refusals(path))) for path in FILES) > 40


def test_a_planted_error_without_a_code_is_found(tmp_path):
    (tmp_path / "one.py").write_text("def read(row):\n    raise DpoError('is cursed', where='rows:1')\n")
    assert without_code([tmp_path / "one.py"]) == [("one.py", 2)]


def test_every_code_that_is_written_down_is_of_a_kind_that_inspect_knows():
    codes = [code for path in FILES for *_, code in refusals(path) if code]
    written = {node.value for code in codes for node in ast.walk(code) if isinstance(node, ast.Constant)}
    assert written <= set(KINDS)
    assert {layout.code for layout in _LAYOUTS} <= set(KINDS)
    assert all(KINDS[code].severity == ERROR for code in written)


def refusal_of(read, *args):
    with pytest.raises(DpoError) as caught:
        read(*args)
    return caught.value


def of_rows(table):
    return {name: case for name, case in table.items() if re.match(r"rows.jsonl:\d", case[1])}


@cases(
    {
        **{f"pairs: {name}": (read_pairs, *case) for name, case in of_rows(PAIRS).items()},
        **{f"curated: {name}": (read_curated, *case) for name, case in of_rows(CURATED).items()},
    }
)
def test_the_error_of_every_bad_row_has_the_code_of_a_kind(case, tmp_path, monkeypatch):
    read, content, *_ = case
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", content)
    error = refusal_of(read, "rows.jsonl")
    assert re.match(r"rows.jsonl:\d", error.where) and error.hint
    assert KINDS[error.code].severity == ERROR and error.code != "refused"
    assert refused(error, "rows.jsonl:1")[2:4] == (error.code, error.what)


COLUMNS = {
    "missing-prompt": (to_preference, {"chosen": "So.", "rejected": "Thus."}),
    "missing-chosen": (to_preference, {"prompt": "How?", "rejected": "Thus."}),
    "missing-rejected": (to_preference, {"prompt": "How?", "chosen": "So."}),
    "missing-answer": (to_curated, {"prompt": "How?"}),
    "empty-prompt": (to_preference, pair(prompt=" ")),
    "empty-prompt, called a question": (to_curated, {"question": "", "answer": "So."}),
    "empty-prompt, in a turn": (to_preference, pair(prompt=chat(("system", " "), ("user", "How?")))),
    "empty-prompt, in messages": (to_curated, {"messages": chat(("user", " "), ("assistant", "So."))}),
    "empty-chosen": (to_preference, pair(chosen=[])),
    "empty-chosen, of its reasoning": (
        to_preference,
        pair(chosen=[{"role": "assistant", "content": "So.", "reasoning": " "}]),
    ),
    "empty-rejected": (to_preference, pair(rejected=None)),
    "empty-answer": (to_curated, curated(answer="\n")),
    "empty-answer, called a completion": (to_curated, {"prompt": "How?", "completion": ""}),
    "empty-system": (to_preference, pair(system="  ")),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_that_is_missing_or_empty_is_in_the_code_by_what_it_holds(name):
    error = refusal_of(COLUMNS[name][0], COLUMNS[name][1], "rows.jsonl:1")
    assert error.code == name.partition(",")[0]
    assert error.code in KINDS


def test_what_only_large_files_and_small_models_meet_has_a_code(tmp_path):
    write(tmp_path / "rows.jsonl", lines(pair(chosen="so " * ROW_BYTES)))
    assert refusal_of(read_pairs, tmp_path / "rows.jsonl").code == "line-too-long"
    small = SimpleNamespace(embedded_tokens=5, convert_ids_to_tokens=str)
    assert refusal_of(check_known, small, [4, 5], "rows.jsonl:1").code == "unknown-token"
    assert {"line-too-long", "unknown-token"} <= set(KINDS)


def test_an_error_without_a_code_or_with_one_of_another_thing_is_still_named():
    for code in ("", "no-such-kind"):
        found = refused(DpoError("is cursed", hint="burn it", code=code), "rows.jsonl:3")
        assert (str(found), found.code, found.remedy) == ("rows.jsonl:3: is cursed", "refused", "burn it")
