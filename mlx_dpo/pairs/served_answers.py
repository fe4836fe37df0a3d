"""Answers of a model that a server runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..chat_protocol import Failure, Request
from ..endpoint import Endpoint
from ..errors import DpoError
from ..models.generate import GenerateConfig
from .completions import Answers, Completion, Keep, Missing, Row, Work, request_key, stream_of
from .sampled_answers import Said

_SEEDS = 2**31
"""Servers take seeds of 31 bits."""


def check_only_text(rows: Sequence[Row]) -> None:
    """Check that a server can be asked these prompts: turns of text, without tools.

    Raises:
        DpoError: a row has more.
    """
    for row in rows:
        if row.tools or any(turn["role"] == "tool" or "tool_calls" in turn for turn in row.prompt):
            raise DpoError(
                "has tools, about which gen-pairs cannot ask a server",
                where=row.where,
                hint="remove the row, or sample with a model on this machine (endpoint.url=null)",
            )


def ask_missing(
    endpoint: Endpoint,
    asked: Mapping[str, Row],
    config: GenerateConfig,
    missing: Sequence[Missing],
    keep: Keep,
) -> Work:
    """Ask the server for the missing answers; one that was cut off is sampled again from its start.

    Raises:
        DpoError: the server refuses the key or the model, or many requests in a row have failed.
    """
    failed: list[tuple[Missing, str]] = []
    prompt_tokens: list[int] = []

    def ask(one: Missing) -> None:
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in asked[one.key].prompt]
        seed = (stream_of(one.key, one.sample) + config.seed) % _SEEDS
        reply = endpoint.ask(Request(turns, config.max_tokens, config.temperature, seed, config.top_p))
        if isinstance(reply, Failure):
            failed.append((one, reply.reason))
        elif reply.finish_reason == "content_filter":
            failed.append((one, "the server's content filter stopped the answer"))
        else:
            prompt_tokens.append(reply.prompt_tokens or 0)
            cut = reply.finish_reason == "length"
            text = reply.text.strip().rstrip("\ufffd") if cut else reply.text.strip()  # half of a character
            keep(one, Completion(text, not cut, limit=config.max_tokens), reply.completion_tokens or 0)

    endpoint.each(ask, missing)
    return Work(sum(prompt_tokens), failed)


def served_texts(rows: Sequence[Row], answers: Mapping[str, Answers], samples: int) -> dict[str, list[Said]]:
    """The first `samples` answers to these rows' prompts by request key."""
    return {
        key: [Said(answers[key][number].text, not answers[key][number].ended) for number in range(samples)]
        for key in {request_key(row) for row in rows}
    }


def served_origin(endpoint: Endpoint, config: GenerateConfig) -> dict[str, Any]:
    """Everything besides the prompt that answers depend on, and where the server was."""
    return {
        "endpoint_model": endpoint.model,
        "endpoint_url": endpoint.config.url,
        "generate": {k: v for k, v in asdict(config).items() if k != "batch_size"},
    }
