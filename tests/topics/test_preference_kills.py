"""The preferences killed at random moments: nothing is paid twice, and the files are those of a whole run."""

import json
import random
import signal
import time

import numpy as np

from mlx_dpo.topics.preferences import LOGITS, build_preferences
from mlx_dpo.topics.preferences_config import PreferencesConfig

from ..support.topic_server import by_function, corpus, logits

CODE = """
from pathlib import Path
from mlx_dpo.topics.preferences import build_preferences
from mlx_dpo.topics.preferences_config import PreferencesConfig
from tests.support.topic_server import corpus
settings = PreferencesConfig(url={url!r}, key_variable="NO_KEY", concurrency=1)
build_preferences(Path({folder!r}), corpus(), settings)
"""


def artefacts(folder):
    """The files of the stages: the log has the replies in the order in which they came."""
    return {p.name: p.read_bytes() for p in folder.glob("*.jsonl") if p.name != "replies.jsonl"}


def test_after_kill_9_at_20_random_moments_the_files_are_whole_and_no_reply_was_paid_twice(
    serve, tmp_path, forked
):
    def answer(body):
        time.sleep(0.01)
        return by_function(body)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        np.save(folder / LOGITS, logits())
    build_preferences(whole, corpus(), PreferencesConfig(url=serve(answer).url, key_variable="NO_KEY"))
    server, chance, kills, ended = serve(answer), random.Random(0), 0, 0
    code = CODE.format(url=server.url, folder=str(killed))
    while True:
        process, limit = forked(code=code), server.calls + chance.randrange(0, 2)
        until = time.monotonic() + chance.random() * 0.3
        while (server.calls < limit or time.monotonic() < until) and process.poll() is None:
            time.sleep(0.001)
        if process.poll() is None and kills < 20:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        elif process.wait() == 0:
            ended += 1
            if kills == 20 or ended == 2:
                break
    assert artefacts(killed) == artefacts(whole)
    kept = [json.loads(line) for line in (killed / "replies.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in kept}) == len(kept) == 12
    assert sum(server.asked.values()) - 12 <= kills  # at most the one request that was under way at each kill
