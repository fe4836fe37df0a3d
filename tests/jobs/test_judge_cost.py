"""What mlx-dpo judge asks for and costs: nothing twice, at most so many requests, as estimated."""

import json

import pytest

from mlx_dpo.data.sources import read_pairs

from ..support.judge_server import ROWS, judging, smaller
from ..support.openai_server import Raw


def test_the_same_command_again_asks_nothing_and_gives_the_same_files(judge, serve, tmp_path):
    server = serve(judging(smaller))
    _, before, _ = judge(server)
    files = {name: (tmp_path / "judged" / name).read_bytes() for name in ("train.jsonl", "valid.jsonl")}
    calls = server.calls
    _, after, err = judge(server)
    assert server.calls == calls
    assert "nothing is asked" in err
    assert {name: (tmp_path / "judged" / name).read_bytes() for name in files} == files
    zero = {"sent": 0, "prompt_tokens": 0, "completion_tokens": 0, "uncounted": 0}
    assert after == {**before, "calls": zero}


def test_another_rubric_is_asked_anew_and_the_first_one_stays_paid_for(judge, serve):
    server = serve(judging(smaller))
    judge(server)
    _, summary, _ = judge(server, rubric="harmlessness")
    assert summary["calls"]["sent"] > 0
    _, summary, _ = judge(server)
    assert summary["calls"]["sent"] == 0


def test_a_server_that_now_has_another_model_is_another_judge(judge, serve):
    server = serve(judging(smaller), models=["one"])
    judge(server, rows=ROWS[:2])
    server.models = ["two"]
    _, summary, _ = judge(server, rows=ROWS[:3])
    sent = summary["calls"]["sent"]
    server.models = ["one"]
    _, summary, _ = judge(server, rows=ROWS[:3], model="one")
    assert summary["calls"]["sent"] * 3 == sent


def test_added_prompts_leave_the_others_where_they_were(judge, serve, tmp_path):
    server = serve(judging(smaller))
    judge(server, rows=ROWS[:6])
    before = {str(p.prompt) for p in read_pairs(tmp_path / "judged" / "train.jsonl")}
    judge(server)
    after = {str(p.prompt) for p in read_pairs(tmp_path / "judged" / "train.jsonl")}
    assert before <= after


def test_max_calls_stops_and_the_next_call_goes_on_without_asking_twice(judge, serve):
    server = serve(judging(smaller))
    sent = []
    for _ in range(20):
        _, summary, _ = judge(server, max_calls=30)
        sent.append(summary["calls"]["sent"])
        if not summary["unfinished"]:
            break
    assert max(sent) == 30 and len(sent) > 2
    own = {content: n for content, n in server.answered.items() if "Question" in content}
    assert set(own.values()) == {1} and len(own) == sum(sent)


def test_a_run_that_max_calls_stopped_before_the_first_pair_goes_on_and_is_no_error(
    outcome, serve, write_rows
):
    command = ["judge", "--completions", write_rows("completions.jsonl", ROWS), "--output", "judged"]
    code, out, err = outcome(*command, "--endpoint", serve(judging(smaller)).url, "--max-calls", "1")
    assert (code, "12 not judged yet" in out) == (0, True), err
    following = out.splitlines()[-1].removeprefix("next: mlx-dpo ").split()
    assert following[0] == "judge"
    code, out, err = outcome(*following, "--max-calls", "500")
    assert (code, "10 train pairs" in out) == (0, True), err


def test_the_cost_of_a_run_is_summed_up_beside_the_estimate(judge, serve, outcome, write_rows):
    server = serve(judging(smaller))
    prices = {"input_price": 2, "output_price": 10}
    _, summary, err = judge(server, model="judge", **prices)
    counted = [len(content) // 4 * n for content, n in server.asked.items()]
    assert summary["calls"]["prompt_tokens"] == sum(counted)  # with the probe
    tokens = summary["calls"]["prompt_tokens"], summary["calls"]["completion_tokens"]
    assert summary["price"] == pytest.approx((tokens[0] * 2 + tokens[1] * 10) / 1e6)
    assert summary["estimated_price"] > 0 and "price about 0.0" in err
    _, again, _ = judge(server, model="judge", **prices)
    assert (again["price"], again["estimated_price"]) == (0, 0)


def test_the_cost_is_unknown_where_the_server_does_not_count_tokens(serve, outcome, write_rows):
    def answer(body):
        text = judging(smaller)(body).text
        return Raw(json.dumps({"model": "judge", "choices": [{"message": {"content": text}}]}))

    command = ["judge", "--completions", write_rows("completions.jsonl", ROWS[:3]), "--output", "judged"]
    code, out, err = outcome(*command, "--endpoint", serve(answer).url, "--set", "judge.input_price=2")
    assert code == 0, err
    assert "price                           unknown: the server did not count all tokens (estimated" in out


def test_the_dry_run_asks_nothing_and_never_says_too_little(judge, serve, tmp_path):
    server = serve(judging(smaller))
    code, told, _ = judge(server, "--dry-run", model="judge", input_price=2, output_price=10)
    assert (code, server.calls) == (0, 0)
    assert not (tmp_path / "judged").exists()
    assert told["price"] == pytest.approx((told["prompt_tokens"] * 2 + told["completion_tokens"] * 10) / 1e6)
    _, summary, _ = judge(server, model="judge")
    assert summary["calls"]["sent"] <= told["requests"] == 12 * 3 * 2
    _, told, _ = judge(server, "--dry-run", model="judge")
    assert told["requests"] == 0
