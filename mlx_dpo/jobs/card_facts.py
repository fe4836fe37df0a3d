"""What a model card says of a run, from the files of the run's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from ..config import RunConfig
from ..data.hub_files import is_hub_name
from ..errors import DpoError
from ..export.model_card import HeldOut, RunFacts, Sample, Share, Sources
from ..report.page import RunRecord
from ..training.checkpoint_folder import newest_checkpoint
from .kept_evaluation import read_evaluation
from .training_run import selected

_SECTIONS = ("adapter", "loss", "beta", "optimizer", "training")
_ALWAYS = (
    *("adapter.type", "adapter.rank", "adapter.scale", "loss.name", "beta.value", "data.max_length"),
    *("optimizer.learning_rate", "training.epochs", "training.accumulation", "training.seed"),
)
"""Settings that a card shows although they have their defaults."""


def run_facts(folder: Path, config: RunConfig, run: RunRecord, samples: int) -> RunFacts:
    """Everything that a card says of a run.

    Args:
        run: what the folder holds.
        samples: number of sampled answers.

    Raises:
        DpoError: no update was made, or a file is damaged.
    """
    trained = [row for row in run.rows if "loss" in row]
    if not trained:
        hint = "train first, or give the folder of another run"
        raise DpoError("made no update, so there is nothing to show", where=folder, hint=hint)
    first, last = trained[0], trained[-1]
    found = _held_out(folder, config, run)
    return RunFacts(
        objective=_objective(config),
        noun="row" if config.loss.answers_only else "pair",
        method=config.loss.label if config.loss.answers_only else "dpo",
        adapter=config.adapter.type,
        settings=_settings(run),
        trained=_sources(config.data.train, _trained_rows(folder, run)),
        held=_sources(config.data.valid, found.pairs if found else None) if config.data.valid else None,
        datasets=_data_sets(config.data.train),
        held_datasets=_data_sets(config.data.valid or []),
        start=PurePath(config.model.adapter).name if config.model.adapter else None,
        updates=int(last["step"]),
        epoch=last["epoch"],
        epochs=config.training.epochs,
        losses=(first["loss"], last["loss"]),
        held_out=found,
        alarms=list(dict.fromkeys(event.name for event in run.events or [] if event.kind == "alarm")),
        samples=_samples(run, found.step, samples) if found else [],
        sample_tokens=config.training.sample_tokens,
    )


def _settings(run: RunRecord) -> dict[str, Any]:
    """Nested plain values: the main settings, and those that differ from their defaults; no paths."""
    found: dict[str, Any] = {}
    for name, value, default in run.settings:
        section, _, _ = name.partition(".")
        if name in _ALWAYS or (section in _SECTIONS and value != default):
            place = found
            *outer, last = name.split(".")
            for part in outer:
                place = place.setdefault(part, {})
            place[last] = value
    return found


def _objective(config: RunConfig) -> str:
    """Loss and beta in words."""
    name = config.loss.name
    loss = name if isinstance(name, str) else " + ".join(name)
    if config.loss.answers_only:
        return f"supervised fine-tuning, loss {loss}"
    return f"preference pairs, loss {loss}, beta {config.beta.value:g} ({config.beta.rule})"


def _sources(named: str | Sequence[str], rows: int | None) -> Sources:
    """Names of data without their folders; data sets on the Hub keep their whole name."""
    every = [named] if isinstance(named, str) else named
    return Sources([name if is_hub_name(name) else PurePath(name).name for name in every], rows)


def _trained_rows(folder: Path, run: RunRecord) -> int | None:
    """How many pairs, or rows of sft, the run was trained on; None if its files do not say."""
    measures = run.inspection.get("measures") if isinstance(run.inspection, dict) else None
    if isinstance(measures, dict) and isinstance(measures.get("pairs"), int):
        return measures["pairs"]
    checkpoint = newest_checkpoint(folder)
    epochs = {row["step"]: row["epoch"] for row in run.rows if "epoch" in row}
    if not checkpoint or not epochs.get(checkpoint.facts["step"]):
        return None
    return round(checkpoint.facts["pairs"] / epochs[checkpoint.facts["step"]])


def _held_out(folder: Path, config: RunConfig, run: RunRecord) -> HeldOut | None:
    """The figures of the adapter that the folder keeps; None without held-out data."""
    evaluated = [row for row in run.rows if "eval/loss" in row]
    row = _kept(folder, config, run, evaluated)
    if row is None:
        return None
    moved = bool(row["step"])  # before the first update all pairs tie, so there is no accuracy
    before = [early["eval/loss"] for early in evaluated if not early["step"] and moved]
    return HeldOut(
        step=int(row["step"]),
        pairs=int(row["eval/pairs"]),
        loss=row["eval/loss"],
        loss_before=before[0] if before else None,
        accuracy=row.get("eval/rewards/accuracies") if moved else None,
        margin=row.get("eval/rewards/margins") if moved else None,
        preferred=_preferred(folder),
    )


def _preferred(folder: Path) -> dict[str, Share]:
    found = read_evaluation(folder)
    sides = {"base model": "base", "this model": "tuned"} if found else {}
    return {
        model: Share(found[f"preferred_{side}"], *found[f"preferred_{side}_interval"])
        for model, side in sides.items()
    }


def _kept(
    folder: Path, config: RunConfig, run: RunRecord, evaluated: Sequence[Mapping[str, float]]
) -> Mapping[str, float] | None:
    """The evaluation of the adapter in the run's folder: by its newest checkpoint, else by its events."""
    if checkpoint := newest_checkpoint(folder):
        return selected(checkpoint.facts["best"], checkpoint.facts["held_out"], config)
    best = [event.step for event in run.events or [] if event.kind == "best"]
    of_best = [row for row in evaluated if best and row["step"] == best[-1]]
    return next(iter([*of_best[-1:], *evaluated[-1:]]), None)


def _samples(run: RunRecord, step: int, count: int) -> list[Sample]:
    """The first `count` prompts that have an answer before training and one at `step`."""
    answers: dict[str, dict[int, str]] = {}
    for sample in run.samples or []:
        answers.setdefault(sample.prompt, {})[sample.step] = sample.answer
    both = [(prompt, own) for prompt, own in answers.items() if {0, step} <= own.keys()]
    return [Sample(prompt, own[0], own[step]) for prompt, own in both[:count]]


def _data_sets(named: str | Sequence[str]) -> list[str]:
    """Data sets on the Hub among these sources: owner and name, without revision and split."""
    names = [name for name in ([named] if isinstance(named, str) else named) if is_hub_name(name)]
    plain = [name.removeprefix("hf://datasets/").partition("@")[0].partition(":")[0] for name in names]
    return ["/".join(name.split("/")[:2]) for name in plain]
