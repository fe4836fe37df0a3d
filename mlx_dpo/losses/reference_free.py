"""Losses that use no reference, for each pair separately."""

import mlx.core as mx
import mlx.nn as nn

from ..settings import LARGEST_WEIGHT
from .registry import PairLogps, option, register_loss

SUPERVISED = "sft"
"""Name of the loss on the chosen answers alone."""

_LEAST = -1e-6
"""Largest mean log-probability per token: above it, odds would be infinite in float32."""


@register_loss(
    SUPERVISED,
    source="Ouyang et al. 2022, arXiv:2203.02155, supervised fine-tuning",
    of="chosen",
    anchors_chosen=True,
)
def sft(pairs: PairLogps, beta: mx.array) -> mx.array:
    """Supervised loss on the chosen answers; all tokens of a window have the same weight: (B,)."""
    return -pairs.chosen / pairs.mean_length


@register_loss(
    "simpo",
    source="Meng et al. 2024, arXiv:2405.14734, eq. 6",
    of="policy",
    per_token=True,
    vanishes=True,
    betas=(2, 10),
    options={
        "simpo_gamma": option(
            "margin that the loss asks for",
            least=0,
            most=LARGEST_WEIGHT,
            also={"gamma": "", "gamma_beta_ratio": "simpo_gamma = gamma_beta_ratio · beta.value."},
        )
    },
)
def simpo(pairs: PairLogps, beta: mx.array, *, simpo_gamma: float = 0.5) -> mx.array:
    """The sigmoid loss on log-probabilities per token, minus a margin: (B,). Needs beta 2 to 10."""
    return -nn.log_sigmoid(beta * mean_difference(pairs) - simpo_gamma)


def mean_difference(pairs: PairLogps) -> mx.array:
    """Chosen minus rejected log-probability per token: (B,) nats."""
    return pairs.chosen / pairs.chosen_lengths - pairs.rejected / pairs.rejected_lengths


@register_loss(
    "cpo",
    source="Xu et al. 2024, arXiv:2401.08417; supervised part per token",
    of="policy",
    anchors_chosen=True,
    options={"cpo_alpha": option("weight of the supervised part", least=0, most=LARGEST_WEIGHT)},
)
def cpo(pairs: PairLogps, beta: mx.array, *, cpo_alpha: float = 1.0) -> mx.array:
    """The sigmoid loss on log-probabilities, plus `cpo_alpha` times `sft`: (B,)."""
    return cpo_alpha * sft(pairs, beta) - nn.log_sigmoid(beta * (pairs.chosen - pairs.rejected))


@register_loss(
    "orpo",
    source="Hong et al. 2024, arXiv:2403.07691, eq. 6",
    of="policy",
    per_token=True,
    anchors_chosen=True,
)
def orpo(pairs: PairLogps, beta: mx.array) -> mx.array:
    """`sft` plus beta times the sigmoid loss on the log odds ratio: (B,)."""
    chosen = log_odds(pairs.chosen / pairs.chosen_lengths)
    return sft(pairs, beta) - beta * nn.log_sigmoid(
        chosen - log_odds(pairs.rejected / pairs.rejected_lengths)
    )


def log_odds(logps: mx.array) -> mx.array:
    """log p/(1 - p), given log p: (B,). Probabilities above 1 - 1e-6 count as 1 - 1e-6."""
    logps = mx.minimum(logps, _LEAST)
    return logps - mx.log(-mx.expm1(logps))
