"""What to do with a set of pairs: advice that follows from its figures by fixed thresholds."""

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
"""Share of the rows with a warning of one kind above which the rows are to be mended first."""
OF_THE_SET = 0.5
"""Share of the rows above which unlike lengths describe the set, and no single row is at fault."""
_LENGTHS = ("far-longer", "far-shorter")
FAR_OFF_POLICY = 1.0
"""Nats a token by which chosen answers are less likely than rejected ones; above it, fine-tune first."""
OFF_POLICY = 0.3
"""The same; above it, DPO may lower the chosen answers with the rejected ones unless something holds them."""
BY_HEART = -0.2
"""Log-probability a token of chosen answers, nats; above it, the model knows them by heart."""
FOREIGN = -2.5
"""Log-probability a token of rejected answers, nats; below it, the model itself would not say them."""
NOT_OWN = 0.5
"""Nats a token by which rejected answers are less likely than the model's own answers to the same prompts, or
than answers that it knows by heart."""
TOLD_APART = 0.95
"""Accuracy from which on chosen and rejected answers are told apart by style alone."""
TOLD_BY_LENGTH = 0.9
"""Accuracy from which on they are told apart by length alone."""
MOST_EPOCHS, MOST_EPOCHS_TOLD_APART = 3, 1
"""Passes over the pairs after which more only raise the margins; the same where style tells all."""

ADVICE = {
    "mend": "mend the rows, then inspect again",
    "sft_first": "fine-tune on the chosen answers, then inspect again from that adapter",
    "learnt": "stop here, or train on prompts whose answers the model has not learnt",
    "on_policy": "sample the rejected answers from the model that is trained",
    "anchor": "add the supervised loss, which holds the chosen answers up",
    "fewer_epochs": "train for fewer epochs",
    "train": "train as it is",
}
"""Every advice there is, in the order in which it is given."""


class Step(NamedTuple):
    """A command, and the settings that it needs besides those of the file."""

    command: str
    settings: tuple[str, ...] = ()


class Advice(NamedTuple):
    """A key of ADVICE, the figure it follows from, settings for `train`, and commands that come before it.

    `ends`: what comes after it can be known only when it was followed, and these rows as they are cannot or
    need not be trained on.
    """

    code: str
    why: str
    settings: tuple[str, ...] = ()
    before: tuple[Step, ...] = ()
    ends: bool = False


class Plan(NamedTuple):
    """The settings that advice depends on: training.epochs, loss, run.output, data.train, data.valid.

    `adapter`: model.adapter. `usual`: epochs that a run of these pairs has where none are set. `limit`:
    pairs.limit. `ours`: a run in this folder is about to begin.
    """

    epochs: int
    loss: LossConfig
    output: str
    train: str
    valid: str | None
    adapter: str | None = None
    usual: int = 1
    limit: int | None = None
    ours: bool = False

    def beside(self, what: str) -> str:
        """An unused folder beside the run's for what comes before it."""
        return beside(self.output, what, self._read)

    @property
    def run(self) -> tuple[str, ...]:
        """The setting that a run needs where another one lies in its folder."""
        output = unused_folder(self.output, [*self._read, *([self.output] if self.ours else [])])
        return () if output == self.output else (assignment("run.output", output),)

    @property
    def _read(self) -> list[Path | str]:
        """Folders that these settings read from."""
        return [Path(self.train).parent, *([self.adapter] if self.adapter else [])]


def verdict(found: Mapping[str, int], rows: int, figures: Figures, plan: Plan) -> list[Advice]:
    """All advice that applies, in the order of ADVICE; never none.

    Args:
        found: defects by code, as `counted`, in so many `rows`.
    """
    advice = [
        *_mend(found, rows, figures),
        *_sft_first(figures, plan),
        *_learnt(figures),
    ]
    if not any(a.code in ("sft_first", "learnt") for a in advice):
        advice += [*_on_policy(figures, plan), *_anchor(figures, plan.loss), *_fewer_epochs(figures, plan)]
    unasked = "" if figures.likelihood else "; the model was not asked how likely the answers are"
    return advice or [Advice("train", f"no figure is beyond its threshold (n {figures.pairs:,}){unasked}")]


def commands(advice: Sequence[Advice], run: Sequence[str] = ()) -> list[Step]:
    """What to run to follow the advice, as far as is known now; of settings with one name the last counts.

    Args:
        run: settings that `train` needs besides, `Plan.run`.
    """
    steps: list[Step] = []
    for a in advice:
        steps += a.before
        if a.ends:
            return steps
    settings = {s.partition("=")[0]: s for a in advice for s in a.settings}
    return [*steps, Step("train", (*settings.values(), *run))]


def of_the_set(found: Mapping[str, int], rows: int, figures: Figures) -> dict[str, int]:
    """The warnings of length by code that describe the whole set, and are nothing to mend row by row.

    They are those of most rows, and those of any row where length tells the chosen answers apart. Other
    warnings of most rows have a cause where the rows were made, and are to be mended there.
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
            f"chosen answers have {likely.chosen:.2f} nats a token (n {likely.n:,}), above {BY_HEART}, and "
            f"rejected ones {-likely.off_policy:.2f} less: the model knows the chosen ones by heart",
            ends=True,
        )


def _off_policy(figures: Figures, threshold: float) -> str:
    likely = figures.likelihood
    less = f"{likely.off_policy:.2f} nats a token less likely than rejected ones"
    return f"chosen answers are {less} (n {likely.n:,}), above {threshold}"


def _on_policy(figures: Figures, plan: Plan) -> Iterator[Advice]:
    if why := _not_its_own(figures):
        source, pairs = sampling(plan)
        yield Advice("on_policy", why, pairs, (Step("gen-pairs", source),))


def sampling(plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Settings to sample rejected answers to the prompts of these files, and to train on those pairs."""
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
    """Why the rejected answers are not what the model to be trained says, or nothing."""
    likely = figures.likelihood
    if figures.own and figures.own.less_likely > NOT_OWN:
        own = figures.own
        return (
            f"rejected answers have {own.rejected:.2f} nats a token, the model's own answers to the same "
            f"prompts {own.sampled:.2f} (n {own.n:,}): a difference above {NOT_OWN}"
        )
    if likely and not figures.own and likely.rejected < FOREIGN:
        return (
            f"rejected answers have {likely.rejected:.2f} nats a token (n {likely.n:,}), below {FOREIGN}: "
            "the model would not say them"
        )
    return ""


def _anchor(figures: Figures, loss: LossConfig) -> Iterator[Advice]:
    """Advice on the loss, as far as the other settings of its section allow it."""
    lengths, likely, why = figures.lengths, figures.likelihood, []
    if likely and likely.off_policy > OFF_POLICY:
        why.append(_off_policy(figures, OFF_POLICY))
    if lengths and lengths.accuracy >= TOLD_BY_LENGTH and loss.ld_alpha is None and not loss.per_token:
        why.append(
            f'"the {lengths.rule} one is chosen" is right in {lengths.accuracy:.0%} of the pairs '
            f"(n {lengths.n:,}), from {TOLD_BY_LENGTH:.0%} on"
        )
    if _told_apart(figures):
        why.append(_by_style(figures))
    anchored = _named(loss, [*loss.names, SUPERVISED])
    if why and anchored and not loss.anchors_chosen:
        yield Advice("anchor", "; ".join(why), (_setting(anchored),))


def _named(loss: LossConfig, names: list[str]) -> LossConfig | None:
    """The section with other losses; None where its other settings do not go with them."""
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
    picks = f"style alone picks the chosen answer in {style.accuracy:.0%}"
    return f"{picks} (n {style.n:,}), from {TOLD_APART:.0%} on"


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
