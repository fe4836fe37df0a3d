"""mlx-dpo judge with a server that misbehaves in every way at random."""

import json
import random
from functools import partial
from threading import Lock

import pytest

from mlx_dpo.config import load_config
from mlx_dpo.endpoint import Endpoint
from mlx_dpo.jobs import judge as job
from mlx_dpo.judges import connected

from ..support.judge_server import ROWS, judging, pairs, smaller, verdicts
from ..support.mistakes import lines
from ..support.openai_server import NO_CHOICES, Clock, Cuts, Fails, Raw, Says


def faults(good):
    """Everything that a server may do wrong instead of the good reply."""
    return [
        *(Fails(429, retry_after=600), Fails(429), Fails(500), Fails(503), Fails(400, "bad request")),
        *(Cuts(), NO_CHOICES, Raw("{broken"), Raw("<html>", "text/html"), Says(good, seconds=0.6)),
        *(
            Says(""),
            Says(None),
            Says(" \n" * 100, finish_reason="length"),
            Says(good, finish_reason="length"),
        ),
        *(
            Says(good[:-2]),
            Says(good.replace('"verdict": "', '"verdict": "Answer ')),
            Says("It is a tie: A."),
        ),
        *(Says(None, refusal="No."), Says("", finish_reason="content_filter"), Says(good, model="another")),
    ]


def judged(summary):
    """Rows whose every comparison was answered."""
    return summary.train + summary.valid + summary.tied + summary.unreadable


@pytest.mark.parametrize("seed", range(2))
def test_every_row_ends_judged_or_listed_as_failed_and_none_is_lost_or_doubled(
    serve, tmp_path, monkeypatch, seed
):
    chance, lock, faulty, clock = random.Random(seed), Lock(), True, Clock()

    def answer(body):
        good = judging(smaller)(body)
        if not faulty or "Question" not in body["messages"][0]["content"]:
            return good
        with lock:
            return chance.choice([*faults(good.text), *[good] * 20])

    monkeypatch.setattr(connected, "Endpoint", partial(Endpoint, wait=clock.wait, now=clock.now, retries=1))
    (tmp_path / "rows.jsonl").write_text(lines(*ROWS))
    settings = {
        **{"url": serve(answer).url, "completions": tmp_path / "rows.jsonl", "output": tmp_path / "judged"},
        **{"method": "written", "timeout_seconds": 0.3, "concurrency": 2},
    }
    config = load_config(None, [f"judge.{name}={value}" for name, value in settings.items()])
    summary = job.judge_completions(config)
    assert judged(summary) + len(summary.failed) == summary.rows == len(ROWS)
    assert summary.failed and clock.waits
    assert all(": " in failed for failed in summary.failed)
    faulty = False
    again = job.judge_completions(config)
    assert (again.failed, judged(again)) == ((), len(ROWS))
    rows = verdicts(tmp_path)
    assert len({row["key"] for row in rows}) == len(rows)
    for pair in pairs(tmp_path):
        number = pair.prompt[0]["content"].removeprefix("Question ").removesuffix("?")
        assert pair.chosen < pair.rejected and pair.chosen.startswith(number)
    assert json.dumps(again.as_json())


@pytest.mark.parametrize("asks", [1, 100], ids=["once", "always"])
def test_a_server_that_asks_to_wait_ten_minutes_is_waited_for_and_its_rows_are_judged_or_listed(
    serve, tmp_path, monkeypatch, capsys, asks
):
    """One row is refused with Retry-After: 600, once or at every attempt; the clock is not the real one."""
    left, clock = asks, Clock()

    def answer(body):
        nonlocal left
        if "Question 2?" in body["messages"][0]["content"] and left:
            left -= 1
            return Fails(429, "too many requests", retry_after=600)
        return judging(smaller)(body)

    monkeypatch.setattr(connected, "Endpoint", partial(Endpoint, wait=clock.wait, now=clock.now))
    (tmp_path / "rows.jsonl").write_text(lines(*ROWS[:4]))
    server = serve(answer)
    settings = {"url": server.url, "completions": tmp_path / "rows.jsonl", "output": tmp_path / "judged"}
    config = load_config(None, [f"judge.{name}={v}" for name, v in {**settings, "concurrency": 1}.items()])
    summary = job.judge_completions(config)
    assert clock.waits == [600.0] * min(asks, 6)
    assert "the server asks to wait 10 minutes" in capsys.readouterr().err
    failed = [f"{tmp_path}/rows.jsonl:3: the server answered 429: too many requests"] if asks > 6 else []
    assert (list(summary.failed), judged(summary)) == (failed, 4 - len(failed))
    left = 0
    assert judged(job.judge_completions(config)) == 4
    own = [n for content, n in server.answered.items() if "Question" in content]
    assert set(own) == {1}
