"""Settings are frozen dataclasses: built from plain values, checked as declared, printed with their help."""

import math
import operator
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from .errors import DpoError, label, quoted
from .settings_file import Tree, Written
from .storage.files import write_text
from .storage.names import found_beside, path_fault
from .suggestions import meant_setting, meant_value

LARGEST_SEED = 2**64 - 1
"""The largest seed that MLX takes."""
LARGEST_WEIGHT = 1_000_000
"""For factors of losses, margins and gradients: far above any use, and far below float32's maximum."""
SMALLEST_DIVISOR = 1e-6
"""For divisors in losses."""

_BOUNDS = {
    "least": (operator.ge, "at least"),
    "most": (operator.le, "at most"),
    "above": (operator.gt, "above"),
    "below": (operator.lt, "below"),
}


def setting(
    default: Any,
    help: str,
    *,
    choices: Iterable[str] = (),
    meant: Mapping[str, str] | None = None,
    also: Mapping[str, str] | str = "",
    path: Literal["", "read", "written"] = "",
    decides: bool = True,
    keys: Callable[[], Mapping[str, Mapping[str, str]]] = dict,
    **bounds: float,
) -> Any:
    """A dataclass field with a default, one line of help, and what its values may be.

    Args:
        choices: all allowed values, if there is a fixed set; keys that a mapping gains later are allowed too.
        meant: for values that other trainers allow and we do not, what to do instead.
        also: other trainers' names for the setting, separated by spaces; a mapping adds a note to them.
        path: the value names what is read (looked up beside the settings file too) or written.
        decides: the setting changes what a run computes. For a path, the content of the file is compared.
        keys: for a mapping, gives its known keys, each with other trainers' names for it, as in `also`.
        bounds: `least`, `most`, `above` or `below`, for a number or for the numbers of a list.
    """
    if unknown := set(bounds) - set(_BOUNDS):
        raise TypeError(f"unknown bounds {unknown}")
    metadata = {
        "help": help,
        "choices": choices if isinstance(choices, Mapping) else tuple(choices),
        "meant": meant or {},
        "also": _names(also),
        "path": path,
        "decides": decides and not path,
        "keys": keys,
        "bounds": bounds,
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type, also: Mapping[str, str] | str = "", *, decides: bool = True) -> Any:
    """A dataclass field that holds a section of settings; `also`, `decides`: as for a setting."""
    return field(default_factory=kind, metadata={"also": _names(also), "decides": decides})


def _names(also: Mapping[str, str] | str) -> dict[str, str]:
    groups = {also: ""} if isinstance(also, str) else also
    return {name: note for names, note in groups.items() for name in names.split()}


@dataclass(frozen=True)
class Section:
    """Settings that belong together; their declared bounds are checked whenever a section is built."""

    def __post_init__(self):
        """Raises ValueError: "name must be ..."; so do the further checks of a section."""
        for f in fields(self):
            value = getattr(self, f.name)
            for path in (value if isinstance(value, list) else [value]) if f.metadata.get("path") else ():
                if path is not None and (fault := path_fault(path)):
                    raise ValueError(f"{f.name} {fault}, got {quoted(path)}")
            if value == [] and f.metadata.get("path"):
                raise ValueError(f"{f.name} is an empty list")
            null = "null or " if _may_be_null(f) else ""
            for item in value if isinstance(value, list) else [value]:
                _check_bounds(f.name, item, f.metadata.get("bounds", {}), null)


def _check_bounds(name: str, value: Any, bounds: Mapping[str, float], null: str = "") -> None:
    for bound, limit in bounds.items():
        holds, words = _BOUNDS[bound]
        if value is not None and not holds(value, limit):
            raise ValueError(f"{name} must be {null}{words} {limit}, got {quoted(value)}")


def checked(name: str, value: Any, kind: type, bounds: Mapping[str, float]) -> Any:
    """`value` as a value of this kind, within bounds that are declared as for a setting.

    Raises:
        ValueError: "name must be ...".
    """
    converted = _as(value, kind)
    if converted is MISSING:
        raise ValueError(f"{name} must be {_type_name(kind)}, got {quoted(value)}")
    _check_bounds(name, converted, bounds)
    return converted


def _may_be_null(f: Field) -> bool:
    return type(None) in typing.get_args(f.type)


def build(kind: type, tree: Tree) -> Any:
    """Build dataclass `kind` from plain values; every unknown key and wrong value is an error.

    Raises:
        DpoError: with the place, the key, and what was meant or expected.
    """
    return _build(kind, kind, tree.values, tree.written, "")


def _build(root: type, kind: type, values: dict[str, Any], written: dict[str, Written], prefix: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    hints = typing.get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        own = written.get(name, Written(label(name)))
        if key not in known:
            raise DpoError(
                f"unknown setting {quoted(name)}",
                where=own.where,
                hint=meant_setting(root, name, value, in_file=not own.where.startswith("--set"))
                or f"known here: {', '.join(known)}",
            )
        if not is_dataclass(hints[key]):
            arguments[key] = _convert(value, hints[key], known[key], name, own)
        elif value is None or isinstance(value, dict):
            arguments[key] = _build(root, hints[key], value or {}, written, f"{name}.")
        else:
            raise DpoError(
                f"{name} must be a section of settings, got {quoted(value)}",
                where=own.where,
                hint=_inside(root, hints[key], name, value),
            )
    try:
        return kind(**arguments)
    except ValueError as error:
        name = str(error).split()[0]
        key = name.partition(".")[0]  # the wrong value may belong to a key of a mapping
        places = [written[place] for n in (name, key) if (place := f"{prefix}{n}") in written]
        raise DpoError(
            f"{prefix}{error}",
            where=places[0].where if places else f"{prefix}{name}",
            hint="; ".join(getattr(error, "__notes__", ())) or _remedy(f"{prefix}{key}", known[key]),
        ) from None


def _inside(root: type, kind: type, name: str, value: Any) -> str:
    meant = meant_setting(root, name, value) or "write its settings one by one;"
    return f"{meant} known there: {', '.join(f.name for f in fields(kind))}"


def _remedy(name: str, f: Field) -> str:
    if not f.metadata["path"]:
        return f.metadata["help"]
    none = f", or {name}=null for none" if _may_be_null(f) else ""
    return f"set {name} to the name of a file or folder{none}: {f.metadata['help']}"


def _convert(value: Any, hint: Any, spec: Field, name: str, written: Written) -> Any:
    choices = spec.metadata["choices"]
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    # For a folder named 2024_01_02, 1.10 or "runs #2", and for on and off, the text counts.
    if written.text and str in options and value is not None:
        value = written.text
    for option in options:
        converted = _as(value, option)
        if converted is not MISSING:
            break
    else:
        expected = " or ".join(_type_name(option) for option in options)
        listed = f"write it as a list: [{value}]; " if _lacks_brackets(value, options) else ""
        raise DpoError(
            f"{name} must be {expected}, got {quoted(value)}",
            where=written.where,
            hint=listed + spec.metadata["help"],
        )
    for item in converted if isinstance(converted, list) else [converted]:
        if choices and item not in choices:
            raise DpoError(
                f"{name} cannot be {quoted(item)}",
                where=written.where,
                hint=meant_value(item, choices, spec.metadata["meant"]),
            )
    if spec.metadata["path"] and isinstance(converted, list):
        return [_path(one, spec, written) for one in converted]
    return _path(converted, spec, written) if spec.metadata["path"] and converted else converted


def _path(name: str, spec: Field, written: Written) -> str:
    name = os.path.expanduser(name)
    return found_beside(name, written.folder) if spec.metadata["path"] == "read" and written.folder else name


def _as(value: Any, kind: Any) -> Any:
    """`value` as `kind`, or MISSING. Numbers written as 1e-6, which PyYAML reads as text, are floats."""
    if kind is type(None):
        return None if value is None else MISSING
    if kind is bool:
        return value if isinstance(value, bool) else MISSING
    if isinstance(value, bool) or value is None:
        return MISSING
    if kind is int:
        return value if isinstance(value, int) else MISSING
    if kind is float:
        try:
            number = float(value) if isinstance(value, (int, float, str)) else math.nan
        except (ValueError, OverflowError):
            return MISSING
        return number if math.isfinite(number) else MISSING
    if kind is str:
        try:
            return str(value) if isinstance(value, (str, int, float)) else MISSING
        except ValueError:  # a number of thousands of digits
            return MISSING
    if typing.get_origin(kind) is dict:
        return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else MISSING
    if typing.get_origin(kind) is list:
        (inner,) = typing.get_args(kind)
        if not isinstance(value, list):
            return MISSING
        items = [_as(item, inner) for item in value]
        return MISSING if MISSING in items else items
    raise TypeError(f"no rule for settings of type {kind}")


def _lacks_brackets(value: Any, options: tuple[Any, ...]) -> bool:
    return (
        isinstance(value, str)
        and value.isidentifier()
        and len(value) < 40
        and list in map(typing.get_origin, options)
    )


def _type_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(kind, "a mapping" if typing.get_origin(kind) is dict else "a list")


def as_plain(config: Any) -> dict[str, Any]:
    """A settings dataclass as nested plain values, ready for YAML."""
    return {
        f.name: as_plain(value) if is_dataclass(value := getattr(config, f.name)) else value
        for f in fields(config)
    }


def deciding(config: Any, prefix: str = "") -> dict[str, Any]:
    """The settings that decide what a run computes, by their dotted names."""
    found = {}
    for f in fields(config):
        value, name = getattr(config, f.name), f"{prefix}{f.name}"
        if f.metadata["decides"]:
            found |= deciding(value, f"{name}.") if is_dataclass(value) else _dotted(value, name)
    return found


def _dotted(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in _dotted(inner, f"{name}.{key}").items()}


def described(kind: type, prefix: str = "") -> Iterator[tuple[str, Any, str, tuple[str, ...]]]:
    """Yield (dotted name, default, help, choices) of every setting below dataclass `kind`."""
    hints = typing.get_type_hints(kind)
    for f in fields(kind):
        if is_dataclass(hints[f.name]):
            yield from described(hints[f.name], f"{prefix}{f.name}.")
        else:
            default = f.default if f.default is not MISSING else f.default_factory()
            yield f"{prefix}{f.name}", default, f.metadata["help"], f.metadata["choices"]


def to_yaml(plain: dict[str, Any]) -> str:
    """Nested plain values as YAML, in their own order."""
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)


def save_settings(config: Any, path: Path) -> None:
    """Write a settings dataclass as YAML; a run from this file repeats the run."""
    write_text(path, to_yaml(as_plain(config)))
