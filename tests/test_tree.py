"""The tree reads downwards: a file imports only what stands above it."""

import ast

from .conftest import ROOT

# Downwards; the rooms of one line do not import one another.
LEVELS = [
    ["blas", "watchdog"],
    [
        "errors",
        "records",
        "storage",
        "files",
        "jsonl",
        "paths",
        "settings",
        "settings_file",
        "suggestions",
        "console",
        "commands",
        "sealed",
        "cache",
        "trackers",
    ],
    ["losses", "logps", "metrics", "randomness"],
    ["data", "models", "optimizers", "scoring", "reference", "checkpoint"],
    ["training", "pairs", "evaluation", "export", "inspection", "report"],
    ["config"],
    ["jobs"],
    ["demo"],
    ["cli"],
]
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
WORK = set(LEVELS[4])


def imports():
    """(file, its room, the room it imports) of every import inside the package."""
    package = ROOT / "mlx_dpo"
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0].startswith("__"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == len(parts):
                for name in [node.module] if node.module else [alias.name for alias in node.names]:
                    if name.split(".")[0] in LEVEL:
                        yield path.name, parts[0], name.split(".")[0]


def test_no_file_imports_from_below_it():
    assert ("train.py", "jobs", "training") in list(imports())
    wrong = [row for row in imports() if LEVEL[row[2]] > LEVEL[row[1]]]
    assert wrong == []


def test_rooms_of_work_do_not_import_one_another():
    wrong = [row for row in imports() if row[1] != row[2] and {row[1], row[2]} <= WORK]
    assert wrong == []
