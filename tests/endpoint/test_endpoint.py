"""The client and a server with OpenAI's protocol that misbehaves on purpose."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from mlx_dpo.chat_protocol import Failure, Reply, Request
from mlx_dpo.endpoint import Endpoint, EndpointConfig
from mlx_dpo.errors import DpoError

from ..support.openai_server import NO_CHOICES, Clock, Cuts, Fails, OpenAIServer, Raw, Says, in_turn

KEY = "MLX_DPO_TEST_KEY"
SCHEMA = {"type": "object", "properties": {"verdict": {"type": "string"}}}


def question(text="Why?", **more):
    return Request([{"role": "user", "content": text}], max_tokens=8, **more)


@pytest.fixture
def serve():
    """Start a server that answers so, and a client for it: `serve(answer, models=..., retries=...)`."""
    running = []

    def start(answer="hello", *, models=("judge",), key=None, retries=2, clock=None, **settings):
        answer = answer if callable(answer) else in_turn(answer)
        server = OpenAIServer(answer, models, key).__enter__()
        running.append(server)
        config = EndpointConfig(**{"url": server.url, "model": "judge", "key_variable": KEY, **settings})
        time = {"wait": clock.wait, "now": clock.now} if clock else {}
        return server, Endpoint(config, "endpoint", retries=retries, **time)

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
    clock = Clock()
    _, client = serve(url="http://127.0.0.1:9/v1", clock=clock, retries=6)
    assert client.ask(question()).reason.startswith("the connection broke")
    longest = [0.5, 1, 2, 4, 8, 8]
    assert len(clock.waits) == 6
    assert all(0.75 * most <= seconds <= most for seconds, most in zip(clock.waits, longest, strict=True))


@pytest.mark.parametrize("as_date", [False, True])
def test_a_long_wait_that_the_server_asks_for_is_waited_and_told(serve, capsys, as_date):
    until = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    clock = Clock()
    server, client = serve(in_turn(Fails(429, retry_after=until if as_date else 600), "hello"), clock=clock)
    assert client.ask(question()).text == "hello"
    assert clock.waits == pytest.approx([600], abs=2)  # the server's clock may tick before it replies
    assert "asks to wait 10 minutes" in capsys.readouterr().err
    assert server.calls == 2


@pytest.mark.parametrize(
    ("asked", "seconds"), [("inf", 86_400), (1e12, 86_400), ("-5", 0), ("Fri, 01 Jan 2021 00:00:00 GMT", 0)]
)
def test_no_wait_is_longer_than_a_day_or_negative(serve, asked, seconds):
    clock = Clock()
    _, client = serve(in_turn(Fails(429, retry_after=asked), "hello"), clock=clock)
    assert client.ask(question()).text == "hello"
    assert sum(clock.waits) == seconds


def test_a_thread_that_waits_goes_on_waiting_when_another_is_asked_to_wait_longer(serve):
    _, client = serve()
    slept = []

    def wait(seconds):
        slept.append(seconds)
        if len(slept) == 1:  # meanwhile
            client._pause_for(900)
        clock.wait(seconds)

    clock = Clock()
    client._wait, client._now = wait, clock.now
    client._pause_for(600)
    assert client.ask(question()).text == "hello"
    assert slept == [600, 300]


def test_a_request_whose_reply_broke_off_is_sent_once_more_and_both_are_counted(serve):
    server, client = serve(in_turn(Cuts(), "hello"), clock=Clock())
    reply = client.ask(question())
    assert (reply.text, reply.sent, server.calls) == ("hello", 2, 2)
    server, client = serve(Cuts(), retries=6, clock=Clock())
    failed = client.ask(question())
    assert (failed.reason[:20], failed.sent, server.calls) == ("the connection broke", 2, 2)


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
        (Raw('{"choices": {"message": {"content": "hello"}}}'), "the reply has no choices"),
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


def calling(body):
    """Calls the function of the request, if there is one."""
    return Says(None, call='{"n": 1}') if "tools" in body else Says('{"n": 2}')


def test_a_function_is_called_and_its_arguments_are_the_reply(serve):
    server, client = serve(calling)
    reply = client.ask(question(schema=SCHEMA, function="count"))
    assert (reply.text, reply.finish_reason) == ('{"n": 1}', "tool_calls")
    (body,) = server.bodies
    assert body["tools"][0]["function"] == {"name": "count", "parameters": SCHEMA}
    assert body["tool_choice"]["function"]["name"] == "count"
    assert "response_format" not in body


def test_a_server_without_functions_gets_the_schema_and_one_without_schemas_the_words_alone(serve):
    def answer(body):
        if "tools" in body:
            return Fails(400, "tool_choice is not supported")
        return Fails(400, "unknown field") if "response_format" in body else calling(body)

    server, client = serve(answer)
    assert [client.ask(question(schema=SCHEMA, function="count")).text for _ in range(2)] == ['{"n": 2}'] * 2
    assert client.refused == {"tools", "response_format"}
    assert server.calls == 4


def test_a_400_for_another_reason_does_not_leave_the_schema_out_for_ever(serve):
    _, client = serve(Fails(400, "this prompt is too long"))
    assert isinstance(client.ask(question(schema=SCHEMA)), Failure)
    assert not client.refused


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


PARTS = [
    {"type": "thinking", "thinking": []},
    {"type": "text", "text": "hel"},
    {"type": "text", "text": "lo"},
]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": PARTS}, "hello"),
        ({"content": [{"type": "image"}]}, ""),
        ({"content": {"n": 1}}, '{"n": 1}'),
        ({"tool_calls": [{"function": {"name": "count", "arguments": {"n": 1}}}]}, '{"n": 1}'),
        ({"content": "hello", "tool_calls": {"function": 1}}, "hello"),
    ],
)
def test_a_reply_in_another_form_is_read_and_odd_fields_beside_it_are_left_out(serve, message, text):
    odd = {"model": ["judge"], "usage": {"prompt_tokens": "many", "completion_tokens": [1]}}
    _, client = serve(Raw(json.dumps({"choices": [{"message": message, "finish_reason": 7}], **odd})))
    assert client.ask(question()) == Reply(text, None, (), "", None, None)


def test_log_probabilities_in_another_form_are_none(serve):
    choice = {"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": [{"token": "A"}]}]}}
    _, client = serve(Raw(json.dumps({"choices": [choice]})))
    assert client.ask(question(top_logprobs=2)).top_logprobs == ()


@pytest.mark.parametrize("status", [401, 402, 404])
def test_a_status_that_no_other_question_would_change_ends_the_work(serve, status):
    server, client = serve(Fails(status, "no more credits"))
    with pytest.raises(DpoError, match="no more credits"):
        client.each(client.ask, [question()] * 50)
    assert server.calls <= 4


@pytest.mark.parametrize("key", ["s3 cret", "s3cret\ns3cret", "“s3cret”"])
def test_a_key_that_no_server_can_have_given_is_told_before_it_is_sent_and_not_shown(serve, monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    _, client = serve()
    error = refusal(client, "endpoint.key_variable", "a blank or a letter that no key has", KEY)
    assert "s3" not in str(error)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("localhost:8080", "url must begin with http"),
        ("http://", "url must name a server"),
        ("http://[::1/v1", "url must name a server"),
        ("http://host:eighty/v1", "url must name a server"),
        ("https://me:s3cret@host/v1", "no password and no query"),
        ("https://host/v1?key=s3cret", "no password and no query"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url, why):
    with pytest.raises(ValueError, match=why) as caught:
        EndpointConfig(url=url)
    assert "s3cret" not in str(caught.value)
