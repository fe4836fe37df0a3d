"""Answers of a server: each is asked for once, failures are listed, and the same command goes on."""

import signal
import socket
import subprocess
import sys
import time

import pytest

from mlx_dpo.config import load_config
from mlx_dpo.data.conversation_tokens import completion_tokens, end_of_turn
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.data.tokenize import tokenize_pairs
from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.gen_pairs import generate_pairs
from mlx_dpo.models.load import ModelConfig, load_tokenizer
from mlx_dpo.pairs.completions import COMPLETIONS

from ..conftest import curated_rows
from ..support.mistakes import assert_told
from ..support.openai_server import Fails, OpenAIServer, Says
from .test_gen_pairs import by_key, lines_of, rows_of

PROMPTS = [r["prompt"] for r in curated_rows("curated.jsonl")[:8]]


def asked_for(body):
    return body["messages"][-1]["content"]


def by_seed(body):
    """Another answer for each seed."""
    return f"Answer {body['seed']}."


@pytest.fixture
def settings(tmp_path, write_rows):
    """Settings for a server: `settings(server, "pairs.samples=2")`."""

    def make(server, *more, rows=None):
        source = write_rows("rows.jsonl", rows or [{"prompt": prompt} for prompt in PROMPTS])
        return [
            f"endpoint.url={server.url}",
            f"pairs.source={source}",
            f"pairs.output={tmp_path / 'pairs'}",
            "pairs.samples=3",
            *more,
        ]

    return make


def test_every_answer_is_asked_for_once_with_its_own_seed(settings, tmp_path):
    with OpenAIServer(answer=by_seed, models=["m"]) as server:
        counts = generate_pairs(load_config(None, settings(server, "generate.max_tokens=33")))
        assert server.calls == 24 and set(server.asked.values()) == {3}
        assert len({body["seed"] for body in server.bodies}) == 24
        sent = {(b["model"], b["max_tokens"], b["temperature"], b["top_p"]) for b in server.bodies}
        assert sent == {("m", 33, 0.7, 0.95)}
        assert (counts.prompts, counts.distinct, counts.tokens) == (8, 3.0, 48)
        seeds = sorted((asked_for(body), f"Answer {body['seed']}.") for body in server.bodies)
        rows = rows_of(tmp_path / "pairs" / COMPLETIONS)
        assert sorted((row["prompt"], text) for row in rows for text in row["completions"]) == seeds
        assert all(row["ended"] == [True] * 3 and row["max_tokens"] == [33] * 3 for row in rows)
        assert all("ids" not in row for row in rows)
        again = generate_pairs(load_config(None, settings(server, "generate.max_tokens=33")))
        assert server.calls == 24 and again.tokens == 0
        generate_pairs(load_config(None, settings(server, "generate.max_tokens=33", "pairs.samples=4")))
        assert server.calls == 32


def test_an_answer_that_was_cut_off_is_asked_for_again_only_with_more_room(settings, tmp_path):
    def answer(body):
        cut = asked_for(body) in PROMPTS[:3] and body["max_tokens"] < 64
        return Says("Cut", "length") if cut else Says("Whole.")

    with OpenAIServer(answer=answer, models=["m"]) as server:
        for most, calls, cut in ((32, 8, 3), (32, 8, 3), (16, 8, 3), (64, 11, 0), (128, 11, 0)):
            ask = settings(server, "pairs.samples=1", f"generate.max_tokens={most}")
            counts = generate_pairs(load_config(None, ask))
            assert (server.calls, counts.cut_off) == (calls, cut)
        rows = rows_of(tmp_path / "pairs" / COMPLETIONS)
    assert [row["completions"] for row in rows] == [["Whole."]] * 8


def test_curated_answers_become_pairs_with_the_servers_answers(settings, tmp_path):
    rows = [{"prompt": prompt, "answer": "The answer."} for prompt in PROMPTS]
    says = {0: "", 1: "The answer.", 2: "Another one."}
    turn = iter(range(100))
    with OpenAIServer(answer=lambda body: says[next(turn) % 3], models=["m"]) as server:
        ask = settings(server, "endpoint.concurrency=1", rows=rows)
        counts = generate_pairs(load_config(None, ask))
    assert (counts.rows, counts.dropped) == (8, {})
    train = rows_of(tmp_path / "pairs" / "train.jsonl")
    assert {row["rejected"] for row in train} == {"Another one."}
    assert train[0]["meta"]["endpoint_model"] == "m"


def test_an_answer_that_the_chat_template_would_change_is_refused_by_training_with_its_line(
    settings, tmp_path, models
):
    """A server tells no tokens, so gen-pairs cannot know it. An end token in an answer is trained as text."""
    says = iter(["Salt.<|end_of_text|> Lemon.", "Salt.</think>Lemon."])
    rows = [{"prompt": prompt, "answer": "The answer."} for prompt in PROMPTS[:2]]
    with OpenAIServer(answer=lambda body: next(says), models=["m"]) as server:
        ask = ("endpoint.concurrency=1", "pairs.samples=1", "pairs.valid_fraction=0")
        generate_pairs(load_config(None, settings(server, *ask, rows=rows)))
    cutting = tmp_path / "cutting.jinja"
    cutting.write_text(
        "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>"
        "{{ m.content.split('</think>')[-1] }}<|end_of_text|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
    )
    tokenizer = load_tokenizer(models("granite"), ModelConfig(chat_template=str(cutting)))
    end, (good, changed) = end_of_turn(tokenizer), read_pairs(tmp_path / "pairs" / "train.jsonl")
    said = completion_tokens(tokenizer, good.prompt, good.rejected, end)
    assert said.count(end) == 1 and said[-1] == end
    assert tokenizer.decode(said[:-1]) == "Salt.<|end_of_text|> Lemon."
    with pytest.raises(DpoError, match="the chat template changes this answer") as caught:
        tokenize_pairs([good, changed], tokenizer, 200)
    assert caught.value.where == f"{tmp_path}/pairs/train.jsonl:2"


def test_answers_that_fail_are_listed_and_the_same_command_asks_only_for_them(settings, tmp_path):
    def refusing(body):
        return Fails(400, "too rude") if asked_for(body) == PROMPTS[2] else Says(by_seed(body))

    with OpenAIServer(answer=refusing, models=["m"]) as server:
        ask = settings(server)
        with pytest.raises(DpoError) as caught:
            generate_pairs(load_config(None, ask))
        assert_told(
            caught.value, str(tmp_path / "pairs"), "3 answers are missing", "run the same command again"
        )
        assert f"{tmp_path}/rows.jsonl:3: the server answered 400: too rude" in caught.value.what
        assert len(rows_of(tmp_path / "pairs" / COMPLETIONS)) == 7
        server.answer, before = by_seed, server.calls
        generate_pairs(load_config(None, ask))
        assert server.calls == before + 3
    assert len(rows_of(tmp_path / "pairs" / COMPLETIONS)) == 8


def test_what_a_content_filter_stopped_is_no_answer(settings):
    with (
        OpenAIServer(answer=lambda body: Says("Half", "content_filter"), models=["m"]) as server,
        pytest.raises(DpoError, match="content filter stopped the answer"),
    ):
        generate_pairs(load_config(None, settings(server)))


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_stopped_at_any_moment_only_what_is_under_way_is_asked_for_twice(stop, settings, tmp_path, forked):
    with OpenAIServer(answer=lambda body: Says(by_seed(body), seconds=0.02), models=["m"]) as server:
        command = ["gen-pairs"]
        command += [word for one in settings(server, "endpoint.concurrency=3") for word in ("--set", one)]
        path = tmp_path / "pairs" / COMPLETIONS
        process = forked(*command)
        while process.poll() is None and len(lines_of(path)) < 5:
            time.sleep(0.001)
        process.send_signal(stop)
        assert process.wait() == (-signal.SIGKILL if stop == signal.SIGKILL else 130)
        kept, asked = len(lines_of(path)), server.calls
        assert 5 <= kept < 24 and kept <= asked <= kept + 3 and (kept == asked or stop == signal.SIGKILL)
        done = forked(*command)
        assert done.wait() == 0, done.stderr
        assert server.calls == asked + 24 - kept
    rows = rows_of(path)
    assert len(rows) == 8 and all(len(set(row["completions"])) == 3 for row in rows)


def test_a_server_that_is_not_there_or_lacks_the_model_or_wants_a_key_is_told_before_any_work(
    refused_at, write_rows, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    source = write_rows("rows.jsonl", [{"prompt": "Why?"}])
    command = f"gen-pairs --source {source} --output pairs"
    refused_at(f"{command} --endpoint http://127.0.0.1:9/v1", "endpoint.url", "no server answers", "start")
    refused_at(f"{command} --endpoint localhost:80", "--endpoint", "must begin with http", "")
    with OpenAIServer(models=["m"], key="secret") as server:
        ask = f"{command} --endpoint {server.url}"
        refused_at(ask, "endpoint.key_variable", "there is none in", "OPENAI_API_KEY")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        refused_at(f"{ask} --endpoint-model other", "endpoint.model", "does not offer 'other'", "it offers m")
        refused_at(f"{ask} --adapter run", "model.adapter", "without this adapter", "endpoint.url=null")
        assert server.calls == 0


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {
            "prompt": [
                {"role": "user", "content": "Why?"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
                {"role": "tool", "content": "3"},
            ]
        },
    ],
    ids=["offered", "called"],
)
def test_a_row_with_tools_is_refused_before_any_work(row, settings, tmp_path):
    with OpenAIServer(models=["m"]) as server:
        with pytest.raises(DpoError, match="has tools, about which gen-pairs cannot ask") as caught:
            generate_pairs(load_config(None, settings(server, rows=[{"prompt": "a"}, row])))
        assert caught.value.where == f"{tmp_path}/rows.jsonl:2" and server.calls == 0


def test_answers_of_another_model_are_not_mixed_in_and_the_address_may_change(settings):
    for name, refused in (("m", None), ("m", None), ("other", "another model")):
        with OpenAIServer(models=[name]) as server:
            try:
                generate_pairs(load_config(None, settings(server)))
                assert refused is None
            except DpoError as error:
                assert refused and refused in error.what


def test_the_key_is_written_nowhere(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with OpenAIServer(models=["m"], key="sk-very-secret") as server:
        generate_pairs(load_config(None, settings(server, "endpoint.key_variable=MY_KEY")))
    assert "sk-very-secret" not in "".join(capsys.readouterr())
    for path in (tmp_path / "pairs").iterdir():
        assert "sk-very-secret" not in path.read_text()


@pytest.fixture
def real_server(models):
    """mlx_lm's own server on a tiny model; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", models("llama"), "--port", str(port)]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait()


def test_greedy_answers_of_mlx_lms_server_are_the_local_ones(real_server, models, tmp_path, write_rows):
    source = write_rows("rows.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    common = [f"pairs.source={source}", "generate.temperature=0", "generate.max_tokens=24"]
    local = [f"model.path={models('llama')}", f"pairs.output={tmp_path / 'local'}"]
    served = [
        f"endpoint.url={real_server}",
        f"endpoint.model={models('llama')}",
        f"pairs.output={tmp_path / 'served'}",
    ]
    generate_pairs(load_config(None, [*common, *local]))
    counts = generate_pairs(load_config(None, [*common, *served]))
    own, theirs = (by_key(rows_of(tmp_path / folder / COMPLETIONS)) for folder in ("local", "served"))
    tokenizer = load_tokenizer(models("llama"))
    # Locally a cut-off answer ends where training would make the same tokens of it.
    texts = [[tokenizer.decode(row["ids"][0]).strip().rstrip("\ufffd")] for row in own]
    assert [row["completions"] for row in theirs] == texts and len(texts) == 8
    assert [(r["key"], r["prompt"], r["ended"]) for r in theirs] == [
        (r["key"], r["prompt"], r["ended"]) for r in own
    ]
    assert counts.tokens == sum(len(row["ids"][0]) for row in own)
