"""Rows and files that nobody would write, the same ones for the same seed."""

import copy
import csv
import gzip
import io
import json
import random
from collections.abc import Iterator
from typing import Any

from ..data import row_fixtures, test_families

SEEDS = [
    *(rows[0] for rows, _ in row_fixtures.PAIRS.values()),
    *row_fixtures.PAIRS[row_fixtures.RANKED][0],
    *(rows[0] for rows, _ in row_fixtures.ANSWERS.values()),
    *test_families.ROWS.values(),
    {"prompt": "How?", "answer": "So."},
    {"question": "How?", "completion": "So.", "system": "Be brief.", "meta": {"a": 1}, "id": 7},
    {"messages": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]},
    {
        "chosen": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}],
        "rejected": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "Thus."}],
    },
]
TEXTS = [
    *(
        "",
        " ",
        "\n\n",
        "So.",
        "é\u0301",
        "\0",
        "\x1b]0;t\x07",
        "\u202e",
        "\ud83d",
        "\ufeff",
        "<think>",
        "</think>",
    ),
    *(
        "<think>\nhm\n</think>\n\nSo.",
        "<|im_end|>",
        "<|eot_id|>",
        "{{ 1 }}",
        "{% for %}",
        "\n\nHuman: a\n\nAssistant: b",
    ),
    *("function", "text", "image_url"),
]
VALUES = [
    *(None, True, False, 0, 1, -1, 1.0, 1.5, 1e400, float("nan"), 10**400, [], {}, [[]], [{}], {"a": None}),
    *([[[[[[]]]]]], ["a"], [None], {"role": "user"}, {"type": "text"}, {"from": "human", "value": "How?"}),
]
NAMES = [
    *(
        "prompt",
        "chosen",
        "rejected",
        "answer",
        "question",
        "completion",
        "messages",
        "system",
        "tools",
        "id",
    ),
    *("meta", "chosen_cut", "rejected_cut", "input", "instruction", "images", "history", "context", "label"),
    *("role", "content", "tool_calls", "reasoning_content", "name", "function", "arguments", "type", "text"),
    *("conversations", "documents", "functions", "chat_template_kwargs", "score", "", "a.b", "\0"),
    *("thinking", "image_url", "parameters", "description", "properties"),
]


def value(chance: random.Random) -> Any:
    """What might stand anywhere."""
    return copy.deepcopy(chance.choice([chance.choice(TEXTS), chance.choice(VALUES), chance.choice(SEEDS)]))


def places(node: Any, above: tuple = ()) -> Iterator[tuple]:
    """The way to every value inside a value, key by key."""
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield (*above, key)
        yield from places(node[key], (*above, key))


def row(chance: random.Random) -> Any:
    """A row with some places changed, removed or added."""
    made = copy.deepcopy(chance.choice(SEEDS))
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        some = list(places(made))
        if not some:
            break
        *above, last = chance.choice(some)
        node = made
        for key in above:
            node = node[key]
        change = chance.randrange(5)
        if change == 0:
            del node[last]
        elif change == 1 and isinstance(node, dict):
            node[chance.choice(NAMES)] = node.pop(last)
        elif change == 2 and isinstance(node, dict):
            node[chance.choice(NAMES)] = value(chance)
        elif change == 3 and isinstance(node, list):
            node.insert(last, copy.deepcopy(node[last]))
        else:
            node[last] = value(chance)
    return made


def line(chance: random.Random) -> bytes:
    """A row as a line of a file, now and then damaged."""
    text = json.dumps(row(chance), ensure_ascii=chance.random() < 0.5)
    content = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.2:
        place = chance.randrange(len(content) + 1)
        content = (
            content[:place]
            + chance.choice([b"", b"\xff", b'"', b"}", b",", b"[" * 50_000])
            + content[place + 1 :]
        )
    return content


def as_table(chance: random.Random, rows: list[Any]) -> bytes:
    """A table of the rows that are objects; values are written as JSON, or as Python prints them."""
    objects = [row for row in rows if isinstance(row, dict)]
    names, text = list(objects[0]) if objects else [], io.StringIO()
    writer = csv.writer(text, delimiter=chance.choice(",;\t"))
    writer.writerow(names)
    for held in objects:
        cells = [held.get(name, "") for name in names]
        print_ = chance.choice([json.dumps, str])
        writer.writerow([cell if isinstance(cell, str) else print_(cell) for cell in cells])
    return text.getvalue().encode("utf-8", "surrogatepass")


def files(seed: int, count: int) -> Iterator[bytes]:
    """Contents of files of rows: of every kind, a few lines each."""
    chance = random.Random(seed)
    for _ in range(count):
        lines = [line(chance) for _ in range(chance.choice([0, 1, 1, 2, 5]))]
        content = chance.choice([b"\n", b"\n", b"\r\n", b"", b"\n\n", b"\0"]).join(lines)
        change = chance.randrange(18)
        if change == 0:
            content = gzip.compress(content)
        elif change == 1:
            content = b"[" + b",".join(lines) + b"]"
        elif change == 2:
            content = content.decode("utf-8", "replace").encode("utf-16")
        elif change == 3:
            content = (
                chance.choice([b"PAR1", b"<html>", b"%PDF", b"version https://git-lfs", b"\xef\xbb\xbf"])
                + content
            )
        elif change == 4:
            content = b"prompt,chosen,rejected\n" + content
        elif change == 7:
            content = as_table(chance, [row(chance) for _ in lines])
        elif change == 8:
            content = b"\n".join(b"[" + b",\n".join(lines) + b"]" for _ in range(2))
        elif change == 6:
            content = b'{"version": 1, "results": {"results": [' + b",".join(lines) + b"]}}"
        elif change == 5:
            content = chance.randbytes(chance.choice([1, 20, 3_000]))
        yield content
