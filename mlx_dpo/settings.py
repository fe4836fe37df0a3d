"""Settings are frozen dataclasses: strict YAML in, dotted overrides, printed with their help."""

import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import DpoError, first_line


def setting(default: Any, help: str, *, choices: Iterable[str] = ()) -> Any:
    """A dataclass field with a default, one line of help and, where closed, its choices."""
    metadata = {"help": help, "choices": tuple(choices)}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Tree:
    """Nested plain settings and, for each dotted name, where it was written; of overrides the text, too."""

    values: dict[str, Any]
    places: dict[str, str]
    texts: dict[str, str] = field(default_factory=dict)

    def with_override(self, assignment: str) -> "Tree":
        """Apply one "section.key=value"; the value is read as YAML, or as it stands where text is wanted."""
        name, equals, text = assignment.partition("=")
        name = name.strip()
        keys = name.split(".")
        if not equals or len(keys) < 2 or not all(keys):
            raise DpoError(
                f"{assignment!r} is not section.key=value",
                where="--set",
                hint="for example: --set beta.value=0.2",
            )
        try:
            value = yaml.safe_load(text) if text.strip() else ""
        except yaml.YAMLError:
            value = text
        values = _set(self.values, keys, value)
        above = {".".join(keys[:n]): f"--set {name}" for n in range(1, len(keys))}
        places = {**above, **self.places, name: f"--set {name}"}
        return Tree(values, places, {**self.texts, name: text.strip()})


def _set(values: dict[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    head, *rest = keys
    inner = values.get(head)
    return {**values, head: _set(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


def read_yaml(path: Path | str) -> Tree:
    """Read a settings file, keeping the line of every key.

    Raises:
        DpoError: missing file, broken YAML, a key written twice, or not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DpoError("no such file", where=path, hint="mlx-dpo config prints one to start from") from None
    except UnicodeDecodeError:
        raise DpoError("is not UTF-8 text", where=path, hint="save the file as UTF-8") from None
    except OSError as error:
        raise DpoError(
            f"cannot be read: {error.strerror}", where=path, hint="name a YAML text file"
        ) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise DpoError(
            f"not YAML: {getattr(error, 'problem', None) or first_line(error)}",
            where=f"{path}:{mark.line + 1}" if mark else path,
            hint="check the indentation and the colons around this line",
        ) from None
    if values is None:
        return Tree({}, {})
    if not isinstance(values, dict):
        raise DpoError("is not a mapping of sections", where=path, hint="mlx-dpo config prints an example")
    return Tree(values, dict(_places(node, path)))


def _places(node: yaml.Node, path: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    # Settings lie three deep at most; below that an alias could go round in circles.
    if not isinstance(node, yaml.MappingNode) or prefix.count(".") > 2:
        return
    seen = set()
    for key, value in node.value:
        name, where = f"{prefix}{key.value}", f"{path}:{key.start_mark.line + 1}"
        if name in seen:
            raise DpoError(f"{name!r} is written twice", where=where, hint="keep one of the two")
        seen.add(name)
        yield name, where
        yield from _places(value, path, f"{name}.")


def build(kind: type, tree: Tree, prefix: str = "") -> Any:
    """Build dataclass `kind` from plain values; every unknown key and wrong type is an error.

    Raises:
        DpoError: naming the place, the key, and a near match or what is expected.
    """
    values = tree.values
    known = {f.name: f for f in fields(kind)}
    hints = typing.get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        where = tree.places.get(name, name)
        if key not in known:
            raise DpoError(f"unknown setting {name!r}", where=where, hint=_near(str(key), known, prefix))
        if is_dataclass(hints[key]):
            if value is not None and not isinstance(value, dict):
                raise DpoError(
                    f"{name} must be a section of settings", where=where, hint="mlx-dpo config shows it"
                )
            arguments[key] = build(hints[key], Tree(value or {}, tree.places, tree.texts), f"{name}.")
        else:
            arguments[key] = _convert(value, hints[key], known[key], name, where, tree.texts.get(name, ""))
    try:
        return kind(**arguments)
    except ValueError as error:
        name = f"{prefix}{str(error).split()[0]}"
        where = tree.places.get(name, name)
        raise DpoError(
            f"{prefix}{error}", where=where, hint="mlx-dpo config prints every setting with its meaning"
        ) from None


def _near(key: str, known: Iterable[str], prefix: str) -> str:
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if match:
        return f"did you mean {prefix}{match[0]}?"
    return f"known here: {', '.join(known)}"


def _convert(value: Any, hint: Any, spec: Any, name: str, where: str, text: str) -> Any:
    choices = spec.metadata.get("choices", ())
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is False and "off" in choices:
        value = "off"  # YAML reads a bare off as false, and on as true
    if value is True and "on" in choices:
        value = "on"
    # A folder 2024_01_02, 1.10 or "runs #2" is no number and has no comment; quotes, lists and null are YAML.
    if text and text[0] not in "'\"[" and str in options and not choices and value is not None:
        value = text
    for option in options:
        converted = _as(value, option)
        if converted is not MISSING:
            break
    else:
        expected = " or ".join(_type_name(option) for option in options)
        raise DpoError(f"{name} must be {expected}, got {value!r}", where=where, hint=spec.metadata["help"])
    if choices:
        for item in converted if isinstance(converted, list) else [converted]:
            if item not in choices:
                match = difflib.get_close_matches(str(item), choices, n=1, cutoff=0.5)
                near = f"; did you mean {match[0]}?" if match else ""
                raise DpoError(
                    f"{name} cannot be {item!r}", where=where, hint=f"choose from {', '.join(choices)}{near}"
                )
    return converted


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
        return str(value) if isinstance(value, (str, int, float)) else MISSING
    if typing.get_origin(kind) is dict:
        return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else MISSING
    if typing.get_origin(kind) is list:
        (inner,) = typing.get_args(kind)
        if not isinstance(value, list):
            return MISSING
        items = [_as(item, inner) for item in value]
        return MISSING if MISSING in items else items
    raise TypeError(f"no rule for settings of type {kind}")


def _type_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(kind, "a mapping" if typing.get_origin(kind) is dict else "a list")


def as_plain(config: Any) -> dict[str, Any]:
    """A settings dataclass as nested plain values, ready for YAML."""
    return {
        f.name: as_plain(value) if is_dataclass(value := getattr(config, f.name)) else value
        for f in fields(config)
    }


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
