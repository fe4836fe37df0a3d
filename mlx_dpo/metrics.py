"""Numbers about pairs: exact over pairs, never means of means."""

import math
from collections.abc import Hashable, Sequence

import numpy as np


def pair_metrics(
    policy: np.ndarray, reference: np.ndarray, losses: np.ndarray, betas: np.ndarray
) -> dict[str, float]:
    """Means over n pairs, in float64, under the names of metrics.jsonl.

    Args:
        policy, reference: (n, 2) log-probabilities in nats, chosen then rejected.
        losses: (n,) one loss per pair.
        betas: (n,) the beta each pair was scored with.

    Returns:
        loss, rewards/*, logps/*. A pair counts as right when its chosen reward is strictly above its
        rejected one.
    """
    policy, reference = policy.astype(np.float64), reference.astype(np.float64)
    rewards = betas.astype(np.float64)[:, None] * (policy - reference)
    return {
        "loss": float(losses.astype(np.float64).mean()),
        "rewards/chosen": float(rewards[:, 0].mean()),
        "rewards/rejected": float(rewards[:, 1].mean()),
        "rewards/margins": float((rewards[:, 0] - rewards[:, 1]).mean()),
        "rewards/accuracies": float((rewards[:, 0] > rewards[:, 1]).mean()),
        "logps/chosen": float(policy[:, 0].mean()),
        "logps/rejected": float(policy[:, 1].mean()),
    }


def distinct_n(items: Sequence[Hashable], n: int) -> float | None:
    """Distinct runs of `n` items as a share of all (Li et al. 2016, arXiv:1510.03055); None without a run.

    "a b a b a b", runs of 4: abab baba abab  ->  2/3
    """
    runs = [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]
    return len(set(runs)) / len(runs) if runs else None


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927): stays inside [0, 1] and is honest at 0 and n.

    Raises:
        ValueError: n is 0; an empty set has no rate.
    """
    if n < 1:
        raise ValueError("an empty set has no rate")
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def student_half_width(values: np.ndarray) -> float:
    """Half the width of the 95 % interval of a mean (Student 1908).

    Args:
        values: (n,), independent; n is at least 2.
    """
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) / np.sqrt(len(values)) * values.std(ddof=1))
