"""Fixtures of the jobs that ask a server."""

import json

import pytest

from ..support.judge_server import ROWS


@pytest.fixture
def judge(tmp_path, write_rows, outcome):
    """Run the command on rows with a server; exit code, summary from --json, and what it says."""

    def run(server, *more, rows=ROWS, **settings):
        command = ["judge", "--completions", write_rows("completions.jsonl", rows), "--output", "judged"]
        command += ["--endpoint", server.url, "--json"]
        for name, value in settings.items():
            command += ["--set", f"judge.{name}={value}"]
        code, out, err = outcome(*command, *more)
        return code, json.loads(out) if out else None, err

    return run
