"""A local server with OpenAI's chat protocol, which misbehaves as it is told and counts what it is asked."""

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Says:
    """A reply in due form; `logprobs`: the likeliest first tokens, [("A", -0.1), ...], sent if asked for.

    `call`: arguments with which the function of the request is called.
    """

    text: str | None = "hello"
    finish_reason: str = "stop"
    logprobs: Sequence[tuple[str, float]] = ()
    refusal: str | None = None
    model: str | None = None
    seconds: float = 0.0
    call: str | None = None


@dataclass
class Fails:
    """An HTTP error; `retry_after`: seconds, a date, or None: the client is told to try again at once."""

    status: int = 500
    message: str = "something is wrong"
    retry_after: float | str | None = None
    param: str | None = None
    code: str | None = None


@dataclass
class Raw:
    """A body as it is, such as an empty list of choices, or a page of HTML."""

    body: str
    content_type: str = "application/json"


class Cuts:
    """The connection breaks in the middle of the reply."""


NO_CHOICES = Raw(json.dumps({"id": "1", "object": "chat.completion", "model": "judge", "choices": []}))
Step = Says | Fails | Raw | Cuts


@dataclass
class Clock:
    """Time that passes only by waiting; `waits` in seconds."""

    time: float = 0.0
    waits: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.time += seconds


@dataclass
class OpenAIServer:
    """Within `with`, a server at `url` that answers each body by `answer(body)`: a Step, or a text.

    Args:
        answer: may take a while, and is called from several threads.
        models: what /models lists; None: 404.
        key: the bearer token that it wants; None: any.

    `bodies`: every request for a chat, in the order in which they came. `asked`: how often by content of the
    messages. `answered`: how often a reply in due form was sent, by content.
    """

    answer: Callable[[dict[str, Any]], Step | str] = lambda body: "hello"
    models: Sequence[str] | None = ("judge",)
    key: str | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    asked: Counter = field(default_factory=Counter)
    answered: Counter = field(default_factory=Counter)

    def __enter__(self) -> "OpenAIServer":
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def calls(self) -> int:
        """Requests for a chat so far."""
        return len(self.bodies)

    def note(self, body: dict[str, Any]) -> None:
        with self._lock:
            self.bodies.append(body)
            self.asked[content_of(body)] += 1

    def note_answered(self, body: dict[str, Any]) -> None:
        with self._lock:
            self.answered[content_of(body)] += 1


def content_of(body: dict[str, Any]) -> str:
    """What a request is counted by: its messages."""
    return json.dumps(body["messages"], sort_keys=True)


def in_turn(*steps: Step | str) -> Callable[[dict[str, Any]], Step | str]:
    """Answers with these steps, one a request; the last one stays."""
    left, lock = list(steps), threading.Lock()

    def answer(body: dict[str, Any]) -> Step | str:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return answer


class _Handler(BaseHTTPRequestHandler):
    owner: OpenAIServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, text: str, content_type: str = "application/json", **headers: str) -> None:
        body = text.encode()
        with suppress(ConnectionError):  # the client may be gone
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

    def _fail(self, step: Fails) -> None:
        error = {"message": step.message, "type": "error", "param": step.param, "code": step.code}
        wait = {"retry_after_ms": "1"} if step.retry_after is None else {"retry_after": str(step.retry_after)}
        self._send(step.status, json.dumps({"error": error}), **wait)

    def _refused(self) -> bool:
        if self.owner.key is None or self.headers.get("Authorization") == f"Bearer {self.owner.key}":
            return False
        self._fail(Fails(401, f"Incorrect API key: {self.headers.get('Authorization')}"))
        return True

    def do_GET(self) -> None:
        if self._refused():
            return
        if self.path != "/v1/models" or self.owner.models is None:
            self._fail(Fails(404, "not found"))
            return
        listed = [{"id": name, "object": "model"} for name in self.owner.models]
        self._send(200, json.dumps({"object": "list", "data": listed}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return
        if self.path != "/v1/chat/completions":
            self._fail(Fails(404, "not found"))
            return
        self.owner.note(body)
        step = self.owner.answer(body)
        step = Says(step) if isinstance(step, str) else step
        match step:
            case Fails():
                self._fail(step)
            case Raw():
                self._send(200, step.body, step.content_type)
            case Cuts():
                self._cut()
            case Says():
                time.sleep(step.seconds)
                self.owner.note_answered(body)
                self._send(200, json.dumps(_completion(step, body)))

    def _cut(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"id": "1", "choi')
        # Closing with unsent data thrown away resets the connection.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def _completion(step: Says, body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": step.text, "refusal": step.refusal},
        "finish_reason": step.finish_reason,
    }
    if step.call is not None:
        called = {"name": body["tools"][0]["function"]["name"], "arguments": step.call}
        choice["message"]["tool_calls"] = [{"id": "1", "type": "function", "function": called}]
        choice["finish_reason"] = "tool_calls"
    if step.logprobs and body.get("logprobs"):
        likely = [{"token": token, "logprob": value, "bytes": None} for token, value in step.logprobs]
        choice["logprobs"] = {"content": [{**likely[0], "top_logprobs": likely[: body["top_logprobs"]]}]}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": step.model or body["model"],
        "choices": [choice],
        "usage": {
            "prompt_tokens": len(content_of(body)) // 4,
            "completion_tokens": len((step.text or "").split()),
            "total_tokens": 0,
        },
    }
