"""Rules for beta: published check values, and plain float64 restatements run beside them."""

import math

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

from mlx_dpo.cli.demo import demo
from mlx_dpo.config import load_config
from mlx_dpo.losses import BETA_RULES, BetaConfig, beta_rule, register_beta_rule
from mlx_dpo.losses.beta_dpo import BetaDpoConfig, beta_dpo, chosen_pairs, log_weights
from mlx_dpo.losses.beta_rule import BetaRule, FixedState, beta_step, exact, quantile
from mlx_dpo.losses.risk_beta import RiskConfig, risk


def windows(size, seed=0, count=200):
    """Margins of 200 windows that grow as in training; the last window of every epoch of 50 is ragged."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        n = max(1, size - 3) if number % 50 == 49 else size
        yield rng.normal(0.05 * number, 1 + 0.02 * number, n).astype(np.float32)


def run_rule(rule, margins_of_windows, seed=0):
    """Steps and states of a rule over windows."""
    state, steps, states = rule.init(seed), [], []
    for margins in margins_of_windows:
        step, state = rule.update(mx.array(margins), state)
        steps.append(step)
        states.append(state)
    return steps, states


def test_quantiles_interpolate_between_order_statistics():
    shuffled = mx.array([7.0, 1, 10, 4, 2, 9, 3, 8, 5, 6])
    assert quantile(shuffled, 0.9).item() == pytest.approx(9.1)
    values = np.random.default_rng(0).normal(size=23).astype(np.float32)
    for level in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert quantile(mx.array(values), level).item() == pytest.approx(np.quantile(values, level), rel=1e-6)
    assert quantile(mx.array([3.0]), 0.9).item() == 3.0


def test_a_fixed_beta_stays_where_it_was_set():
    rule = beta_rule(BetaConfig(value=0.3))
    steps, states = run_rule(rule, ([5.0, -2.0], [1e4], [-1e4, 0.0]))
    assert [s.beta.item() for s in (*steps, *states)] == pytest.approx([0.3] * 6, rel=1e-7)
    assert [s.weights.tolist() for s in steps] == [[1, 1], [1], [1, 1]]


def exceeding(count, of=16):
    """Margins of which `count` are above a threshold that stays at 0."""
    return mx.array([1.0] * count + [-1.0] * (of - count))


def at_zero(config):
    """The rule after its warm-up, its threshold at 0 and, at momentum near 1, staying there."""
    rule = risk(0.1, config)
    return rule, rule.init(0)._replace(windows=mx.array(config.warmup_steps))


@pytest.mark.parametrize(
    ("count", "u", "s", "beta"), [(3, 1.166667, 0.981368, 0.10049189), (0, -1.333333, -0.990390, 0.09950603)]
)
def test_check_values_of_risk(count, u, s, beta):
    rule, state = at_zero(RiskConfig(momentum=1 - 1e-7))
    step, state = rule.update(exceeding(count), state)
    assert step.metrics["p_hat"].item() == count / 16
    assert step.metrics["u_k"].item() == pytest.approx(u, abs=6e-7)
    assert step.metrics["s_k"].item() == pytest.approx(s, abs=6e-7)
    assert step.beta.item() == pytest.approx(0.1), "the window itself has the beta of before"
    assert state.beta.item() == pytest.approx(beta, abs=6e-9)


def test_check_value_of_generation_a_which_moves_beta_before_its_window():
    rule, state = at_zero(RiskConfig(momentum=1 - 1e-7, generation="A"))
    assert rule.looks_first
    step, state = rule.update(exceeding(3), state)
    assert math.sqrt(math.log(1 / 0.05) / 32) == pytest.approx(0.305968, abs=6e-7)
    assert step.metrics["u_k"].item() == pytest.approx(-0.714023, abs=6e-7)
    assert step.beta.item() == pytest.approx(state.beta.item(), rel=1e-7)
    assert state.beta.item() == pytest.approx(0.1 * math.exp(0.005 * math.tanh(-2 * 0.714023)), rel=1e-7)


class ExactRisk:
    """The published rule, float64."""

    def __init__(self, beta, c):
        self.beta, self.c, self.stored, self.tau, self.count = beta, c, [], 0.0, 0

    def __call__(self, margins):
        c, n, used = self.c, len(margins), self.beta
        self.count += 1
        if self.count <= c.warmup_steps:
            self.stored += margins.tolist()
            if self.count == c.warmup_steps:
                self.tau = np.quantile(self.stored, 1 - c.delta)
            return used, None
        self.tau = c.momentum * self.tau + (1 - c.momentum) * np.quantile(margins.astype(float), 1 - c.delta)
        p = np.mean(margins >= self.tau)
        if c.generation == "A":
            slack = np.sqrt(np.log(1 / c.epsilon) / (2 * n))
            u = (p - c.delta - slack) / slack
        else:
            u = (p - c.delta) / np.sqrt(c.delta * (1 - c.delta) / n)
        self.beta = np.clip(self.beta * np.exp(c.alpha * np.tanh(c.gamma * u)), c.minimum, c.maximum)
        return (self.beta if c.generation == "A" else used), p


@pytest.mark.parametrize("generation", ["A", "B"])
@pytest.mark.parametrize("size", [1, 4, 16])
@pytest.mark.parametrize("warmup", [0, 20])
def test_risk_follows_its_restatement(size, generation, warmup):
    config = RiskConfig(warmup_steps=warmup, generation=generation, alpha=0.05)
    exact = ExactRisk(0.1, config)
    steps, states = run_rule(risk(0.1, config), windows(size))
    for step, state, margins in zip(steps, states, windows(size), strict=True):
        used, p = exact(margins)
        assert step.beta.item() == pytest.approx(used, rel=1e-7)
        assert state.beta.item() == pytest.approx(exact.beta, rel=1e-12)
        if p is None:
            assert step.metrics == {}
        else:
            assert step.metrics["p_hat"].item() == pytest.approx(p, rel=1e-12)
            assert step.metrics["tau"].item() == pytest.approx(exact.tau, rel=1e-12)
    assert len(states[-1].stored) == 0


def test_risk_stays_within_its_bounds():
    config = RiskConfig(warmup_steps=0, alpha=1.0, minimum=0.05, maximum=0.2, momentum=1 - 1e-7)
    for count, bound in ((16, 0.2), (0, 0.05)):
        rule, state = at_zero(config)
        for _ in range(5):
            _, state = rule.update(exceeding(count), state)
        assert state.beta.item() == pytest.approx(bound)


G = [1.0, 2.0, 0.0, 5.0, -2.0]


@pytest.mark.parametrize(("start", "mean", "spread"), [("zero", 0.12, 0.2588436), ("window", 1.2, 2.315167)])
def test_check_values_of_beta_dpos_first_window(start, mean, spread):
    rule = beta_dpo(0.1, BetaDpoConfig(start=start))
    step, state = rule.update(mx.array(G), rule.init(0))
    assert (state.mean.item(), state.spread.item()) == pytest.approx((mean, spread), abs=6e-7)
    kept = np.array(step.weights) > 0
    assert step.weights.tolist() == pytest.approx((kept * 5 / 4).tolist()) and kept.sum() == 4
    selected = np.mean(np.array(G)[kept])
    assert step.beta.item() == pytest.approx(max(0.1 * (1 + 0.6 * (selected - mean)), 1e-3), rel=1e-5)


@pytest.mark.parametrize(("start", "beta"), [("zero", 0.1078), ("window", 0.043)])
def test_check_values_of_beta_dpos_beta_where_the_largest_gap_is_left_out(start, beta):
    """Among many seeds there are draws of {1, 2, 0, -2}."""
    rule = beta_dpo(0.1, BetaDpoConfig(start=start))
    # At a spread of 0.26 the weights of 5 and -2 are both nothing: the noise decides between them.
    steps = [rule.update(mx.array(G), rule.init(seed))[0] for seed in range(200)]
    found = [s for s in steps if (np.array(s.weights) > 0).tolist() == [True, True, True, False, True]]
    assert found
    assert found[0].beta.item() == pytest.approx(beta, abs=1e-7)


def test_check_values_of_beta_dpos_weights():
    weights = np.exp(np.array(log_weights(mx.array(G), mx.array(1.2), mx.array(np.std(G)))))
    assert weights.tolist() == pytest.approx([0.996276, 0.942046, 0.874303, 0.260016, 0.384726], abs=6e-7)


@pytest.mark.parametrize("start", ["window", "zero"])
@pytest.mark.parametrize("size", [1, 4, 16])
def test_beta_dpo_follows_its_restatement(size, start):
    config = BetaDpoConfig(start=start)
    steps, states = run_rule(beta_dpo(0.1, config), windows(size))
    mean, spread, key = 0.0, 0.0, beta_dpo(0.1, config).init(0).key
    for step, state, margins in zip(steps, states, windows(size), strict=True):
        g, n = margins.astype(float), len(margins)
        if start == "window" and spread < 1e-6:
            mean, spread = g.mean(), g.std()
        else:
            mean = 0.9 * mean + 0.1 * g.mean()
            spread = 0.9 * spread + 0.1 * g.std(ddof=int(start == "zero" and n > 1))
        assert state.mean.item() == pytest.approx(mean, rel=1e-12)
        assert state.spread.item() == pytest.approx(spread, rel=1e-12, abs=1e-15)
        # The pairs that are kept have the largest log weight plus noise: of the moments of now.
        with mx.stream(mx.cpu):
            _, own = mx.random.split(key)
            noise = np.array(mx.random.gumbel((n,), key=own), np.float64)
        key = state.key
        weights = -0.5 * ((g - mean) / (max(spread, 1e-6) + 1e-6)) ** 2
        kept = np.array(step.weights) > 0
        k = max(1, math.floor(0.8 * n))
        assert kept.sum() == k
        assert set(np.flatnonzero(kept)) == set(np.argsort(-(weights + noise))[:k])
        assert np.array(step.weights)[kept].tolist() == pytest.approx([n / k] * k)
        beta = max(0.1 * (1 + 0.6 * (g[kept].mean() - mean)), 1e-3)
        assert state.beta.item() == pytest.approx(beta, rel=1e-12)
        assert step.beta.item() == pytest.approx(beta, rel=1e-7)
        assert step.metrics["keep_ratio"].item() == pytest.approx(k / n)


def test_gumbel_top_k_draws_as_one_after_the_other_without_replacement():
    """All 20 subsets of 3 of 6 against the sequential draw's exact chances (chi-square)."""
    weights = np.array([1.0, 0.7, 0.4, 0.2, 0.1, 0.05])
    chances = {}

    def draw(left, taken, chance):
        if len(taken) == 3:
            key = tuple(sorted(taken))
            chances[key] = chances.get(key, 0) + chance
            return
        for i in left:
            draw(left - {i}, [*taken, i], chance * weights[i] / weights[list(left)].sum())

    draw(frozenset(range(6)), [], 1.0)
    logs, key, draws = mx.array(np.log(weights), mx.float32), mx.random.key(7), 4000
    drawn = mx.vmap(lambda k: chosen_pairs(logs, 3, k))(mx.random.split(key, draws))
    counts = dict.fromkeys(chances, 0)
    for row in np.array(drawn):
        counts[tuple(np.flatnonzero(row).tolist())] += 1
    expected = np.array([draws * chances[subset] for subset in chances])
    distance = ((np.array(list(counts.values())) - expected) ** 2 / expected).sum()
    assert distance < 36.19  # chi-square of 19 degrees of freedom: 1 % are above


def test_pairs_near_the_running_mean_are_kept_more_often():
    """From mean 2 and spread 1 a window at 2, 2, 2, 5 moves to 2.075 and 1.03; two of four are drawn."""
    rule = beta_dpo(0.1, BetaDpoConfig(keep=0.5))
    counts, draws, margins = np.zeros(4), 1500, np.array([2.0, 2.0, 2.0, 5.0])
    mean, spread = 0.9 * 2 + 0.1 * margins.mean(), 0.9 * 1 + 0.1 * margins.std()
    for seed in range(draws):
        state = rule.init(seed)._replace(mean=exact(2.0), spread=exact(1.0))
        counts += np.array(rule.update(mx.array(margins), state)[0].weights) > 0
    near, far = np.exp(-0.5 * ((margins[[0, 3]] - mean) / spread) ** 2)
    # Of two draws one after the other, the far one is the first, or the second after one of three near ones.
    total = 3 * near + far
    chance = far / total + 3 * near / total * far / (total - near)
    assert 0.005 < chance < 0.05
    assert abs(counts[3] - draws * chance) < 4 * math.sqrt(draws * chance)
    assert counts[:3] == pytest.approx([draws * (2 - chance) / 3] * 3, rel=0.08)


def test_a_run_starts_from_the_first_window_whose_margins_differ():
    """Before the first update all margins are 0; the next window's own moments count whole."""
    rule, margins = beta_dpo(0.1, BetaDpoConfig()), np.array([1.0, -1.0, 3.0, 1.0])
    _, state = rule.update(mx.zeros((4,)), rule.init(0))
    _, state = rule.update(mx.array(margins), state)
    assert (state.mean.item(), state.spread.item()) == pytest.approx((margins.mean(), margins.std()))


def test_equal_margins_are_drawn_alike_and_nothing_divides_by_zero():
    """Before the first update all margins are 0: no spread."""
    rule = beta_dpo(0.1, BetaDpoConfig())
    step, state = rule.update(mx.zeros((10,)), rule.init(3))
    assert (np.array(step.weights) > 0).sum() == 8
    assert step.beta.item() == pytest.approx(0.1)
    assert state.spread.item() == 0


def test_the_same_state_draws_the_same_pairs_and_the_next_one_others():
    rule, margins = beta_dpo(0.1, BetaDpoConfig(keep=0.5)), mx.zeros((32,))
    first, state = rule.update(margins, rule.init(0))
    again, _ = rule.update(margins, rule.init(0))
    second, _ = rule.update(margins, state)
    assert first.weights.tolist() == again.weights.tolist() != second.weights.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delta": 0.0}, "delta must be above 0"),
        ({"momentum": 1.0}, "momentum must be below 1"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0"),
        ({"minimum": 0.0}, "minimum must be at least 1e-06"),
        ({"minimum": 3.0}, r"minimum must be at most maximum \(2.0\), got 3.0"),
    ],
)
def test_settings_of_risk_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RiskConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.0}, "keep must be above 0"),
        ({"keep": 1.1}, "keep must be at most 1"),
        ({"alpha": -1.0}, "alpha must be at least 0"),
        ({"minimum": 0.0}, "minimum must be at least 1e-06"),
    ],
)
def test_settings_of_beta_dpo_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BetaDpoConfig(**settings)


@pytest.mark.parametrize("name", BETA_RULES)
def test_a_rule_without_a_first_look_scores_a_window_with_the_beta_before_it(name):
    rule = beta_rule(BetaConfig(rule=name))
    state = rule.init(0)
    step, _ = rule.update(mx.array([3.0, -1.0, 0.5, 9.0]), state)
    assert rule.looks_first or step.beta.item() == pytest.approx(state.beta.item(), rel=1e-7)
    assert state.beta.item() == pytest.approx(0.1)


@pytest.mark.parametrize("name", BETA_RULES)
def test_beta_moves_and_pairs_are_left_out_exactly_where_that_is_registered(name):
    settings = {"risk": RiskConfig(warmup_steps=0)} if name == "risk" else {}
    steps, _ = run_rule(beta_rule(BetaConfig(rule=name, **settings)), windows(16, count=20))
    assert (len({step.beta.item() for step in steps}) > 1) == BETA_RULES[name].moves
    assert any((step.weights == 0).any().item() for step in steps) == BETA_RULES[name].filters
    assert all(step.weights.mean().item() == pytest.approx(1, abs=1e-6) for step in steps)


@pytest.mark.parametrize("name", BETA_RULES)
def test_what_a_rule_says_of_a_window_is_logged_under_its_name(name):
    settings = {"risk": RiskConfig(warmup_steps=0)} if name == "risk" else {}
    (step,), _ = run_rule(beta_rule(BetaConfig(rule=name, **settings)), [[1.0, 2.0, 4.0, 9.0]])
    assert bool(step.metrics) == BETA_RULES[name].moves
    assert all(metric.startswith(f"{name}/") for metric in step.metrics)


@pytest.mark.parametrize(
    ("rule", "settings", "message"),
    [
        (
            "risk",
            {"risk": RiskConfig(minimum=0.2)},
            "value must be between beta.risk.minimum and beta.risk.maximum",
        ),
        (
            "risk",
            {"risk": RiskConfig(maximum=0.05)},
            "value must be between beta.risk.minimum and beta.risk.maximum",
        ),
        (
            "beta_dpo",
            {"beta_dpo": BetaDpoConfig(minimum=0.2)},
            "value must be at least beta.beta_dpo.minimum",
        ),
        ("wave", {}, "rule must be one of fixed, .*, got 'wave'"),
    ],
)
def test_a_beta_that_a_rule_cannot_start_from_is_refused(rule, settings, message):
    with pytest.raises(ValueError, match=message):
        BetaConfig(rule=rule, **settings)
    assert BetaConfig(**settings).value == 0.1  # of another rule's section nothing is asked


def test_the_demo_offers_every_rule():
    usage = " ".join(CliRunner().invoke(demo, ["--help"]).output.split())
    assert f"--beta-rule [{'|'.join(BETA_RULES)}]" in usage


def test_a_rule_that_is_registered_later_is_a_choice():
    @register_beta_rule("halving", source="nobody")
    def halving(value):
        def update(margins, state):
            return beta_step(state.beta, len(margins), {"old": state.beta}), FixedState(state.beta / 2)

        return BetaRule(lambda seed: FixedState(mx.array(value)), update)

    try:
        rule = beta_rule(load_config(None, ["beta.rule=halving"]).beta)
    finally:
        del BETA_RULES["halving"]
    steps, _ = run_rule(rule, [[0.0]] * 3)
    assert [step.beta.item() for step in steps] == pytest.approx([0.1, 0.05, 0.025])
    assert steps[2].metrics["halving/old"].item() == pytest.approx(0.025)
