"""A run's folder as one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..console import plural
from ..metrics import wilson_interval
from .charts import Mark, Row, drawings, mark_words
from .templates import Setting, by_default, filled, plain


class Event(NamedTuple):
    """Something that happened: an alarm, a skipped update, a resumed or stopped run, the best evaluation."""

    step: int
    kind: str
    name: str = ""
    what: str = ""
    meaning: str = ""
    remedy: str = ""


class Sample(NamedTuple):
    """An answer of the policy at a step; step 0 is before training."""

    step: int
    prompt: str
    answer: str


@dataclass(frozen=True)
class RunRecord:
    """The content of a run's folder. `events`, `samples`, `inspection` are None if their file is missing."""

    name: str
    settings: list[Setting]
    rows: list[Row]
    events: list[Event] | None = None
    samples: list[Sample] | None = None
    inspection: Any = None


def page(run: RunRecord) -> str:
    """The report as HTML. Equal runs give equal text."""
    marks = [Mark(event.step, event.kind) for event in run.events or []]
    verdicts, inspected = split_inspection(run.inspection)
    return filled(
        "page.html.j2",
        run=run,
        heading=heading(run),
        summary=summary(run),
        drawings=drawings(run.rows, marks),
        marks=[mark_words(kind) for kind in dict.fromkeys(mark.kind for mark in marks)],
        verdicts=verdicts,
        inspected=inspected,
        comparisons=comparisons(run.samples or []),
        **by_default(run.settings),
    )


def heading(run: RunRecord) -> str:
    """Model, loss and beta's rule on one line."""
    settings = {setting.name: setting.value for setting in run.settings}
    loss = settings["loss.name"]
    names = loss if isinstance(loss, str) else " + ".join(loss)
    return (
        f"{settings['model.path']} · loss {names} · beta {settings['beta.value']:g} ({settings['beta.rule']})"
    )


def summary(run: RunRecord) -> list[str]:
    """The run in sentences: its length, its held-out figures, its events."""
    return [_extent(run), *_held_out(run), *_events(run)]


def _extent(run: RunRecord) -> str:
    trained = [row for row in run.rows if "loss" in row]
    if not trained:
        return "No update was made."
    first, last = trained[0], trained[-1]
    epochs = next(setting.value for setting in run.settings if setting.name == "training.epochs")
    extent = f"{plural(last['step'], 'update')}, epoch {last['epoch']:.4g} of {epochs}"
    loss = f"{last['loss']:.4f}" if last is first else f"from {first['loss']:.4f} to {last['loss']:.4f}"
    unfinished = ", so the run did not see all of its pairs" if last["epoch"] < epochs else ""
    return f"{extent}{unfinished}; training loss {loss}."


def _held_out(run: RunRecord) -> list[str]:
    """Figures of the last held-out evaluation, the loss of the first, and figures of the best."""
    evaluated = [row for row in run.rows if "eval/loss" in row]
    if not evaluated:
        return ["No pairs were held out, so this report cannot say how the model does on new prompts."]
    first, last = evaluated[0], evaluated[-1]
    if first is last:
        return [f"At step {last['step']:,}, {_figures(last)}."]
    sentences = [
        f"At step {last['step']:,}, {_figures(last)}.",
        f"The held-out loss was {first['eval/loss']:.4f} at step {first['step']:,}.",
    ]
    best = [event for event in run.events or [] if event.kind == "best"]
    if best and best[-1].what:
        sentences.append(f"{best[-1].what[0].upper()}{best[-1].what[1:]}.")
    sentences += [
        f"The best evaluation was at step {row['step']:,}: {_figures(row)}."
        for row in evaluated[:-1]
        if best and row["step"] == best[-1].step
    ]
    return sentences


def _figures(row: Row) -> str:
    """Loss, accuracy with its interval, and margin; sft has only a loss."""
    pairs, accuracy = int(row["eval/pairs"]), row.get("eval/rewards/accuracies")
    loss = f"{row['eval/loss']:.4f}"
    if accuracy is None or not row["step"]:
        return f"{plural(pairs, 'held-out pair has', 'held-out pairs have')} a mean loss of {loss}"
    low, high = wilson_interval(round(accuracy * pairs), pairs)
    count = plural(pairs, "held-out pair")
    return (
        f"the chosen answer has the higher reward in {_percent(accuracy)} of {count} (95 % interval "
        f"{_percent(low)} to {_percent(high)}), with a mean reward margin of "
        f"{row['eval/rewards/margins']:+.3f} and a mean loss of {loss}"
    ).replace(" %", "\N{NO-BREAK SPACE}%")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _events(run: RunRecord) -> list[str]:
    if run.events is None:
        return []
    stopped = [event for event in run.events if event.kind == "stopped"]
    sentences = [f"Stopped early: {event.what or f'at step {event.step:,}'}." for event in stopped]
    counts = {
        kind: sum(event.kind == kind for event in run.events) for kind in ("skipped", "resumed", "alarm")
    }
    if counts["skipped"]:
        sentences.append(f"Updates skipped: {counts['skipped']:,}.")
    if counts["resumed"]:
        sentences.append(f"Times resumed: {counts['resumed']:,}.")
    return [*sentences, f"Alarms: {counts['alarm']:,}." if counts["alarm"] else "No alarm was raised."]


def split_inspection(inspection: Any) -> tuple[list[dict[str, str]], Any]:
    """The advice of an inspection (each with advice, why and remedy), and its other findings."""
    if not isinstance(inspection, dict):
        return [], inspection
    verdicts = inspection.get("verdict")
    if not isinstance(verdicts, list) or not all(isinstance(verdict, dict) for verdict in verdicts):
        return [], inspection
    told = [
        {name: plain(verdict.get(name, "")) for name in ("advice", "why", "remedy")} for verdict in verdicts
    ]
    return told, {name: value for name, value in inspection.items() if name != "verdict"}


class Comparison(NamedTuple):
    """A prompt with its first and its last answer, each as title and text."""

    prompt: str
    answers: list[tuple[str, str]]


def comparisons(samples: Sequence[Sample]) -> list[Comparison]:
    """The answers before training and the last answers, prompt by prompt in the order of the file."""
    by_prompt: dict[str, dict[int, str]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, {})[sample.step] = sample.answer
    return [
        Comparison(prompt, [(_title(step), answers[step]) for step in sorted({min(answers), max(answers)})])
        for prompt, answers in by_prompt.items()
    ]


def _title(step: int) -> str:
    return f"after step {step:,}" if step else "before training"
