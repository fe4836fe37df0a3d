"""Runs of a topic model that differ in their seed only: checked, then compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..console import plural
from ..errors import DpoError, first_ten
from ..printed_commands import command_line
from ..report.templates import plain
from ..report.topics_page import SeedsTable
from ..storage.reading import is_there, path_text
from ..topics.changes import Changes, read_changes
from ..topics.checkpoint import KIND
from ..topics.config import load_topics_config
from ..topics.corpus import Corpus
from ..topics.evaluation import TOP
from ..topics.over_seeds import FigureOverSeeds, Mean, figures_over_seeds
from ..training.checkpoint_folder import newest_checkpoint
from .continuing import changed_settings
from .open_run import SETTINGS
from .topics_folder import PREFERENCES, differing_parts

_SEED = "training.seed"
_ASKED = ("url", "model", "embedder", "max_tokens", "seed")
"""Settings of the section preferences that decide which preferences a run gets."""
_FIGURES = {
    "c_v": "C_V",
    "npmi": "NPMI",
    "kept": "top words kept",
    "purity": "purity",
    "nmi": "NMI",
    "unique": "diversity: words in one topic only",
    "distinct": "diversity: different words",
}
"""Figures of a run, and how they are written."""
_GROUPS = {"with preferences": ", topics with preferences", "others": ", other topics", "": ""}


@dataclass(frozen=True)
class SeedRuns:
    """Runs, the seed of each, how many of its topics have preferences, and figures by their names."""

    runs: list[str]
    seeds: list[int]
    topics_with_preferences: list[int]
    figures: dict[str, FigureOverSeeds]


def check_seeds(folders: Sequence[Path]) -> list[int]:
    """Check that finished runs differ in nothing that they compute but their seed; the seeds.

    Raises:
        DpoError: two runs have the same seed or differ otherwise, or a run is not finished.
    """
    keys = [_key(folder) for folder in folders]
    seeds: dict[int, Path] = {}
    for folder, key in zip(folders, keys, strict=True):
        _check_same(keys[0], key, folders[0], folder)
        seed = key["settings"][_SEED]
        if seed in seeds:
            raise DpoError(
                f"has the seed {seed}, as {path_text(seeds[seed])} has",
                where=path_text(folder),
                hint=f"leave it out, or {_trained_again(folders[0])}",
            )
        seeds[seed] = folder
    return list(seeds)


def _trained_again(first: Path) -> str:
    return f"train it again with {path_text(first / SETTINGS)}, another {_SEED} and another --output"


def _key(folder: Path) -> dict[str, Any]:
    """What a finished run computed; with the settings of its preferences."""
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None or checkpoint.facts.get("kind") != KIND:
        hint = "give a whole folder that mlx-dpo topics train wrote"
        what = "contains no run of a topic model with its checkpoints"
        raise DpoError(what, where=path_text(folder), hint=hint)
    if not is_there(folder / TOP):
        words = ["mlx-dpo", "topics", "train", "--config", str(folder / SETTINGS), "--output", str(folder)]
        raise DpoError("is not finished", where=path_text(folder), hint=f"finish it: {command_line(words)}")
    key, asked = checkpoint.facts["key"], load_topics_config(folder / SETTINGS).preferences
    preferences = {f"preferences.{name}": getattr(asked, name) for name in _ASKED}
    return {**key, "settings": key["settings"] | preferences}


def _check_same(first: Mapping[str, Any], other: Mapping[str, Any], one: Path, folder: Path) -> None:
    found = [
        f"{name} is {plain(other['settings'].get(name))}, not {plain(first['settings'].get(name))}"
        for name in changed_settings(first, other, "")
        if name != _SEED
    ]
    found += [f"{part} is another one" for part in differing_parts(first, other)]
    if found:
        raise DpoError(
            f"differs from {path_text(one)} not only in its seed: {first_ten(found)}",
            where=path_text(folder),
            hint=f"leave it out, or {_trained_again(one)}",
        )


def read_seeds(folders: Sequence[Path], seeds: list[int], corpus: Corpus, first: Changes) -> SeedRuns:
    """The figures of runs that `check_seeds` has checked.

    Args:
        corpus: of all runs.
        first: the first run, which is read already.

    Raises:
        DpoError: a file of a run is damaged, or the corpus is another one.
    """
    changes = [first, *(read_changes(folder, folder / PREFERENCES, corpus) for folder in folders[1:])]
    counts = [len(own.improved) for own in changes]
    return SeedRuns([str(folder) for folder in folders], seeds, counts, figures_over_seeds(changes))


def seeds_table(found: SeedRuns, words: int) -> SeedsTable:
    """The figures as the page shows them.

    Args:
        words: top words of a topic that the figures look at.
    """
    guided = any(own.snapshot for own in found.figures.values())
    head = ("figure", "snapshot", "at the end", "change") if guided else ("figure", "at the end")
    return SeedsTable(
        about=_about(found, words, guided),
        head=head,
        rows=[_row(name, own, found, guided) for name, own in found.figures.items()],
        seeds=len(found.seeds),
    )


def _about(found: SeedRuns, words: int, guided: bool) -> str:
    counts = [f", {plural(count, 'topic')} with preferences" for count in found.topics_with_preferences]
    runs = [
        f"{Path(run).name} (seed {seed}{count if guided else ''})"
        for run, seed, count in zip(found.runs, found.seeds, counts, strict=True)
    ]
    told = (
        f"Runs: {', '.join(runs)}. Mean ± half the width of its 95 % interval over seeds (Student's t), of "
        f"the top {words} words."
    )
    return f"{told} Topics also change when training just goes on." if guided else told


def _row(name: str, own: FigureOverSeeds, found: SeedRuns, guided: bool) -> tuple[str, ...]:
    figure, _, group = name.partition(", ")
    label = f"{_FIGURES[figure]}{_GROUPS[group] if guided else ''}"
    if own.seeds < len(found.seeds):
        label += f" ({own.seeds} of {len(found.seeds)} seeds)"
    if not guided:
        return label, _text(own.end)
    return label, _text(own.snapshot), _text(own.end), _text(own.change, "+")


def _text(value: Mean | None, sign: str = "") -> str:
    """0.345 ± 0.021; without an interval for a single seed; nothing for nothing."""
    if value is None:
        return ""
    half = "" if value.half_width is None else f" ± {value.half_width:.3f}"
    return f"{value.mean:{sign}.3f}{half}"
