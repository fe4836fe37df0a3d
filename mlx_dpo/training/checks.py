"""Five invariants that must hold before the first update, checked on real rows at every start."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..console import say
from ..data.batches import build_batch
from ..data.completion_text import continuation
from ..data.pair_store import PairStore
from ..data.render import render
from ..data.templates import end_of_turn
from ..data.tokenize import TokenizedPair, pair_lengths
from ..errors import DpoError, first_line
from ..forward.checkpointing import checkpoint_layers
from ..forward.pair_logps import COMPLETION, PLAIN, SEPARATE, SHARED, Forward
from ..forward.scoring import score_pairs, singles
from ..machine.out_of_memory import refused_by_the_system
from ..models.load import compute_dtype
from ..randomness import random_untouched
from ..records import Preference
from ..upstream import UpstreamError, versions
from .known_model import known_model, known_pairs
from .proof import (
    Apart,
    Tokens,
    agree,
    apart,
    end_tokens,
    forward_gradient,
    forward_tokens,
    in_float32,
    own_gradient,
    own_tokens,
    precisions,
    relative_error,
    rounded_otherwise,
    rounding,
    slopes_agree,
    sums_agree,
    widens_cheaply,
)
from .reference import forget_reference, reference_scores

_REPORT = "this is a bug in mlx_dpo or in the model's files: please report it with this message"


def spread_rows(pairs: Sequence[TokenizedPair], count: int) -> list[int]:
    """Row numbers from the shortest row to the longest, evenly spread, without repeats."""
    order = np.argsort(pair_lengths(pairs), kind="stable")
    return list(
        dict.fromkeys(int(order[round(k * (len(order) - 1) / max(1, count - 1))]) for k in range(count))
    )


def sample_rows(pairs: Sequence[TokenizedPair]) -> list[int]:
    """Three rows of the shorter half, the shortest first: a batch of them fits wherever training fits."""
    order = np.argsort(pair_lengths(pairs), kind="stable")
    return list(dict.fromkeys(int(order[k * (len(order) - 1) // 4]) for k in range(3)))


def sample_pairs(pairs: Sequence[TokenizedPair]) -> list[TokenizedPair]:
    """The sample rows, shortened to the end of their prompts and the start of their answers."""
    return [shortened(pairs[row], answer=32) for row in sample_rows(pairs)]


def shortened(pair: TokenizedPair, prompt: int = 76, answer: int = 16) -> TokenizedPair:
    """The pair with the end of its prompt and the start of its answers; the defaults suit every check."""
    return replace(
        pair, prompt=pair.prompt[-prompt:], chosen=pair.chosen[:answer], rejected=pair.rejected[:answer]
    )


def short_row(pairs: Sequence[TokenizedPair]) -> TokenizedPair:
    """A part of the shortest row, for checks that any token can decide."""
    return shortened(pairs[sample_rows(pairs)[0]], 24, 12)


def longest_row(pairs: Sequence[TokenizedPair], room: int) -> TokenizedPair:
    """The longest row: its longer answer as chosen, two tokens of it as rejected; `room` + 2 tokens."""
    pair = pairs[spread_rows(pairs, 2)[-1]]
    answer = max(pair.chosen, pair.rejected, key=len)[: max(END, room // 2)]
    prompt = pair.prompt[-max(2, room - len(answer)) :]
    return replace(pair, prompt=prompt, chosen=answer, rejected=answer[:2])


END = 32
"""Number of tokens of the longest row that are compared: the last ones, which depend on all others."""


def check_masks(
    rows: Sequence[Preference], pairs: Sequence[TokenizedPair], tokenizer: Any, max_length: int
) -> None:
    """Invariants 2 and 3: scored tokens decode to the answer and one end-of-turn, after the shared prompt.

    An answer that is marked as cut off has no end-of-turn; an answer that reaches max_length may have none.

    Args:
        rows: the row of text from which each pair was made.

    Raises:
        DpoError: naming the row.
    """
    end = end_of_turn(tokenizer)
    for number in spread_rows(pairs, 8):
        pair, row = pairs[number], rows[number]
        batch = build_batch([pair])
        prompt = np.array(batch.inputs)[:, : len(pair.prompt)]
        if not (prompt == pair.prompt).all():
            raise DpoError(
                "the two answers do not have the same prompt tokens", where=pair.where, hint=_REPORT
            )
        text = render(tokenizer, row.prompt, generation_prompt=True, tools=row.tools)
        if _decode(tokenizer, pair.prompt) != _decode(
            tokenizer, tokenizer.encode(text, add_special_tokens=not tokenizer.has_chat_template)
        ):
            raise DpoError("the prompt's tokens are not the rendered prompt", where=pair.where, hint=_REPORT)
        targets, mask = np.array(batch.targets), np.array(batch.mask)
        for branch, answer in enumerate(row.answers):
            said = continuation(tokenizer, row.prompt, text, answer, row.tools).said
            scored = targets[branch][mask[branch]].tolist()
            full = len(pair.prompt) + len(scored) == max_length
            _check_completion(tokenizer, scored, said, end, pair.where, cut=answer.cut, full=full)


def _check_completion(
    tokenizer: Any, scored: list[int], said: str, end: int, where: str, *, cut: bool, full: bool
) -> None:
    """Check one answer's scored tokens; an answer that is `full` (reaches max_length) may stop anywhere."""
    ends = [t for t in scored if t in tokenizer.eos_token_ids]
    ended = scored[-1:] == [end]
    text = _decode(tokenizer, scored[:-1] if ended else scored).strip()
    expected = _decode(tokenizer, tokenizer.encode(said, add_special_tokens=False)).strip()
    same = text == expected and ended != cut
    if full and not ended:
        same = expected.startswith(text.rstrip("\ufffd"))  # half a character decodes to this sign
    if len(ends) != ended or not same:
        what = "the cut-off answer without an end-of-turn" if cut else "the answer and one end-of-turn"
        raise DpoError(
            f"the scored tokens are not {what}: {_decode(tokenizer, scored)[-60:]!r}",
            where=where,
            hint="the chat template adds or changes text around answers; " + _REPORT,
        )


def _decode(tokenizer: Any, tokens: Any) -> str:
    return tokenizer.decode([int(t) for t in tokens], skip_special_tokens=False)


def choose_forward(
    model: nn.Module, pairs: Sequence[TokenizedPair], setting: str, *, separate: bool = False
) -> Forward:
    """Invariant 4: the fastest forward whose scores and gradients agree with the model's own call.

    Args:
        separate: share prompts branch by branch.

    Raises:
        DpoError: `setting` is "shared", and the shared forward does not agree.
    """
    _check_causal(model, pairs)
    fast = () if setting == "plain" else (SEPARATE if separate else SHARED, COMPLETION)
    blameless: list[str] = []
    for forward in (*fast, PLAIN):
        problem = disagreement(model, pairs, forward)
        if problem is None:
            if forward is PLAIN:
                say("forward: plain")
            if blameless:
                say(_warning(blameless, forward), style="bold red")
            return forward
        if forward is not PLAIN and not exact_on_known_model(forward):
            blameless.append(forward.name)
        if setting == "shared":
            why = "is broken, not only on this model" if blameless else "is not exact on this model"
            hint = "set training.forward=auto, which uses an exact forward instead"
            raise DpoError(
                f"the shared forward {why}: {problem}",
                where="training.forward",
                hint=f"{hint}. {versions()}" if blameless else hint,
            )
        say(f"forward: {forward.name} is not used: {problem}")
    raise DpoError(
        f"this model cannot be trained: {problem}",
        where="training.gradient_checkpointing",
        hint="set training.gradient_checkpointing=off; if it is off, mlx_lm has no gradient for it",
    )


def _warning(lost: Sequence[str], forward: Forward) -> str:
    return (
        f"WARNING: the fast forward ({', '.join(lost)}) cannot be used, and the model is not the reason: "
        f"a small Granite model fails too. The {forward.name} forward is used; it is exact, but slower "
        f"and needs more memory. {versions()}"
    )


def exact_on_known_model(forward: Forward) -> bool:
    """Whether `forward` agrees with the own call of `known_model`, with and without checkpointing."""
    try:
        with random_untouched():
            model = known_model()
            exact = disagreement(model, known_pairs(), forward) is None
            checkpoint_layers(model)
            return exact and disagreement(model, known_pairs(), forward) is None
    except Exception:  # the check itself fails, although the user's model is not involved
        return False


def _check_causal(model: nn.Module, pairs: Sequence[TokenizedPair]) -> None:
    """Check that another last token does not change the logits of the tokens before it.

    Raises:
        DpoError: it does.
    """
    pair = short_row(pairs)
    tokens = mx.array(np.concatenate([pair.prompt, pair.chosen])[None])
    last = tokens[:, -1:]
    other = mx.concatenate([tokens[:, :-1], mx.where(last > 0, last - 1, last + 1)], axis=1)
    dtype = precisions(model)[0]
    with _computing(model, dtype):
        before, after = (model(t)[:, :-1].astype(mx.float32) for t in (tokens, other))
        off = mx.where(before == after, 0.0, mx.abs(before - after)).max().item()
    if off > (1e-3 if dtype == mx.float32 else 0.5):  # a later check reports NaN with its row
        raise DpoError(
            f"this model is not causal: a later token changes earlier logits by {off:.3g}",
            where="model.path",
            hint="the cause is mlx_lm's code for this architecture; choose another model",
        )


def _computing(model: nn.Module, dtype: mx.Dtype) -> AbstractContextManager[None]:
    """A context in which activations have this dtype: float32 or the model's own dtype."""
    return in_float32(model) if dtype != compute_dtype(model) else nullcontext()


def disagreement(model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward) -> str | None:
    """How `forward` differs from the model's own call on some of these pairs; None if it does not.

    The check compares every answer token of three short rows, the last tokens of the longest row, and the
    gradient of one block's trainable parameters on the shortest row: in float32 whatever the weights are, so
    that rounding hides no error. A model in half precision is also compared in its own dtype, on the shortest
    row.
    """
    first, *others = precisions(model)
    try:
        with _computing(model, first):
            problem = _problem(model, pairs, forward, first)
        for dtype in others:
            row = short_row(pairs)
            problem = problem or _scores_problem(model, [row], forward, dtype)
            problem = problem or _slope_problem(model, row, forward, dtype)
        return problem
    except UpstreamError as error:
        return error.what
    except Exception as error:  # a model's own code may raise any error
        if isinstance(error, DpoError) or refused_by_the_system(error):
            raise
        return f"the architecture does not allow it ({first_line(error)})"


def proof_rows(model: nn.Module, pairs: Sequence[TokenizedPair]) -> tuple[list[TokenizedPair], int]:
    """Rows on which to check a forward, and how many tokens of the longest row; fewer on a slow device."""
    rows = sample_pairs(pairs)
    tokens = mx.zeros((1, 16), mx.int32)
    mx.eval(model(tokens))  # the first call also compiles
    start = time.perf_counter()
    mx.eval(model(tokens))
    pace = (time.perf_counter() - start) / tokens.size
    computed = sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in rows)
    if pace * computed <= _PATIENCE_SECONDS:
        return rows, int(_PATIENCE_SECONDS / max(pace, 1e-9))
    return [shortened(row, 24 + 4 * place, 12 - 2 * place) for place, row in enumerate(rows[:2])], 0


_PATIENCE_SECONDS = 20.0
"""How long the model's own call may take on all rows of a check, and again on the longest row."""


def _problem(
    model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward, dtype: mx.Dtype
) -> str | None:
    rows, room = proof_rows(model, pairs)
    if not room:
        say(f"forward: this device is slow with this model: {forward.name} is checked on one short row only")
        rows = rows[:1]
    problem = _scores_problem(model, rows, forward, dtype)
    if not problem and (dtype == compute_dtype(model) or widens_cheaply(model)):
        problem = _slope_problem(
            model, shortened(rows[0]) if room else shortened(rows[0], 12, 6), forward, dtype
        )
    if problem or forward is PLAIN or room < 2 * END:  # the plain forward's logits would be large
        return problem
    return _long_problem(model, longest_row(pairs, room), forward, dtype)


def _scores_problem(
    model: nn.Module, rows: Sequence[TokenizedPair], forward: Forward, dtype: mx.Dtype
) -> str | None:
    floor = _floor(model, rows[0])
    for row in rows:
        ours, theirs = forward_tokens(model, [row], forward), own_tokens(model, [row])
        if not agree(ours, theirs, floor, dtype):
            return _scores_differ(ours, theirs)
    return None


def _slope_problem(model: nn.Module, row: TokenizedPair, forward: Forward, dtype: mx.Dtype) -> str | None:
    truth = own_gradient(model, row)
    error = relative_error(forward_gradient(model, row, forward), truth)

    def floor() -> float:
        with rounded_otherwise(model):
            return relative_error(own_gradient(model, row), truth)

    return None if slopes_agree(error, floor, dtype) else f"gradients have a relative error of {error:.3g}"


def _floor(model: nn.Module, row: TokenizedPair) -> Callable[[], Apart]:
    """How far rounding alone changes the scores of this row; measured on first use."""
    return cache(partial(rounding, model, partial(own_tokens, model, [row])))


def _long_problem(model: nn.Module, row: TokenizedPair, forward: Forward, dtype: mx.Dtype) -> str | None:
    count = min(END, len(row.chosen))
    theirs = partial(end_tokens, model, row, count)
    ours, expected = [forward_tokens(model, [row], forward)[0][-count:]], theirs()
    if agree(ours, expected, partial(rounding, model, theirs), dtype):
        return None
    return _scores_differ(ours, expected)


def _scores_differ(ours: Tokens, theirs: Tokens) -> str:
    found = apart(ours, theirs)
    return f"scores differ by up to {found.most:.3g} nats per token"


def check_batching(model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward) -> None:
    """Invariant 5: pairs have the same scores in a batch as one by one.

    Raises:
        DpoError: with the difference.
    """
    dtype = precisions(model)[0]
    with _computing(model, dtype):
        rows, _ = proof_rows(model, pairs)
        single = [forward_tokens(model, [row], forward) for row in rows]
        alone = [tokens[branch] for branch in (0, 1) for tokens in single]
        together = forward_tokens(model, rows, forward)
        same = agree(together, alone, _floor(model, rows[0]), dtype)
    if not same:
        raise DpoError(
            f"a pair scores differently in a batch than alone: {_scores_differ(together, alone)}",
            where="training.micro_batch",
            hint="set training.micro_batch=1; " + _REPORT,
        )


def check_unmoved(
    model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward, reference: np.ndarray
) -> None:
    """Invariant 1: before the first update the policy equals its reference: margins 0, sigmoid loss ln 2.

    Args:
        reference: (n, 2) scores of all pairs, as training will use them.

    Raises:
        DpoError: with the largest margin.
    """
    rows = sample_rows(pairs)
    if not np.isfinite(reference).all():
        bad = pairs[int(np.argmin(np.isfinite(reference).all(axis=1)))]
        raise DpoError(
            "the reference gives this pair no finite log-probability",
            where=bad.where,
            hint="the model's weights hold NaN, or its dtype overflows: try a bfloat16 or float32 copy",
        )
    some = [pairs[i] for i in rows]
    policy, expected = score_pairs(model, some, forward, singles(some)), reference[rows]
    lengths = np.array([[len(p.chosen), len(p.rejected)] for p in some])
    if not sums_agree(policy, expected, lengths, _floor(model, short_row(pairs)), compute_dtype(model)):
        _refuse_moved(policy - expected)


class Before(NamedTuple):
    """Scores of `short_row` before an adapter was attached; in half precision, also their rounding error."""

    tokens: Tokens
    floor: Apart | None


def before_attaching(model: nn.Module, pairs: Sequence[TokenizedPair]) -> Before:
    """The scores for `check_as_before`.

    Full training makes the weights float32, so the rounding of half precision is measured before that.
    """
    row = short_row(pairs)
    tokens = own_tokens(model, [row])
    half = compute_dtype(model) != mx.float32
    return Before(tokens, _floor(model, row)() if half else None)


def check_as_before(
    model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward, before: Before
) -> None:
    """Part of invariant 1: a fresh adapter changes nothing.

    Raises:
        DpoError: with the largest margin.
    """
    tokens, floor = before
    if not np.isfinite(np.concatenate(tokens)).all():
        return  # the check of the reference reports the row
    row = short_row(pairs)
    now = forward_tokens(model, [row], forward)
    if not agree(now, tokens, (lambda: floor) if floor else _floor(model, row), compute_dtype(model)):
        _refuse_moved(np.array([[a.sum() - b.sum() for a, b in zip(now, tokens, strict=True)]]))


def _refuse_moved(moved: np.ndarray) -> None:
    """moved (n, 2): change of the scores."""
    raise DpoError(
        f"policy and reference differ at the start: margins up to {np.abs(moved @ [1, -1]).max():.3g} nats",
        where="model",
        hint=_REPORT,
    )


def checked_reference(
    policy: nn.Module,
    pairs: PairStore,
    forward: Forward,
    key: dict[str, Any],
    label: str,
) -> np.ndarray:
    """Scores (n, 2) of the present policy, cached or computed, that passed `check_unmoved`.

    Cached scores that do not pass although their key is the same are computed again, with a message.

    Raises:
        DpoError: as `check_unmoved`.
    """
    reference = reference_scores(policy, pairs, forward, key, label)
    try:
        check_unmoved(policy, pairs, forward, reference.scores)
    except DpoError:
        if not reference.found:
            raise
        say(f"reference, {label}: the cached scores are not those of the model; the pairs are scored again")
        forget_reference(key)
        reference = reference_scores(policy, pairs, forward, key, label)
        check_unmoved(policy, pairs, forward, reference.scores)
    return reference.scores
