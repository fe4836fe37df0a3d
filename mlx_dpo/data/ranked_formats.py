"""Formats with several scored, ranked or rated answers a row: the best one against each that is worse."""

from typing import Any

from ..errors import DpoError
from .format_registry import NoPairError, Row, as_turns, number_of, only_one, row_format, text_in
from .pair_formats import asked
from .transcripts import is_transcript, prompt_of

SAME = "no two answers with different scores"

_TEXTS = ("response", "answer", "text", "completion", "output", "content", "generation")
_SCORES = ("score", "fine-grained_score", "overall_score", "rating", "reward")
_LISTS = ("completions", "answers", "responses", "outputs", "generations", "candidates")
_OF_LISTS = ("scores", "ratings", "rewards", "ranks", "rank")


def _score(answer: Row) -> float | None:
    """The score of an answer; a rank counts from the best, so a smaller one is a higher score."""
    if (rank := number_of(answer.get("rank"))) is not None:
        return -rank
    return number_of(text_in(answer, _SCORES))


def _column(row: Row) -> str:
    """The column that holds the answers; "" if none does, with a score for each."""
    return next((name for name in _LISTS if _scored(row, name) is not None), "")


def _scored(row: Row, name: str) -> list[tuple[Any, float | None]] | None:
    """The answers in a column with their scores; None if it has no answers with scores."""
    answers = row.get(name)
    if not isinstance(answers, list) or not answers:
        return None
    if all(isinstance(answer, dict) and text_in(answer, _TEXTS) is not None for answer in answers):
        scores = [_score(answer) for answer in answers]
        texts = [text_in(answer, _TEXTS) for answer in answers]
    else:
        of_list = next((key for key in _OF_LISTS if isinstance(row.get(key), list)), None)
        if of_list is None or len(row[of_list]) != len(answers):
            return None
        sign = -1 if of_list.startswith("rank") else 1
        scores = [None if (n := number_of(value)) is None else sign * n for value in row[of_list]]
        texts = answers
    return list(zip(texts, scores, strict=True)) if any(score is not None for score in scores) else None


def best_against_worse(prompt: Any, answers: list[tuple[Any, float | None]]) -> list[Row]:
    """A pair of the best answer and every answer with a lower score; answers without a score are not used.

    Raises:
        NoPairError: all scores are equal.
    """
    known = [(text, score) for text, score in answers if score is not None]
    best, top = max(known, key=lambda answer: answer[1])
    pairs = [
        {
            "prompt": prompt,
            "chosen": best,
            "rejected": text,
            "meta": {"score_chosen": top, "score_rejected": score},
        }
        for text, score in known
        if score < top
    ]
    if not pairs:
        raise NoPairError(SAME)
    return pairs


_PROMPTS, _BESIDE = ("prompt", "instruction", "question"), ("input", "history")


@row_format(
    "prompts with several scored answers",
    {},
    " ".join((*_PROMPTS, *_LISTS, *_OF_LISTS, *_BESIDE)),
    test=lambda row: (
        bool(text_in(row, _PROMPTS))
        and not row.keys() & {"chosen", "rejected", "answer"}
        and bool(_column(row))
    ),
    note="the best answer is paired with every answer that has a lower score",
)
def ranked(row: Row) -> list[Row]:
    """UltraFeedback, Nectar, and rows of {prompt, responses, scores}; each answer has a score or a rank."""
    return best_against_worse(_prompt(row), _scored(row, _column(row)))


def _prompt(row: Row) -> Any:
    """The prompt: text (with `input` and `history`), a transcript, or turns.

    Raises:
        DpoError: there are two prompts, or something beside a transcript or turns.
    """
    prompt = only_one(row, _PROMPTS)
    if isinstance(prompt, str) and not is_transcript(prompt):
        return asked({**row, "instruction": prompt})
    if beside := next((name for name in _BESIDE if row.get(name)), None):
        what, hint = f"'{beside}' would be left out of the prompt", "add its text to the turns of the prompt"
        raise DpoError(what, hint=hint, code="left-out")
    return prompt_of(prompt) if isinstance(prompt, str) else as_turns(prompt)
