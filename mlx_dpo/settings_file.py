"""Read settings from a YAML file and from "section.key=value", as plain values with their places."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from .console import say
from .errors import DpoError, first_line, label, quoted
from .storage.names import path_fault
from .storage.reading import unreadable

_LARGEST_FILE = 50_000
"""Bytes. All settings with their help take a fifth of this; PyYAML reads this much in a second."""
_MOST_VALUES, _DEEPEST, _LONGEST_NAME = 2_000, 32, 8
"""How many names and values a file may hold, how deeply they may be nested, and how many parts a dotted name
may have. Values that aliases repeat are counted each time: a few bytes of aliases can stand for more values
than fit into memory."""
_WRITE_OUT = "write each setting once, without aliases (*name); mlx-dpo config prints all settings"


class Written(NamedTuple):
    """Where a setting was written: "my.yaml:3" or "--set beta.value".

    `text`: the value as it was typed, where it has no quotes or brackets. `folder`: of the file.
    """

    where: str
    text: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Tree:
    """Nested plain settings and, for each dotted name, how it was written."""

    values: dict[str, Any]
    written: dict[str, Written]

    def with_override(self, assignment: str) -> "Tree":
        """Apply one "section.key=value"; the value is read as YAML, or as text if it is not valid YAML.

        Raises:
            DpoError: the name of a setting or the value is missing.
        """
        name, equals, text = assignment.partition("=")
        name, text = name.strip(), text.strip()
        keys = name.split(".")
        if not equals or not all(keys) or len(keys) > _LONGEST_NAME or len(name.split()) > 1:
            raise DpoError(
                f"{quoted(assignment)} is not section.key=value",
                where="--set",
                hint="for example: --set beta.value=0.2",
            )
        value: Any = text
        with suppress(DpoError):
            value = _plain(_compose(text, "--set"), "--set") if 0 < len(text) < _LARGEST_FILE else text
        where = f"--set {label(name)}"
        above = {".".join(keys[:n]): Written(where) for n in range(1, len(keys))}
        own = Written(where, "" if text[:1] in ("'", '"', "[") else text)
        return Tree(_set(self.values, keys, value), {**above, **self.written, name: own})

    def with_moved(self, moved: Mapping[str, str]) -> tuple["Tree", list[str]]:
        """The tree with settings of earlier versions under their present names, and a note for each.

        Args:
            moved: old name ("section.key") to new name. A setting that is null is left out.

        Raises:
            DpoError: old and new name are both in the file.
        """
        values, written, notes = self.values, dict(self.written), []
        for old, new in moved.items():
            section, _, key = old.partition(".")
            inner = values.get(section)
            if not isinstance(inner, dict) or key not in inner:
                continue
            value, own = inner[key], written.pop(old, Written(old))  # a merged key has no place
            values = {**values, section: {name: inner[name] for name in inner if name != key}}
            if value is None:
                continue
            if new in written:
                what = f"{old} is now called {new}, and both are set"
                raise DpoError(what, where=own.where, hint=f"remove {old}")
            values, written[new] = _set(values, new.split("."), value), own
            notes.append(f"{own.where}: {old} is now called {new}")
        return Tree(values, written), notes


def _set(values: dict[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    head, *rest = keys
    inner = values.get(head)
    return {**values, head: _set(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


def read_settings(
    path: Path | str | None, overrides: Sequence[str] = (), moved: Mapping[str, str] = MappingProxyType({})
) -> Tree:
    """The settings of a file, if there is one, with each "section.key=value" applied.

    Args:
        moved: as for `Tree.with_moved`; each note is said once.

    Raises:
        DpoError: with file and line, or the override, of what is wrong.
    """
    tree, notes = (Tree({}, {}) if path is None else read_yaml(path)).with_moved(moved)
    for note in notes:
        _say_once(note)
    for override in overrides:
        tree = tree.with_override(override)
    return tree


@cache
def _say_once(note: str) -> None:
    say(note)  # a command may read its settings several times


def read_yaml(path: Path | str) -> Tree:
    """Read a settings file, keeping the line of every key.

    Raises:
        DpoError: the file is missing, too large, broken YAML or not a mapping, or a key is written twice.
    """
    path = os.path.expanduser(path)
    node = _compose(_file_text(path), path)
    # Before the values are made: that puts merged keys into the nodes.
    written = dict(_written(node, path)) if node else {}
    values = _plain(node, path)
    if values is None:
        return Tree({}, {})
    if not isinstance(values, dict):
        raise DpoError("is not a mapping of sections", where=path, hint="mlx-dpo config prints an example")
    return Tree(values, written)


def _file_text(path: str) -> str:
    if fault := path_fault(path):
        raise DpoError(
            f"{quoted(path)} {fault}",
            where="--config",
            hint="name a settings file, or leave --config out for the defaults",
        )
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DpoError("is not a file", where=path, hint="name a YAML text file")
        with open(path, "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise DpoError("no such file", where=path, hint="mlx-dpo config prints one to start from") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if len(content) > _LARGEST_FILE:
        raise DpoError(
            f"is larger than the {_LARGEST_FILE:,} bytes that a settings file may have",
            where=path,
            hint="--config takes a settings file (YAML); name the file of rows in data.train",
        )
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise DpoError("is not UTF-8 text", where=path, hint="save the file as UTF-8") from None


class _Loader(yaml.SafeLoader):
    """Reads numbers, true and false as PyYAML does; names and all other scalars are text."""

    values = depth = 0

    def fetch_flow_collection_start(self, kind: type) -> None:
        """An opening bracket: PyYAML would slowly read a thousand of them before it makes the first list."""
        _check_size(0, self.flow_level, self.get_mark())
        super().fetch_flow_collection_start(kind)

    def compose_node(self, parent: yaml.Node, index: Any) -> yaml.Node:
        """The next name or value, as long as there are few and the nesting is flat."""
        self.values, self.depth = self.values + 1, self.depth + 1
        _check_size(self.values, self.depth, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[str, Any]:
        """A section; its names are text, even if they look like numbers."""
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)
        self.flatten_mapping(node)
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a name must be text", key.start_mark)
        return {key.value: self.construct_object(value, deep) for key, value in node.value}


def _or_text(construct: Any) -> Any:
    """PyYAML's constructors raise various errors for text that only looks like a number, such as `0b_`."""

    def construct_or_text(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
        text = loader.construct_scalar(node)
        if ":" in text:  # YAML 1.1 takes 1:30 for 90
            return text
        try:
            return construct(loader, node)
        except (ValueError, LookupError, ArithmeticError):
            return text

    return construct_or_text


for _kind in ("int", "float", "bool"):
    _tag = f"tag:yaml.org,2002:{_kind}"
    _Loader.add_constructor(_tag, _or_text(yaml.SafeLoader.yaml_constructors[_tag]))
for _kind in ("timestamp", "binary", "value", "merge"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", lambda loader, node: loader.construct_scalar(node))


def _check_size(values: int, depth: int, mark: yaml.Mark) -> None:
    what = f"more than {_MOST_VALUES:,} values" if values > _MOST_VALUES else ""
    what = what or ("lists or sections are nested too deeply" if depth > _DEEPEST else "")
    if what:
        raise yaml.MarkedYAMLError(problem=what, problem_mark=mark, note=_WRITE_OUT)


def _compose(text: str, name: str) -> yaml.Node | None:
    """The nodes of a YAML text, checked to be few and flat; None if there are none."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            _check_aliases(node)
    except Exception as error:  # PyYAML's scanner also raises what chr() and int() do
        raise _not_settings(error, name) from None
    return node


def _check_aliases(root: yaml.Node) -> None:
    """Check that nodes are few and flat even when each repetition by an alias is counted."""
    left, values = [(root, 1)], 0
    while left:
        node, depth = left.pop()
        values += 1
        _check_size(values, depth, node.start_mark)
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = inner if isinstance(node, yaml.MappingNode) else [(item,) for item in inner]
        left += [(part, depth + 1) for pair in pairs for part in pair]


def _plain(node: yaml.Node | None, name: str) -> Any:
    """The values of nodes that `_compose` has found few and flat."""
    loader = _Loader("")
    try:
        return None if node is None else loader.construct_document(node)
    except Exception as error:  # tags that want another kind of value
        raise _not_settings(error, name) from None
    finally:
        loader.dispose()


def _not_settings(error: Exception, name: str) -> DpoError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or first_line(error)
    return DpoError(
        f"not YAML: {problem if len(problem) <= 120 else problem[:120] + '...'}",
        where=f"{name}:{mark.line + 1}" if mark else name,
        hint=getattr(error, "note", None) or "check the indentation and the colons around this line",
    )


def _written(node: yaml.Node, path: str, prefix: str = "") -> Iterator[tuple[str, Written]]:
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        name, where = f"{prefix}{key.value}", f"{path}:{key.start_mark.line + 1}"
        if name in seen:
            raise DpoError(f"{quoted(name)} is written twice", where=where, hint="keep one of the two")
        seen.add(name)
        bare = isinstance(value, yaml.ScalarNode) and value.style is None
        yield name, Written(where, value.value if bare else "", os.path.dirname(path))
        yield from _written(value, path, f"{name}.")
