"""The model card of a run's result: metadata for the Hub, and what the files of the run's folder say."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..console import plural, printable
from ..errors import cut_short
from ..metrics import wilson_interval
from ..settings import to_yaml
from .file_lists import KINDS, Kind
from .fuse_report import figure, percent
from .how_to_run import Recipe

KIND_KEY = "mlx_dpo_kind"
"""Metadata by which a later upload recognises a repository as its own."""
ADAPTER_KEY = "mlx_dpo_adapter"
"""Metadata: SHA-256 of the adapter whose figures the card shows."""
_TEMPLATE = "model_card.md.j2"
_LONGEST_TEXT = 1200
"""Most characters of a sampled prompt or answer."""


class Sources(NamedTuple):
    """Data of a run: names of files or of data sets on the Hub, and the number of rows if it is known."""

    names: Sequence[str]
    rows: int | None

    def text(self, noun: str) -> str:
        """In words: "480 pairs: `train.jsonl`"."""
        count = f"{plural(self.rows, noun)}: " if self.rows is not None else ""
        return count + ", ".join(code(name) for name in self.names)


class Sample(NamedTuple):
    """An answer to a held-out prompt before training, and by the adapter that the run kept."""

    prompt: str
    before: str
    after: str


class Share(NamedTuple):
    """A share of held-out pairs with its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float


class HeldOut(NamedTuple):
    """Figures on held-out pairs after update `step`. `loss_before`: the loss before the first update.

    `accuracy`, `margin`: None for supervised fine-tuning. `preferred`: by model, the share of pairs whose
    chosen answer it finds likelier than the rejected one; empty if the run was not evaluated after training.
    """

    step: int
    pairs: int
    loss: float
    loss_before: float | None
    accuracy: float | None
    margin: float | None
    preferred: Mapping[str, Share]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % (Wilson) of the accuracy."""
        return wilson_interval(round((self.accuracy or 0) * self.pairs), self.pairs)


@dataclass(frozen=True)
class RunFacts:
    """What the files of a run's folder say. No value is a path of a machine.

    `objective`: loss and beta in words. `noun`: what a row of its data is. `method`: tag of the way of
    training. `adapter`: type of what was trained: lora, dora or full.
    `settings`: nested plain values. `datasets`, `held_datasets`: data sets on the Hub. `start`: name of the
    adapter that the run started from. `losses`: of the first and the last report of training. `epoch`: passes
    made, of `epochs` if it is known. `alarms`: names of alarms that were raised. `sample_tokens`: most
    tokens of a sampled answer.
    """

    objective: str
    noun: str
    method: str
    adapter: str
    settings: Mapping[str, Any]
    trained: Sources
    held: Sources | None
    datasets: Sequence[str]
    held_datasets: Sequence[str]
    start: str | None
    updates: int
    epoch: float
    epochs: int | None
    losses: tuple[float, float]
    held_out: HeldOut | None
    alarms: Sequence[str]
    samples: Sequence[Sample]
    sample_tokens: int


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card says. `kind`: one of KINDS. `licence`: license, license_name, license_link.

    `adapter`: SHA-256 of the run's adapter. `base`: name of the base model on the Hub. `likeness`: content of
    a fused model's likeness.json. `checks`: as in `MadeFrom`.
    """

    repo: str
    kind: str
    adapter: str
    base: str
    licence: Mapping[str, Any]
    run: RunFacts
    likeness: Mapping[str, Any] | None
    checks: Mapping[str, str]
    recipes: Sequence[Recipe]

    @property
    def name(self) -> str:
        """Of the repository, without its owner."""
        return self.repo.partition("/")[2]

    @property
    def about(self) -> Kind:
        """The kind of folder."""
        return KINDS[self.kind]


def model_card(facts: CardFacts) -> str:
    """The card as Markdown. Equal facts give equal text."""
    from huggingface_hub import ModelCard
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "block": block, "figure": figure, "percent": percent}
    text = environment.get_template(_TEMPLATE).render(
        facts=facts, run=facts.run, settings=to_yaml(dict(facts.run.settings)), limits=limits(facts)
    )
    return str(ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{text}"))


def metadata(facts: CardFacts) -> Any:
    """The metadata of the card, a ModelCardData."""
    from huggingface_hub import EvalResult, ModelCardData

    results, run = [], facts.run
    held_out = run.held_out
    if held_out and held_out.accuracy is not None:
        source = ", ".join(run.held.names) if run.held else ""
        results.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=(*run.held_datasets, "preference-pairs")[0],
                dataset_name=f"{plural(held_out.pairs, 'held-out pair')} ({source})",
                metric_type="accuracy",
                metric_name="preference accuracy",
                metric_value=round(held_out.accuracy, 3),
                verified=False,
            )
        )
    is_adapter = facts.about.relation == "adapter" and run.adapter != "full"
    return ModelCardData(
        **facts.licence,
        base_model=facts.base,
        base_model_relation=facts.about.relation,
        library_name=facts.about.library,
        pipeline_tag="text-generation",
        tags=[facts.about.tag, run.method, *([run.adapter] if is_adapter else [])],
        datasets=list(run.datasets) or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
        **{KIND_KEY: facts.kind, ADAPTER_KEY: facts.adapter},
    )


def limits(facts: CardFacts) -> list[str]:
    """What the figures do not show, and what went wrong, in sentences."""
    run, found = facts.run, []
    if facts.kind == "fused" and not facts.likeness:
        found.append("The fused model was not compared with the adapter.")
    if facts.about.program and "proof" not in facts.checks:
        found.append(f"This export was not compared with {facts.about.program}.")
    if run.held_out is None:
        found.append("No data were held out, so nothing is known about prompts that were not trained on.")
    elif run.held_out.accuracy is not None:
        sources = plural(len(run.held.names), "source") if run.held else "the training data"
        found.append(
            f"The preference accuracy was measured on {plural(run.held_out.pairs, 'pair')} of {sources}. "
            "It compares log-probabilities of given answers, and does not say that the model's own answers "
            "have changed or are better."
        )
    else:
        found.append("The held-out loss does not say that the model's own answers are good.")
    if run.epochs and run.epoch < run.epochs:
        found.append(f"Training ended in epoch {run.epoch:.4g} of {run.epochs}.")
    if run.alarms:
        found.append(f"Alarms were raised during training: {', '.join(run.alarms)}.")
    found.append(
        "Nothing else was measured: neither other tasks and languages, nor safety, nor whether the model "
        "repeats its training data. The limits of the base model remain."
    )
    return found


def code(text: str) -> str:
    """Text as inline code that a cell of a table can hold."""
    text = " ".join(printable(text).split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def block(text: str, language: str = "text") -> str:
    """Text as a fenced block, whatever fences are in it."""
    text = cut_short(printable(text), _LONGEST_TEXT)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
