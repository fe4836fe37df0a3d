"""The configured rule for beta."""

from dataclasses import dataclass, make_dataclass
from typing import Any

import mlx.core as mx

from ..settings import LARGEST_WEIGHT, SMALLEST_DIVISOR, Section, section, setting
from . import risk_beta  # noqa: F401  (each registers its rule, in the order of the help)

# isort: split
from . import beta_dpo  # noqa: F401
from .beta_rule import BETA_RULES, BetaRule, BetaStep


@dataclass(frozen=True)
class _BetaConfig(Section):
    rule: str = setting("fixed", "how beta changes during a run", choices=BETA_RULES)
    value: float = setting(
        0.1,
        "beta at the start; a larger beta keeps the policy closer to the reference",
        least=SMALLEST_DIVISOR,
        most=LARGEST_WEIGHT,
        also="beta dpo_beta pref_beta kl_coef simpo_beta",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.rule not in BETA_RULES:
            raise ValueError(f"rule must be one of {', '.join(BETA_RULES)}, got {self.rule!r}")
        beta_rule(self)  # refuses a value that the rule cannot start from


BetaConfig = make_dataclass(
    "BetaConfig",
    [(name, rule.settings, section(rule.settings)) for name, rule in BETA_RULES.items() if rule.settings],
    bases=(_BetaConfig,),
    frozen=True,
    namespace={"__doc__": "How strongly the policy is kept close to the reference.", "__module__": __name__},
)


def beta_rule(config: _BetaConfig) -> BetaRule:
    """The configured rule; the names of its metrics begin with the name of the rule, as risk/tau.

    Raises:
        ValueError: the rule cannot start at this beta.
    """
    name, registered = config.rule, BETA_RULES[config.rule]
    rule = registered.make(config.value, *([getattr(config, name)] if registered.settings else []))

    def update(margins: mx.array, state: Any) -> tuple[BetaStep, Any]:
        step, state = rule.update(margins, state)
        metrics = {f"{name}/{metric}": value for metric, value in step.metrics.items()}
        return step._replace(metrics=metrics), state

    return rule._replace(update=update)
