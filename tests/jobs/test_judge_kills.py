"""mlx-dpo judge killed at random moments: nothing kept is asked for again, and no row is lost."""

import random
import signal
import time

from ..support.judge_server import ROWS, judging, pairs, smaller, verdicts


def test_after_kill_9_at_20_random_moments_no_kept_reply_is_asked_again_and_no_row_is_lost(
    serve, tmp_path, write_rows, forked
):
    def answer(body):
        time.sleep(0.005)
        return judging(smaller)(body)

    server, chance, kills = serve(answer), random.Random(0), 0
    command = ["judge", "--completions", write_rows("completions.jsonl", ROWS), "--endpoint", server.url]
    command += ["--output", tmp_path / "judged", "--set", "judge.concurrency=1"]
    while True:
        process, limit = forked(*command), server.calls + chance.randrange(1, 9)
        while kills < 20 and server.calls < limit and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.01)
        if kills == 20 or process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        kills += 1
    assert (process.wait(), kills) == (0, 20)
    assert {(p.chosen, p.rejected) for p in pairs(tmp_path)} == {
        (f"{n} a, longer", f"{n} c") for n in range(12)
    }
    asked = [n for content, n in server.asked.items() if "Question" in content]
    assert sum(asked) - len(asked) <= kills  # at most the one request that was under way at each kill
    rows = verdicts(tmp_path)
    assert len({row["key"] for row in rows}) == len(rows) == len(asked)


def test_ctrl_c_keeps_the_replies_under_way_and_the_same_command_asks_only_for_the_others(
    serve, tmp_path, write_rows, forked
):
    def answer(body):
        time.sleep(0.02)
        return judging(smaller)(body)

    server = serve(answer)
    command = ["judge", "--completions", write_rows("completions.jsonl", ROWS), "--endpoint", server.url]
    command += ["--output", tmp_path / "judged"]
    process = forked(*command)
    while server.calls < 20 and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert forked(*command).wait() == 0
    asked = {content: n for content, n in server.asked.items() if "Question" in content}
    assert set(asked.values()) == {1}
    assert len(asked) == len(verdicts(tmp_path))
