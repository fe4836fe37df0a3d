"""Problems of preference training, found early in a run's figures: what they mean and what to do."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from ..console import plural
from ..training.config import PAIRS_LENGTH

Row = Mapping[str, float]

UNMOVED = 0.01
"""Held-out margin, times beta, below which the policy has not moved; the loss is within 0.005 of ln 2."""
UNMOVED_SHARE = 0.4
"""Share of the run after which the policy should have changed; for sft, after which a style is learnt."""
RAISED = 3.0
"""Factor by which to raise the learning rate if the policy has not changed."""
FALLEN = 0.7
"""Nats per token that chosen answers may lose."""
LARGE = 10.0
"""Mean held-out margin, times beta, above which the loss is flat and the policy only drifts."""
EXPLODING = 5.0
"""The same if every pair is right already and the margin has grown by half since the last evaluation."""
APART = 1.0
"""The same, above which the policy should answer differently from the start."""
VANISHED, VANISHED_REPORTS = 0.01, 5
"""If the training loss is below the first number in so many reports in a row, nothing is left to learn."""
SPIKE, SPIKE_REPORTS = 20.0, 20
"""Factor over the median of so many earlier gradient norms."""
REPEATING = 0.8
"""Distinct 4-grams as a share of those at the start; below it, answers have begun to repeat themselves."""
SPEAKS, ENOUGH = 0.7, 32
"""Least share of distinct 4-grams at the start, and least tokens per sample now, for this alarm."""
GROWN = 2.0
"""Factor over the tokens of the first samples (or of chosen answers, if longer) above which answers are too
long."""

UNPLANNED = 0.001
"""GB that a plan does not count: token ids, masks, scalars."""


class Alarm(NamedTuple):
    """What was seen; what it means; what to do. `ruin`: training is damaging the policy."""

    name: str
    seen: str
    meaning: str
    remedy: str
    ruin: bool


class About(NamedTuple):
    """Facts about a run besides its rows.

    `chosen_tokens`, `rejected_tokens`: mean lengths of held-out answers. `per_token`: the loss divides by
    lengths before it compares. `vanishes`: the loss approaches 0 as margins grow.
    `epochs`, `learning_rate`: as chosen at the start.
    `answers_only`: the run is sft; its held-out loss says everything, and no alarm counts as ruin.
    `held_gb`: memory in use before the run. `start_gb`: peak memory of the start-up checks.
    """

    steps: int
    chosen_tokens: float
    rejected_tokens: float
    vanishes: bool
    per_token: bool = False
    epochs: int = 1
    learning_rate: float = 1e-5
    answers_only: bool = False
    held_gb: float = 0.0
    start_gb: float = 0.0


class Check(NamedTuple):
    """`look(reports, evaluations, about)` says what is wrong after the last row; "" if nothing is."""

    look: Callable[[Sequence[Row], Sequence[Row], About], str]
    meaning: str
    remedy: str | Callable[[About], str]
    ruin: bool


CHECKS: dict[str, Check] = {}


def _check(name: str, meaning: str, remedy: str | Callable[[About], str], *, ruin: bool = False) -> Callable:
    def add(look):
        CHECKS[name] = Check(look, meaning, remedy, ruin)
        return look

    return add


def alarms(reports: Sequence[Row], evaluations: Sequence[Row], about: About) -> list[Alarm]:
    """The alarms after the last of these rows of metrics.jsonl, for training and held-out pairs."""
    found = [(name, check, check.look(reports, evaluations, about)) for name, check in CHECKS.items()]
    spared = about.answers_only
    return [
        Alarm(
            name,
            seen,
            check.meaning,
            check.remedy if isinstance(check.remedy, str) else check.remedy(about),
            check.ruin and not spared,
        )
        for name, check, seen in found
        if seen
    ]


def _moved(about: About) -> str:
    """The remedy for an unchanged policy: more updates if there are few, otherwise larger ones."""
    if about.steps < PAIRS_LENGTH[0]:
        epochs = -(-PAIRS_LENGTH[0] * about.epochs // about.steps)
        updates = epochs * about.steps // about.epochs
        few = plural(about.steps, "update")
        return f"the run has only {few}: set training.epochs={epochs}, which makes {updates}"
    rate = RAISED * about.learning_rate
    return f"set optimizer.learning_rate={rate:.1e} ({RAISED:g} times the present rate), or lower beta.value"


@_check(
    "unmoved",
    "the loss stays at ln 2: the policy is still the same as at the start",
    _moved,
)
def unmoved(reports: Sequence[Row], evaluations: Sequence[Row], about: About) -> str:
    last = evaluations[-1] if evaluations else {}
    margin = last.get("eval/rewards/margins")
    if margin is None or last["step"] < UNMOVED_SHARE * about.steps or abs(margin) >= UNMOVED:
        return ""
    return f"after {last['step']} of {plural(about.steps, 'update')} the held-out margin is {margin:+.4f}"


@_check(
    "answers unchanged",
    "the margins grow, but the policy still gives the same answers as at the start: the model could already "
    "tell chosen from rejected answers, so these pairs teach it nothing",
    "if the rejected answers were sampled from this model, run mlx-dpo sft first; otherwise sample new "
    "rejected answers from this model; mlx-dpo inspect prints the commands",
)
def answers_unchanged(reports: Sequence[Row], evaluations: Sequence[Row], about: About) -> str:
    last = evaluations[-1] if evaluations else {}
    if last.get("eval/samples/unchanged") != 1 or last["step"] < UNMOVED_SHARE * about.steps:
        return ""
    margin = _compared(last, about)
    if margin <= APART:
        return ""
    return f"the held-out margin is {margin:+.1f}, but every sampled answer is the same as at the start"


@_check(
    "chosen falls",
    "the chosen answers become less likely: the policy moves away from both answers of a pair, and soon from "
    "everything it has learnt",
    "add the supervised term (loss.name=[sigmoid, sft]), run mlx-dpo sft first, or lower "
    "optimizer.learning_rate",
    ruin=True,
)
def chosen_falls(reports: Sequence[Row], evaluations: Sequence[Row], about: About) -> str:
    if len(evaluations) < 2:
        return ""
    lost = (evaluations[0]["eval/logps/chosen"] - evaluations[-1]["eval/logps/chosen"]) / about.chosen_tokens
    if lost <= FALLEN:
        return ""
    return f"held-out chosen answers lost {lost:.2f} nats per token since the start, more than {FALLEN}"


@_check(
    "margins too large",
    "beta times the margin is so large that the loss is flat: further updates only make the policy drift",
    "stop earlier (training.epochs), lower optimizer.learning_rate, or raise beta.value",
    ruin=True,
)
def margins_too_large(reports: Sequence[Row], evaluations: Sequence[Row], about: About) -> str:
    margin = _compared(evaluations[-1], about) if evaluations else 0.0
    return f"the mean held-out margin is {margin:+.1f}, beyond ±{LARGE:g}" if abs(margin) > LARGE else ""


def _compared(row: Row, about: About) -> float:
    """The mean held-out margin, times beta, as the loss uses it; 0 without pairs."""
    if "eval/rewards/margins" not in row:
        return 0.0
    if not about.per_token:
        return row["eval/rewards/margins"]
    chosen, rejected = (row[f"eval/rewards/{answer}"] for answer in ("chosen", "rejected"))
    return chosen / about.chosen_tokens - rejected / about.rejected_tokens


@_check(
    "all right and growing",
    "every held-out pair is right and the margins still grow fast: the policy tells the answers apart by "
    "something simple, such as length or style",
    "check the pairs with mlx-dpo inspect; stop earlier (training.epochs), or raise beta.value",
)
def all_right_and_growing(reports: Sequence[Row], evaluations: Sequence[Row], about: About) -> str:
    if len(evaluations) < 2 or evaluations[-1].get("eval/rewards/accuracies") != 1:
        return ""
    before, now = (_compared(row, about) for row in evaluations[-2:])
    if now <= EXPLODING or now < 1.5 * before:
        return ""
    return f"held-out accuracy is 1.00 and the margin went from {before:+.1f} to {now:+.1f}"


@_check(
    "loss vanished",
    "nothing is left to learn from these pairs",
    "stop earlier (training.epochs), or look for pairs that are harder to tell apart",
)
def loss_vanished(reports: Sequence[Row], evaluations: Sequence[Row], about: About) -> str:
    last = [row["loss"] for row in reports[-VANISHED_REPORTS:]]
    if not about.vanishes or len(last) < VANISHED_REPORTS or max(last) >= VANISHED:
        return ""
    return f"the training loss was below {VANISHED} in the last {VANISHED_REPORTS} reports"


@_check(
    "gradient spike",
    "a few pairs have a far larger gradient than the others, often because of a wrong label or an answer "
    "that is cut off or unlike the others",
    "check the pairs of this update (mlx-dpo inspect); optimizer.grad_clip keeps the update itself small",
)
def gradient_spike(reports: Sequence[Row], evaluations: Sequence[Row], about: About) -> str:
    norms = [row["grad_norm"] for row in reports]
    before = norms[-SPIKE_REPORTS - 1 : -1]
    if len(before) < SPIKE_REPORTS or norms[-1] <= SPIKE * median(before):
        return ""
    return f"the gradient norm is {norms[-1]:.3g}; the median of the norms before is {median(before):.3g}"


@_check(
    "answers repeat",
    "the policy's answers repeat themselves: it is losing its language",
    "lower optimizer.learning_rate or raise training.rehearsal; with pairs you can also raise beta.value or "
    "add the supervised term (loss.name=[sigmoid, sft])",
    ruin=True,
)
def answers_repeat(reports: Sequence[Row], evaluations: Sequence[Row], about: About) -> str:
    name = "eval/samples/distinct_4"
    rows = [row for row in evaluations if name in row]
    if len(rows) < 2 or (about.answers_only and rows[-1]["step"] < UNMOVED_SHARE * about.steps):
        return ""  # a half-learnt style may repeat itself
    first, now = rows[0][name], rows[-1][name]
    if first < SPEAKS or rows[-1]["eval/samples/tokens"] < ENOUGH or now >= REPEATING * first:
        return ""
    return f"{now:.0%} of the 4-grams in sampled answers are distinct; at the start {first:.0%} were"


@_check(
    "answers grow",
    "the policy's answers become too long: it has learnt to prefer length",
    "use log-probabilities per token (loss.name=sigmoid_norm) or set loss.ld_alpha; check the pairs with "
    "mlx-dpo inspect",
)
def answers_grow(reports: Sequence[Row], evaluations: Sequence[Row], about: About) -> str:
    name = "eval/samples/tokens"
    rows = [row for row in evaluations if name in row]
    if len(rows) < 2:
        return ""
    usual, now = max(rows[0][name], about.chosen_tokens), rows[-1][name]
    if now <= GROWN * usual:
        return ""
    return f"sampled answers have {plural(round(now), 'token')}; {usual:.0f} were expected"


@_check(
    "memory above the plan",
    "the plan is too low for this model and these rows: a run that should fit can run out of memory",
    "if memory is short, set training.gradient_checkpointing=on and training.branches=separate, or shorten "
    "data.max_length; then continue from the last checkpoint with --accept-changes",
)
def memory_above_the_plan(reports: Sequence[Row], evaluations: Sequence[Row], about: About) -> str:
    planned = reports[-1].get("planned_memory_gb") if reports else None
    if planned is None:
        return ""
    peak = max(reports[-1]["peak_memory_gb"], about.start_gb) - about.held_gb
    if peak <= planned + UNPLANNED:
        return ""
    return f"the peak memory is {peak:.3f} GB; the plan was {planned:.3f} GB"
