"""Whether a run may continue from a checkpoint: settings, data and model must be the same as before."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import MOVED, RunConfig
from ..data.pair_store import PairStore
from ..errors import DpoError
from ..forward.mlx_attention import BLOCKS
from ..models.fingerprint import model_and_adapter_hashes
from ..settings import deciding
from ..storage.checksummed_folder import Sealed
from ..training.checkpoint_folder import told_damaged
from ..training.layout import Amounts, Layout
from .continuing import changed_settings, check_unchanged, setting_change

_PARTS = {
    "base": "the base model (model.path)",
    "adapter": "the adapter that the run starts from (model.adapter)",
    "tokenizer": "the tokenizer",
    "template": "the chat template",
    "rendered": "the output of the chat template (does it print the date?)",
    "train": "the pairs (data.train)",
    "valid": "the held-out pairs (data.valid)",
}
_OPEN = ("auto", None)

_FACTS = {
    **dict.fromkeys(("key", "layout", "sizes", "interval"), dict),
    **dict.fromkeys(("best", "held_out"), dict | None),
    **dict.fromkeys(("step", "evaluated"), int),
    "stopped": str,
}
"""Facts that every checkpoint has, and their types."""


def run_key(config: RunConfig, base: Path, pairs: PairStore, held: PairStore | None) -> dict[str, Any]:
    """Everything that decides what a run computes, as plain values.

    Args:
        config: as asked for, before a plan fills it in.
    """
    return {
        "settings": deciding(config),
        **model_and_adapter_hashes(base, config.model.adapter),
        **{name: pairs.key[name] for name in ("tokenizer", "template", "rendered")},
        "train": pairs.content,
        "valid": held.content if held else None,
    }


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Check that a run of key `before` may continue as a run of key `now`.

    Raises:
        DpoError: with all differences.
    """
    hint = "undo the change to continue, continue with --accept-changes, or restart with --overwrite"
    check_unchanged(before, now, _PARTS, folder, hint)


def as_asked(now: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Key `now`, with settings as first asked wherever it has the value that the start chose, or null.

    So config.yaml, which contains the chosen values, continues its run; and so does a setting that is null
    now and was a number then.
    """
    settings, before = dict(now["settings"]), facts["key"]
    layout, amounts = Layout(**facts["layout"]), Amounts(**facts["amounts"])
    same_loss = not changed_settings(before, now, "loss.")
    for name, value in as_settings(layout, amounts).items():
        asked = before["settings"][name]
        if (asked in _OPEN and settings[name] == value) or (settings[name] is None and same_loss):
            settings[name] = asked
    return {**now, "settings": settings}


def as_settings(layout: Layout, amounts: Amounts) -> dict[str, Any]:
    """What a start chose for settings that were left open, by their dotted names."""
    return {
        "training.gradient_checkpointing": "on" if layout.checkpointing else "off",
        "training.branches": "separate" if layout.separate else "joint",
        "training.attention": layout.attention,
        "training.epochs": amounts.epochs,
        "training.rehearsal": amounts.rehearsal,
        "optimizer.learning_rate": amounts.learning_rate,
    }


def filled_in(config: RunConfig, layout: Layout, amounts: Amounts) -> RunConfig:
    """The settings, with the start's choices for those that were left open: for the run's config.yaml."""
    for name, value in as_settings(layout, amounts).items():
        section, key = name.split(".")
        own = getattr(config, section)
        if getattr(own, key) in _OPEN:
            config = replace(config, **{section: replace(own, **{key: value})})
    return config


def as_of_today(checkpoint: Sealed) -> Sealed:
    """A checkpoint with its facts as this version writes them.

    Raises:
        DpoError: these are not the facts of a run.
    """
    with told_damaged(checkpoint.folder):
        facts = checkpoint.facts
        kinds = {**_FACTS, "amounts": dict} if "amounts" in facts else _FACTS
        _check_kinds(facts, kinds)
        _check_kinds({"said": {}, **facts["interval"]}, {"said": dict})
        facts = up_to_date(facts)
        _check_kinds(facts["layout"], Layout.__annotations__)
        _check_kinds(facts["amounts"], Amounts.__annotations__)
        return checkpoint._replace(facts=facts)


def _check_kinds(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise TypeError(f"{name} is {values[name]!r:.60}")


def up_to_date(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's facts as this version writes them.

    Settings that are newer than the checkpoint have their defaults.
    """
    asked = facts["key"]["settings"].items()
    known = {MOVED.get(name, name): value for name, value in asked if value is not None or name not in MOVED}
    facts = {**facts, "key": {**facts["key"], "settings": {**deciding(RunConfig()), **known}}}
    return facts if "amounts" in facts else {**facts, **_of_earlier(facts["layout"])}


def _of_earlier(settled: Mapping[str, Any]) -> dict[str, Any]:
    """Layout and amounts of a checkpoint of version 0.1, which stored both as settings.

    A run from before training.rehearsal continues without it; a run from before training.attention
    continues with blocks, the only attention at that time.
    """
    own = {name.rpartition(".")[2]: value for name, value in settled.items()}
    layout = Layout(
        own["gradient_checkpointing"] == "on", own["branches"] == "separate", own.get("attention", BLOCKS)
    )
    amounts = Amounts(own["epochs"], own.get("rehearsal", 0.0), own["learning_rate"])
    return {"layout": layout._asdict(), "amounts": amounts._asdict()}


def settled_before(facts: Mapping[str, Any], key: Mapping[str, Any]) -> tuple[Layout, Amounts | None]:
    """The layout of a checkpoint, and its amounts if a run of this key can continue with them.

    With another loss, the old learning rate, number of passes and rehearsal do not count.
    """
    same_loss = not changed_settings(facts["key"], key, "loss.")
    return Layout(**facts["layout"]), Amounts(**facts["amounts"]) if same_loss else None


def check_acceptable(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Check that a run of key `before` can continue as a run of key `now` if changes are accepted.

    Raises:
        DpoError: the adapter would have another shape.
    """
    form = [name for name in changed_settings(before, now, "adapter.") if name != "adapter.dropout"]
    if form:
        raise DpoError(
            "the shape of the adapter cannot change during a run: "
            + ", ".join(setting_change(name, before, now) for name in form),
            where=folder,
            hint="undo the change to continue, or start another run with --output",
        )


def same_measure(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the held-out figures of both can be compared: same pairs, reference, tokens and loss."""
    parts = [part for part in _PARTS if part != "train"]
    return all(before[part] == now[part] for part in parts) and not changed_settings(
        before, now, "loss.", "beta.value", "data."
    )
