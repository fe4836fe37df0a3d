"""mlx-dpo judge with a server that misbehaves in every way at random."""

import json
import random
from functools import partial
from threading import Lock

import pytest

from mlx_dpo.config import load_config
from mlx_dpo.endpoint import Endpoint
from mlx_dpo.jobs import judge as job

from ..support.judge_server import ROWS, judging, pairs, smaller, verdicts
from ..support.mistakes import lines
from ..support.openai_server import NO_CHOICES, Cuts, Fails, Raw, Says


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
    chance, lock, faulty, waited = random.Random(seed), Lock(), True, []

    def answer(body):
        good = judging(smaller)(body)
        if not faulty or "Question" not in body["messages"][0]["content"]:
            return good
        with lock:
            return chance.choice([*faults(good.text), *[good] * 20])

    monkeypatch.setattr(job, "Endpoint", partial(Endpoint, wait=waited.append, retries=1))
    (tmp_path / "rows.jsonl").write_text(lines(*ROWS))
    settings = {
        **{"url": serve(answer).url, "completions": tmp_path / "rows.jsonl", "output": tmp_path / "judged"},
        **{"method": "written", "timeout_seconds": 0.3, "concurrency": 2},
    }
    config = load_config(None, [f"judge.{name}={value}" for name, value in settings.items()])
    summary = job.judge_completions(config)
    assert judged(summary) + len(summary.failed) == summary.rows == len(ROWS)
    assert summary.failed and waited
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
