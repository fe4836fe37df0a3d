"""Answers to many prompts at once, by mlx_lm's continuous batching."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..settings import LARGEST_SEED, Section, setting
from ..upstream import batch_generator


@dataclass(frozen=True)
class GenerateConfig(Section):
    """How answers are sampled."""

    max_tokens: int = setting(
        512,
        "maximum length of an answer, in tokens; after raising it, gen-pairs continues the answers that "
        "were cut off",
        least=1,
        most=1_000_000,
        also="max_new_tokens max_gen_tokens max_gen_toks max_answer_tokens",
    )
    temperature: float = setting(
        0.7, "sampling temperature; 0: always the most likely token", least=0, most=100, also="temp"
    )
    top_p: float = setting(
        0.95, "sample only from the most likely tokens whose probabilities add up to this", above=0, most=1
    )
    batch_size: int = setting(
        16, "prompts answered at the same time; more is faster and needs more memory", least=1, most=100_000
    )
    seed: int = setting(
        0,
        "sampling seed; every prompt has its own random numbers, so the batch size does not change an answer",
        least=0,
        most=LARGEST_SEED,
        also="sampling_seed",
    )

    def __post_init__(self):
        super().__post_init__()
        if 0 < self.temperature < 0.001:  # logits divided by it would overflow
            raise ValueError(f"temperature must be 0 or at least 0.001, got {self.temperature}")


_PREFILL = 4
"""Prompts processed at a time: on hybrid models this takes far more memory than answering."""


class Answer(NamedTuple):
    """An answer: number of the prompt, text, token ids without the end, whether max_tokens cut it off."""

    index: int
    text: str
    ids: list[int]
    capped: bool

    @property
    def tokens(self) -> int:
        """Number of tokens, without the end token."""
        return len(self.ids)


def generate_answers(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    config: GenerateConfig,
    streams: Sequence[int] | None = None,
    begun: Sequence[Sequence[int]] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Iterator[Answer]:
    """Answer every prompt (a list of token ids); yield each answer when it ends, in any order.

    Long prompts go first, so that the batch stays full until the end and the memory peak comes early.

    Args:
        streams: the number of each prompt's stream of random numbers; by default the place of the prompt.
        begun: the tokens that each answer already has, fewer than max_tokens. The answer continues from them
            as if it had never stopped, except for rounding.
        advance: called with the number of new tokens.
    """
    if not prompts:
        return
    streams = range(len(prompts)) if streams is None else streams
    begun = [[]] * len(prompts) if begun is None else begun
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]) - len(begun[i]))
    model.eval()
    generator = batch_generator(
        model,
        stop_tokens=[[t] for t in tokenizer.eos_token_ids],
        completion_batch_size=config.batch_size,
        prefill_batch_size=min(_PREFILL, config.batch_size),
    )
    try:
        uids = generator.insert(
            [[*prompts[i], *begun[i]] for i in order],
            [config.max_tokens - len(begun[i]) for i in order],
            samplers=None
            if config.temperature == 0
            else [row_sampler(config, streams[i], len(begun[i])) for i in order],
        )
        index = dict(zip(uids, order, strict=True))
        tokens = {uid: list(begun[i]) for uid, i in index.items()}
        while responses := generator.next_generated():
            if advance:
                advance(len(responses))
            for response in responses:
                if response.finish_reason != "stop":
                    tokens[response.uid].append(response.token)
                if response.finish_reason:
                    ids = tokens.pop(response.uid)
                    text = tokenizer.decode(ids).strip()
                    yield Answer(index[response.uid], text, ids, response.finish_reason == "length")
    finally:
        generator.close()


def row_sampler(config: GenerateConfig, stream: int, drawn: int = 0) -> Callable[[mx.array], mx.array]:
    """Temperature and nucleus sampling for one sequence, with its own key: (1, V) log-probs to (1,).

    If `drawn` tokens were drawn before, it continues with the random numbers that come after theirs.
    """
    from mlx_lm.sample_utils import apply_top_p

    narrow = partial(apply_top_p, top_p=config.top_p) if config.top_p < 1 else lambda logprobs: logprobs
    # An odd multiplier keeps different (stream, seed) apart in 64 bits.
    key = mx.random.key((stream * 0x9E3779B97F4A7C15 + config.seed) % 2**64)
    for _ in range(drawn):
        key, _ = mx.random.split(key)

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        if mx.default_device().type == mx.cpu:  # there MLX sorts a vocabulary more slowly than the model runs
            row = np.array(logprobs[0].astype(mx.float32))
            return mx.array(
                [drawn_token(row, config.temperature, config.top_p, mx.random.uniform(key=now).item())]
            )
        return mx.random.categorical(narrow(logprobs) / config.temperature, key=now)

    return sample


def drawn_token(logprobs: np.ndarray, temperature: float, top_p: float, uniform: float) -> int:
    """The token that a uniform number in [0, 1) draws from the likeliest tokens that sum to `top_p`.

    Args:
        logprobs: (V,), nats; top_p is applied before the temperature, as in mlx_lm.
    """
    kept = np.ones(len(logprobs), bool)
    if top_p < 1:
        falling = np.sort(logprobs)[::-1]
        chances = np.exp(falling, dtype=np.float64)
        above = np.cumsum(chances) - chances
        kept = logprobs >= falling[above < top_p * chances.sum()][-1]
    # In the order of token ids: ordered by probability, rounding would swap tokens of similar probability.
    ends = np.cumsum(np.where(kept, np.exp((logprobs - logprobs.max()) / temperature, dtype=np.float64), 0.0))
    return int(np.searchsorted(ends, uniform * ends[-1], side="right"))
