"""Losses that use the two log-ratios of a pair to the reference, for each pair separately."""

import math

import mlx.core as mx
import mlx.nn as nn

from ..settings import LARGEST_WEIGHT, SMALLEST_DIVISOR
from .registry import PairLogps, option, register_loss

FLIPPED = "chance that a label is flipped"


@register_loss(
    "sigmoid",
    source="Rafailov et al. 2023, arXiv:2305.18290, eq. 7",
    vanishes=True,
    options={"label_smoothing": option(FLIPPED, least=0, below=0.5)},
)
def sigmoid(pairs: PairLogps, beta: mx.array, *, label_smoothing: float = 0.0) -> mx.array:
    """Logistic loss on the scaled margin: the original DPO.

    Args:
        pairs: log-probabilities of B pairs.
        beta: shape () or (B,), > 0.
        label_smoothing: chance that a label is flipped, in [0, 0.5); above 0 this is
            conservative DPO (Mitchell 2023, eq. 3).

    Returns:
        One loss per pair, float32 (B,). The step takes the mean.
    """
    return smoothed(beta * pairs.margins, label_smoothing)


def smoothed(z: mx.array, label_smoothing: float) -> mx.array:
    """Cross-entropy with logit z, for a label that is flipped with probability `label_smoothing`: (B,)."""
    return -(1 - label_smoothing) * nn.log_sigmoid(z) - label_smoothing * nn.log_sigmoid(-z)


@register_loss("hinge", source="Zhao et al. 2023 (SLiC), arXiv:2305.10425; on log-ratios", vanishes=True)
def hinge(pairs: PairLogps, beta: mx.array) -> mx.array:
    """Hinge loss on the scaled margin, 0 from a scaled margin of 1 on: (B,)."""
    return mx.maximum(0, 1 - beta * pairs.margins)


@register_loss(
    "ipo",
    source="Azar et al. 2023, arXiv:2310.12036, eq. 17; log-ratios per token",
    of="ratios",
    per_token=True,
)
def ipo(pairs: PairLogps, beta: mx.array) -> mx.array:
    """Squared distance of the margin per token from 1/(2 beta): (B,)."""
    return mx.square(pairs.mean_margins - 1 / (2 * beta))


@register_loss(
    "robust",
    source="Chowdhury et al. 2024, arXiv:2403.00409",
    vanishes=True,
    options={"label_smoothing": option(FLIPPED, least=0, below=0.5)},
)
def robust(pairs: PairLogps, beta: mx.array, *, label_smoothing: float = 0.1) -> mx.array:
    """The sigmoid loss, unbiased for labels flipped with probability `label_smoothing`: (B,), any sign."""
    z = beta * pairs.margins
    both = label_smoothing * nn.log_sigmoid(-z) - (1 - label_smoothing) * nn.log_sigmoid(z)
    return both / (1 - 2 * label_smoothing)


@register_loss(
    "exo_pair",
    source="Ji et al. 2024, arXiv:2402.00856, eq. 16",
    vanishes=True,
    options={"label_smoothing": option(FLIPPED, above=0, below=0.5)},
)
def exo_pair(pairs: PairLogps, beta: mx.array, *, label_smoothing: float = 1e-3) -> mx.array:
    """Reverse KL from the smoothed label to the policy's preference: (B,). `label_smoothing` above 0."""
    z = beta * pairs.margins
    kept = mx.sigmoid(z) * (nn.log_sigmoid(z) - math.log1p(-label_smoothing))
    return kept + mx.sigmoid(-z) * (nn.log_sigmoid(-z) - math.log(label_smoothing))


@register_loss(
    "discopop",
    source="Lu et al. 2024, arXiv:2406.08414, eq. 5",
    vanishes=True,
    options={
        # Above 1 the exponential outgrows its share, and the loss overflows.
        "discopop_tau": option(
            "width of the transition between its two parts", least=SMALLEST_DIVISOR, most=1
        )
    },
)
def discopop(pairs: PairLogps, beta: mx.array, *, discopop_tau: float = 0.05) -> mx.array:
    """Logistic and exponential loss, mixed by the sigmoid of the scaled margin over `discopop_tau`: (B,).

    The exponential is multiplied by its share as a sum of exponents, so that it cannot overflow.
    """
    z = beta * pairs.margins
    share = nn.log_sigmoid(z / discopop_tau)
    return mx.exp(share - z) - nn.log_sigmoid(z) * mx.sigmoid(-z / discopop_tau)


@register_loss(
    "sigmoid_norm",
    source="Lambert et al. 2024 (Tülu 3), arXiv:2411.15124",
    of="ratios",
    per_token=True,
    vanishes=True,
    betas=(2, 10),  # theirs is 5
)
def sigmoid_norm(pairs: PairLogps, beta: mx.array) -> mx.array:
    """The sigmoid loss on log-ratios per token: (B,)."""
    return -nn.log_sigmoid(beta * pairs.mean_margins)


@register_loss("nca_pair", source="Chen et al. 2024, arXiv:2402.05369", of="ratios")
def nca_pair(pairs: PairLogps, beta: mx.array) -> mx.array:
    """Noise contrastive alignment, which keeps the chosen answer likely: (B,)."""
    chosen, rejected = beta * pairs.chosen_logratios, beta * pairs.rejected_logratios
    negative = nn.log_sigmoid(-chosen) + nn.log_sigmoid(-rejected)
    return -nn.log_sigmoid(chosen) - 0.5 * negative


@register_loss(
    "bco_pair", source="Jung et al. 2024, arXiv:2404.04656", of="ratios", vanishes=True, shifted=True
)
def bco_pair(pairs: PairLogps, beta: mx.array) -> mx.array:
    """Classify chosen and rejected answers; the logits are the rewards minus `shift`: (B,)."""
    chosen, rejected = beta * pairs.chosen_logratios, beta * pairs.rejected_logratios
    return -nn.log_sigmoid(chosen - pairs.shift) - nn.log_sigmoid(pairs.shift - rejected)


@register_loss("sppo_hard", source="Wu et al. 2024, arXiv:2405.00675, eq. 4.7; wins 1 and 0", of="ratios")
def sppo_hard(pairs: PairLogps, beta: mx.array) -> mx.array:
    """Squared distances of the log-ratios from 1/(2 beta) and -1/(2 beta): (B,)."""
    goal = 1 / (2 * beta)
    return mx.square(pairs.chosen_logratios - goal) + mx.square(pairs.rejected_logratios + goal)


@register_loss(
    "apo_zero", source="D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7", of="logps", vanishes=True
)
def apo_zero(pairs: PairLogps, beta: mx.array) -> mx.array:
    """Chosen answers up, rejected ones down: for a model worse than its chosen answers. (B,)."""
    return mx.sigmoid(-beta * pairs.chosen_logratios) + mx.sigmoid(beta * pairs.rejected_logratios)


@register_loss("apo_down", source="D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8", of="logps")
def apo_down(pairs: PairLogps, beta: mx.array) -> mx.array:
    """Both answers down, rejected ones further: for a model better than its chosen answers. (B,)."""
    return mx.sigmoid(beta * pairs.chosen_logratios) + mx.sigmoid(-beta * pairs.margins)


@register_loss(
    "dpop",
    source="Pal et al. 2024 (Smaug), arXiv:2402.13228, eq. 3",
    of="logps",
    vanishes=True,
    options={
        "dpop_lambda": option(
            "weight of the penalty on a chosen answer that becomes less likely", least=0, most=LARGEST_WEIGHT
        )
    },
)
def dpop(pairs: PairLogps, beta: mx.array, *, dpop_lambda: float = 50.0) -> mx.array:
    """The sigmoid loss with a penalty in its margin if the chosen answer became less likely: (B,)."""
    lost = mx.maximum(-pairs.chosen_logratios, 0)  # in this order its slope at 0, the start, is 0
    return -nn.log_sigmoid(beta * (pairs.margins - dpop_lambda * lost))
