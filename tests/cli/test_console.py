"""What reaches a terminal: text as text, with nothing in it that acts on the terminal."""

import json
import re
from types import SimpleNamespace

import pytest
import yaml

from mlx_dpo import console
from mlx_dpo.console import UNPRINTABLE, json_text, plural, printable, progress, say, seconds_left
from mlx_dpo.errors import DpoError
from mlx_dpo.printed_commands import assignment, beside, command_line, last_ones, unused_folder

from ..support.mistakes import lines, pair
from .test_printed_commands import split

HOSTILE = "\x1b]0;title\x07 \x08\r\x7f\x9b31m \u202e\u2066 [red]so[/red]"
SHOWN = r"\x1b]0;title\x07 \x08\x0d\x7f\x9b31m \u202e\u2066 [red]so[/red]"


def test_control_characters_and_turns_of_direction_are_shown_as_escapes():
    assert printable(HOSTILE) == SHOWN
    assert printable("\x00") == r"\x00"
    assert printable("caf\udce9") == r"caf\udce9"  # a file's name that is no UTF-8


def test_letters_of_every_language_tabs_and_line_breaks_stay():
    text = "über\t名前\nשלום 🙂 नमस्ते \u200d"
    assert printable(text) == text


def test_json_holds_the_same_text_and_nothing_that_a_terminal_acts_on():
    value = {"text": HOSTILE + "🙂", "name": "caf\udce9"}
    assert json.loads(json_text(value)) == value
    assert not UNPRINTABLE.search(json_text(value, indent=1))


def test_messages_are_text_and_no_markup(capsys):
    say(HOSTILE)
    assert capsys.readouterr().err == SHOWN + "\n"
    with progress(f"[bold]{HOSTILE}", 2, "rows") as advance:
        advance(1)


@pytest.mark.parametrize(("count", "said"), [(0, "0 rows"), (1, "1 row"), (1200, "1,200 rows")])
def test_one_thing_has_no_plural(count, said):
    assert plural(count, "row") == said


def test_other_plurals_are_given():
    assert [plural(n, "pass", "passes") for n in (1, 2)] == ["1 pass", "2 passes"]


@pytest.mark.parametrize(
    ("first", "now", "total", "left"),
    [
        ((60, 16), (60, 16), 176, None),  # a batch of 16 came after a minute: nothing is known of its pace
        ((60, 16), (76, 32), 176, 144),  # then 16 in 16 s: 144 at one a second; counted from 0 s it is 342 s
        ((60, 1), (75, 16), 480, 464),  # answers at the same time: the first tells nothing of the others
        ((10, 300), (20, 310), 400, 90),  # 299 were there before
        ((5, 1), (9, 9), 9, 0),
    ],
)
def test_the_time_left_follows_from_the_pace_since_the_first_report(first, now, total, left):
    assert seconds_left(first, now, total) == left


def test_lines_of_progress_tell_the_time_left_once_there_is_a_pace(monkeypatch, capsys):
    """Twenty things were there before; the next one takes a minute, each one after it two seconds."""
    times = iter([0, 60, 62, 74, 76])
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(times)))
    advance = console._lines("answering", 100, "prompts", 20)
    for n, note in ((1, "3 tokens/s"), (1, ""), (6, ""), (1, "")):
        advance(n, note)
    assert capsys.readouterr().err == (
        "answering: 21/100 prompts 3 tokens/s\nanswering: 28/100 prompts 144 s left\n"
    )


@pytest.fixture
def told(outcome):
    """Run a command: its exit code and all that it prints."""

    def run(*arguments):
        code, *printed = outcome(*arguments)
        return code, "".join(printed)

    return run


def test_inspect_shows_rows_and_names_of_files_without_acting_on_the_terminal(told, models, tmp_path):
    name = "rows\u202e.jsonl"
    (tmp_path / name).write_text(lines(pair(prompt=f"Why {HOSTILE}?", chosen=f"So\x1b[2J. {HOSTILE}.")))
    command = ("inspect", "--data", name, "--model", models("llama"), "--no-model")
    code, out = told(*command)
    assert code == 0 and not UNPRINTABLE.search(out)
    assert r"So\x1b[2J." in out and out.startswith(r"rows\u202e.jsonl: 1 row, 1 pair to train on")
    code, out = told(*command, "--json")
    assert code == 0 and not UNPRINTABLE.search(out)
    assert "So\x1b[2J." in json.loads(out)["rows"][0]["chosen"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--data", "no\x1b]0;such.jsonl"),
        ("train", "--no\x1bsuch"),
        ("train\x9b1m",),
        ("config", "--set", "loss.name=\x1b[31m"),
        ("eval", "--run", "\u202eno-run"),
    ],
)
def test_refusals_show_what_was_typed_without_acting_on_the_terminal(arguments, told):
    code, out = told(*arguments)
    assert code in (1, 2) and not UNPRINTABLE.search(out)


def test_settings_are_printed_as_yaml_that_reads_back(told):
    name = "a\u202e\u2066🙂"  # control characters are refused in names
    code, out = told("config", "--set", f"run.output={name}")
    assert code == 0 and not UNPRINTABLE.search(out)
    assert yaml.safe_load(out)["run"]["output"] == name


def test_a_message_is_never_endless():
    error = DpoError("the id " + "x" * 20_000 + " stands twice", where="rows.jsonl:2", hint="remove one")
    assert len(str(error)) < 1_600
    assert str(error).startswith("rows.jsonl:2: the id xxx")
    assert str(error).endswith("x stands twice\n  remove one")


@pytest.mark.parametrize(
    "words", [["a b", "it's", '"q"', "#", "$HOME", "*", "", "ü名"], [HOSTILE, "a\nb\\n", "caf\udce9 '"]]
)
def test_a_shell_reads_a_printed_command_as_it_was_meant(words):
    line = command_line(words)
    assert split(line) == words
    assert not UNPRINTABLE.search(line) and "\n" not in line


@pytest.mark.parametrize("value", ["a b #1: c", "'q' dir", '"x', "[a]", "null", " a ", "1e-3", None])
def test_a_printed_setting_is_read_back_as_it_is(value):
    from mlx_dpo.config import load_config

    assert load_config(None, [assignment("data.valid", value)]).data.valid == value


def test_a_setting_that_is_given_again_is_printed_once():
    given = ["beta.value=1", "run.output=a", "beta.value=2", " run.output =b"]
    assert list(last_ones(given)) == ["beta.value=2", " run.output =b"]


def test_a_new_folder_lies_beside_the_run_and_nothing_lies_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "dpo").mkdir(parents=True)
    (tmp_path / "runs" / "dpo-sft").mkdir()
    assert beside("runs/dpo", "pairs") == beside("runs/dpo/", "pairs") == "runs/dpo-pairs"
    assert beside("runs/dpo", "sft") == "runs/dpo-sft-2"
    assert beside("runs/dpo", "sft", used=["runs/dpo-sft-2"]) == "runs/dpo-sft-3"
    assert beside(".", "sft") == f"{tmp_path}-sft"
    assert unused_folder("runs/dpo") == "runs/dpo-2" and unused_folder("runs/new") == "runs/new"


def test_ids_and_prompts_of_any_length_are_cut_where_they_are_shown(told, models, tmp_path):
    long = "x" * 50_000
    rows = [pair(id=long, prompt=long), pair(id=long, prompt="Why?")]
    (tmp_path / "rows.jsonl").write_text(lines(*rows))
    code, out = told("inspect", "--data", "rows.jsonl", "--model", models("llama"), "--no-model")
    assert code == 0 and max(map(len, out.splitlines())) < 2_000
    code, out = told("train", "--data", "rows.jsonl", "--model", models("llama"), "--output", "out")
    assert code == 1 and len(out) < 5_000
    assert re.search(r"Error: rows.jsonl:", out)
