"""From the topics of a snapshot to preferences: score, describe, look for more words, compare.

The folder of a snapshot has beta_ref_logits.npy. Each stage adds one of the files of `preference_files`, and
is skipped if its file exists. Replies of an LLM are in replies.jsonl as soon as they come.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..console import plural, say
from ..endpoint import Endpoint
from ..errors import DpoError
from ..judges.connected import connected
from ..judges.estimate import money
from ..judges.kept_replies import kept_reply, say_kept
from ..judges.local import LocalJudge
from ..storage.append_log import AppendLog
from ..storage.checksummed_folder import sha256
from ..storage.files import check_writable
from ..storage.reading import is_there, path_text
from .corpus import Corpus
from .given_preferences import take_given
from .llm_questions import COMPARE, DESCRIBE, SCORE
from .local_scorer import LocalScorer
from .meanings import Meanings, meanings, nearest_words
from .model_files import read_matrix
from .preference_files import (
    DESCRIPTIONS,
    EXTRA_WORDS,
    PREFERENCES,
    SCORES,
    read_descriptions,
    read_extra_words,
    read_preferences,
    read_scores,
    write_descriptions,
    write_extra_words,
    write_preferences,
    write_scores,
)
from .preferences_config import SECTION, PreferencesConfig
from .top_words import log_beta, top_words, write_top_words
from .topic_llm import TopicLLM, topics_text
from .topic_words import KNOWN, TopicWords
from .win_lose import WinLose

LOGITS = "beta_ref_logits.npy"
_STAGES = {SCORES: SCORE, DESCRIPTIONS: DESCRIBE, EXTRA_WORDS: None, PREFERENCES: COMPARE}
"""The file of each stage, and the function that an LLM calls for it."""
_EXTRA = 5
"""Words beyond the top 25 that are looked for by their vectors."""
_QUESTION_BYTES, _TOKEN_BYTES = 4096, 8
"""Room on the disk for a question and for a token of a reply, more than most need."""

Value = TypeVar("Value")


class Preferences(NamedTuple):
    """`win_lose`: of topics with winners and losers. `scores`: of each topic, 1 to 3, or None without one."""

    win_lose: dict[int, WinLose]
    scores: dict[int, int | None]


def build_preferences(
    folder: Path, corpus: Corpus, settings: PreferencesConfig, llm: Endpoint | LocalJudge | None = None
) -> Preferences:
    """Preferences for the snapshot in a folder: from a file, by an LLM, or by vectors of words.

    Args:
        llm: the LLM of the settings, if it is connected already; else it is connected when it is needed.

    Raises:
        DpoError: the LLM cannot be asked, or a file does not fit the snapshot; the same call goes on from the
            files and replies that are there.
    """
    logits = read_logits(folder, len(corpus.vocabulary))
    words = TopicWords(top_words(log_beta(logits), KNOWN), corpus.vocabulary)
    if settings.file is not None:
        found = take_given(settings.file, folder / PREFERENCES, words, corpus.number)
        return Preferences(_usable(found, words), dict.fromkeys(words.topics))
    log = _replies_log(folder, settings, corpus)
    log.check()
    with ExitStack() as stack:
        return _Stages(folder, corpus, settings, words, log, stack, llm).run(logits)


def is_built(folder: Path) -> bool:
    """Whether each stage has its file, so that nothing is asked any more."""
    return all(is_there(folder / name) for name in _STAGES)


def answered(folder: Path, corpus: Corpus, settings: PreferencesConfig) -> list[tuple[str | None, int]]:
    """The questions about a snapshot, as function and topic, that need not be asked any more.

    Raises:
        DpoError: the files in the folder were made from something else, or a kept reply is broken.
    """
    topics = range(len(read_logits(folder, len(corpus.vocabulary))))
    log = _replies_log(folder, settings, corpus)
    log.check()
    found = [(function, k) for name, function in _STAGES.items() if is_there(folder / name) for k in topics]

    def read(row: dict[str, Any], where: str) -> tuple[str, tuple[Any, Any]]:
        return kept_reply(row, where)[0], (row.get("function"), row.get("k"))

    if is_there(log.path):
        with log.open(read) as kept:
            found += kept.results.values()
    return found


def read_logits(folder: Path, words: int) -> np.ndarray:
    """Topic-word logits of the snapshot in a folder, (K, V).

    Raises:
        DpoError: there are none, or they are of another vocabulary.
    """
    path = folder / LOGITS
    if not is_there(path):
        hint = "mlx-dpo topics train writes it when dpo.start_epoch is reached"
        raise DpoError("no such file", where=path_text(path), hint=hint)
    hint = "use the corpus that the model was trained on, or train again"
    return read_matrix(path, columns=words, hint=hint)


def check_replies(folder: Path, settings: PreferencesConfig, corpus: Corpus) -> None:
    """Check that the preferences in a folder are those of the settings.

    Raises:
        DpoError: another LLM, embedder, vocabulary or seed made them.
    """
    if settings.file is None:
        _replies_log(folder, settings, corpus).check()


def _replies_log(folder: Path, settings: PreferencesConfig, corpus: Corpus) -> AppendLog:
    """The log of replies; its settings say what all files of the folder were made from."""
    made_from = {
        "snapshot": sha256(folder / LOGITS),
        "vocabulary": hashlib.sha256("\n".join(corpus.vocabulary).encode()).hexdigest(),
        "llm": {"url": settings.url, "model": settings.model} if settings.is_named else None,
        "embedder": settings.embedder,
        "seed": settings.seed,
    }
    compared = {
        "snapshot": "snapshot of the model",
        "vocabulary": "vocabulary",
        "llm": "LLM",
        "embedder": "embedder",
        "seed": None,
    }
    return AppendLog(
        folder / "replies.jsonl",
        made_from,
        compared,
        writer="topics train",
        holds="preferences",
        setting="run.output",
    )


@dataclass
class _Stages:
    """The stages, and what they need, which is made when a stage needs it."""

    folder: Path
    corpus: Corpus
    settings: PreferencesConfig
    words: TopicWords
    log: AppendLog
    stack: ExitStack
    llm: Endpoint | LocalJudge | None

    def run(self, logits: np.ndarray) -> Preferences:
        topics, vocabulary = len(self.words.top), self.corpus.vocabulary
        scores = self._stage(
            SCORES, lambda path: read_scores(path, topics), lambda: self._scorer.scores(), write_scores
        )
        descriptions = self._stage(
            DESCRIPTIONS,
            lambda path: read_descriptions(path, topics),
            lambda: self._scorer.descriptions(scores),
            write_descriptions,
        )
        about = {k: {"main meaning": descriptions[k], "llm_score": scores[k]} for k in self.words.topics}
        write_top_words(self.folder, logits, vocabulary, about)
        extra = self._stage(
            EXTRA_WORDS,
            lambda path: read_extra_words(path, topics, vocabulary),
            lambda: self._extra_words(descriptions),
            lambda path, found: write_extra_words(path, found, vocabulary),
        )
        found = self._stage(
            PREFERENCES,
            lambda path: read_preferences(path, topics, self.corpus.number),
            lambda: self._scorer.preferences(descriptions, extra),
            write_preferences,
        )
        self._say_calls()
        return Preferences(_usable(found, self.words), scores)

    def _stage(
        self,
        name: str,
        read: Callable[[Path], Value],
        make: Callable[[], Value],
        write: Callable[[Path, Value], None],
    ) -> Value:
        """What a stage gave, from its file if there is one."""
        path = self.folder / name
        if is_there(path):
            return read(path)
        value = make()
        write(path, value)
        return value

    @cached_property
    def _meanings(self) -> Meanings:
        return meanings(self.corpus, self.settings.embedder, self.settings.seed)

    @cached_property
    def _scorer(self) -> LocalScorer | TopicLLM:
        if not self.settings.is_named:
            self.log.write_settings()
            return LocalScorer(self.words, self._meanings)
        reply_bytes = _QUESTION_BYTES + _TOKEN_BYTES * self.settings.max_tokens
        check_writable(self.folder, need_bytes=2 * len(_STAGES) * len(self.words.top) * reply_bytes)
        server = self.llm or connected(self.settings, SECTION)
        replies = self.stack.enter_context(self.log.open(kept_reply))
        say_kept(replies)
        return TopicLLM(
            ask=server.ask,
            key=server.key if isinstance(server, LocalJudge) else server.model or "",
            log=replies,
            max_calls=self.settings.max_calls,
            words=self.words,
            server=server,
            max_tokens=self.settings.max_tokens,
        )

    def _extra_words(self, descriptions: Mapping[int, str | None]) -> dict[int, list[int]]:
        return {
            k: nearest_words(self._meanings, text, self.words.indices(k, 0, KNOWN), _EXTRA)
            for k, text in descriptions.items()
        }

    def _say_calls(self) -> None:
        """Say what was asked, and what was odd about the replies."""
        scorer = vars(self).get("_scorer")  # there only if a stage needed it
        if not isinstance(scorer, TopicLLM):
            return
        calls = scorer.calls
        price = calls.price(self.settings)
        say(f"asked the LLM {calls.sent:,} times{'' if price is None else f', price {money(price)}'}")
        if scorer.others:
            others = topics_text(sorted(scorer.others))
            say(f"replies about {others} named another topic; they count for the topic of the question")


def _usable(found: Mapping[int, WinLose], words: TopicWords) -> dict[int, WinLose]:
    """The preferences with winners and losers; says how many topics have them."""
    usable = {k: own for k, own in found.items() if own.win and own.lose}
    if not usable:
        say("no topic has both winners and losers: preferences will change nothing")
        return {}
    win, lose = (np.mean([len(own[side]) for own in usable.values()]) for side in (0, 1))
    say(
        f"preferences: {len(usable):,} of {plural(len(words.top), 'topic')}, with {win:.1f} winners and "
        f"{lose:.1f} losers on average"
    )
    if empty := sorted(k for k, own in found.items() if k not in usable):
        say(f"without winners or without losers: {topics_text(empty)}")
    return usable
