"""The tree reads downwards: a file imports only what stands above it."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from ..conftest import ROOT

# Downwards; the rooms of one line do not import one another.
LEVELS = [
    ["errors", "console"],
    ["machine", "storage", "upstream", "threads"],
    ["records", "suggestions", "settings_file", "printed_commands"],
    ["settings", "chat_protocol"],
    ["losses", "logps", "metrics", "randomness", "optimizers", "endpoint"],
    ["data"],
    ["forward"],
    ["models"],
    ["training"],
    ["monitoring", "pairs", "evaluation", "export", "inspection", "report"],
    ["judges"],
    ["config", "topics"],
    ["planning"],
    ["jobs"],
    ["api"],
    ["demo"],
    ["cli"],
]
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
OPEN_TO_ALL = {"__version__", "blas_note"}
"""What the package itself says, which every room may ask for."""


def modules(package):
    """{(room, ..., file)} of every file, the package's own doors left out."""
    found = {p.relative_to(package).with_suffix("").parts for p in package.rglob("*.py")}
    return {parts for parts in found if not parts[0].startswith("__")}


def imports(package):
    """(file, imported file) of every import inside the package, each as its path's parts."""
    known = modules(package)
    for parts in sorted(known):
        path = package.joinpath(*parts).with_suffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            place = parts[: len(parts) - node.level] + tuple((node.module or "").split("."))
            place = tuple(part for part in place if part)
            for alias in node.names:
                below = (*place, alias.name)
                if target := next((m for m in (below, place, (*place, "__init__")) if m in known), None):
                    yield parts, target
                elif below[-1] not in OPEN_TO_ALL:
                    raise ValueError(f"{'/'.join(parts)} imports {below}, which is nowhere")


def upward(package):
    """Imports from a line below, or from another room of the same line."""
    return [
        f"{'/'.join(file)} <- {'/'.join(target)}"
        for file, target in imports(package)
        if file[0] != target[0] and LEVEL[target[0]] >= LEVEL[file[0]]
    ]


def cycle(package):
    """Files that import each other in a circle, if there are any; an `__init__` may hand its files on."""
    graph = TopologicalSorter()
    for file, target in imports(package):
        if file[-1] != "__init__":
            graph.add(file, target)
    try:
        graph.prepare()
    except CycleError as error:
        return ["/".join(file) for file in error.args[1]]
    return []


@pytest.fixture
def planted(tmp_path):
    """A package with one file in each room, and a way to write an import into one of them."""
    for room in LEVEL:
        (tmp_path / room).mkdir()
        (tmp_path / room / "one.py").write_text("")

    def write(file, line):
        (tmp_path / file).write_text(line + "\n")
        return tmp_path

    return write


def test_every_room_has_its_line():
    assert {parts[0] for parts in modules(ROOT / "mlx_dpo")} == set(LEVEL)


def test_no_file_imports_from_below_it_or_from_a_room_beside_it():
    assert (("jobs", "training_run"), ("training", "trainer")) in list(imports(ROOT / "mlx_dpo"))
    assert upward(ROOT / "mlx_dpo") == []


def test_no_files_import_each_other_in_a_circle():
    assert cycle(ROOT / "mlx_dpo") == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data/one.py", "from ..training.one import step"),
        ("data/one.py", "from ..training import one"),
        ("pairs/one.py", "def f():\n    from ..inspection import one"),
        ("settings/one.py", "from ..cli.one import main"),
    ],
)
def test_a_planted_import_is_found(planted, file, line):
    assert len(upward(planted(file, line))) == 1


def test_a_planted_circle_is_found(planted):
    planted("data/two.py", "from .one import a")
    assert set(cycle(planted("data/one.py", "from .two import b"))) == {"data/one", "data/two"}
