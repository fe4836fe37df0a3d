"""A client for servers with OpenAI's chat protocol: vLLM, Ollama, LM Studio, mlx_lm.server, OpenAI itself."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from .chat_protocol import Failure, Reply, Request, arguments, refused_argument, reply_of, retry_after
from .console import plural, say
from .errors import DpoError, cut_short, first_line, first_ten
from .settings import Section, setting
from .threads import each

if TYPE_CHECKING:
    import openai

Item = TypeVar("Item")
Result = TypeVar("Result")

_RETRIES = 6
_BACKOFF_SECONDS = (0.5, 8.0)
"""First and longest wait between attempts, if the server does not ask for a time."""
_TOLD_SECONDS = 20.0
"""Waits from this length on are told."""
_FAILURES_IN_A_ROW = 10
_CHECK_SECONDS = 30.0


@dataclass(frozen=True)
class EndpointConfig(Section):
    """A server with OpenAI's chat protocol."""

    url: str | None = setting(
        None,
        "address of an OpenAI-compatible server, such as http://localhost:8080/v1; null: the model runs in "
        "this process",
        also="base_url api_base endpoint host openai_base_url",
    )
    model: str | None = setting(
        None, "the server's name for the model; null: the only one that it offers", also="model_name"
    )
    key_variable: str = setting(
        "OPENAI_API_KEY",
        "environment variable that holds the key; a server on this machine usually needs none",
        also="api_key api_key_env api_key_variable",
    )
    concurrency: int = setting(
        4,
        "requests at the same time",
        least=1,
        most=1000,
        also="num_workers max_workers workers parallel max_concurrency",
    )
    timeout_seconds: float = setting(
        300.0,
        "seconds after which a request counts as failed; the same command sends it again",
        above=0,
        most=86_400,
        also="timeout",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.url is not None:
            _check_address(self.url)


def _check_address(url: str) -> None:
    """Raises ValueError: "url ..."."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url must begin with http:// or https://, got {cut_short(url, 60)!r}")
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        raise ValueError(
            f"url must name a server, such as http://localhost:8080/v1, got {cut_short(url, 60)!r}"
        )
    if "@" in parts.netloc or parts.query:  # the address is written to files, where no key may be
        raise ValueError("url must have no password and no query; a key belongs in key_variable")


class Endpoint:
    """A server and what is known about it; its methods can be called from several threads.

    Args:
        config: url is set.
        section: the section of the settings, for messages.
        wait: sleeps for so many seconds; by default until `stop` is set.
        now: the time in seconds.
        retries: attempts after a failed one.

    `model`: the name to ask for. `refused`: arguments that the server does not accept and that are left out.
    """

    def __init__(
        self,
        config: EndpointConfig,
        section: str,
        wait: Callable[[float], Any] | None = None,
        now: Callable[[], float] = time.monotonic,
        retries: int = _RETRIES,
    ):
        self.config, self.section, self.model = config, section, config.model
        self.refused: frozenset[str] = frozenset()
        self.stop = threading.Event()
        self._wait, self._now, self._retries = wait or self.stop.wait, now, retries
        self._lock = threading.Lock()
        self._paused_until = 0.0
        self._failed_in_a_row = 0
        self._key = os.environ.get(config.key_variable, "").strip()
        self._client = _sdk().OpenAI(
            base_url=config.url,
            api_key=self._key or "none",  # the SDK refuses to start without a key
            timeout=config.timeout_seconds,
            # The SDK would repeat a request that timed out, which the server may have answered and charged
            # for; it does not wait longer than two minutes, and Ctrl-C does not end its waits.
            max_retries=0,
        )

    def check(self) -> None:
        """Check address, key and model name before any work; set `model` if the server offers only one.

        Raises:
            DpoError: the server cannot be reached, refuses the key, or does not offer the model.
        """
        sdk, name = _sdk(), self.config.key_variable
        if not all("!" <= sign <= "~" for sign in self._key):
            raise DpoError(
                f"the key in the environment variable {name} has a blank or a letter that no key has",
                where=f"{self.section}.key_variable",
                hint=f"export {name}=... with the key alone, without typographic quotation marks",
            )
        brief = self._client.with_options(
            max_retries=1, timeout=min(_CHECK_SECONDS, self.config.timeout_seconds)
        )
        try:
            offered = [model.id for model in brief.models.list()]
        except sdk.NotFoundError:  # some servers do not list their models
            offered = []
        except sdk.APIStatusError as error:
            raise self._error_of(error) from None
        except sdk.APIConnectionError:
            raise DpoError(
                f"no server answers at {self.config.url}",
                where=f"{self.section}.url",
                hint="start the server, or correct the address; it usually ends in /v1",
            ) from None
        except (AttributeError, TypeError, ValueError, sdk.OpenAIError):
            raise self._no_protocol() from None
        self.model = self._known_model(offered)

    def _known_model(self, offered: list[str]) -> str:
        asked, where = self.config.model, f"{self.section}.model"
        if asked is None:
            if len(offered) == 1:
                return offered[0]
            names = f"it offers {first_ten(offered)}" if offered else "it does not list its models"
            raise DpoError("the server needs the name of a model", where=where, hint=names)
        # mlx_lm.server lists the full path of the folder that it serves.
        for name in (asked, os.path.realpath(os.path.expanduser(asked))):
            if not offered or name in offered:
                return name
        raise DpoError(
            f"the server does not offer {asked!r}", where=where, hint=f"it offers {first_ten(offered)}"
        )

    def ask(self, request: Request) -> Reply | Failure:
        """Ask once. Attempts that a busy server or the network spoiled are repeated, also after long waits.

        A request whose reply broke off may have been charged for; it is repeated once.

        Raises:
            DpoError: the server refuses the key or the model, or many requests in a row have failed.
            InterruptedError: `stop` was set before the request was sent.
        """
        sdk, reason, lost = _sdk(), "", 0
        for attempt in range(self._retries + 1):
            self._pause()
            try:
                reply = reply_of(self._create(request))
            except sdk.APITimeoutError:
                return self._failed(f"no reply in {self.config.timeout_seconds:g} s", lost + 1)
            except sdk.APIConnectionError as error:
                told = self._without_key(first_line(error.__cause__ or error))
                reason, seconds = f"the connection broke: {told}", None
                lost += type(error.__cause__).__name__ != "ConnectError"  # the server had the request
                if lost > 1:
                    break
            except sdk.APIStatusError as error:
                if error.status_code in (401, 402, 404) or error.code == "insufficient_quota":
                    raise self._error_of(error) from None
                reason = f"the server answered {error.status_code}: {self._message(error)}"
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    return Failure(reason, max(1, lost))
                seconds = retry_after(error)
            except (ValueError, sdk.OpenAIError) as error:
                return self._failed(f"the reply cannot be read: {first_line(error)}", lost + 1)
            else:
                if isinstance(reply, Failure):
                    return self._failed(reply.reason, lost + 1)
                self._failed_in_a_row = 0
                return reply._replace(sent=lost + 1)
            if attempt == self._retries:
                break
            if seconds is None:
                first, longest = _BACKOFF_SECONDS
                self._wait(min(longest, first * 2**attempt) * random.uniform(0.75, 1))
            else:
                self._pause_for(seconds)
        return self._failed(reason, max(1, lost))

    def each(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        done: Callable[[int, Result], None] = lambda index, result: None,
    ) -> None:
        """Do work that asks this server with `concurrency` requests at a time, see `threads.each`."""
        each(work, items, done, self.config.concurrency, self.stop, self.config.timeout_seconds)

    def _create(self, request: Request) -> Any:
        """Send the request; an argument that the server refuses is left out, and from then on always."""
        sdk, left_out = _sdk(), self.refused
        while True:
            sent = arguments(request, left_out)
            try:
                response = self._client.chat.completions.create(model=self.model, **sent)
                break
            except (sdk.BadRequestError, sdk.UnprocessableEntityError) as error:
                if not (name := refused_argument(error, sent)):
                    raise
                left_out |= {name}
        with self._lock:
            new = left_out - self.refused
            self.refused |= new
        if new:
            say(f"the server does not accept {' and '.join(sorted(new))}: asking without")
        return response

    def _pause(self) -> None:
        # Another thread may have been asked to wait longer in the meantime.
        while not self.stop.is_set() and (seconds := self._paused_until - self._now()) > 0:
            self._wait(seconds)
        if self.stop.is_set():
            raise InterruptedError

    def _pause_for(self, seconds: float) -> None:
        with self._lock:
            until = self._now() + seconds
            news = until > self._paused_until + 1
            self._paused_until = max(until, self._paused_until)
        if news and seconds >= _TOLD_SECONDS:
            time_text = plural(round(seconds / 60), "minute") if seconds >= 90 else f"{seconds:.0f} seconds"
            say(f"the server asks to wait {time_text}; Ctrl-C stops, and the same command continues later")

    def _failed(self, reason: str, sent: int) -> Failure:
        """One question without a reply.

        Raises:
            DpoError: so many in a row failed that the server must be out of order.
        """
        with self._lock:
            self._failed_in_a_row += 1
            many = self._failed_in_a_row >= _FAILURES_IN_A_ROW
        if many:
            raise DpoError(
                f"{_FAILURES_IN_A_ROW} requests in a row failed; the last: {reason}",
                where=self.config.url or "",
                hint="look at the server, then run the same command again to continue",
            )
        return Failure(reason, sent)

    def _error_of(self, error: "openai.APIStatusError") -> DpoError:
        """A status that no other question would change."""
        message, name = self._message(error), self.config.key_variable
        if error.status_code in (401, 403):
            given = "refuses the key in" if self._key else "needs a key, and there is none in"
            return DpoError(
                f"the server {given} the environment variable {name} ({message})",
                where=f"{self.section}.key_variable",
                hint=f"export {name}=..., or set {self.section}.key_variable to another variable's name",
            )
        if error.status_code == 404:
            return DpoError(
                f"the server knows no chat at {self.config.url}, or no model {self.model!r} ({message})",
                where=f"{self.section}.url",
                hint=f"the address usually ends in /v1; see also {self.section}.model",
            )
        return DpoError(
            f"the server answered {error.status_code}: {message}",
            where=self.config.url or "",
            hint="look at the server or its account, then run the same command again",
        )

    def _no_protocol(self) -> DpoError:
        return DpoError(
            f"{self.config.url} does not answer like an OpenAI-compatible server",
            where=f"{self.section}.url",
            hint="correct the address; it usually ends in /v1",
        )

    def _message(self, error: "openai.APIStatusError") -> str:
        """The server's own message."""
        body = error.body if isinstance(error.body, dict) else {}
        text = " ".join(str(body.get("message") or body.get("error") or first_line(error)).split())
        return cut_short(self._without_key(text), 200)

    def _without_key(self, text: str) -> str:
        """A message without the key, which some servers repeat."""
        return text.replace(self._key, "***") if self._key else text


def _sdk() -> Any:
    try:
        import openai
    except ImportError:
        raise DpoError("asking a server needs the package openai", hint="pip install 'openai>=3'") from None
    return openai
