"""The configured loss: one or more registered losses, and settings that change their arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..errors import first_ten, label
from ..settings import LARGEST_WEIGHT, Section, checked, setting
from ..suggestions import meant_value
from . import pairwise, reference_free, sorted_margins  # noqa: F401  (they register their losses)
from .divergences import DIVERGENCES, diverged, without_reference
from .registry import LOSSES, LossFunction, PairLogps

_REWARDED = "this method needs rewards of sampled answers, but mlx-dpo trains on pairs: sigmoid is DPO;"
_OTHERS = {
    "dpo": "did you mean sigmoid (DPO as published)?",
    "cdpo": "did you mean sigmoid with loss.options.label_smoothing=0.1 (conservative DPO)?",
    "rdpo": "did you mean robust, or loss.ld_alpha (against long answers)?",
    "slic": "did you mean hinge (SLiC)?",
    "smaug": "did you mean dpop (Smaug)?",
    "rpo": "did you mean [sigmoid, sft], which adds the supervised loss?",
    "nll": "did you mean sft?",
    "kto": "KTO needs single answers labelled good or bad, but mlx-dpo trains on pairs: nca_pair, "
    "bco_pair and apo_zero score each answer by itself;",
    **dict.fromkeys(("grpo", "ppo", "rlhf", "rloo", "reinforce", "dapo", "gspo", "online_dpo"), _REWARDED),
}
"""Names that other trainers use for a loss or method, and what to use here."""
_SHIFTED = [name for name, loss in LOSSES.items() if loss.shifted]


def _known_options() -> dict[str, Mapping[str, str]]:
    """Every option of a registered loss, with other trainers' names for it."""
    return {name: option.also for loss in LOSSES.values() for name, option in loss.options.items()}


def _options_help() -> str:
    takers: dict[tuple[str, str], list[str]] = {}
    for loss, known in LOSSES.items():
        for name, option in known.options.items():
            takers.setdefault((name, option.help), []).append(loss)
    each = [f"{name} ({', '.join(losses)}): {help}" for (name, help), losses in takers.items()]
    return f"options of the losses; an option that is not set has the default of its loss. {'; '.join(each)}"


@dataclass(frozen=True)
class LossConfig(Section):
    """The loss that training minimises."""

    name: str | list[str] = setting(
        "sigmoid",
        "the loss (sigmoid is DPO as published), or a list of losses to add up",
        choices=LOSSES,
        meant=_OTHERS,
        also="loss loss_type loss_fn pref_loss dpo_loss_type dpo_loss method",
    )
    weights: list[float] = setting(
        [],
        "weights of the losses in a list; empty: 1 for each loss",
        above=0,
        most=LARGEST_WEIGHT,
        also={
            "loss_weights": "",
            "rpo_alpha pref_ftx sft_weight": "the supervised part is a second loss: "
            "loss.name=[sigmoid, sft] loss.weights=[1, 0.2].",
        },
    )
    options: dict[str, Any] = setting({}, _options_help(), keys=_known_options)
    bco_shift: bool = setting(
        False,
        f"for {', '.join(_SHIFTED)}: subtract the running mean of the rewards, as TRL did before 1.0; scores "
        "every pair twice",
    )
    divergence: str = setting(
        "reverse_kl",
        "how the distance to the reference is measured, for losses of log-ratios",
        choices=DIVERGENCES,
        also="f_divergence_type",
    )
    divergence_alpha: float | None = setting(
        None,
        "alpha of loss.divergence=alpha; null: 0.5; 1 is the same as reverse_kl",
        least=-10,
        most=10,
        also="f_alpha_divergence_coef",
    )
    ld_alpha: float | None = setting(
        None,
        "LD-DPO, against longer answers: weight (0 to 1) of the tokens beyond the length of the pair's "
        "shorter answer; null: the same weight as all other tokens",
        least=0,
        most=1,
    )
    wpo: bool = setting(
        False,
        "WPO: weight each pair by the probability of its answers under the policy; scores every pair twice",
        also="use_weighting",
    )
    reference_free: bool = setting(False, "use 0 for the reference's log-probabilities in the loss")

    def __post_init__(self):
        super().__post_init__()
        if not self.names:
            raise ValueError("name must name at least one loss")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"name must list each loss only once, got {self.label}")
        unknown = [name for name in self.names if name not in LOSSES]
        if unknown:
            raise ValueError(f"name must be one of {', '.join(LOSSES)}, got {unknown[0]!r}")
        if self.weights and len(self.weights) != len(self.names):
            raise ValueError(
                f"weights must have one number per loss ({len(self.names)}), got {len(self.weights)}"
            )
        object.__setattr__(self, "options", self._checked_options())
        if self.divergence_alpha is not None and self.divergence != "alpha":
            raise ValueError(f"divergence_alpha is only for divergence alpha, not for {self.divergence}")
        if self.ld_alpha is not None:
            free = [name for name in self.names if not LOSSES[name].uses_reference]
            if free:
                raise ValueError(
                    f"ld_alpha is only for losses that use the reference, not for {', '.join(free)}"
                )
            if self.ld_alpha == 0 and self.wpo:
                raise ValueError(
                    "ld_alpha must be above 0 with wpo, because the weights of wpo count all tokens"
                )
        if self.bco_shift and (self.reference_free or self.divergence != "reverse_kl"):
            raise ValueError(
                "bco_shift works on rewards, so it needs reference_free=false and divergence=reverse_kl"
            )
        if self.divergence != "reverse_kl":
            others = [name for name in self.names if LOSSES[name].of not in ("margins", "ratios")]
            if others:
                raise ValueError(f"divergence must be reverse_kl for {', '.join(others)}")
        if self.bco_shift and not any(LOSSES[name].shifted for name in self.names):
            raise ValueError(f"bco_shift is only for {', '.join(_SHIFTED)}, not for {self.label}")
        if self.wpo and self.needs_window:
            raise ValueError(f"wpo weights single pairs, but {self.label} compares the pairs of a window")
        if self.reference_free and not self.needs_reference:
            raise ValueError(f"reference_free has no effect for {self.label}, which uses no reference")

    def _checked_options(self) -> dict[str, Any]:
        """The options that are set, each converted to the type that its loss needs.

        Raises:
            ValueError: no loss takes the option, or its value has the wrong type or is out of bounds.
        """
        found = {}
        for name, value in self.options.items():
            takers = [loss for loss in self.names if name in LOSSES[loss].options]
            if not takers:
                raise self._not_taken(name)
            for loss in takers if value is not None else []:
                option = LOSSES[loss].options[name]
                try:
                    found[name] = checked(f"options.{name}", value, option.kind, option.bounds)
                except ValueError as error:
                    error.add_note(f"{loss}: {option.help}")
                    raise
        return found

    def _not_taken(self, name: str) -> ValueError:
        takers = [loss for loss, known in LOSSES.items() if name in known.options]
        here = list(dict.fromkeys(option for loss in self.names for option in LOSSES[loss].options))
        of = f"is an option of {', '.join(takers)}, not of" if takers else "is not an option of"
        error = ValueError(f"options.{label(name)} {of} {self.label}")
        meant = {
            word: f"did you mean loss.options.{option}? {note}".strip()
            for option, also in _known_options().items()
            for word, note in also.items()
        }
        known = f"{self.label} takes {', '.join(here) or 'no options'}"
        error.add_note(meant_value(name, here, meant) if here and not takers else known)
        return error

    @property
    def answers_only(self) -> bool:
        """Whether no loss uses the rejected answer."""
        return all(LOSSES[name].of == "chosen" for name in self.names)

    @property
    def anchors_chosen(self) -> bool:
        """Whether any loss keeps the chosen answers likely."""
        return any(LOSSES[name].anchors_chosen for name in self.names)

    @property
    def vanishes(self) -> bool:
        """Whether all losses go to 0 as margins grow."""
        return all(LOSSES[name].vanishes for name in self.names)

    @property
    def names(self) -> list[str]:
        """Names of the losses, one or more."""
        return [self.name] if isinstance(self.name, str) else list(self.name)

    @property
    def label(self) -> str:
        """The names of the losses on one line."""
        return first_ten(self.names)

    @property
    def needs_window(self) -> bool:
        """Whether a pair's loss depends on the other pairs of its window."""
        return any(LOSSES[name].window for name in self.names)

    @property
    def needs_reference(self) -> bool:
        """Whether any loss uses the reference."""
        return any(LOSSES[name].uses_reference for name in self.names)

    @property
    def per_token(self) -> bool:
        """Whether any loss compares log-probabilities per token."""
        return any(LOSSES[name].per_token for name in self.names)

    def beta_note(self, beta: float) -> str:
        """A note for a user whose beta is far below the usual range of a loss; else ""."""
        for name in self.names:
            if (betas := LOSSES[name].betas) and beta < min(1, betas[0]):
                usual = f"{betas[0]:g} to {betas[1]:g}"
                return (
                    f"beta.value={beta:g} is too small for {name}, which compares log-probabilities per "
                    f"token: the model would learn almost nothing; set beta.value={betas[0]:g} (usual: "
                    f"{usual})"
                )
        return ""

    @property
    def of_margins(self) -> bool:
        """Whether all losses use only the margin of a pair."""
        return self.divergence == "reverse_kl" and all(LOSSES[name].of == "margins" for name in self.names)


def build_loss(config: LossConfig) -> LossFunction:
    """The configured loss as a function of pairs and beta: float32 (B,)."""
    parts = [(LOSSES[name].function, _given(config.options, name)) for name in config.names]
    alpha = 0.5 if config.divergence_alpha is None else config.divergence_alpha
    weights: Sequence[float] = config.weights or [1.0] * len(parts)

    def loss(pairs: PairLogps, beta: mx.array) -> mx.array:
        if config.reference_free:
            pairs = without_reference(pairs)
        pairs = diverged(pairs, config.divergence, alpha)
        first, *others = (function(pairs, beta, **options) for function, options in parts)
        total = first if weights[0] == 1 else weights[0] * first
        for weight, other in zip(weights[1:], others, strict=True):
            total = total + weight * other
        return total

    return loss


def _given(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The options that this loss takes."""
    return {option: value for option, value in options.items() if option in LOSSES[name].options}
