"""Each loss once more, from its paper, in float64 NumPy."""

import numpy as np

from mlx_dpo.losses import LOSSES


def ls(x):
    """Log of the sigmoid."""
    return -np.logaddexp(0, -x)


def sg(x):
    return np.exp(ls(x))


def sorted_difference(one, other):
    return np.sort(one) - np.sort(other)


def flipped(z, o):
    return -(1 - o) * ls(z) - o * ls(-z)


def exo(z, o):
    return sg(z) * (ls(z) - np.log(1 - o)) + sg(-z) * (ls(-z) - np.log(o))


def log_odds(p):
    return np.log(np.exp(p) / (1 - np.exp(p)))


# w, l: policy; rw, rl: reference; a, b: log-ratios; d: margin; m: margin a token; cw, cl: tokens; n: mean of
# cw over the window; t: beta; o: the option, if there is one.
EXACT = {
    "sigmoid": (0.0, lambda q: flipped(q.t * q.d, q.o)),
    "hinge": (None, lambda q: np.maximum(0, 1 - q.t * q.d)),
    "ipo": (None, lambda q: (q.m - 1 / (2 * q.t)) ** 2),
    "exo_pair": (1e-3, lambda q: exo(q.t * q.d, q.o)),
    "nca_pair": (None, lambda q: -ls(q.t * q.a) - 0.5 * ls(-q.t * q.a) - 0.5 * ls(-q.t * q.b)),
    "robust": (0.1, lambda q: (-(1 - q.o) * ls(q.t * q.d) + q.o * ls(-q.t * q.d)) / (1 - 2 * q.o)),
    "bco_pair": (None, lambda q: -ls(q.t * q.a) - ls(-q.t * q.b)),
    "sppo_hard": (None, lambda q: (q.a - 0.5 / q.t) ** 2 + (q.b + 0.5 / q.t) ** 2),
    "aot": (0.0, lambda q: flipped(q.t * sorted_difference(q.w - q.l, q.rw - q.rl), q.o)),
    "aot_unpaired": (0.0, lambda q: flipped(q.t * sorted_difference(q.a, q.b), q.o)),
    "apo_zero": (None, lambda q: 1 - sg(q.t * q.a) + sg(q.t * q.b)),
    "apo_down": (None, lambda q: sg(q.t * q.a) + 1 - sg(q.t * q.d)),
    "discopop": (
        0.05,
        lambda q: (1 - sg(q.t * q.d / q.o)) * -ls(q.t * q.d) + sg(q.t * q.d / q.o) * np.exp(-q.t * q.d),
    ),
    "sigmoid_norm": (None, lambda q: -ls(q.t * q.m)),
    "dpop": (50.0, lambda q: -ls(q.t * (q.d - q.o * np.maximum(0, q.rw - q.w)))),
    "sft": (None, lambda q: -q.w / q.n),
    "simpo": (0.5, lambda q: -ls(q.t * (q.w / q.cw - q.l / q.cl) - q.o)),
    "cpo": (1.0, lambda q: -ls(q.t * (q.w - q.l)) - q.o * q.w / q.n),
    "orpo": (None, lambda q: -q.w / q.n - q.t * ls(log_odds(q.w / q.cw) - log_odds(q.l / q.cl))),
}
"""Default of its option, definition."""

SCORES = {
    "reverse_kl": lambda r, c: r,
    "forward_kl": lambda r, c: 1 - np.exp(-r),
    "js": lambda r, c: np.log(2) + ls(r),
    "alpha": lambda r, c: r if c == 1 else (np.exp((c - 1) * r) - 1) / (c - 1),
}


class Quantities:
    """What the definitions are written in."""

    def __init__(self, config, arrays, beta):
        self.w, self.l, self.rw, self.rl, self.cw, self.cl, self.n = arrays
        self.t = beta
        if config.reference_free:
            self.rw, self.rl = 0 * self.rw, 0 * self.rl
        score = SCORES[config.divergence]
        self.a, self.b = (
            score(r, config.divergence_alpha or 0.5) for r in (self.w - self.rw, self.l - self.rl)
        )
        self.d, self.m = self.a - self.b, self.a / self.cw - self.b / self.cl


def exact_loss(config, arrays, beta):
    """One loss a pair, float64."""
    quantities, total = Quantities(config, arrays, beta), 0.0
    for name, weight in zip(config.names, config.weights or [1.0] * len(config.names), strict=True):
        default, definition = EXACT[name]
        given = [config.options[option] for option in LOSSES[name].options if option in config.options]
        quantities.o = given[0] if given else default
        total = total + weight * definition(quantities)
    return total
