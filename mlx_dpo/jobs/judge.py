"""The command judge: make every cheap check, probe the judge, compare, write pairs."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..chat_protocol import Failure, Reply, Request
from ..config import RunConfig
from ..console import plural, progress, say
from ..data.sources import read_curated, read_questions
from ..data.splits import prompt_key
from ..endpoint import Endpoint
from ..errors import DpoError, first_ten
from ..judges.asking import Judge, Judged, verdicts_log
from ..judges.completions import Completions, read_completions
from ..judges.config import JudgeConfig
from ..judges.connected import check_local_model, connected
from ..judges.estimate import Estimate, estimate
from ..judges.kept_replies import Calls, kept_reply, say_kept
from ..judges.local import LocalJudge
from ..judges.pairs import judged_pairs, with_close_length
from ..judges.probe import probe
from ..judges.prompts import Rubric, load_rubric
from ..judges.summary import JudgeSummary, summarise
from ..machine.interrupt import tell
from ..models.embedder import check_embedder
from ..pairs.config import PairsConfig
from ..pairs.filters import REMEDIES, clusters_of, drop_reasons
from ..pairs.from_curated import trained_prompts
from ..storage.append_log import AppendLog, OpenLog
from ..storage.files import check_writable
from ..storage.jsonl import write_jsonl
from ..storage.reading import is_there, read_object


def judge_completions(config: RunConfig) -> JudgeSummary:
    """Compare the completions of every prompt, write train.jsonl and valid.jsonl.

    Raises:
        DpoError: anything a user can fix; before any paid request, if it can be known before.
    """
    check_embedder(config.pairs.embedder)
    work = _Work.of(config)
    judge, judged, expected = _from_kept_replies(work) or _ask(work)
    meta = {"judge": work.name, "rubric": work.rubric.name, "method": judge.method}
    settings, calls = config.judge, judge.calls
    used, dropped = _selected([one for one in judged if one.decided], config.pairs)
    files = judged_pairs(
        used,
        meta,
        settings.valid_fraction,
        config.generate.seed,
        trained_prompts(work.folder) | work.trained,
        clusters_of([one.row.prompt for one in used], config.pairs),
    )
    if files["train"]:
        for name, rows in files.items():
            write_jsonl(work.folder / f"{name}.jsonl", rows)
        if not files["valid"]:
            new = " that are not in judge.trained" if work.trained else ""
            say(f"no pairs are held out, so nothing will show whether training helps: add prompts{new}")
    elif is_there(earlier := work.folder / "train.jsonl"):
        say(f"WARNING: the pairs in {earlier} are from an earlier judging, not from this judge and rubric")
    return summarise(judged, files, calls, judge.models, dropped, calls.price(settings), expected)


def _selected(decided: list[Judged], settings: PairsConfig) -> tuple[list[Judged], dict[str, int]]:
    """The rows of which pairs are made, and how many are left out for each reason; says which."""
    if settings.length_matched:
        decided = list(map(with_close_length, decided))
    pairs = [(one.row.prompt, *(one.row.answers[number] for number in one.decided)) for one in decided]
    reasons = drop_reasons(pairs, settings)
    left_out: dict[str, list[str]] = {}
    for one, reason in zip(decided, reasons, strict=True):
        if reason:
            left_out.setdefault(reason, []).append(one.row.where)
    for reason, places in left_out.items():
        say(f"dropped {len(places)}, {reason} ({first_ten(places)}): {REMEDIES[reason]}")
    used = [one for one, reason in zip(decided, reasons, strict=True) if not reason]
    return used, {reason: len(places) for reason, places in left_out.items()}


def estimate_cost(config: RunConfig) -> Estimate:
    """What `judge_completions` will ask for at most; nothing is sent, and no file is written."""
    work = _Work.of(config)
    with work.read() as log:
        return estimate(work.judge(log), work.rows, work.settings)


def judged_so_far(config: RunConfig) -> list[Judged]:
    """What the kept replies give; nothing is sent.

    Raises:
        DpoError: nothing was judged with these settings.
    """
    work = _Work.of(config)
    with work.read() as log:
        judged = list(map(work.judge(log).rank, work.rows)) if work.ready else []
    if not any(one.comparisons for one in judged):
        raise DpoError(
            "has no verdicts with these settings",
            where=work.folder,
            hint="run the same command without --check first",
        )
    return judged


@dataclass
class _Work:
    """What there is to do: rows, rubric, and the judge as far as it is known without asking it.

    `key` and `method` are None as long as only the server or the probe can tell them. `trained`: keys of the
    prompts in judge.trained.
    """

    settings: JudgeConfig
    rows: list[Completions]
    rubric: Rubric
    folder: Path
    key: str | None
    method: str | None
    trained: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: RunConfig) -> "_Work":
        settings, folder = config.judge, Path(config.judge.output)
        if not settings.is_named:
            raise DpoError(
                "there is no judge",
                where="judge.url",
                hint="set judge.url to a server, such as http://localhost:8080/v1, or judge.model",
            )
        rows = read_completions(settings.completions)
        rubric = load_rubric(settings.rubric, read_curated(settings.examples) if settings.examples else ())
        seen = read_questions(settings.trained) if settings.trained else ()
        trained = frozenset(prompt_key(row.prompt) for row in seen)
        check_writable(folder, need_bytes=10_000_000)
        log = verdicts_log(folder, {})
        log.check()
        earlier = read_object(log.settings_file) if is_there(log.settings_file) else {}
        key = _key(settings, earlier)
        again = key is not None and earlier.get("key") == key
        method = earlier.get("method") if settings.method == "auto" and again else settings.method
        if method == "auto" and settings.url is None:
            method = "labels"  # a local judge always gives log-probabilities
        return cls(settings, rows, rubric, folder, key, None if method == "auto" else method, trained)

    @property
    def name(self) -> str:
        """The judge, for people."""
        return self.settings.model or str(self.key)

    @property
    def ready(self) -> bool:
        """Whether kept replies can be found."""
        return self.key is not None and self.method is not None

    @property
    def _log(self) -> AppendLog:
        judge = {"url": self.settings.url, "model": self.settings.model}
        return verdicts_log(self.folder, {**judge, "key": self.key, "method": self.method})

    def open(self) -> AbstractContextManager[OpenLog]:
        """The log, to write to."""
        return self._log.open(kept_reply)

    @contextmanager
    def read(self) -> Iterator[OpenLog]:
        """The log as it is; an empty one in memory if there is none."""
        if is_there(self._log.path):
            with self.open() as log:
                yield log
        else:
            yield OpenLog(self._log.path, None, {})

    def note_judge(self) -> None:
        """Remember which judge is asked how, so that the same command goes on in the same way."""
        self._log.write_settings()

    def judge(self, log: OpenLog, **more: Any) -> Judge:
        """The judge; without `ask` it only uses what is kept."""
        settings = self.settings
        return Judge(
            **{"ask": None, **more},
            key=self.key or "",
            rubric=self.rubric,
            method=self.method or "written",
            max_tokens=settings.max_tokens,
            tie_band=settings.tie_band,
            log=log,
            max_calls=settings.max_calls,
        )


def _key(settings: JudgeConfig, earlier: dict[str, Any]) -> str | None:
    """What identifies the judge; None if only the server knows the name of its model."""
    if settings.url is None:
        check_local_model(settings, "judge")
        return LocalJudge(settings.model or "").key
    if settings.model is not None:
        return settings.model
    return earlier.get("key") if earlier.get("url") == settings.url else None


def _from_kept_replies(work: _Work) -> tuple[Judge, list[Judged], float | None] | None:
    """The outcome of all rows without a request, as from `_ask`; None if a reply is missing."""
    if not work.ready:
        return None
    with work.read() as log:
        judge = work.judge(log)
        expected = estimate(judge, work.rows, work.settings)
        if expected.requests:
            return None
        say("every verdict is kept already; nothing is asked")
        return judge, [judge.rank(row) for row in work.rows], expected.price


def _ask(work: _Work) -> tuple[Judge, list[Judged], float | None]:
    """Probe the judge, then compare the completions of all rows; also the price that was expected."""
    calls = Calls()
    server, schema = _probed(work, calls)
    with work.open() as log:
        work.note_judge()
        say_kept(log)
        expected = None
        if work.settings.price(0, 0) is not None:
            cost = estimate(work.judge(log), work.rows, work.settings)
            expected = cost.price
            say(str(cost))
        judge = work.judge(log, ask=server.ask, schema=schema, calls=calls)
        judged: dict[str, Judged] = {}

        def rank(group: list[Completions]) -> list[Judged]:
            return [judge.rank(row) for row in group]

        with progress("judging", len(work.rows), "prompts") as advance:

            def done(index: int, results: list[Judged]) -> None:
                judged.update({one.row.where: one for one in results})
                advance(len(results), f"{judge.calls.sent:,} requests")

            try:
                server.each(rank, _by_prompt(work.rows), done)
            except KeyboardInterrupt as stop:
                replies = plural(len(log.results), "reply", "replies")
                tell(stop, f"interrupted: kept {replies}; the same command continues from here")
                raise
    return judge, [judged[row.where] for row in work.rows], expected


def _probed(work: _Work, calls: Calls) -> tuple[Endpoint | LocalJudge, bool]:
    """The judge, ready to be asked, and whether schemas shape its replies; sets key and method of the work.

    Args:
        calls: gets the tokens of the probe.

    Raises:
        DpoError: the judge cannot be reached, or fails a question with a known answer.
    """
    settings, local = work.settings, work.settings.url is None
    server = connected(settings, "judge")
    key = server.key if local else settings.model or server.model or ""
    method = settings.method if work.method is None or key != work.key else work.method

    def ask(request: Request) -> Reply | Failure:
        if isinstance(reply := server.ask(request), Reply):
            calls.add(reply)
        return reply

    found = probe(ask, method, settings.max_tokens, settings.tie_band, schemas=not local)
    say(found.text)
    if found.fault:
        if settings.guard == "stop":
            raise found.fault
        say(f"warning: {found.fault.what}")
    if not local and not _same_model(found.model, server.model or ""):
        say(f"replies come from {found.model!r}, though {server.model!r} was asked for")
    work.key, work.method = key, found.method
    return server, found.schema


def _by_prompt(rows: list[Completions]) -> list[list[Completions]]:
    """Rows with the same prompt are judged one after the other, so that no two threads ask the same."""
    groups: dict[str, list[Completions]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row.prompt, row.tools], sort_keys=True), []).append(row)
    return list(groups.values())


def _same_model(given: str, asked: str) -> bool:
    """Whether both names mean one model: servers add a date to a name, or drop its folder."""
    return not given or given.startswith(asked) or Path(given).name == Path(asked).name
