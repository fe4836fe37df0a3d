"""Names of losses and of beta rules are typed where they are registered, and nowhere else in the package."""

import ast
import re

import pytest

from mlx_dpo.losses import BETA_RULES, LOSSES, BetaConfig

from ..conftest import ROOT

REGISTERED = {
    **{name: loss.function.__module__ for name, loss in LOSSES.items()},
    **{name: rule.make.__module__ for name, rule in BETA_RULES.items()},
}
"""Each name with the module that registers it."""

COMMAND = "the command mlx-dpo sft, not the loss"
FOREIGN = "what people bring from other trainers, with what there is instead"
REMEDY = "a remedy recommends this loss"
EXCEPTIONS = {
    ("cli/__init__", "_MEANT"): FOREIGN,
    ("inspection/advice", "_sft_first"): COMMAND,
    ("inspection/report", "_typed"): COMMAND,
    ("losses/configured_beta", "_BetaConfig"): "the default of beta.rule",
    (
        "losses/configured_loss",
        "LossConfig",
    ): "the default of loss.name; what other trainers call loss.weights",
    ("losses/configured_loss", "_OTHERS"): FOREIGN,
    ("monitoring/alarms", "answers_grow"): REMEDY,
    ("monitoring/alarms", "answers_repeat"): REMEDY,
    ("monitoring/alarms", "chosen_falls"): REMEDY,
}
"""(file, function, class or constant) in which a name may be typed, each with the reason."""

_NAMES = "|".join(sorted(REGISTERED, key=len, reverse=True))
TYPED = re.compile(
    rf"^(?:{_NAMES})/?$"  # the name alone, or before a metric
    rf"|\b(?:loss\.name=\[?|beta\.rule=|beta\.)(?:{_NAMES})\b"  # set, or in a setting's name
    rf"|\[(?:{_NAMES})(?:, (?:{_NAMES}))*\]"  # a list of losses
    rf"|\b(?:{'|'.join(name for name in REGISTERED if '_' in name)})\b"  # no word of English
)


def typed(text):
    """(top-level definition, string) of every string of a module that has a registered name in it."""
    for definition in ast.parse(text).body:
        nodes = list(ast.walk(definition))
        docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        target = definition.targets[0] if isinstance(definition, ast.Assign) else definition
        place = getattr(target, "name", getattr(target, "id", ""))
        for node in nodes:
            string = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
            if string and TYPED.search(node.value):
                yield place, node.value


def test_names_of_losses_and_rules_are_typed_where_they_are_registered():
    found = {}
    for path in sorted((ROOT / "mlx_dpo").rglob("*.py")):
        file = path.relative_to(ROOT / "mlx_dpo").with_suffix("").as_posix()
        own = {name for name, module in REGISTERED.items() if module == f"mlx_dpo.{file.replace('/', '.')}"}
        for place, text in typed(path.read_text()):
            if not any(re.search(rf"\b{name}\b", text) for name in own):
                found.setdefault((file, place), []).append(text)
    assert {place: texts for place, texts in found.items() if place not in EXCEPTIONS} == {}
    assert EXCEPTIONS.keys() == found.keys()  # none is left over


@pytest.mark.parametrize(
    "line",
    [
        'x = names == ["sft"]',
        '_LOGISTIC = {"sigmoid", "robust"}',
        'x = f"beta.{rule}.minimum" if rule == "risk" else "beta.risk.minimum"',
        'x = "set beta.rule=fixed or risk"',
        'x = metric.startswith(("risk/", "beta_dpo/"))',
        'x = f"bco_pair: take the mean of rewards off"',
        'def f():\n    """Text."""\n    return "--set loss.name=[sigmoid, sft]"',
    ],
)
def test_a_planted_name_is_found(line):
    assert list(typed(line))


@pytest.mark.parametrize(
    "line", ['"""The loss sigmoid, or bco_pair."""', 'x = "at a risk"', 'x = "mlx-dpo sft"']
)
def test_documentation_and_other_words_are_not(line):
    assert not list(typed(line))


def test_losses_that_remedies_and_suggestions_set_are_registered():
    for path in (ROOT / "mlx_dpo").rglob("*.py"):
        for names in re.findall(r"loss\.name=\[?(\w+(?:, \w+)*)", path.read_text()):
            assert names == "NAME" or {*names.split(", ")} <= LOSSES.keys(), (path, names)


def test_the_default_rule_is_one_that_does_not_move_beta():
    """What remedies set to keep beta still is the default."""
    assert not BETA_RULES[BetaConfig().rule].moves
