"""ECRTM and its losses in float64 NumPy, written from the formulas and independently of the package."""

import numpy as np


def sinkhorn(cost, alpha=20.0, most=1000):
    """(Σ plan ∘ cost, iterations, plan)."""
    topics, words = cost.shape
    a, b = np.full(topics, 1 / topics), np.full(words, 1 / words)
    kernel, u, count = np.exp(-alpha * cost), np.full(topics, 1 / topics), 0
    while True:
        v = b / (kernel.T @ u + 1e-16)
        u = a / (kernel @ v + 1e-16)
        count += 1
        if count >= most or (count % 50 == 1 and np.abs(v * (kernel.T @ u) - b).sum() <= 0.005):
            break
    plan = np.diag(u) @ kernel @ np.diag(v)
    return (plan * cost).sum(), count, plan


def distances(topics, words):
    """(K, V), one difference at a time."""
    return np.array([[((t - w) ** 2).sum() for w in words] for t in topics])


def softplus(x):
    return np.logaddexp(0, x)


def softmax(x, axis):
    grown = np.exp(x - x.max(axis=axis, keepdims=True))
    return grown / grown.sum(axis=axis, keepdims=True)


def normed(x, shift):
    """Batch normalisation in training."""
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5) + shift


def dpo(logits, reference, preferences, alpha):
    """Mean over topics of the mean over all pairs of a winner and a loser."""
    losses = []
    for topic, (win, lose) in preferences.items():
        gained = logits[topic] - reference[topic]
        losses.append(np.mean([softplus(-alpha * (gained[w] - gained[v])) for w in win for v in lose]))
    return np.mean(losses)


def terms(p, bags, noise, config, *, kept=1.0, guidance=None):
    """Every weighted term of the loss by name.

    `p`: parameters by their names in the module. `guidance`: (reference, preferences, others, weight, alpha,
    anchor weight).
    """
    hidden = softplus(bags @ p["hidden.weight"].T + p["hidden.bias"])
    hidden = softplus(hidden @ p["hidden2.weight"].T + p["hidden2.bias"]) * kept
    mean = normed(hidden @ p["mean.weight"].T, p["mean_norm.shift"])
    spread = normed(hidden @ p["log_variance.weight"].T, p["log_variance_norm.shift"])
    theta = softmax(mean + np.exp(spread / 2) * noise, axis=1)
    cost = distances(p["topic_vectors"], p["word_vectors"])
    beta = softmax(-cost / config.temperature, axis=0)
    words = np.log(softmax(normed(theta @ beta, p["decoder_norm.shift"]), axis=1))
    prior = 1 - 1 / mean.shape[1]
    kl = 0.5 * (np.exp(spread) / prior + mean**2 / prior + np.log(prior) - spread - 1).sum(axis=1)
    found = {
        "reconstruction": np.mean(-(bags * words).sum(axis=1)),
        "kl": kl.mean(),
        "ecr": config.ecr_weight * sinkhorn(cost, config.sinkhorn_alpha, config.sinkhorn_iterations)[0],
    }
    if guidance:
        reference, preferences, others, weight, alpha, anchor = guidance
        logits = -cost / config.temperature
        found["dpo"] = weight * dpo(logits, reference, preferences, alpha)
        found["anchor"] = anchor * ((logits - reference)[others] ** 2).mean()
    return found


def slope(function, x, step=1e-6):
    """Central differences of a function of one array, at every entry."""
    found = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        found[place] = (function(up) - function(down)) / (2 * step)
    return found
