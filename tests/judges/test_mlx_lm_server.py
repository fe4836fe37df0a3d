"""The real mlx_lm.server as judge, and as the LLM of topics."""

import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.jobs.judge import judge_completions
from mlx_dpo.topics.preferences import LOGITS, build_preferences
from mlx_dpo.topics.preferences_config import PreferencesConfig

from ..support.judge_server import ROWS, verdicts
from ..support.mistakes import lines
from ..support.topic_server import corpus, logits


@pytest.fixture
def mlx_lm_server(models):
    """The address of a server on a tiny model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(models("llama")), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
        server.terminate()


def test_it_judges_by_label_probabilities_like_the_local_model_and_ignores_schemas(
    mlx_lm_server, models, tmp_path, capsys
):
    (tmp_path / "rows.jsonl").write_text(lines(*ROWS[:2]))
    chances = {}
    for name, url in (("local", None), ("server", mlx_lm_server)):
        folder = tmp_path / name / "judged"
        settings = {
            "url": url or "null",
            "model": models("llama"),
            "completions": tmp_path / "rows.jsonl",
            "output": folder,
            "method": "labels",
            "guard": "warn",  # the model is random
        }
        summary = judge_completions(load_config(None, [f"judge.{k}={v}" for k, v in settings.items()]))
        assert summary.rows == 2
        chances[name] = {
            (row["A"], row["B"]): sorted(value for _, value in row["top_logprobs"])[-10:]
            for row in verdicts(tmp_path / name)
        }
        said = capsys.readouterr().err
        assert "log-probabilities: yes" in said
        assert ("schemas: no" in said) == (name == "server")
    shared = chances["server"].keys() & chances["local"].keys()
    assert shared
    for shown in shared:
        assert chances["server"][shown] == pytest.approx(chances["local"][shown], abs=1e-3)


def test_it_takes_requests_for_function_calls_though_its_model_calls_none(mlx_lm_server, models, tmp_path):
    np.save(tmp_path / LOGITS, logits())
    settings = PreferencesConfig(url=mlx_lm_server, model=str(models("llama")), max_tokens=16)
    assert build_preferences(tmp_path, corpus(), settings).scores == dict.fromkeys(range(4))
    assert len((tmp_path / "replies.jsonl").read_text().splitlines()) == 16
