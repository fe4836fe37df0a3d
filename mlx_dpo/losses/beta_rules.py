"""The configured rule for beta."""

from dataclasses import dataclass

from ..settings import LARGEST_WEIGHT, SMALLEST_DIVISOR, Section, section, setting
from .beta_dpo import BetaDpoConfig, beta_dpo
from .beta_rule import BetaRule, fixed
from .risk import RiskConfig, risk


@dataclass(frozen=True)
class BetaConfig(Section):
    """How strongly the policy is held to the reference."""

    rule: str = setting("fixed", "how beta moves during a run", choices=("fixed", "risk", "beta_dpo"))
    value: float = setting(
        0.1,
        "beta at the start; larger stays closer to the reference",
        least=SMALLEST_DIVISOR,
        most=LARGEST_WEIGHT,
        also="beta dpo_beta pref_beta kl_coef simpo_beta",
    )
    risk: RiskConfig = section(RiskConfig)
    beta_dpo: BetaDpoConfig = section(BetaDpoConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.rule == "beta_dpo" and self.value < self.beta_dpo.minimum:
            raise ValueError(f"value must be at least beta.beta_dpo.minimum, got {self.value}")
        if self.rule == "risk" and not self.risk.minimum <= self.value <= self.risk.maximum:
            raise ValueError(f"value must be within beta.risk.minimum and maximum, got {self.value}")


def beta_rule(config: BetaConfig) -> BetaRule:
    """The configured rule."""
    if config.rule == "risk":
        return risk(config.value, config.risk)
    if config.rule == "beta_dpo":
        return beta_dpo(config.value, config.beta_dpo)
    return fixed(config.value)
