"""Advice about a set of pairs, from its figures and fixed thresholds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..console import plural
from ..losses import SUPERVISED, LossConfig
from ..printed_commands import assignment, beside, unused_folder
from .defects import ERROR, WARNING, of_severity
from .measures import Figures

MUCH_WARNED = 0.1
"""Share of rows with a warning of one kind above which the rows should be fixed first."""
OF_THE_SET = 0.5
"""Share of rows above which unequal lengths are a property of the whole set, not of single rows."""
_LENGTHS = ("far-longer", "far-shorter")
FAR_OFF_POLICY = 1.0
"""Nats per token by which chosen answers are less likely than rejected ones; above it, fine-tune first."""
OFF_POLICY = 0.3
"""The same; above it, DPO may make the chosen answers less likely too, unless an extra term prevents it."""
BY_HEART = -0.2
"""Log-probability per token of chosen answers, nats; above it, the model knows them by heart."""
FOREIGN = -2.5
"""Log-probability per token of rejected answers, nats; below it, the model would not write them itself."""
NOT_OWN = 0.5
"""Nats per token by which rejected answers are less likely than sampled answers to the same prompts, or than
answers that the model knows by heart."""
TOLD_APART = 0.95
"""Accuracy at which style alone tells chosen from rejected answers."""
TOLD_BY_LENGTH = 0.9
"""Accuracy at which length alone tells chosen from rejected answers."""
MOST_EPOCHS, MOST_EPOCHS_TOLD_APART = 3, 1
"""Passes after which further passes only raise the margins; the same if style alone is enough."""

ADVICE = {
    "mend": "fix the rows, then inspect again",
    "sft_first": "fine-tune on the chosen answers, then inspect again with that adapter",
    "learnt": "stop here, or train on prompts whose answers the model has not learnt",
    "on_policy": "sample new rejected answers from the model to be trained",
    "anchor": "add the supervised loss, which keeps the chosen answers likely",
    "fewer_epochs": "train for fewer epochs",
    "train": "train with these pairs and settings",
}
"""All kinds of advice, in the order in which they are given."""


class Step(NamedTuple):
    """A command, and the settings that it needs besides those in the settings file."""

    command: str
    settings: tuple[str, ...] = ()


class Advice(NamedTuple):
    """A key of ADVICE, the figure it follows from, settings for `train`, and commands to run before `train`.

    `ends`: these rows cannot or need not be trained on as they are, and the next step is known only after
    this advice was followed.
    """

    code: str
    why: str
    settings: tuple[str, ...] = ()
    before: tuple[Step, ...] = ()
    ends: bool = False


class Plan(NamedTuple):
    """The settings on which advice depends: training.epochs, loss, run.output, data.train, data.valid.

    `adapter`: model.adapter. `usual`: epochs of a run on these pairs if none are set. `limit`: pairs.limit.
    `ours`: a run in this folder is about to begin.
    """

    epochs: int
    loss: LossConfig
    output: str
    train: str | list[str]
    valid: str | list[str] | None
    adapter: str | None = None
    usual: int = 1
    limit: int | None = None
    ours: bool = False

    def beside(self, what: str) -> str:
        """An unused folder beside the run's folder, for a step before the run."""
        return beside(self.output, what, self._read)

    @property
    def run(self) -> tuple[str, ...]:
        """The setting that a run needs if its folder already contains another run."""
        output = unused_folder(self.output, [*self._read, *([self.output] if self.ours else [])])
        return () if output == self.output else (assignment("run.output", output),)

    @property
    def _read(self) -> list[Path | str]:
        """Folders that these settings read from."""
        train = [self.train] if isinstance(self.train, str) else self.train
        return [*(Path(path).parent for path in train), *([self.adapter] if self.adapter else [])]


def verdict(found: Mapping[str, int], rows: int, figures: Figures, plan: Plan) -> list[Advice]:
    """All advice that applies, in the order of ADVICE; at least one.

    Args:
        found: number of defects by code, as from `counted`, in `rows` rows.
    """
    advice = [
        *_mend(found, rows, figures),
        *_sft_first(figures, plan),
        *_learnt(figures),
    ]
    if not any(a.code in ("sft_first", "learnt") for a in advice):
        advice += [*_on_policy(figures, plan), *_anchor(figures, plan.loss), *_fewer_epochs(figures, plan)]
    unasked = "" if figures.likelihood else "; the likelihood of the answers was not measured"
    return advice or [Advice("train", f"no figure is beyond its threshold (n {figures.pairs:,}){unasked}")]


def commands(advice: Sequence[Advice], run: Sequence[str] = ()) -> list[Step]:
    """The commands that follow the advice, as far as they are known; the last setting of a name counts.

    Args:
        run: further settings that `train` needs, `Plan.run`.
    """
    steps: list[Step] = []
    for a in advice:
        steps += a.before
        if a.ends:
            return steps
    settings = {s.partition("=")[0]: s for a in advice for s in a.settings}
    return [*steps, Step("train", (*settings.values(), *run))]


def of_the_set(found: Mapping[str, int], rows: int, figures: Figures) -> dict[str, int]:
    """The warnings about length that are a property of the whole set, by code: no single row needs a fix.

    These are length warnings of most rows, and of any row if length alone tells which answer is chosen. Other
    warnings of most rows come from how the rows were made, and should be fixed there.
    """
    lengths = figures.lengths
    told = f"far-{lengths.rule}" if lengths and lengths.accuracy >= TOLD_BY_LENGTH else ""
    counts = {code: found.get(code, 0) for code in _LENGTHS}
    return {code: n for code, n in counts.items() if n > OF_THE_SET * rows or (n and code == told)}


def _mend(found: Mapping[str, int], rows: int, figures: Figures) -> Iterator[Advice]:
    whole = of_the_set(found, rows, figures)
    errors = sum(of_severity(found, ERROR).values())
    why = [f"errors: {errors:,} in {plural(rows, 'row')}"] if errors else []
    for code, count in of_severity(found, WARNING).items():
        if count > MUCH_WARNED * rows and code not in whole:
            why.append(f"{code}: {count:,} in {plural(rows, 'row')}, above {MUCH_WARNED:.0%}")
    if why:
        yield Advice("mend", "; ".join(why), before=(Step("inspect"),), ends=bool(errors))


def _sft_first(figures: Figures, plan: Plan) -> Iterator[Advice]:
    likely = figures.likelihood
    if likely and likely.off_policy > FAR_OFF_POLICY:
        folder = plan.beside("sft")
        own = ("optimizer.learning_rate=null", "training.epochs=null")
        steps = (
            Step("sft", (assignment("run.output", folder), *own)),
            Step("inspect", (assignment("model.adapter", folder),)),
        )
        yield Advice("sft_first", _off_policy(figures, FAR_OFF_POLICY), before=steps, ends=True)


def _learnt(figures: Figures) -> Iterator[Advice]:
    likely = figures.likelihood
    if likely and likely.chosen > BY_HEART and likely.off_policy < -NOT_OWN:
        yield Advice(
            "learnt",
            f"chosen answers have {likely.chosen:.2f} nats per token (n {likely.n:,}), above {BY_HEART}, and "
            f"rejected answers {-likely.off_policy:.2f} less: the model knows the chosen answers by heart",
            ends=True,
        )


def _off_policy(figures: Figures, threshold: float) -> str:
    likely = figures.likelihood
    less = f"{likely.off_policy:.2f} nats per token less likely than rejected answers"
    return f"chosen answers are {less} (n {likely.n:,}), above {threshold}"


def _on_policy(figures: Figures, plan: Plan) -> Iterator[Advice]:
    if why := _not_its_own(figures):
        source, pairs = sampling(plan)
        yield Advice("on_policy", why, pairs, (Step("gen-pairs", source),))


def sampling(plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Settings to sample rejected answers to the prompts of these files, and settings to train on them."""
    folder, held = plan.beside("pairs"), plan.valid is not None
    source = (
        assignment("pairs.source", plan.train),
        assignment("pairs.valid_source", plan.valid),
        *(() if held else ("pairs.valid_fraction=0",)),
        *(() if plan.limit is None else ("pairs.limit=null",)),
        assignment("pairs.output", folder),
    )
    valid = (assignment("data.valid", f"{folder}/valid.jsonl"),) if held else ()
    return source, (assignment("data.train", f"{folder}/train.jsonl"), *valid)


def _not_its_own(figures: Figures) -> str:
    """Why the rejected answers are not what the model would write; "" if they are."""
    likely = figures.likelihood
    if figures.own and figures.own.less_likely > NOT_OWN:
        own = figures.own
        return (
            f"rejected answers have {own.rejected:.2f} nats per token, sampled answers of the model to the "
            f"same prompts {own.sampled:.2f} (n {own.n:,}): a difference above {NOT_OWN}"
        )
    if likely and not figures.own and likely.rejected < FOREIGN:
        return (
            f"rejected answers have {likely.rejected:.2f} nats per token (n {likely.n:,}), below {FOREIGN}: "
            "the model would not write them itself"
        )
    return ""


def _anchor(figures: Figures, loss: LossConfig) -> Iterator[Advice]:
    """Advice about the loss, if the other settings of its section allow it."""
    lengths, likely, why = figures.lengths, figures.likelihood, []
    if likely and likely.off_policy > OFF_POLICY:
        why.append(_off_policy(figures, OFF_POLICY))
    if lengths and lengths.accuracy >= TOLD_BY_LENGTH and loss.ld_alpha is None and not loss.per_token:
        why.append(
            f"picking the {lengths.rule} answer is right in {lengths.accuracy:.0%} of the pairs "
            f"(n {lengths.n:,}), at least {TOLD_BY_LENGTH:.0%}"
        )
    if _told_apart(figures):
        why.append(_by_style(figures))
    anchored = _named(loss, [*loss.names, SUPERVISED])
    if why and anchored and not loss.anchors_chosen:
        yield Advice("anchor", "; ".join(why), (_setting(anchored),))


def _named(loss: LossConfig, names: list[str]) -> LossConfig | None:
    """The section with other losses; None if its other settings cannot be used with them."""
    try:
        return replace(loss, name=names)
    except ValueError:
        return None


def _setting(loss: LossConfig) -> str:
    return f"loss.name={loss.names[0]}" if len(loss.names) == 1 else f"loss.name=[{', '.join(loss.names)}]"


def _told_apart(figures: Figures) -> bool:
    return figures.style is not None and figures.style.accuracy >= TOLD_APART


def _by_style(figures: Figures) -> str:
    style = figures.style
    picks = f"style alone identifies the chosen answer in {style.accuracy:.0%} of the pairs"
    return f"{picks} (n {style.n:,}), at least {TOLD_APART:.0%}"


def _fewer_epochs(figures: Figures, plan: Plan) -> Iterator[Advice]:
    told = _told_apart(figures)
    most = max(plan.usual, MOST_EPOCHS_TOLD_APART if told else MOST_EPOCHS)
    if plan.epochs > most:
        also = f", and {_by_style(figures)}" if told else ""
        yield Advice(
            "fewer_epochs",
            f"training.epochs is {plan.epochs}, above {most}{also}",
            (f"training.epochs={most}",),
        )
