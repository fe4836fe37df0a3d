"""A judge that runs in this process: a model folder, or a model on the Hub."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from ..chat_protocol import Failure, Reply, Request
from ..data.templates import prompt_tokens
from ..models.load import find_model, fingerprint, load_model, load_tokenizer
from ..upstream import batch_generator

Item = TypeVar("Item")
Result = TypeVar("Result")

_LIKELIEST = 200
"""First tokens that are looked at for a letter: all of them are known here, unlike from a server."""


class LocalJudge:
    """A model that answers requests like `endpoint.Endpoint`, one at a time and greedily."""

    def __init__(self, name: str):
        """
        Raises:
            DpoError: as `models.load.find_model`.
        """
        self._folder = find_model(name)
        self.key = fingerprint(self._folder)
        self.model = Path(name).name
        self._loaded: tuple[Any, Any] | None = None

    def check(self) -> None:
        """Load the model.

        Raises:
            DpoError: as `models.load.load_model` and `load_tokenizer`.
        """
        self._loaded = load_model(self._folder)[0], load_tokenizer(self._folder)

    def ask(self, request: Request) -> Reply | Failure:
        """Answer with at most `max_tokens`; `top_logprobs` above 0 gives the likeliest 200 first tokens."""
        model, tokenizer = self._loaded
        prompt = prompt_tokens(tokenizer, request.messages)
        first: list[mx.array] = []

        def greedy(logprobs: mx.array) -> mx.array:
            if not first:
                first.append(logprobs[0].astype(mx.float32))
            return mx.argmax(logprobs, axis=-1)

        generator = batch_generator(model, stop_tokens=[[token] for token in tokenizer.eos_token_ids])
        ids, ended = [], None
        try:
            generator.insert([prompt], [request.max_tokens], samplers=[greedy])
            while not ended and (responses := generator.next_generated()):
                for response in responses:
                    ended = response.finish_reason
                    if ended != "stop":
                        ids.append(response.token)
        finally:
            generator.close()
        likely = _likeliest(tokenizer, np.array(first[0])) if request.top_logprobs else ()
        text = tokenizer.decode(ids).strip()
        return Reply(text, ended, likely, self.model, len(prompt), len(ids))

    def each(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        done: Callable[[int, Result], None] = lambda index, result: None,
    ) -> None:
        """Do the work, one item after the other; `done` is called with index and result."""
        for index, item in enumerate(items):
            done(index, work(item))


def _likeliest(tokenizer: Any, logprobs: np.ndarray) -> tuple[tuple[str, float], ...]:
    """(token, log-probability) of the likeliest tokens, the likeliest first."""
    order = np.argsort(-logprobs)[:_LIKELIEST]
    return tuple((tokenizer.decode([int(token)]), float(logprobs[token])) for token in order)
