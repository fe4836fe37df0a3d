"""Five things that must hold before the first update, checked on real rows of the run, every time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..console import say
from ..data.batches import build_batch
from ..data.store import PairStore
from ..data.templates import end_of_turn, render
from ..data.tokenize import TokenizedPair, pair_lengths
from ..errors import DpoError, first_line
from ..logps import token_logps
from ..models.checkpointing import suspended
from ..models.forward import COMPLETION, PLAIN, SEPARATE, SHARED, Forward
from ..models.load import compute_dtype
from ..records import Preference
from ..reference import forget_reference, reference_scores
from ..scoring import score_pairs, singles
from .faults import refused_by_the_system

_REPORT = "this is a fault of mlx_dpo or of the model's files: please report it with this line"


def spread_rows(pairs: Sequence[TokenizedPair], count: int) -> list[int]:
    """Row numbers of the shortest, some between and the longest, in this order, without repeats."""
    order = np.argsort(pair_lengths(pairs), kind="stable")
    return list(
        dict.fromkeys(int(order[round(k * (len(order) - 1) / max(1, count - 1))]) for k in range(count))
    )


def sample_rows(pairs: Sequence[TokenizedPair]) -> list[int]:
    """Three rows of the shorter half, the shortest first: a batch of them must fit where training does."""
    order = np.argsort(pair_lengths(pairs), kind="stable")
    return list(dict.fromkeys(int(order[k * (len(order) - 1) // 4]) for k in range(3)))


def sample_pairs(model: nn.Module, pairs: Sequence[TokenizedPair]) -> list[TokenizedPair]:
    """These rows as the model's own call scores them: cut where its whole logits would be large."""
    room = max(128, _LOGITS // model(mx.zeros((1, 1), mx.int32)).shape[-1])
    return [_within(pairs[row], room) for row in sample_rows(pairs)]


_LOGITS = 2**26
"""Most logits of one branch that the checks form: 256 MB in float32."""


def _within(pair: TokenizedPair, room: int) -> TokenizedPair:
    """The pair with at most `room` tokens a branch."""
    answer = max(len(pair.chosen), len(pair.rejected))
    if len(pair.prompt) + answer <= room:
        return pair
    answer = min(answer, room // 2)
    return shortened(pair, room - answer, answer)


def tolerance(model: nn.Module, logps: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """How far two computations of one log-probability may differ, in nats.

    In float32 1e-3 plus 1e-5 of the value; in half precision every token's rounding adds up as a random walk,
    0.1 nats a token.
    """
    if compute_dtype(model) == mx.float32:
        return 1e-3 + 1e-5 * np.abs(logps)
    return 0.1 * np.sqrt(tokens)


def check_masks(
    rows: Sequence[Preference], pairs: Sequence[TokenizedPair], tokenizer: Any, max_length: int
) -> None:
    """Invariants 2 and 3: what is scored decodes to the answer and one end-of-turn, after the shared prompt.

    An answer that is marked as cut off has no end-of-turn; one that reaches max_length may have none.

    Args:
        rows: the row of text that each pair was made of.

    Raises:
        DpoError: naming the row.
    """
    end = end_of_turn(tokenizer)
    for number in spread_rows(pairs, 8):
        pair, row = pairs[number], rows[number]
        batch = build_batch([pair])
        prompt = np.array(batch.inputs)[:, : len(pair.prompt)]
        if not (prompt == pair.prompt).all():
            raise DpoError("the branches do not share the prompt", where=pair.where, hint=_REPORT)
        text = render(tokenizer, row.prompt, generation_prompt=True)
        if _decode(tokenizer, pair.prompt) != _decode(
            tokenizer, tokenizer.encode(text, add_special_tokens=not tokenizer.has_chat_template)
        ):
            raise DpoError("the prompt's tokens are not the rendered prompt", where=pair.where, hint=_REPORT)
        targets, mask = np.array(batch.targets), np.array(batch.mask)
        answers = ((row.chosen, row.chosen_cut), (row.rejected, row.rejected_cut))
        for branch, (answer, cut) in enumerate(answers):
            scored = targets[branch][mask[branch]].tolist()
            full = len(pair.prompt) + len(scored) == max_length
            _check_completion(tokenizer, scored, answer, end, pair.where, cut=cut, full=full)


def _check_completion(
    tokenizer: Any, scored: list[int], answer: str, end: int, where: str, *, cut: bool, full: bool
) -> None:
    """Check one answer's scored tokens; those of one that is `full`, up to max_length, may stop anywhere."""
    ends = [t for t in scored if t in tokenizer.eos_token_ids]
    ended = scored[-1:] == [end]
    text = _decode(tokenizer, scored[:-1] if ended else scored).strip()
    expected = _decode(tokenizer, tokenizer.encode(answer, add_special_tokens=False)).strip()
    same = text == expected and ended != cut
    if full and not ended:
        same = expected.startswith(text.rstrip("\ufffd"))  # half a character decodes to this sign
    if len(ends) != ended or not same:
        what = "the cut-off answer without an end-of-turn" if cut else "the answer and one end-of-turn"
        raise DpoError(
            f"what would be scored is not {what}: {_decode(tokenizer, scored)[-60:]!r}",
            where=where,
            hint="the chat template adds or changes text around answers; " + _REPORT,
        )


def _decode(tokenizer: Any, tokens: Any) -> str:
    return tokenizer.decode([int(t) for t in tokens], skip_special_tokens=False)


def choose_forward(
    model: nn.Module, pairs: Sequence[TokenizedPair], setting: str, *, separate: bool = False
) -> Forward:
    """Invariant 4: the fastest forward that agrees with the model's own call, in scores and gradients.

    Args:
        separate: prompts are to be shared branch by branch.

    Raises:
        DpoError: `setting` is "shared", and that one does not agree.
    """
    _check_causal(model, pairs)
    fast = () if setting == "plain" else (SEPARATE if separate else SHARED, COMPLETION)
    for forward in (*fast, PLAIN):
        problem = disagreement(model, pairs, forward)
        if problem is None:
            if forward is PLAIN:
                say("forward: plain")
            return forward
        if setting == "shared":
            raise DpoError(
                f"the shared forward is not exact on this model: {problem}",
                where="training.forward",
                hint="set training.forward=auto; it falls back to one that is",
            )
        say(f"forward: not {forward.name}: {problem}")
    raise DpoError(
        f"this model cannot be trained: {problem}",
        where="training.gradient_checkpointing",
        hint="set training.gradient_checkpointing=off; if it is, mlx_lm's code has no gradient for it",
    )


def _check_causal(model: nn.Module, pairs: Sequence[TokenizedPair]) -> None:
    """Another last token must not change what came out for those before it.

    Raises:
        DpoError: it does.
    """
    pair = sample_pairs(model, pairs)[0]
    tokens = mx.array(np.concatenate([pair.prompt, pair.chosen])[None])
    last = tokens[:, -1:]
    other = mx.concatenate([tokens[:, :-1], mx.where(last > 0, last - 1, last + 1)], axis=1)
    before, after = (model(t)[:, :-1].astype(mx.float32) for t in (tokens, other))
    apart = mx.where(before == after, 0.0, mx.abs(before - after)).max().item()
    if apart > (1e-3 if compute_dtype(model) == mx.float32 else 0.5):  # NaN is named with its row, later
        raise DpoError(
            f"this model looks ahead: a later token changes earlier logits by {apart:.3g}",
            where="model.path",
            hint="mlx_lm's own code of this architecture is at fault; choose another model",
        )


def shortened(pair: TokenizedPair, prompt: int = 76, answer: int = 16) -> TokenizedPair:
    """The end of its prompt and the start of its answers; by default what any proof has room for."""
    return replace(
        pair, prompt=pair.prompt[-prompt:], chosen=pair.chosen[:answer], rejected=pair.rejected[:answer]
    )


_COMPARED = {COMPLETION.name: 1, PLAIN.name: 0}
"""Of the two comparisons of scores, those that are not with itself."""


def disagreement(model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward) -> str | None:
    """What tells `forward` from the model's own call on some of these pairs; None where nothing does.

    Scores of three pairs; for the shared one, of the longest against the completion forward, which needs less
    memory; and the gradient of one block's trainable parameters on the shortest, shortened.
    """
    rows = sample_pairs(model, pairs)
    longest = pairs[spread_rows(pairs, 2)[-1]]
    try:
        for some, other in ((rows, PLAIN), ([longest], COMPLETION))[: _COMPARED.get(forward.name, 2)]:
            ours, theirs = (score_pairs(model, some, f, singles(some)) for f in (forward, other))
            worst = np.abs(ours - theirs)
            if not (worst <= tolerance(model, theirs, _token_counts(some))).all():
                return f"scores differ by {worst.max():.3g} nats"
        error = _gradient_error(model, shortened(rows[0]), forward)
    except Exception as error:  # a model's own code may raise anything where it is continued
        if isinstance(error, DpoError) or refused_by_the_system(error):
            raise
        return f"the architecture does not allow it ({first_line(error)})"
    allowed = 1e-3 if compute_dtype(model) == mx.float32 else 0.1
    return None if error <= allowed else f"gradients differ by {error:.3g} of their size"


def _gradient_error(model: nn.Module, pair: TokenizedPair, forward: Forward) -> float:
    """How far the gradient of one block's parameters is from that of the model's own call, relative."""
    batch = forward.build([pair])
    ours = block_gradient(model, lambda: (forward.score(model, batch, gradient=True) * _SHARES).sum())
    mx.eval(ours)
    with suspended():  # the truth is never checkpointed: that is one of the things to prove
        theirs = [mx.zeros_like(g) for g in ours]
        for branch, share in enumerate(_SHARES.tolist()):  # one at a time: half the memory
            own = block_gradient(model, lambda branch=branch: own_score(model, pair, branch))
            theirs = [g + share * more for g, more in zip(theirs, own, strict=True)]
            mx.eval(theirs)
    if not theirs:
        return 0.0
    size = sum(mx.square(g).sum() for g in theirs)
    if not mx.isfinite(size).item():
        return 0.0  # the check of the reference names the row
    difference = sum(mx.square(a - b).sum() for a, b in zip(ours, theirs, strict=True))
    return float(mx.sqrt(difference / mx.maximum(size, 1e-30)).item())


_SHARES = mx.array([1.0, -0.5])
"""Of the chosen and the rejected score in what is differentiated: unlike ones tell the branches apart."""


def own_score(model: nn.Module, pair: TokenizedPair, branch: int) -> mx.array:
    """Log-probability of one branch by the model's own call on it alone."""
    answer = (pair.chosen, pair.rejected)[branch]
    tokens = mx.array(np.concatenate([pair.prompt, answer])[None])
    return token_logps(model(tokens[:, :-1])[:, -len(answer) :], tokens[:, -len(answer) :]).sum()


def block_gradient(model: nn.Module, score: Callable[[], mx.array]) -> list[mx.array]:
    """Gradient in the first block that is trained, float32: what reaches it came through all others.

    Without dropout. Not evaluated.
    """
    block = next((layer for layer in model.layers if tree_flatten(layer.trainable_parameters())), None)
    if block is None:
        return []

    def changed(parameters):
        block.update(parameters)
        return score()

    training, parameters = model.training, block.trainable_parameters()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    try:
        return [g.astype(mx.float32) for _, g in tree_flatten(mx.grad(changed)(parameters))]
    finally:
        block.update(parameters)
        model.train(training)


def check_batching(model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward) -> None:
    """Invariant 5: a batch of pairs scores as the pairs do one by one.

    Raises:
        DpoError: with the difference.
    """
    rows = [pairs[i] for i in sample_rows(pairs)]
    alone = score_pairs(model, rows, forward, singles(rows))
    together = score_pairs(model, rows, forward, [range(len(rows))])
    worst = np.abs(alone - together)
    if (worst > tolerance(model, alone, _token_counts(rows))).any():
        raise DpoError(
            f"a pair scores differently in a batch than alone, by {worst.max():.3g} nats",
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
    _check_same(model, [pairs[i] for i in rows], forward, reference[rows])


def check_as_before(
    model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward, before: np.ndarray
) -> None:
    """Of invariant 1: a fresh adapter changes nothing.

    Args:
        before: scores of `sample_pairs` by the model's own call, before the adapter was attached.

    Raises:
        DpoError: with the largest margin.
    """
    if np.isfinite(before).all():  # else the check of the reference names the row
        _check_same(model, sample_pairs(model, pairs), forward, before)


def _check_same(
    model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward, expected: np.ndarray
) -> None:
    policy = score_pairs(model, pairs, forward, singles(pairs))
    if not (np.abs(policy - expected) <= tolerance(model, policy, _token_counts(pairs))).all():
        margins = (policy - expected) @ np.array([1, -1])
        raise DpoError(
            f"the unmoved policy is not its reference: margins up to {np.abs(margins).max():.3g} nats",
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
    """Scores (n, 2) of the policy as it is now, kept or computed, that passed `check_unmoved`.

    Kept ones that do not pass, although their key is the same, are computed again, which is said.

    Raises:
        DpoError: as `check_unmoved`.
    """
    reference = reference_scores(policy, pairs, forward, key, label)
    try:
        check_unmoved(policy, pairs, forward, reference.scores)
    except DpoError:
        if not reference.found:
            raise
        say(f"reference, {label}: what the cache held is not what the model gives; it is scored again")
        forget_reference(key)
        reference = reference_scores(policy, pairs, forward, key, label)
        check_unmoved(policy, pairs, forward, reference.scores)
    return reference.scores


def _token_counts(pairs: Sequence[TokenizedPair]) -> np.ndarray:
    return np.array([[len(p.chosen), len(p.rejected)] for p in pairs])
