"""What a person meant by an unknown name or value: similar ones, and those of other trainers."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, get_type_hints

_NEAR, _VERY_NEAR = 0.5, 0.8
_LONGEST = 100
"""Letters of a name that are compared, in lower case and without hyphens."""


class Known(NamedTuple):
    """A setting or a section; other trainers' names for it, each with a note or ""."""

    name: str
    is_section: bool
    also: Mapping[str, str]

    @property
    def key(self) -> str:
        """Its name without the section."""
        return self.name.rpartition(".")[2]


def known_names(kind: type, prefix: str = "") -> tuple[Known, ...]:
    """Every section and setting below dataclass `kind`, and every known key of a mapping."""
    hints, found = get_type_hints(kind), []
    for f in fields(kind):
        name, inner = f"{prefix}{f.name}", hints[f.name]
        found.append(Known(name, is_dataclass(inner), f.metadata.get("also", {})))
        keys = f.metadata.get("keys", dict)()
        found += [Known(f"{name}.{key}", False, also) for key, also in keys.items()]
        if is_dataclass(inner):
            found += known_names(inner, f"{name}.")
    return tuple(found)


def meant_setting(root: type, name: str, value: Any = None, *, in_file: bool = False) -> str:
    """The hint for a dotted name that `root` does not have: "did you mean ...?", or "" if none is similar.

    Args:
        root: the dataclass of all sections.
        value: what the name is set to; a dict if it names a section.
        in_file: the name is in a settings file, where a section has a line of its own.
    """
    if any(k.name == name for k in known_names(root) if not k.is_section):  # beta.value: 0.2 in a file
        above, _, key = name.rpartition(".")
        return f"write {key}: on a line of its own, indented below {above.replace('.', ': and ')}:"
    found = _foreign(root, name, value)
    inner = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else ""
    if found and found[0].is_section and inner:  # --set lora.r=8 is adapter.rank
        meant = _question(_foreign(root, f"{found[0].name}.{inner}", value[inner]) or found, inner)
        return f"{meant} The section is called {found[0].name}." if in_file else meant
    if found:
        return _question(found, name.rpartition(".")[2])
    return _near(root, name) or (inner and _question(_foreign(root, inner, value[inner]), inner))


def called_so(root: type, word: str) -> list[str]:
    """Dotted names of the settings that have this name, here or in other trainers."""
    return [k.name for k in _foreign(root, word, None) if not k.is_section]


def _foreign(root: type, name: str, value: Any) -> list[Known]:
    """Settings and sections that have this name in other trainers, or here in another section."""
    section, _, key = name.rpartition(".")
    word = _plain(key)
    found = [
        k for k in known_names(root) if word in (k.key, *k.also) and (k.name != name or not k.is_section)
    ]
    for better in (
        [k for k in found if k.is_section == isinstance(value, dict)],
        [k for k in found if k.name.rpartition(".")[0] in (section, name)],
        [k for k in found if k.name.count(".") < 2],
    ):
        found = [k for k in found if k in better] or found
    return sorted(found, key=lambda k: word not in k.also)[:3]


def _question(found: list[Known], key: str) -> str:
    if not found:
        return ""
    notes = [note for k in found if (note := k.also.get(_plain(key)))]
    return " ".join([f"did you mean {' or '.join(k.name for k in found)}?", *notes])


def _near(root: type, name: str) -> str:
    section, _, key = name.rpartition(".")
    prefix = f"{section}." if section else ""
    known = [k for k in known_names(root) if k.name != name]
    here = {k.key: k.name for k in known if k.name == f"{prefix}{k.key}"}
    anywhere = {word: k.name for k in known for word in (*k.also, k.key)}
    word = _closest(key, here)
    other = _most_alike(key, anywhere, _VERY_NEAR)
    if word and not (other and _likeness(key, other) > _likeness(key, word)):
        return f"did you mean {here[word]}?"
    return f"did you mean {anywhere[other]}?" if other else ""


def _plain(key: str) -> str:
    return key.strip().lower().replace("-", "_")[:_LONGEST]


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, _plain(one), other).ratio()


def _closest(word: str, known: Collection[str]) -> str:
    """The known word that this one misspells or contains, as paged_adamw_8bit contains adamw; "" for none."""
    held = [k for k in known if len(k) > 2 and k in _plain(word)]
    return (
        _most_alike(word, known, _VERY_NEAR)
        or max(held, key=len, default="")
        or _most_alike(word, known, _NEAR)
    )


def _most_alike(word: str, known: Collection[str], least: float) -> str:
    return next(iter(difflib.get_close_matches(_plain(word), known, n=1, cutoff=least)), "")


def meant_value(value: Any, choices: Sequence[str], meant: Mapping[str, str]) -> str:
    """The hint for a value that is not among `choices`; `meant`: for some values, what to do instead."""
    match = _closest(str(value), [*choices, *meant])
    if match in meant:
        return f"{meant[match]} choose from {', '.join(choices)}"
    return f"choose from {', '.join(choices)}" + (f"; did you mean {match}?" if match else "")
