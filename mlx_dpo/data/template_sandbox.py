"""The sandbox that chat templates run in: no operation produces more than MOST.

A template is code that somebody else wrote. A signal can stop its Python code, but not a single call in C
that makes gigabytes.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MOST = 2**23
"""Most characters of a text, or items of a list, that a template may produce: four times the longest row."""
_BITS, _INDENT = 4096, 64
_NO_USE = {
    *("batch", "center", "expandtabs", "ljust", "maketrans", "pprint", "rjust", "slice", "striptags"),
    *("to_bytes", "translate", "urlize", "wordwrap", "xmlattr", "zfill"),
}
"""Filters and methods that no chat template needs, and that can turn a short text into a huge one."""
_WIDE = re.compile(r"%[^%a-zA-Z]*(?:\d{4}|\*)|\{[^{}:]*:[^{}]*(?:\d{4}|\{)")
"""A width of thousands in a format, or a width that is an argument."""


class TooLargeError(Exception):
    """A template produces more than MOST."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox that transformers uses for templates, with bounds."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        filters, self.filters = self.filters, _Filters()
        for name in filters.keys() - _NO_USE:
            self.filters[name] = filters[name]
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _JoinsAsSums().visit(super()._parse(source, name, filename)).set_environment(self)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use the attribute."""
        return attr not in _NO_USE and super().is_safe_attribute(obj, attr, value)

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """All that was printed, as one text."""
        kept, size = [], 0
        for piece in pieces:
            size += len(piece)
            _check(size)
            kept.append(piece)
        return "".join(kept)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """The result of an operator."""
        if operator == "+":
            _check(_size(left) + _size(right))
        elif operator == "*":
            _check(max(_size(left) * _whole(right), _size(right) * _whole(left)))
            _check_bits(_bits(left) + _bits(right))
        elif operator == "**":
            _check_bits(_bits(left) * abs(_whole(right)))
        elif isinstance(left, str):
            _check(_longest("format", [left, *(right if isinstance(right, tuple) else [right])]))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The result of a function, or of a method of a text."""
        own = getattr(function, "__wrapped__", function)
        if isinstance(text := getattr(own, "__self__", None), str):
            _, *args = _checked(own.__name__, [text, *args], kwargs.values())
        return _sized(super().call(context, function, *args, **kwargs))


class _JoinsAsSums(NodeTransformer):
    """a ~ b becomes a|string + b|string, because the sandbox checks sums."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        texts = [nodes.Filter(part, "string", [], [], None, None, lineno=node.lineno) for part in node.nodes]
        return functools.reduce(lambda left, right: nodes.Add(left, right, lineno=node.lineno), texts)


class _Filters(dict):
    """Filters by name; every added filter gets bounds."""

    def __setitem__(self, name: str, function: Callable[..., Any]) -> None:
        first = 1 if hasattr(function, "jinja_pass_arg") else 0  # the environment, which is not a value

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            values = _checked(name, args[first:], kwargs.values())
            return _sized(function(*args[:first], *values, **kwargs))

        super().__setitem__(name, bounded)


def _checked(name: str, values: Iterable[Any], named: Iterable[Any]) -> list[Any]:
    """The values of a filter or method, checked: the result will not be too long. `join` gets a list."""
    values = [list(v) if name == "join" and isinstance(v, Iterator) else v for v in values]
    _check(_longest(name, [*values, *named]))
    return values


def _longest(name: str, values: list[Any]) -> int:
    """Most characters that a filter or method may make of `values`; 0 if it adds almost nothing."""
    text, *others = [value for value in values if isinstance(value, str)] or [""]
    width = max(map(_whole, values), default=0)
    match name:
        case "indent":
            return (text.count("\n") + 1) * max([width, *map(len, others)])
        case "replace" if len(others) > 1:
            return len(text) + text.count(others[0]) * len(others[1])
        case "join":
            joined = next((value for value in values if isinstance(value, list | tuple)), values[-1])
            mark = max((len(v) for v in values if isinstance(v, str) and v is not joined), default=0)
            return sum(map(_size, joined)) + _size(joined) * mark
        case "format" | "format_map":
            parts = max((len(str(value)) for value in values[1:]), default=0)
            return MOST + 1 if _WIDE.search(text) else len(text) * parts
        case "tojson":
            return 0 if width <= _INDENT else MOST + 1
        case "sum":
            return sum(map(_size, values[0])) if isinstance(values[0], list | tuple) else 0
    return 0


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _sized(value: Any) -> Any:
    _check(_size(value))
    return value


def _check(size: int) -> None:
    if size > MOST:
        raise TooLargeError


def _check_bits(bits: int) -> None:
    if bits > _BITS:
        raise TooLargeError
