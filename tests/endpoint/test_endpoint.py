"""The client and a server with OpenAI's protocol that misbehaves on purpose."""

import json
import threading
import time

import pytest

from mlx_dpo.endpoint import Endpoint, EndpointConfig, Failure, Reply, Request
from mlx_dpo.errors import DpoError

from ..support.openai_server import NO_CHOICES, Cuts, Fails, OpenAIServer, Raw, Says, in_turn

KEY = "MLX_DPO_TEST_KEY"
SCHEMA = {"type": "object", "properties": {"verdict": {"type": "string"}}}


def question(text="Why?", **more):
    return Request([{"role": "user", "content": text}], max_tokens=8, **more)


@pytest.fixture
def serve():
    """Start a server that answers so, and a client for it: `serve(answer, models=..., retries=...)`."""
    running = []

    def start(answer="hello", *, models=("judge",), key=None, retries=2, wait=None, **settings):
        answer = answer if callable(answer) else in_turn(answer)
        server = OpenAIServer(answer, models, key).__enter__()
        running.append(server)
        config = EndpointConfig(**{"url": server.url, "model": "judge", "key_variable": KEY, **settings})
        return server, Endpoint(config, "endpoint", wait, retries)

    yield start
    for server in running:
        server.__exit__()


def refusal(client, where, phrase, remedy):
    with pytest.raises(DpoError) as caught:
        client.check()
    assert (caught.value.where, phrase in caught.value.what, remedy in caught.value.hint) == (
        where,
        True,
        True,
    ), str(caught.value)
    return caught.value


def test_a_reply_has_text_reason_counts_and_the_likeliest_first_tokens(serve):
    server, client = serve(Says("A", logprobs=[("A", -0.25), ("B", -1.5), ("tie", -4)]))
    assert client.ask(question(top_logprobs=2)) == Reply(
        "A",
        "stop",
        (("A", -0.25), ("B", -1.5)),
        "judge",
        len(json.dumps(server.bodies[0]["messages"])) // 4,
        1,
    )
    assert server.bodies[0]["logprobs"] is True


def test_a_server_that_ignores_logprobs_gives_none(serve):
    _, client = serve("A")
    assert client.ask(question(top_logprobs=5)).top_logprobs == ()


def test_a_refusal_is_a_reply_with_that_reason(serve):
    _, client = serve(Says(None, refusal="I cannot compare these."))
    reply = client.ask(question())
    assert (reply.text, reply.finish_reason) == ("I cannot compare these.", "refusal")


@pytest.mark.parametrize("fault", [Fails(500), Fails(429), Fails(503), Fails(408)], ids=lambda f: f.status)
def test_a_server_that_fails_twice_and_then_answers_gives_the_answer(serve, fault):
    server, client = serve(in_turn(fault, fault, "hello"))
    assert client.ask(question()).text == "hello"
    assert server.calls == 3


def test_a_short_wait_that_the_server_asks_for_is_waited(serve, capsys):
    _, client = serve(in_turn(Fails(429, retry_after=1), "hello"))
    start = time.monotonic()
    assert client.ask(question()).text == "hello"
    assert time.monotonic() - start >= 1
    assert capsys.readouterr().err == ""


def test_without_a_time_from_the_server_the_waits_double(serve):
    waited = []
    _, client = serve(Cuts(), wait=waited.append, retries=6)
    assert client.ask(question()).reason.startswith("the connection broke")
    longest = [0.5, 1, 2, 4, 8, 8]
    assert len(waited) == 6
    assert all(0.75 * most <= seconds <= most for seconds, most in zip(waited, longest, strict=True))


def test_a_long_wait_that_the_server_asks_for_is_waited_and_told(serve, capsys):
    waited = []
    server, client = serve(in_turn(Fails(429, retry_after=600), "hello"), wait=waited.append)
    assert client.ask(question()).text == "hello"
    assert [round(seconds) for seconds in waited] == [600]
    assert "asks to wait 10 minutes" in capsys.readouterr().err
    assert server.calls == 2


def test_a_broken_connection_is_tried_again(serve):
    server, client = serve(in_turn(Cuts(), "hello"))
    assert client.ask(question()).text == "hello"
    assert server.calls == 2


def test_a_request_that_timed_out_is_not_sent_again_since_it_may_have_been_charged_for(serve):
    server, client = serve(Says(seconds=0.3), timeout_seconds=0.1)
    assert client.ask(question()) == Failure("no reply in 0.1 s")
    assert server.calls == 1


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Fails(500, "out of memory"), "the server answered 500: out of memory"),
        (Fails(400, "this prompt is too long"), "the server answered 400: this prompt is too long"),
        (NO_CHOICES, "the reply has no choices"),
        (Raw("{broken"), "the reply cannot be read"),
        (Raw("<html>", "text/html"), "the reply has no choices"),
        (Cuts(), "the connection broke"),
        (Says(seconds=0.3), "no reply in 0.1 s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_question_without_a_reply_is_a_failure_with_its_reason(serve, step, reason):
    _, client = serve(step, retries=0, timeout_seconds=0.1)
    failed = client.ask(question())
    assert isinstance(failed, Failure)
    assert failed.reason.startswith(reason)


def test_a_server_that_only_fails_ends_the_work_with_its_last_reason(serve):
    server, client = serve(Fails(500, "no GPU"), retries=0, concurrency=1)
    with pytest.raises(DpoError, match=r"10 requests in a row failed; the last: .*500: no GPU"):
        client.each(client.ask, [question()] * 50)
    assert server.calls == 10


def test_a_refused_schema_is_left_out_from_then_on(serve, capsys):
    def answer(body):
        return Fails(400, "unknown field response_format") if "response_format" in body else "hello"

    server, client = serve(answer)
    assert [client.ask(question(schema=SCHEMA)).text for _ in range(3)] == ["hello"] * 3
    assert server.calls == 4
    assert client.refused == {"response_format"}
    assert capsys.readouterr().err.count("does not accept response_format") == 1


def test_a_400_for_another_reason_does_not_leave_the_schema_out_for_ever(serve):
    _, client = serve(Fails(400, "this prompt is too long"))
    assert isinstance(client.ask(question(schema=SCHEMA)), Failure)
    assert client.refused == set()


def test_newer_models_get_their_name_for_the_limit_and_no_temperature(serve):
    def answer(body):
        if "max_tokens" in body:
            return Fails(400, "Unsupported parameter", param="max_tokens")
        return Fails(400, "Unsupported value", param="temperature") if "temperature" in body else "hello"

    server, client = serve(answer)
    assert client.ask(question()).text == "hello"
    assert server.bodies[-1]["max_completion_tokens"] == 8


def test_the_only_model_that_a_server_offers_need_not_be_named(serve):
    server, client = serve(models=["one"], model=None)
    client.check()
    client.ask(question())
    assert server.bodies[0]["model"] == "one"


def test_a_wrong_model_name_is_refused_with_those_that_are_offered(serve):
    _, client = serve(models=["one", "two"], model="three")
    refusal(client, "endpoint.model", "does not offer 'three'", "it offers one, two")


def test_a_model_must_be_named_where_several_are_offered(serve):
    _, client = serve(models=["one", "two"], model=None)
    refusal(client, "endpoint.model", "needs the name of a model", "it offers one, two")


def test_a_server_without_a_list_of_models_is_taken_at_its_word(serve):
    _, client = serve(models=None)
    client.check()
    assert client.model == "judge"


def test_an_unreachable_server_is_refused_within_a_second(serve):
    _, client = serve(url="http://127.0.0.1:9/v1")
    refusal(client, "endpoint.url", "no server answers at http://127.0.0.1:9/v1", "start the server")


def test_a_missing_and_a_wrong_key_are_told_apart_and_the_key_is_never_shown(serve, monkeypatch):
    _, client = serve(key="right")
    refusal(
        client,
        "endpoint.key_variable",
        f"needs a key, and there is none in the environment variable {KEY}",
        KEY,
    )
    monkeypatch.setenv(KEY, "s3cret")
    _, client = serve(key="right")
    error = refusal(
        client, "endpoint.key_variable", f"refuses the key in the environment variable {KEY}", KEY
    )
    assert "s3cret" not in str(error)


def test_the_key_of_the_environment_is_sent(serve, monkeypatch):
    monkeypatch.setenv(KEY, "right")
    _, client = serve(key="right")
    client.check()
    assert client.ask(question()).text == "hello"


def test_the_work_is_spread_over_so_many_requests_at_a_time(serve):
    most, now, lock = 0, 0, threading.Lock()

    def answer(body):
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return body["messages"][0]["content"].upper()

    _, client = serve(answer, concurrency=3)
    found = {}
    texts = [f"q{number}" for number in range(12)]
    client.each(client.ask, map(question, texts), lambda index, reply: found.update({index: reply.text}))
    assert found == {number: f"Q{number}" for number in range(12)}
    assert most == 3


def test_an_interrupt_keeps_the_replies_under_way_and_sends_no_more(serve):
    server, client = serve(Says(seconds=0.1), concurrency=2)
    kept = []

    def stop(index, reply):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.each(lambda request: kept.append(client.ask(request)), [question()] * 100, stop)
    assert len(kept) == server.calls <= 4


def test_an_address_without_a_scheme_is_refused():
    with pytest.raises(ValueError, match="url must begin with http"):
        EndpointConfig(url="localhost:8080")
