"""pyproject.toml names what the package imports, and nothing that it does not."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from ..conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

NOT_IMPORTED = {
    "pytest": "runs the tests",
    "pytest-xdist": "a plugin of pytest, for -n",
    "ruff": "formats and checks, from a shell",
    "mkdocs-material": "builds docs/ as a site, from scripts/docs.sh",
}
"""Dependencies that no file of the package imports, and why they are there."""
MODULES = {
    "pyyaml": "yaml",
    "mlx": "mlx",
    "mlx-lm": "mlx_lm",
    "huggingface-hub": "huggingface_hub",
    "scikit-learn": "sklearn",
    "sentence-transformers": "sentence_transformers",
}
"""Modules whose name is not the package's."""


def names(requirements):
    """Names of packages, with those of this package's own extras in place of mlx-dpo[extra]."""
    for line in requirements:
        name = re.match(r"[A-Za-z0-9_-]+", line)[0].lower()
        if name != "mlx-dpo":
            yield name
            continue
        for extra in re.search(r"\[(.*?)\]", line)[1].split(","):
            yield from names(PROJECT["optional-dependencies"][extra])


CORE = set(names(PROJECT["dependencies"]))
EXTRAS = {extra: set(names(lines)) for extra, lines in PROJECT["optional-dependencies"].items()}


def imported(text):
    """The top modules that a file imports, the standard library's and its own left out."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            found |= {a.value.split(".")[0] for a in node.args if isinstance(a, ast.Constant)}
    return {name for name in found if name not in sys.stdlib_module_names and name != "mlx_dpo"}


def faults(declared, used):
    """(declared and not imported, imported and not declared)."""
    modules = {MODULES.get(name, name) for name in declared if name not in NOT_IMPORTED}
    return modules - used, used - modules


def test_what_the_package_imports_is_what_is_declared():
    used = {m for path in (ROOT / "mlx_dpo").rglob("*.py") for m in imported(path.read_text())}
    assert faults(CORE | set().union(*EXTRAS.values()), used) == (set(), set())


def test_what_only_an_extra_brings_is_imported_inside_of_functions():
    """So that everything else works without it."""
    modules = {MODULES.get(name, name) for extra in EXTRAS.values() for name in extra - CORE}
    at_top = {
        (path.name, name)
        for path in (ROOT / "mlx_dpo").rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported(ast.unparse(node)) & modules
    }
    assert at_top == set()


def test_the_reasons_are_for_what_is_declared():
    assert set(NOT_IMPORTED) <= CORE | set().union(*EXTRAS.values())


def test_the_modules_are_those_of_the_packages():
    of_module = packages_distributions()
    for package in CORE:
        module = MODULES.get(package, package)
        assert package in {name.lower().replace("_", "-") for name in of_module[module]}


@pytest.mark.parametrize(
    ("declared", "text", "found"),
    [
        ({"numpy", "gguf"}, "import numpy as np", ({"gguf"}, set())),
        ({"numpy"}, "import numpy\ndef f():\n    from scipy.stats import norm", (set(), {"scipy"})),
        ({"pyyaml"}, "import yaml, json", (set(), set())),
        ({"pytest"}, "from .errors import DpoError", (set(), set())),
        ({"wandb"}, "import_module('wandb.sdk')", (set(), set())),
    ],
)
def test_a_planted_difference_is_found(declared, text, found):
    assert faults(declared, imported(text)) == found
