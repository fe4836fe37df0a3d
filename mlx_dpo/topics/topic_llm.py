"""An LLM that scores and describes topics and prefers words; every reply is kept, and none is paid twice."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..console import plural, progress, say
from ..endpoint import Endpoint
from ..errors import DpoError, first_ten
from ..judges.json_replies import UnreadableReplyError, json_of
from ..judges.kept_replies import Kept, KeptReplies, NoReply, NotAsked, asked_again
from ..judges.local import LocalJudge
from .llm_questions import Question, description_question, preferences_question, score_question
from .topic_words import DESCRIBED, SCORED, TopicWords
from .win_lose import WinLose

_METHOD = "object"
"""How replies are read, for `KeptReplies.reply`."""


class _Outcome(NamedTuple):
    """The answer about a topic; or why its reply is unreadable, why there is none, or that none was asked."""

    answer: Any = None
    unreadable: str = ""
    failed: str = ""
    not_asked: bool = False


@dataclass(kw_only=True)
class TopicLLM(KeptReplies):
    """Asks one question a topic in each stage.

    Args:
        words: the top words of the topics.
        server: sends the requests.

    `others`: topics for which a reply named another topic; the one that was asked about counts.
    """

    words: TopicWords
    server: Endpoint | LocalJudge
    max_tokens: int
    others: set[int] = field(default_factory=set)

    def scores(self) -> dict[int, int | None]:
        """How coherent each topic is: 1 (not), 2 or 3; None where no reply could be read.

        Raises:
            DpoError: a topic has no reply; those of the others are kept.
        """
        questions = {k: score_question(k, self.words.first(k, SCORED)) for k in self.words.topics}
        return self._answers("scoring topics", questions)

    def descriptions(self, scores: Mapping[int, int | None]) -> dict[int, str | None]:
        """What each topic is about; errors as for `scores`.

        Topics with a score of 1 come last, one after the other: each is asked for a theme that no topic has.
        """
        texts = {k: self.words.first(k, DESCRIBED) for k in self.words.topics}
        clear = {k: description_question(k, texts[k]) for k in texts if scores[k] != 1}
        found = self._answers("describing topics", clear)
        for k in texts:
            if scores[k] == 1:
                taken = [text for _, text in sorted(found.items()) if text]
                found |= self._answers("describing topics", {k: description_question(k, texts[k], taken)})
        return dict(sorted(found.items()))

    def preferences(
        self, descriptions: Mapping[int, str | None], extra: Mapping[int, Sequence[int]]
    ) -> dict[int, WinLose]:
        """Which words of each topic win and lose, of topics with a description; errors as for `scores`."""
        questions = {}
        for k, text in descriptions.items():
            if text:
                top = self.words.numbered(self.words.indices(k, 0, SCORED))
                others = self.words.numbered(self.words.candidates(k, extra[k]))
                questions[k] = preferences_question(k, text, top, others)
        found = self._answers("comparing words", questions)
        return {k: own or WinLose((), ()) for k, own in found.items()}

    def _answers(self, label: str, questions: Mapping[int, Question]) -> dict[int, Any]:
        """The answer to each topic's question; None where no reply can be read, which is said."""
        topics, found = list(questions), {}
        with progress(label, len(topics), "topics") as advance:

            def done(index: int, outcome: _Outcome) -> None:
                found[topics[index]] = outcome
                advance(1, plural(self.calls.sent, "request"))

            self.server.each(lambda k: self._outcome(k, questions[k]), topics, done)
        self._check(label, found)
        return {k: found[k].answer for k in topics}

    def _check(self, label: str, found: Mapping[int, _Outcome]) -> None:
        """Say which replies cannot be read.

        Raises:
            DpoError: a topic has no reply.
        """
        if any(outcome.not_asked for outcome in found.values()):
            raise DpoError(
                f"stopped after {plural(self.calls.sent, 'request')} ({label})",
                where="preferences.max_calls",
                hint="replies are kept: the same command continues with the next ones",
            )
        failed = {k: outcome.failed for k, outcome in found.items() if outcome.failed}
        if failed:
            raise DpoError(
                f"{label}: no reply about {topics_text(failed)}; the first: {next(iter(failed.values()))}",
                where=self.server.model or "",
                hint="look at the server, then run the same command again: it asks only for what is missing",
            )
        unreadable = {k: outcome.unreadable for k, outcome in found.items() if outcome.unreadable}
        if unreadable:
            say(
                f"{label}: no usable reply about {topics_text(unreadable)}, even when asked again; "
                f"the first: {next(iter(unreadable.values()))}"
            )

    def _outcome(self, topic: int, question: Question) -> _Outcome:
        try:
            return _Outcome(self._answer(topic, question))
        except UnreadableReplyError as error:
            return _Outcome(unreadable=str(error))
        except NoReply as failure:
            return _Outcome(failed=str(failure))
        except NotAsked:
            return _Outcome(not_asked=True)

    def _answer(self, topic: int, question: Question) -> Any:
        """The answer to a question; a reply that cannot be read is asked for once more."""
        request = question.request(self.max_tokens)
        kept = self.reply(request, _METHOD, lambda kept: _row(kept, topic, question))
        try:
            return self._read(topic, question, kept)
        except UnreadableReplyError as error:
            request = asked_again(request, kept.text, str(error), question.form)
        kept = self.reply(request, _METHOD, lambda kept: _row(kept, topic, question))
        return self._read(topic, question, kept)

    def _read(self, topic: int, question: Question, kept: Kept) -> Any:
        reply = json_of(kept.text, kept.finish_reason)
        if not isinstance(reply, dict):
            raise UnreadableReplyError("the reply is not one JSON object")
        answer = question.read(reply)
        if reply.get("k") != topic:
            self.others.add(topic)
        return answer


def _row(kept: Kept, topic: int, question: Question) -> dict[str, Any]:
    """The line of a reply in the log."""
    return {"k": topic, "function": question.function, "question": question.text, **kept.as_row()}


def topics_text(topics: Collection[int]) -> str:
    """Topics in a message: topics 0, 3, 7."""
    return f"topic{'s' * (len(topics) != 1)} {first_ten([str(k) for k in topics])}"
