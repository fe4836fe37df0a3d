"""mlx-dpo judge against scripted judges: pairs, ties, bias, bad replies, refusals."""

import json
from collections import Counter

import pytest

from mlx_dpo.data.sources import read_pairs

from ..support.judge_server import ROWS, always_first, judging, longer, pairs, shown, smaller, verdicts
from ..support.openai_server import NO_CHOICES, Fails, Raw, Says


@pytest.mark.parametrize("labels", [False, True], ids=["written", "labels"])
def test_the_best_and_the_worst_of_each_prompt_become_a_pair(judge, serve, tmp_path, labels):
    server = serve(judging(smaller, labels=labels))
    code, summary, err = judge(server)
    assert code == 0, err
    assert {(p.chosen, p.rejected) for p in pairs(tmp_path)} == {
        (f"{n} a, longer", f"{n} c") for n in range(12)
    }
    assert (summary["train"], summary["valid"], summary["tied"]) == (10, 2, 0)
    assert summary["consistency"] == {"rate": 1.0, "n": summary["comparisons"]}
    assert {row["method"] for row in verdicts(tmp_path)} == {"labels" if labels else "written"}
    assert ("known answer found in both orders" in err) and (
        f"log-probabilities: {'yes' if labels else 'no'}" in err
    )


def test_every_two_answers_are_shown_in_both_orders_and_equal_ones_never(judge, serve, tmp_path):
    rows = [
        {"prompt": "Q?", "completions": ["same", "same ", "other"]},
        {"prompt": "R?", "completions": ["x", "x"]},
    ]
    _, summary, _ = judge(serve(judging(smaller)), rows=rows)
    assert {(row["A"], row["B"]) for row in verdicts(tmp_path)} == {("same", "other"), ("other", "same")}
    assert (summary["comparisons"], summary["alike"], summary["train"]) == (1, 1, 1)
    assert summary["distinct"] == {"rate": 0.6, "n": 5}


def test_a_judge_that_always_says_first_yields_only_ties_a_warning_and_no_files(judge, serve, tmp_path):
    code, summary, err = judge(serve(judging(always_first)))
    assert code == 1
    assert "no verdict separates two answers" in err
    assert (summary["tied"], summary["first_position"]["rate"], summary["consistency"]["rate"]) == (
        12,
        1.0,
        0.0,
    )
    assert "answer shown first" in " ".join(summary["warnings"])
    assert not (tmp_path / "judged" / "train.jsonl").exists()


def test_pairs_of_an_earlier_judging_are_not_taken_for_those_of_a_judge_that_makes_none(
    judge, serve, tmp_path
):
    _, _, err = judge(serve(judging(smaller)))
    before = (tmp_path / "judged" / "train.jsonl").read_bytes()
    assert "earlier judging" not in err
    code, _, err = judge(serve(judging(always_first)), rubric="harmlessness")
    assert code == 1
    assert "judged/train.jsonl are from an earlier judging, not from this judge and rubric" in err
    assert (tmp_path / "judged" / "train.jsonl").read_bytes() == before


def test_a_judge_that_prefers_the_longer_gives_those_pairs_and_the_warning(judge, serve, tmp_path):
    code, summary, _ = judge(serve(judging(longer)))
    assert code == 0
    assert all(p.chosen.endswith("longer") for p in pairs(tmp_path))
    assert summary["longer_wins"]["rate"] == 1.0
    assert [text[:43] for text in summary["warnings"]] == ["the judge mostly prefers the longer answer:"]


def test_an_answer_that_was_cut_off_is_marked_in_the_pair(judge, serve, tmp_path):
    rows = [{"prompt": "Q?", "completions": ["a", "b"], "ended": [False, True]}]
    judge(serve(judging(smaller)), rows=rows)
    (pair,) = pairs(tmp_path)
    assert (pair.chosen_cut, pair.rejected_cut) == (True, False)


def test_conversations_and_tools_come_back_in_the_pairs(judge, serve, tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q?"}]
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    judge(serve(judging(smaller)), rows=[{"prompt": turns, "completions": ["a", "b"], "tools": tools}])
    (pair,) = pairs(tmp_path)
    assert (list(pair.prompt), list(pair.tools)) == (turns, tools)


def test_of_several_rows_with_one_key_the_last_one_counts(judge, serve, tmp_path):
    rows = [
        {"key": "k", "prompt": "Q?", "completions": ["a", "b"]},
        {"key": "k", "prompt": "Q?", "completions": ["c", "d"]},
    ]
    judge(serve(judging(smaller)), rows=rows)
    assert [(p.chosen, p.rejected) for p in pairs(tmp_path)] == [("c", "d")]


def test_rows_without_a_key_are_all_judged_also_where_the_column_is_there(judge, serve, tmp_path):
    rows = [{"key": None, "id": None, **row} for row in ROWS[:3]]
    _, summary, _ = judge(serve(judging(smaller)), rows=rows)
    assert (summary["rows"], len(pairs(tmp_path))) == (3, 3)


def test_rows_of_two_files_with_one_key_are_both_judged_and_can_be_trained_on(outcome, serve, tmp_path):
    (tmp_path / "both").mkdir()
    for name, answers in (("one", ["a", "b"]), ("two", ["c", "d"])):
        (tmp_path / "both" / f"{name}.jsonl").write_text(
            json.dumps({"key": "k", "prompt": "Q?", "completions": answers}) + "\n"
        )
    command = [
        "judge",
        "--completions",
        "both",
        "--output",
        "judged",
        "--endpoint",
        serve(judging(smaller)).url,
    ]
    assert outcome(*command)[0] == 0
    assert {(p.chosen, p.rejected) for p in pairs(tmp_path)} == {("a", "b"), ("c", "d")}


@pytest.mark.parametrize(
    "says",
    [
        lambda text: Says(text, finish_reason="length"),
        lambda text: Says(""),
        lambda text: Says(" \n" * 200, finish_reason="length"),
        lambda text: Says(text[:-3]),
        lambda text: Says(text.replace('"A"', '"Answer A"').replace('"B"', '"Answer B"')),
        lambda text: Says(None, refusal="I cannot judge this."),
        lambda text: Says(f"The verdict is a tie between A and B. {text}"),
        lambda text: Says(text.replace("A is", "x").replace("B is", "A is").replace("x", "B is")),
    ],
    ids=[
        *("cut off", "empty", "blanks", "invalid", "wrong enum", "refusal", "words around it"),
        "the reason names the other",
    ],
)
def test_a_bad_reply_is_asked_again_once_then_unreadable_and_never_a_verdict(judge, serve, tmp_path, says):
    def answer(body):
        good = judging(smaller)(body)
        about_two = "begin answer A" in body["messages"][0]["content"] and shown(body)[0].startswith("2 ")
        return says(good.text) if about_two else good

    server = serve(answer)
    code, summary, err = judge(server, rows=ROWS[:4])
    assert code == 0, err
    assert (summary["unreadable"], summary["tied"], summary["train"] + summary["valid"]) == (1, 0, 3)
    bad = [row for row in verdicts(tmp_path) if row["A"].startswith("2 ")]
    assert bad and {row["verdict"] for row in bad} == {None}
    assert summary["calls"]["sent"] == len(verdicts(tmp_path))
    asked = Counter((row["A"], row["B"]) for row in bad)
    assert set(asked.values()) == {2}
    assert sum(summary["unreadable_reasons"].values()) == len(asked)
    assert all(turn["content"].strip() for body in server.bodies for turn in body["messages"])


def test_a_good_second_reply_counts(judge, serve):
    def answer(body):
        good = judging(smaller)(body)
        asked_once = len(body["messages"]) == 1 and "Question" in body["messages"][0]["content"]
        return Says("I like the first one.") if asked_once else good

    code, summary, _ = judge(serve(answer), rows=ROWS[:4])
    assert (code, summary["unreadable_comparisons"], summary["train"] + summary["valid"]) == (0, 0, 4)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fails(400, "too long for this model"), "the server answered 400: too long for this model"),
        (NO_CHOICES, "the reply has no choices"),
        (Raw("{broken"), "the reply cannot be read"),
    ],
    ids=["400", "no choices", "broken"],
)
def test_a_row_without_a_reply_is_listed_as_failed_and_the_next_run_asks_it_again(
    judge, serve, fault, reason
):
    broken = True

    def answer(body):
        return fault if broken and "Question 2?" in body["messages"][0]["content"] else judging(smaller)(body)

    server = serve(answer)
    code, summary, _ = judge(server, rows=ROWS[:4])
    (failed,) = summary["failed"]
    assert code == 1
    assert f"completions.jsonl:3: {reason}" in failed
    assert summary["train"] + summary["valid"] == 3
    broken = False
    code, summary, _ = judge(server, rows=ROWS[:4])
    assert (code, summary["failed"], summary["train"] + summary["valid"]) == (0, [], 4)


def test_a_server_that_refuses_or_ignores_schemas_and_logprobs_is_judged_with_in_words(
    judge, serve, tmp_path
):
    def refusing(body):
        for name in ("response_format", "logprobs"):
            if name in body:
                return Fails(400, f"unknown parameter {name}")
        return judging(smaller)(body)

    for answer in (refusing, judging(smaller)):
        server = serve(answer)
        code, _, err = judge(server, rows=ROWS[:3])
        assert code == 0, err
        assert "schemas: no" in err
        assert not any("response_format" in body for body in server.bodies[-5:])
        (tmp_path / "judged" / "verdicts.jsonl").unlink()


def test_a_schema_that_shapes_the_reply_is_sent_with_every_request(judge, serve):
    def answer(body):
        if "response_format" in body and "begin answer A" not in body["messages"][0]["content"]:
            return json.dumps({"reason": "hello", "verdict": "tie"})
        return judging(smaller)(body)

    server = serve(answer)
    _, _, err = judge(server, rows=ROWS[:3])
    assert "schemas: yes" in err
    assert all(
        "response_format" in body for body in server.bodies if "Question" in body["messages"][0]["content"]
    )


def test_another_models_name_in_the_replies_is_told(judge, serve):
    code, summary, _ = judge(
        serve(judging(smaller, says=lambda text: Says(text, model="small")), models=["judge"])
    )
    assert code == 0
    assert summary["models"] == ["small"]


def test_a_judge_that_fails_the_known_question_stops_before_any_comparison(judge, serve, tmp_path):
    def broken(body):
        return json.dumps({"reason": "", "verdict": "A"})

    server = serve(broken)
    code, summary, err = judge(server)
    assert (code, summary) == (1, None)
    assert "fails a question with a known answer" in err and "it said A and A" in err
    assert server.calls <= 5
    assert not (tmp_path / "judged").exists()
    code, summary, err = judge(server, guard="warn", rows=ROWS[:2])
    assert (code, summary["tied"]) == (1, 2)
    assert "warning: the judge fails a question with a known answer" in err


def test_where_every_prompt_failed_the_failures_are_told_and_not_a_lack_of_verdicts(judge, serve):
    def answer(body):
        return Fails(400, "no") if "Question" in body["messages"][0]["content"] else judging(smaller)(body)

    code, summary, err = judge(serve(answer), rows=ROWS[:3])
    assert (code, len(summary["failed"])) == (1, 3)
    assert "3 prompts got no verdict, and there is no pair yet" in err


def test_prompts_that_the_model_was_trained_on_before_are_not_held_out(judge, serve, tmp_path, write_rows):
    learnt = write_rows("sft.jsonl", [{"prompt": f"question {n}? ", "answer": "So."} for n in range(10)])
    _, summary, _ = judge(serve(judging(smaller)), trained=learnt)
    assert (summary["train"], summary["valid"]) == (10, 2)
    held = {p.prompt[0]["content"] for p in read_pairs(tmp_path / "judged" / "valid.jsonl")}
    assert held == {"Question 10?", "Question 11?"}
    learnt = write_rows("sft.jsonl", [{"prompt": row["prompt"], "answer": "So."} for row in ROWS])
    _, summary, err = judge(serve(judging(smaller)), trained=learnt)
    assert (summary["train"], summary["valid"]) == (12, 0)
    assert "add prompts that are not in judge.trained" in err


def test_the_key_is_in_no_file_and_in_no_message(judge, serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    code, _, err = judge(serve(judging(smaller), key="s3cret"))
    assert code == 0
    assert "s3cret" not in err
    assert not any(b"s3cret" in path.read_bytes() for path in (tmp_path / "judged").iterdir())


def test_check_before_judging_is_refused(judge, serve):
    code, _, err = judge(serve(judging(smaller)), "--check", "5", model="judge")
    assert code == 1
    assert "has no verdicts with these settings" in err


BAD_ROWS = {
    "no completions": ({"prompt": "Q?"}, "'completions' is missing"),
    "no prompt": ({"completions": ["a", "b"]}, "'prompt' is missing"),
    "one text": ({"prompt": "Q?", "completions": "a"}, "'completions' must be a list of texts, got text"),
    "a number": ({"prompt": "Q?", "completions": ["a", 3]}, "'completions' must be a list of texts"),
    "empty prompt": ({"prompt": " ", "completions": ["a", "b"]}, "'prompt' is empty"),
    "answered": (
        {"prompt": [{"role": "assistant", "content": "x"}], "completions": ["a", "b"]},
        "the prompt must end with a user turn",
    ),
    "ended too short": (
        {"prompt": "Q?", "completions": ["a", "b"], "ended": [True]},
        "'ended' must have true or false",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_refused_with_its_line_before_the_server_is_asked(judge, serve, case):
    row, phrase = case
    server = serve(judging(smaller))
    code, _, err = judge(server, rows=[ROWS[0], row, row])
    assert code == 1
    assert f"completions.jsonl:2: {phrase}" in err and "(1 more line cannot be used)" in err
    assert server.calls == 0


def test_an_unreachable_judge_is_one_clear_line_and_leaves_no_file(mistake, write_rows):
    write_rows("rows.jsonl", ROWS)
    error = mistake("judge --completions rows.jsonl --output judged --endpoint http://127.0.0.1:9/v1")
    assert (error.where, error.what) == ("judge.url", "no server answers at http://127.0.0.1:9/v1")


def test_a_local_judge_that_there_is_not_is_told_with_its_setting(mistake, write_rows):
    write_rows("rows.jsonl", ROWS)
    error = mistake("judge --completions rows.jsonl --output judged --model ./none")
    assert "set judge.model to a model folder" in error.hint


def test_without_a_judge_nothing_starts(outcome, write_rows):
    code, _, err = outcome("judge", "--completions", write_rows("completions.jsonl", ROWS))
    assert code == 1
    assert "judge.url: there is no judge" in err
