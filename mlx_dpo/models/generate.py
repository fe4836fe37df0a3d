"""Answers to many prompts at once, by mlx_lm's continuous batching."""

from collections import deque
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
        16, "answers sampled at the same time; more is faster and needs more memory", least=1, most=100_000
    )
    seed: int = setting(
        0,
        "sampling seed; every answer has its own random numbers, so the batch size does not change an answer",
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
    processed: Callable[[int], None] | None = None,
) -> Iterator[Answer]:
    """Answer every prompt (a list of token ids); yield each answer when it ends, in any order.

    Equal prompts are processed once: all their answers continue from the same memory of the prompt. Long
    prompts go first, so that the batch stays full until the end and the memory peak comes early.

    Args:
        streams: the number of each answer's stream of random numbers; by default its place in `prompts`.
        begun: the tokens that each answer already has, fewer than max_tokens. The answer continues from them
            as if it had never stopped, except for rounding.
        advance: called with the number of new tokens.
        processed: called at the end with the number of prompt tokens that the model processed before the
            answers. A prompt's last token is not among them: it is the first input of each of its answers.
    """
    if not prompts:
        return
    streams = range(len(prompts)) if streams is None else streams
    begun = [[]] * len(prompts) if begun is None else begun
    model.eval()
    generator = batch_generator(
        model,
        stop_tokens=[[t] for t in tokenizer.eos_token_ids],
        completion_batch_size=config.batch_size,
        prefill_batch_size=min(_PREFILL, config.batch_size),
    )
    queue = _Queue(generator, prompts, begun, streams, config)
    try:
        with generator.stats() as stats:
            while queue.fill():
                ready, responses = generator.next()
                queue.fork([response.uid for response in ready if response.end_of_segment])
                if advance and responses:
                    advance(len(responses))
                for response in responses:
                    ids = queue.ids[response.uid]
                    if response.finish_reason != "stop":
                        ids.append(response.token)
                    if response.finish_reason:
                        text = tokenizer.decode(ids).strip()
                        capped = response.finish_reason == "length"
                        yield Answer(queue.taken(response.uid), text, ids, capped)
        if processed:
            processed(stats.prompt_tokens)
    finally:
        generator.close()


class _Queue:
    """Hands prompts to mlx_lm's generator: equal prompts once, their other answers when it is processed.

    `ids` has the tokens so far of the answers that the generator has, by its number for them.
    """

    def __init__(
        self,
        generator: Any,
        prompts: Sequence[Sequence[int]],
        begun: Sequence[Sequence[int]],
        streams: Sequence[int],
        config: GenerateConfig,
    ):
        self._generator, self._config = generator, config
        self._prompts, self._begun, self._streams = prompts, begun, streams
        self.ids: dict[int, list[int]] = {}
        self._places: dict[int, int] = {}
        self._sharing: dict[int, list[int]] = {}
        equal: dict[tuple[int, ...], list[int]] = {}
        for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i]) - len(begun[i])):
            equal.setdefault(tuple(prompts[i]), []).append(i)
        self._waiting = deque(equal.values())

    def fill(self) -> bool:
        """Give the generator enough prompts for a full batch; whether there is anything left to do."""
        while self._waiting and self._under_way < self._config.batch_size + _PREFILL:
            first, *others = self._waiting.popleft()
            *start, last = self._prompts[first]
            if others and start:
                (uid,) = self._insert([first], [[start, [last, *self._begun[first]]]])
                self._sharing[uid] = others
            else:
                every = [first, *others]
                self._insert(every, [[[*start, last, *self._begun[i]]] for i in every])
        return bool(self.ids)

    def fork(self, uids: Sequence[int]) -> None:
        """Continue the other answers of the processed prompts among these from the same memory."""
        for uid in uids:
            if others := self._sharing.pop(uid, None):
                memory = memory_of(self._generator, uid)
                segments = [[[self._prompts[i][-1], *self._begun[i]]] for i in others]
                self._insert(others, segments, [memory] * len(others))

    def taken(self, uid: int) -> int:
        """The place of an answer that has ended; it leaves the queue."""
        del self.ids[uid]
        return self._places.pop(uid)

    @property
    def _under_way(self) -> int:
        return len(self.ids) + sum(map(len, self._sharing.values()))

    def _insert(
        self, places: Sequence[int], segments: Sequence[list[list[int]]], caches: Any = None
    ) -> list[int]:
        begun, config = [self._begun[i] for i in places], self._config
        uids = self._generator.insert_segments(
            segments,
            [config.max_tokens - len(ids) for ids in begun],
            caches=caches,
            samplers=[row_sampler(config, self._streams[i], len(self._begun[i])) for i in places]
            if config.temperature
            else None,
        )
        self.ids.update((uid, list(ids)) for uid, ids in zip(uids, begun, strict=True))
        self._places.update(zip(uids, places, strict=True))
        return uids


def memory_of(generator: Any, uid: int) -> Any:
    """The model's memory (mlx_lm's caches) of the tokens that the generator has processed of one sequence."""
    with mx.stream(generator.stream):
        memory, _ = generator.extract_cache([uid])[uid]
        mx.eval([cache.state for cache in memory])  # else it would keep the memory of its batch
    return memory


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
