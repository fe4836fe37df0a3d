"""Whether a run may go on from a checkpoint: what it was made of must be what there is now."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..data.pair_store import PairStore
from ..errors import DpoError, first_ten
from ..models.fingerprint import model_and_adapter_hashes
from ..settings import as_plain
from ..storage.checksummed_folder import Sealed
from ..training.checkpoint_folder import told_damaged

_FREE_SECTIONS = ("pairs", "generate", "run")
_FREE = (
    *(
        "model.path",
        "model.adapter",
        "model.chat_template",
        "data.train",
        "data.valid",
    ),  # what lies there is compared instead
    *("training.memory_limit", "training.save_minutes", "training.keep_checkpoints"),
)
"""Settings that do not change what a run computes."""

_PARTS = {
    "base": "the base model (model.path)",
    "adapter": "the adapter that it starts from (model.adapter)",
    "tokenizer": "the tokenizer",
    "template": "the chat template",
    "rendered": "what the chat template renders (does it print the date?)",
    "train": "the pairs (data.train)",
    "valid": "the held-out pairs (data.valid)",
}
LAYOUT = (
    *("training.gradient_checkpointing", "training.branches", "training.attention"),
    *("training.epochs", "training.rehearsal", "optimizer.learning_rate"),
)
"""Settings left open (`auto`, null) that are decided at the start; a resumed run keeps them."""
_OF_LOSS = ("training.epochs", "training.rehearsal", "optimizer.learning_rate")
_OPEN = ("auto", None)


_FACTS = {
    **dict.fromkeys(("key", "layout", "sizes", "interval"), dict),
    **dict.fromkeys(("best", "held_out"), dict | None),
    **dict.fromkeys(("step", "evaluated"), int),
    "stopped": str,
}
"""Facts of every checkpoint that a run goes on from, and what each is."""


def run_key(config: RunConfig, base: Path, pairs: PairStore, held: PairStore | None) -> dict[str, Any]:
    """All that decides what a run computes, as plain values.

    Args:
        config: as asked for, before a plan settles it.
    """
    return {
        "settings": _settings(config),
        **model_and_adapter_hashes(base, config.model.adapter),
        **{name: pairs.key[name] for name in ("tokenizer", "template", "rendered")},
        "train": pairs.content,
        "valid": held.content if held else None,
    }


def _settings(config: RunConfig) -> dict[str, Any]:
    """Those that change what a run computes, by their dotted names."""
    return {
        name: value
        for section, values in as_plain(config).items()
        if section not in _FREE_SECTIONS
        for name, value in _dotted(values, f"{section}.")
        if name not in _FREE
    }


def _dotted(values: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found = []
    for name, value in values.items():
        inner = isinstance(value, dict)
        found += _dotted(value, f"{prefix}{name}.") if inner else [(f"{prefix}{name}", value)]
    return found


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What tells two keys apart, in words; nothing where they are the same."""
    old, new = before["settings"], now["settings"]
    found = [f"{name} is {new.get(name)}, was {old.get(name)}" for name in changed_settings(before, now, "")]
    return found + [f"{what} changed" for part, what in _PARTS.items() if before[part] != now[part]]


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Check that a run of key `before` may go on as one of key `now`.

    Raises:
        DpoError: with all that differs.
    """
    if changed := differences(before, now):
        raise DpoError(
            f"the run in this folder is another one: {first_ten(changed)}",
            where=folder,
            hint="undo it to go on, go on all the same with --accept-changes, or start anew with --overwrite",
        )


def as_asked(now: Mapping[str, Any], before: Mapping[str, Any], layout: Mapping[str, Any]) -> dict[str, Any]:
    """Key `now` with what the run was asked for where it names what the start made of that, or names nothing.

    So config.yaml, which holds the settled values, repeats its run; and a default that has become null goes
    on with a run that had a number.
    """
    settings = dict(now["settings"])
    same_loss = not changed_settings(before, now, "loss.")
    for name, value in layout.items():
        asked = before["settings"][name]
        if (asked in _OPEN and settings[name] == value) or (settings[name] is None and same_loss):
            settings[name] = asked
    return {**now, "settings": settings}


def as_of_today(checkpoint: Sealed) -> Sealed:
    """A checkpoint with its facts as today's version writes them.

    Raises:
        DpoError: they are not the facts of a run.
    """
    with told_damaged(checkpoint.folder):
        facts = checkpoint.facts
        said = facts["interval"].get("said", {})
        for name, value, kinds in (
            ("said", said, dict),
            *((n, facts[n], kinds) for n, kinds in _FACTS.items()),
        ):
            if not isinstance(value, kinds):
                raise TypeError(f"{name} is {value!r:.60}")
        return checkpoint._replace(facts=up_to_date(facts))


def up_to_date(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's facts as today's version writes them.

    Settings that the version which wrote it did not know have their defaults. A run of a version without
    training.rehearsal goes on without it.
    """
    defaults = _settings(RunConfig())
    layout = {"rehearsal": 0.0, **facts["layout"]}.items()
    return {
        **facts,
        "key": {**facts["key"], "settings": {**defaults, **facts["key"]["settings"]}},
        "layout": {name if "." in name else f"training.{name}": value for name, value in layout},
    }


def layout_for(facts: Mapping[str, Any], key: Mapping[str, Any]) -> dict[str, Any]:
    """The layout of a checkpoint as far as a run of this key can go on with it.

    With another loss, the old one's learning rate, number of passes and rehearsal do not count.
    """
    other_loss = changed_settings(facts["key"], key, "loss.")
    return {name: value for name, value in facts["layout"].items() if not (other_loss and name in _OF_LOSS)}


def settled_layout(config: RunConfig) -> dict[str, Any]:
    """The values of LAYOUT, by name."""
    return {name: _value(config, name) for name in LAYOUT}


def _value(config: RunConfig, name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


def check_acceptable(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Check that a run of key `before` can go on as one of key `now` where changes are accepted.

    Raises:
        DpoError: the adapter would have another form.
    """
    form = [name for name in changed_settings(before, now, "adapter.") if name != "adapter.dropout"]
    if form:
        old, new = before["settings"], now["settings"]
        raise DpoError(
            "an adapter keeps its form: "
            + ", ".join(f"{name} is {new.get(name)}, was {old.get(name)}" for name in form),
            where=folder,
            hint="undo it to go on, or train another run with --output",
        )


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], *prefixes: str) -> list[str]:
    """Names of the settings that differ and begin with one of these."""
    old, new = before["settings"], now["settings"]
    names = dict.fromkeys([*old, *new])
    return [name for name in names if name.startswith(prefixes) and old.get(name) != new.get(name)]


def same_measure(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether held-out figures of both can be compared: same pairs, reference, tokens and loss."""
    parts = [part for part in _PARTS if part != "train"]
    return all(before[part] == now[part] for part in parts) and not changed_settings(
        before, now, "loss.", "beta.value", "data."
    )


def with_layout(config: RunConfig, layout: Mapping[str, Any]) -> RunConfig:
    """The settings with what an earlier start settled, where they leave it open."""
    for name, value in layout.items():
        section, key = name.split(".")
        if _value(config, name) in _OPEN:
            config = replace(config, **{section: replace(getattr(config, section), **{key: value})})
    return config
