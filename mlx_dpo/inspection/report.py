"""An inspection as text, as JSON, and as the few lines that a run prints at its start."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..console import plural
from ..data.unusable_rows import unused_text
from ..errors import cut_short
from ..printed_commands import command_line
from .advice import ADVICE, Advice, Plan, Step, commands, of_the_set, verdict
from .defects import ERROR, KINDS, WARNING, Defect, counted, of_severity
from .measures import Figures, Pairs, figures, likelihood
from .scored_text import Masked

_NAMED = 10
"""Number of defects of a kind that the text lists; the others are counted."""
_SHOWN = 160
"""Characters of a converted text that are shown."""
_SAMPLE = 500
"""Number of pairs whose texts are examined when a run starts."""

Shell = Callable[[Step], str]
"""Gives a step as a shell command."""


@dataclass(frozen=True)
class File:
    """A file, or several, that was read: its rows that are not blank, and the pairs that a run would use.

    `cut_off`: pairs with an answer that is marked as cut off, so that no end is scored. `unused`: unused
    columns, and how many rows have them. `formats`: what each file is that does not have our own form.
    `left_out`: the rows that make no pair, in words. `converted`: the first pairs of other formats, as text.
    """

    path: str
    rows: int
    pairs: int
    cut_off: int
    unused: dict[str, int] = field(default_factory=dict)
    formats: list[str] = field(default_factory=list)
    left_out: str = ""
    converted: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Inspection:
    """All findings: defects in the order of files and lines, figures of the training pairs, advice.

    `commands`: the commands that follow the advice.
    """

    files: list[File]
    defects: list[Defect]
    figures: Figures
    shown: list[Masked]
    advice: list[Advice]
    commands: list[Step]


def as_json(found: Inspection, shell: Shell) -> dict[str, Any]:
    """Everything, for a script."""
    whole = _of_the_set(found)
    kinds = {
        code: {"count": count, **KINDS[code]._asdict(), "of_the_set": code in whole}
        for code, count in counted(found.defects).items()
    }
    return {
        "files": [asdict(file) for file in found.files],
        "kinds": kinds,
        "defects": [{"severity": KINDS[d.code].severity, **d._asdict()} for d in found.defects],
        "figures": asdict(found.figures),
        "rows": [row._asdict() for row in found.shown],
        "advice": [{"code": a.code, "meaning": ADVICE[a.code], "why": a.why} for a in found.advice],
        "commands": [shell(step) for step in found.commands],
    }


def as_text(found: Inspection, shell: Shell) -> str:
    """For people: defects by kind, figures, some rows as the model gets them, advice and its commands."""
    files = [
        f"{file.path}: {plural(file.rows, 'row')}, {plural(file.pairs, 'pair')} to {use}{_cut_off(file)}"
        for file, use in zip(found.files, ("train on", "evaluate on"), strict=False)
    ]
    files += [unused_text(file.path, file.unused) for file in found.files if file.unused]
    files += [file.left_out for file in found.files if file.left_out]
    other = [line for file in found.files for line in _of_other_formats(file)]
    shown = (
        ["rows as the model gets them; scored tokens are between bars", *(row.text() for row in found.shown)]
        if found.shown
        else []
    )
    advice = [f"  {a.code}: {ADVICE[a.code]}\n    {a.why}" for a in found.advice]
    measured = [f"  {line}" for line in figure_lines(found.figures)]
    then = [f"  {shell(step)}" for step in found.commands]
    whole = _of_the_set(found)
    rows = sum(file.rows for file in found.files)
    single = [defect for defect in found.defects if defect.code not in whole]
    common = [f"  {code} ({count:,} of {rows:,}): {KINDS[code].meaning}" for code, count in whole.items()]
    parts = [
        files,
        other,
        _named(single, ERROR, "errors: a run refuses or drops these rows"),
        _named(single, WARNING, "warnings: a run trains on these rows"),
        ["properties of the whole set: no single row needs a fix", *common] if common else [],
        ["figures", *measured] if measured else [],
        shown,
        ["advice", *advice],
        ["then", *then] if then else [],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _of_other_formats(file: File) -> list[str]:
    """The format of a file that has not our own form, and its first rows as they were converted."""
    lines = list(file.formats)
    for pair in file.converted:
        lines.append(f"  {pair['where']}")
        lines += [f"    {name:<9} {_short(pair[name])}" for name in ("prompt", "chosen", "rejected")]
    return lines


def _short(text: str) -> str:
    """A text on one line, without its middle if it is long."""
    return cut_short(" ".join(text.split()), _SHOWN)


def _of_the_set(found: Inspection) -> dict[str, int]:
    return of_the_set(counted(found.defects), sum(file.rows for file in found.files), found.figures)


def _cut_off(file: File) -> str:
    return f", {file.cut_off:,} with a cut-off answer, scored without an end token" if file.cut_off else ""


def _named(defects: Sequence[Defect], severity: str, title: str) -> list[str]:
    """The lines about defects of one severity, kind by kind, with meaning and remedy."""
    lines = []
    for code, count in of_severity(counted(defects), severity).items():
        some = [d for d in defects if d.code == code]
        lines.append(f"  {code} ({count:,}): {KINDS[code].meaning}")
        lines.append(f"    {KINDS[code].remedy or some[0].remedy}")
        lines += [f"      {defect}" for defect in some[:_NAMED]]
        if count > _NAMED:
            lines.append(f"      and {count - _NAMED:,} more; --json lists them all")
    return [title, *lines] if lines else [f"no {severity}s"]


def figure_lines(found: Figures) -> list[str]:
    """One line per figure, with its n; unknown figures are left out."""
    lines = []
    if bias := found.lengths:
        lines.append(
            f"length      chosen longer in {bias.chosen_longer:.0%}, median ratio {bias.median_ratio:.2f}; "
            f"picking the {bias.rule} answer is right in {bias.accuracy:.0%}  n {bias.n:,}"
        )
    if style := found.style:
        low, high = style.interval
        lines.append(
            f"style       identifies the chosen answer in {style.accuracy:.0%}, 95 % interval {low:.0%} to "
            f"{high:.0%}; chance: 50%  n {style.n:,}"
        )
    if same := found.repetition:
        lines.append(
            f"repetition  distinct 4-word sequences: chosen {same.chosen:.2f}, rejected {same.rejected:.2f}  "
            f"n {same.n:,}"
        )
    if own := found.own:
        lines.append(
            f"own         rejected {own.rejected:.2f} nats per token, sampled answers of the model "
            f"{own.sampled:.2f}  n {own.n:,}"
        )
    if likely := found.likelihood:
        than = "less" if likely.off_policy > 0 else "more"
        lines.append(
            f"likelihood  chosen {likely.chosen:.2f}, rejected {likely.rejected:.2f} nats per token: chosen "
            f"answers are {than} likely by {abs(likely.off_policy):.2f} per token on average, and less "
            f"likely in {likely.chosen_less_likely:.0%} of the pairs  n {likely.n:,}"
        )
    return lines


def sampled(pairs: Pairs, reference: np.ndarray, plan: Plan) -> tuple[Figures, list[Advice]]:
    """Figures of pairs with these reference scores, float32 (n, 2) nats, and the advice that follows.

    Style and repetition are measured on 500 pairs; single rows are not checked. With loss.ld_alpha the scores
    are not of whole answers, so there is no likelihood per token.
    """
    whole = plan.loss.ld_alpha is None
    found = figures(pairs, likelihood(reference, pairs.sizes) if whole else None, _SAMPLE)
    return found, verdict({}, len(pairs), found, plan)


def as_facts(found: Figures, advice: Sequence[Advice], plan: Plan, settings: Path) -> dict[str, Any]:
    """The content of a run's inspection.json, for its report.

    Args:
        settings: the run's settings file, with which the commands work in any folder.
    """
    measures = {name: value for name, value in asdict(found).items() if value is not None}
    told = [
        {"advice": ADVICE[a.code], "why": a.why, "remedy": _typed(commands([a], plan.run), settings)}
        for a in advice
    ]
    return {"measures": measures, "verdict": told}


def _typed(steps: Sequence[Step], settings: Path) -> str:
    # The file has the run's weight of the rehearsal; sft has its own default.
    own = {"sft": ("training.rehearsal=null",)}
    return "; then ".join(
        command_line(
            ["mlx-dpo", step.command, "--config", str(settings)]
            + [word for one in (*step.settings, *own.get(step.command, ())) for word in ("--set", one)]
        )
        for step in steps
    )


def short_report(found: Figures, advice: Sequence[Advice]) -> str:
    """What a run prints about its pairs before the first update: at most five lines."""
    lines = figure_lines(replace(found, repetition=None))
    lines.append(f"advice      {'; '.join(f'{a.code}: {ADVICE[a.code]}' for a in advice)}")
    # The settings of advice with commands name files that these commands have yet to write.
    settings = {s.partition("=")[0]: s for a in advice if not a.before for s in a.settings}
    if settings and not any(a.ends for a in advice):
        lines.append(f"settings    {', '.join(settings.values())}; mlx-dpo inspect explains them")
    return "\n".join(lines)
