"""A judge that runs in this process: a model folder, or a model on the Hub."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import mlx.core as mx
import numpy as np

from ..chat_protocol import Failure, Reply, Request
from ..data.conversation_tokens import prompt_tokens
from ..models.generate import memory_of
from ..models.load import find_model, fingerprint, load_model, load_tokenizer
from ..records import Message
from ..upstream import batch_generator
from .prompts import before_answers

Item = TypeVar("Item")
Result = TypeVar("Result")

_LIKELIEST = 200
"""First tokens that are looked at for a letter: all of them are known here, unlike from a server."""
_WORTH_KEEPING = 16
"""Fewest tokens by which a beginning must be longer than the one before to be kept too."""


class _Beginning(NamedTuple):
    """The first tokens of several requests, and the model's memory of them (mlx_lm's caches)."""

    tokens: list[int]
    memory: Any


class LocalJudge:
    """A model that answers requests like `endpoint.Endpoint`, one at a time and greedily.

    `processed`: prompt tokens that the model has processed so far.
    """

    def __init__(self, name: str):
        """
        Raises:
            DpoError: as `models.load.find_model`.
        """
        self._folder = find_model(name)
        self.key = fingerprint(self._folder)
        self.model = Path(name).name
        self.processed = 0
        self._loaded: tuple[Any, Any] | None = None
        self._longest: float = math.inf
        self._kept: list[_Beginning] = []
        self._last: list[int] = []

    def check(self) -> None:
        """Load the model.

        Raises:
            DpoError: as `models.load.load_model` and `load_tokenizer`.
        """
        model, config = load_model(self._folder)
        self._loaded = model, load_tokenizer(self._folder)
        self._longest = (config.get("text_config") or config).get("max_position_embeddings") or math.inf

    def ask(self, request: Request) -> Reply | Failure:
        """Answer with at most `max_tokens`; `top_logprobs` above 0 gives the likeliest 200 first tokens.

        What the beginnings of requests have in common is processed once: the model's memory of it is kept.
        """
        model, tokenizer = self._loaded
        prompt = prompt_tokens(tokenizer, request.messages)
        if (length := len(prompt) + request.max_tokens) > self._longest:  # what it says there is noise
            return Failure(
                f"the request has {length:,} tokens, but the judge reads at most {self._longest:,}"
            )
        known, segments = self._beginning(prompt, request.messages)
        first: list[mx.array] = []

        def greedy(logprobs: mx.array) -> mx.array:
            if not first:
                first.append(logprobs[0].astype(mx.float32))
            return mx.argmax(logprobs, axis=-1)

        generator = batch_generator(model, stop_tokens=[[token] for token in tokenizer.eos_token_ids])
        ids, ended = [], None
        try:
            (uid,) = generator.insert_segments(
                [segments], [request.max_tokens], caches=[known.memory], samplers=[greedy]
            )
            while not ended:
                ready, responses = generator.next()
                if len(segments) > 1 and any(one.end_of_segment for one in ready):
                    known = _Beginning([*known.tokens, *segments.pop(0)], memory_of(generator, uid))
                    self._kept.append(known)
                for response in responses:
                    ended = response.finish_reason
                    if ended != "stop":
                        ids.append(response.token)
        finally:
            generator.close()
        likely = _likeliest(tokenizer, np.array(first[0])) if request.top_logprobs else ()
        text = tokenizer.decode(ids).strip()
        return Reply(text, ended, likely, self.model, len(prompt), len(ids))

    def _beginning(
        self, prompt: list[int], messages: Sequence[Message]
    ) -> tuple["_Beginning", list[list[int]]]:
        """The longest kept beginning of a prompt, and the other tokens, cut where a memory is worth keeping.

        That is where the answers begin, and where the prompt differs from the one before. The last token of a
        prompt is never kept: its output is the reply.
        """
        start = prompt[:-1]
        self._kept = [one for one in self._kept if start[: len(one.tokens)] == one.tokens]
        known = self._kept[-1] if self._kept else _Beginning([], None)
        until_answers = prompt_tokens(self._loaded[1], before_answers(messages))
        segments, done = [], len(known.tokens)
        for end in sorted((_in_common(start, until_answers), _in_common(start, self._last))):
            if end - done >= _WORTH_KEEPING:
                segments.append(prompt[done:end])
                done = end
        self._last = prompt
        self.processed += len(prompt) - len(known.tokens)
        return known, [*segments, prompt[done:]]

    def each(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        done: Callable[[int, Result], None] = lambda index, result: None,
    ) -> None:
        """Do the work, one item after the other; `done` is called with index and result."""
        for index, item in enumerate(items):
            done(index, work(item))


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many equal tokens both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _likeliest(tokenizer: Any, logprobs: np.ndarray) -> tuple[tuple[str, float], ...]:
    """(token, log-probability) of the likeliest tokens, the likeliest first."""
    order = np.argsort(-logprobs)[:_LIKELIEST]
    return tuple((tokenizer.decode([int(token)]), float(logprobs[token])) for token in order)
