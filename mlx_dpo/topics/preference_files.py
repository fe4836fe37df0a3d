"""The files of the preferences, one line a topic: each stage writes one, and a later run reads it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DpoError, quoted
from ..storage.jsonl import read_jsonl, write_jsonl
from ..storage.reading import path_text
from .win_lose import WinLose

SCORES = "topic_scores.jsonl"
DESCRIPTIONS = "topic_descriptions.jsonl"
EXTRA_WORDS = "extra_words.jsonl"
PREFERENCES = "preferences.jsonl"
SELECTED = "dpo_selected_topics.jsonl"

Value = TypeVar("Value")

_WIN, _LOSE = ("w_win_indices", "w_plus_indices"), ("w_loose_indices", "w_minus_indices")
"""The names of the lists, the older one last; "loose" is how the format spells "lose"."""
_AGAIN = "delete the file: the same command then makes it again"
_TRAIN = "mlx-dpo topics train writes this file: train again"
LINES = 'write lines such as {"k": 3, "w_win_indices": [17], "w_loose_indices": [4]}'


def write_scores(path: Path, scores: Mapping[int, int | None]) -> None:
    """One line a topic: {k, llm_score}; null for a topic without a score."""
    write_jsonl(path, ({"k": k, "llm_score": score} for k, score in scores.items()))


def read_scores(path: Path, topics: int) -> dict[int, int | None]:
    """The score of each topic, 1 to 3, or None.

    Raises:
        DpoError: a line is wrong, or a topic is missing.
    """
    return _all_topics(path, topics, lambda row, where: _score(row.get("llm_score"), where))


def _score(value: Any, where: str) -> int | None:
    if value is not None and (isinstance(value, bool) or value not in (1, 2, 3)):
        raise DpoError(f"llm_score must be 1, 2, 3 or null, got {quoted(value)}", where=where, hint=_AGAIN)
    return value


def write_descriptions(path: Path, descriptions: Mapping[int, str | None]) -> None:
    """One line a topic: {k, main_meaning}; null for a topic without a description."""
    write_jsonl(path, ({"k": k, "main_meaning": text} for k, text in descriptions.items()))


def read_descriptions(path: Path, topics: int) -> dict[int, str | None]:
    """The description of each topic, or None; errors as for `read_scores`."""
    return _all_topics(path, topics, lambda row, where: _text(row.get("main_meaning"), where))


def _text(value: Any, where: str) -> str | None:
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise DpoError(f"main_meaning must be text or null, got {quoted(value)}", where=where, hint=_AGAIN)
    return value


def write_extra_words(path: Path, extra: Mapping[int, Sequence[int]], vocabulary: Sequence[str]) -> None:
    """One line a topic: {k, extra_words: [{word: index}]}."""
    write_jsonl(
        path, ({"k": k, "extra_words": [{vocabulary[i]: i} for i in words]} for k, words in extra.items())
    )


def read_extra_words(path: Path, topics: int, vocabulary: Sequence[str]) -> dict[int, list[int]]:
    """The extra words of each topic, as indices; errors as for `read_scores`."""

    def read(row: Mapping[str, Any], where: str) -> list[int]:
        value = row.get("extra_words")
        pairs = [pair for one in value for pair in one.items()] if list_of(value, dict) else None
        if pairs is None or any(not _is_index(i, vocabulary) or vocabulary[i] != word for word, i in pairs):
            what = "extra_words must be a list of words with their indices"
            raise DpoError(f"{what}, got {quoted(value)}", where=where, hint=_AGAIN)
        return [index for _, index in pairs]

    return _all_topics(path, topics, read)


def write_preferences(path: Path, preferences: Mapping[int, WinLose]) -> None:
    """One line a topic: {k, w_win_indices: [int], w_loose_indices: [int]}."""
    rows = ({"k": k, _WIN[0]: list(own.win), _LOSE[0]: list(own.lose)} for k, own in preferences.items())
    write_jsonl(path, rows)


def read_preferences(path: Path | str, topics: int, number: Mapping[str, int]) -> dict[int, WinLose]:
    """The preferences of the topics that a file has; words in both lists of a topic are left out of both.

    Args:
        number: the index of each word. A list may have words of the vocabulary in place of indices.

    Raises:
        DpoError: a line is wrong.
    """

    def read(row: Mapping[str, Any], where: str) -> WinLose:
        return without_both(*(_indices(row, names, number, where) for names in (_WIN, _LOSE)))

    return dict(_by_topic(path, topics, read, LINES))


def _indices(
    row: Mapping[str, Any], names: Sequence[str], number: Mapping[str, int], where: str
) -> list[int]:
    name = next((name for name in names if name in row), names[0])
    value = row.get(name)
    if not isinstance(value, list):
        hint = f"write {name} as a list of the words' indices in vocab.txt, from 0"
        raise DpoError(f"{name} must be a list, got {quoted(value)}", where=where, hint=hint)
    indices = [number.get(one, one) if isinstance(one, str) else one for one in value]
    for given, index in zip(value, indices, strict=True):
        if not _is_index(index, number):
            what = (
                f"{quoted(given)} in {name} is not a word of the vocabulary, which has {len(number):,} words"
            )
            hint = "write words, or their places in vocab.txt, counted from 0"
            raise DpoError(what, where=where, hint=hint)
    return indices


def without_both(win: Sequence[int], lose: Sequence[int]) -> WinLose:
    """Each word once; words that would win and lose are left out.

    [1, 2, 2], [2, 3] -> win (1,), lose (3,)
    """
    both = set(win) & set(lose)
    return WinLose(*(tuple(i for i in dict.fromkeys(own) if i not in both) for own in (win, lose)))


def write_selected(path: Path, topics: Iterable[int]) -> None:
    """One line for each topic that preferences change: {k}."""
    write_jsonl(path, ({"k": k} for k in topics))


def read_selected(path: Path, topics: int, preferences: Collection[int]) -> list[int]:
    """The topics that preferences change.

    Raises:
        DpoError: a line is wrong, or names a topic without preferences.
    """

    def check(row: Mapping[str, Any], where: str) -> None:
        if row["k"] not in preferences:
            raise DpoError(f"topic {row['k']} has no line in {PREFERENCES}", where=where, hint=_TRAIN)

    return [topic for topic, _ in _by_topic(path, topics, check, _TRAIN)]


def _all_topics(path: Path, topics: int, read: Callable[[Mapping[str, Any], str], Value]) -> dict[int, Value]:
    found = dict(_by_topic(path, topics, read, _AGAIN))
    missing = sorted(set(range(topics)) - found.keys())
    if missing:
        what = f"has no line for topic {missing[0]}, as for {len(missing):,} of {topics:,} topics"
        raise DpoError(what, where=path_text(path), hint=_AGAIN)
    return dict(sorted(found.items()))


def _by_topic(
    path: Path | str, topics: int, read: Callable[[Mapping[str, Any], str], Value], hint: str
) -> Iterator[tuple[int, Value]]:
    """Each topic and what `read` makes of its line; `hint` is the remedy for a line that is no object."""
    seen: dict[int, str] = {}
    for where, row in read_rows(path, hint):
        topic = row.get("k")
        if isinstance(topic, bool) or not isinstance(topic, int) or not 0 <= topic < topics:
            what = f"k must be a topic from 0 to {topics - 1}, got {quoted(topic)}"
            raise DpoError(what, where=where, hint="topics count from 0, as lines of top_words_15.txt")
        if topic in seen:
            what = f"topic {topic} is also at {seen[topic]}"
            raise DpoError(what, where=where, hint="keep one of the two lines")
        seen[topic] = where
        yield topic, read(row, where)


def read_rows(path: Path | str, hint: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines as `read_jsonl` gives them, with this remedy for a line that is not a JSON object."""
    try:
        yield from read_jsonl(path)
    except DpoError as error:
        raise (error.instead(hint=hint) if error.code in ("not-json", "not-an-object") else error) from None


def list_of(value: Any, kind: type) -> bool:
    """Whether a value from JSON is a list of such values."""
    return isinstance(value, list) and all(isinstance(one, kind) for one in value)


def _is_index(value: Any, words: Sequence[str] | Mapping[str, int]) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(words)
