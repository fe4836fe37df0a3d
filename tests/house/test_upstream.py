"""Private and replaced names of mlx, mlx_lm and transformers are in mlx_dpo/upstream.py, and are checked."""

import ast
import re
import tomllib
from importlib import import_module

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlx_dpo.upstream as upstream
from mlx_dpo.data.chat_template import render
from mlx_dpo.models.config_files import check_architecture
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.upstream import NAMES, TESTED, UpstreamError, check_all, checked

from ..conftest import ROOT

UPSTREAM = ("mlx", "mlx_lm", "transformers", "tokenizers", "huggingface_hub")
ON_TOKENIZERS = {"_template_options", "_now", "_answer_tail"}
"""What this package itself keeps on a tokenizer."""
OF_PYTHON = {"_replace", "_asdict", "_fields", "_handle"}
"""Named tuples, ctypes."""
BY_NAME = {"getattr", "hasattr", "setattr", "delattr", "__setattr__", "__delattr__"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def root(node):
    """The name at the start of a.b.c; None where it starts with something else."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def own_names(tree):
    """Private names that this file gives to objects and functions of its own."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and root(node) == "self":
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "__setattr__":
            found |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return found


def faults(text):
    """(line, name) where a file uses a private name of another package, or puts something in its place."""
    tree = ast.parse(text)
    own, theirs = own_names(tree) | ON_TOKENIZERS | OF_PYTHON, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] in UPSTREAM:
            theirs |= {alias.asname or alias.name for alias in node.names}
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Import):
            some = [alias for alias in node.names if alias.name.split(".")[0] in UPSTREAM]
            theirs |= {alias.asname or alias.name.split(".")[0] for alias in some}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            stored = isinstance(node.ctx, ast.Store | ast.Del)
            if (is_private(node.attr) and node.attr not in own) or (stored and root(node) in theirs):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            named = next((a.value for a in node.args[1:2] if isinstance(a, ast.Constant)), "")
            if called in BY_NAME and is_private(str(named)) and named not in own:
                yield node.lineno, named
            if called == "setattr" or called == "export_function":
                yield node.lineno, called


def test_no_other_file_uses_private_names_of_other_packages_or_replaces_any():
    found = {
        str(path.relative_to(ROOT)): wrong
        for path in sorted((ROOT / "mlx_dpo").rglob("*.py"))
        if path.name != "upstream.py" and (wrong := list(faults(path.read_text())))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from mlx_lm.utils import _get_classes", "_get_classes"),
        ("def f():\n    from mlx_lm.utils import load, _download as d", "_download"),
        ("import mlx.nn as nn\nnn.Linear.__call__ = print", "__call__"),
        ("from mlx_lm.models import ssm\nssm.ssm_attn = print", "ssm_attn"),
        ("import mlx.nn as nn\ndel nn.Linear.as_linear", "as_linear"),
        ("import mlx.core as mx\nmx._private()", "_private"),
        ("tokenizer._chat_template = None", "_chat_template"),
        ("hasattr(model, '_no_grad')", "_no_grad"),
        ("object.__getattribute__(model)._training", "_training"),
        ("for name in names:\n    setattr(module, name, print)", "setattr"),
        ("mx.export_function(records.append, fun)", "export_function"),
    ],
)
def test_a_planted_use_is_found(line, name):
    assert [found for _, found in faults(line)] == [name]


def test_what_is_kept_on_tokenizers_is_no_name_of_theirs(models):
    """Else ours would take the place of theirs."""
    wrapper, tokenizer = load_tokenizer(models("llama")), load_tokenizer(models("llama"))._tokenizer
    for name in ON_TOKENIZERS - {*vars(wrapper)}:
        assert not hasattr(wrapper, name)
    for name in ON_TOKENIZERS:
        assert not hasattr(tokenizer, name) and not hasattr(type(wrapper), name)


def test_the_versions_in_the_error_are_those_that_are_installed():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = [re.match(r"([a-z-]+)(?:\[\w+\])?([^;]*)", line).groups() for line in dependencies]
    for package, versions in TESTED.items():
        assert {v for name, v in wanted if name == package} == {versions}
    assert all("," in TESTED[package] for package in ("mlx", "mlx-lm"))  # capped


def test_every_name_is_there_in_the_installed_versions(names_checked_anew):
    check_all()


def holder(name):
    """Where a name of NAMES stands, and the last part of it."""
    module, path = name.split(":")
    *outer, last = path.split(".")
    found = import_module(module)
    for part in outer:
        found = getattr(found, part)
    return found, last


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_name_is_missed_when_it_is_gone(name, monkeypatch, names_checked_anew):
    places = {each: holder(each) for each in NAMES}  # all are imported before one name goes
    place, last = places[name]
    if last in vars(place):
        monkeypatch.delattr(place, last)
    if hasattr(place, last):  # a class has __init__ and __call__ from others
        monkeypatch.setattr(place, last, property())
    with pytest.raises(UpstreamError) as caught:
        check_all()
    package = name.partition(".")[0].replace("_", "-")
    assert re.match(rf"{package} \S+ has (no|a changed) {re.escape(name)}", caught.value.what)
    assert f"pip install '{package}{TESTED[package]}'" in caught.value.hint
    assert "scripts/check_upstream.sh" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "other", "what"),
    [
        ("mlx_lm.utils:_get_classes", lambda config, source: None, "(config, source)"),
        ("mlx_lm.utils:_get_classes", lambda model: None, "(model)"),
        ("mlx_lm.models.activations:swiglu", lambda gate, x, limit=None: None, "(gate, x, limit=None)"),
        ("mlx_lm.models.activations:swiglu", lambda x, gate: None, "(x, gate)"),
        ("mlx_lm.models.ssm:ssm_update", lambda *a: None, ", without ssm_attn"),
        ("mlx.nn:Module.__init__", lambda self: None, ", without _no_grad"),
        ("transformers.utils.chat_template_utils:datetime", type("Day", (), {}), ", without now"),
    ],
)
def test_another_shape_is_noticed(name, other, what, monkeypatch, names_checked_anew):
    monkeypatch.setattr(*holder(name), other)
    with pytest.raises(UpstreamError, match=rf"has a changed {re.escape(name + what)}\n"):
        checked(name)


def test_a_parameter_more_that_may_be_left_out_is_no_fault(monkeypatch, names_checked_anew):
    def get_classes(config, strict=False, **others): ...

    monkeypatch.setattr(import_module("mlx_lm.utils"), "_get_classes", get_classes)
    assert checked("mlx_lm.utils:_get_classes") is get_classes


def test_a_function_that_models_no_longer_call_is_noticed(monkeypatch, names_checked_anew):
    """It is there with its shape, but models have another one: replacing it would change nothing."""
    llama = import_module("mlx_lm.models.llama")
    monkeypatch.setattr(llama, "swiglu", lambda gate, x: nn.silu(gate) * x)
    with (
        pytest.raises(UpstreamError, match=r"has a changed swiglu in mlx_lm\.models\.llama:MLP\.__call__"),
        upstream.replaced_in_models(()),
    ):
        pass


@pytest.mark.parametrize("records", [[], [{"type": "inputs", "inputs": []}], [{"kind": "primitive"}], [1]])
def test_other_records_of_a_trace_are_noticed(records, monkeypatch, names_checked_anew):
    monkeypatch.setattr(upstream, "_recorded", lambda fun, given: records)
    with pytest.raises(UpstreamError, match=r"mlx \S+ has changed records in mlx\.core:export_function"):
        upstream.recorded_trace(lambda a: [a], [mx.zeros(2)])


def test_a_missing_name_is_told_through_every_handler_on_its_way(models, monkeypatch, names_checked_anew):
    """Code around them that takes all errors for those of the model's files must let this one pass."""
    folder = models("llama")
    tokenizer = load_tokenizer(folder)
    upstream.checked.cache_clear()  # making the model, where this test is the first to use it, checks names
    monkeypatch.delattr(import_module("transformers.utils.chat_template_utils"), "datetime")
    with pytest.raises(UpstreamError, match=r"^transformers \S+ has no transformers\.utils"):
        render(tokenizer, [{"role": "user", "content": "a"}], generation_prompt=True)
    monkeypatch.delattr(import_module("mlx_lm.utils"), "_get_classes")
    for use in (check_architecture, load_model):
        with pytest.raises(UpstreamError, match=r"^mlx-lm \S+ has no mlx_lm\.utils:_get_classes"):
            use(folder)
