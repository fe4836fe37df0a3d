"""What a run needs in each layout, and the fastest that fits, for settings left `auto`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..config import RunConfig
from ..data.tokenize import TokenizedPair, pair_sizes
from ..errors import DpoError
from ..forward.mlx_attention import BLOCKS, FUSED, attending
from ..forward.pair_logps import COMPLETION, PLAIN, SEPARATE, SHARED
from ..losses import build_loss
from ..models.load import ModelConfig, load_tokenizer
from ..models.unprompted_texts import OwnText, longest_text
from ..training.checkpoint_folder import adapter_bytes
from ..training.layout import Amounts, Layout, traced
from .model_without_weights import Skeleton
from .step_memory import LAYOUTS, Need, need, scoring_need


@dataclass(frozen=True)
class Plan:
    """What a run will need.

    `needs`: the layouts that the settings allow, from the fastest, as far as they were examined. `chosen`:
    the first that fits into `limit` bytes, or None; then `hint` names the nearest settings that fit.
    `disk`, `shapes`, `flops`: bytes that the run writes, number of batch shapes if the step may be traced
    (else 0), operations of one forward pass over all pairs; None if they were not computed.
    """

    limit: int
    needs: list[tuple[Layout, Need]]
    chosen: Layout | None
    hint: str = ""
    disk: int | None = None
    shapes: int | None = None
    flops: float | None = None

    @property
    def need(self) -> Need:
        """What the chosen layout needs; if none fits, the smallest need."""
        if self.chosen is None:
            return min((n for _, n in self.needs), key=lambda n: n.peak)
        return dict(self.needs)[self.chosen]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in self.need._asdict().items() if value)
        layout = f"; {self.chosen}" if self.chosen else ""
        return f"{self.need.peak / 1e9:.1f} GB of {self.limit / 1e9:.1f} GB: {parts}{layout}"

    def refusal(self) -> DpoError:
        """The error if nothing fits."""
        overruled = f"training.memory_limit={self.need.peak / 1e9 + 0.1:.1f}"
        hint = f"{self.hint}; to run it anyway, set {overruled}"
        return DpoError(f"does not fit: {self}", where="training", hint=hint)

    def as_json(self) -> dict[str, Any]:
        """The plan for a script; all sizes in bytes."""
        return {
            "limit": self.limit,
            "fits": self.chosen is not None,
            "chosen": self.chosen and _names(self.chosen),
            "hint": self.hint,
            "layouts": [
                {**_names(layout), "peak": n.peak, **n._asdict(), "fits": n.peak <= self.limit}
                for layout, n in self.needs
            ],
            "disk": self.disk,
            "shapes": self.shapes,
            "forward_flops": self.flops,
        }

    def text(self) -> str:
        """The plan for people."""
        names = ["peak", *Need._fields]
        lines = [f"{'GB':44}" + "".join(f"{name:>12}" for name in names)]
        for layout, n in self.needs:
            values = "".join(f"{value / 1e9:12.2f}" for value in (n.peak, *n))
            lines.append(f"{layout!s:44}{values}{'  <- auto' if layout == self.chosen else ''}")
        lines.append(f"{'limit':44}{self.limit / 1e9:12.2f}")
        lines.append("")
        lines.append(
            f"disk                      {self.disk / 1e9:.2f} GB: adapter, checkpoints, tokens, scores"
        )
        lines.append(f"shapes to trace           {self.shapes}")
        lines.append(f"a forward over all pairs  {self.flops / 1e12:,.1f} TFLOP")
        return "\n".join(lines)


def _names(layout: Layout) -> dict[str, bool]:
    return {"checkpointing": layout.checkpointing, "separate": layout.separate}


class Run(NamedTuple):
    """The run to plan: a model, its folder, the training pairs, perhaps held-out pairs, and the device.

    `amounts`: how much is trained. `attention`: BLOCKS, FUSED, or "auto" if the GPU that decides it is on
    another machine. `before`: the layout that an earlier start of the run chose, if there was one.
    """

    model: Skeleton
    base: Path
    pairs: Sequence[TokenizedPair]
    held: Sequence[TokenizedPair] | None
    device: mx.DeviceType
    amounts: Amounts
    attention: str
    before: Layout | None = None

    def all(self) -> list[Sequence[TokenizedPair]]:
        """Train and held-out pairs."""
        return [self.pairs, self.held] if self.held else [self.pairs]

    def shortened(self, length: int) -> "Run | None":
        """The longest pairs, cut as with `data.max_length=length`; None if a prompt leaves no room."""
        cut = [_shortened(some, length) for some in self.all()]
        return self._replace(pairs=cut[0], held=cut[1] if self.held else None) if all(cut) else None


def plan_memory(run: Run, config: RunConfig, limit: int, *, every: bool = False) -> Plan:
    """The fastest layout that the settings allow and that fits.

    Args:
        every: look at all layouts; else at the first that fits and those before it.
    """
    needs, chosen, scoring = [], None, need_of_scoring(run, config)
    for layout in allowed(config, run.before):
        needs.append((layout, max(need_of_step(run, config, layout), scoring, key=lambda n: n.peak)))
        if chosen is None and needs[-1][1].peak <= limit:
            chosen = layout
            if not every:
                break
    return Plan(limit, needs, chosen)


def allowed(config: RunConfig, before: Layout | None = None) -> list[Layout]:
    """The layouts that the settings allow, from the fastest.

    Args:
        before: what an earlier start chose for open settings; it is kept.
    """
    training = config.training
    checkpointing, separate = [False, True], [False, True]
    if training.gradient_checkpointing != "auto":
        checkpointing = [training.gradient_checkpointing == "on"]
    elif before:
        checkpointing = [before.checkpointing]
    elif config.adapter.dropout:
        checkpointing = [False]  # not possible with dropout
    if training.forward not in ("auto", "shared"):
        separate = [False]  # branches are separate only where their prompt is shared
    elif training.branches != "auto":
        separate = [training.branches == "separate"]
    elif before:
        separate = [before.separate]
    return [row for row in LAYOUTS if row.checkpointing in checkpointing and row.separate in separate]


def need_of_step(run: Run, config: RunConfig, layout: Layout) -> Need:
    training = config.training
    bucket = traced_layout(config, run, layout)[0].bucket
    return _with_any_attention(
        run,
        lambda: need(
            run.model,
            run.pairs,
            training.micro_batch,
            layout,
            training.forward,
            build_loss(config.loss),
            config.optimizer,
            kept=_kept(config, run.amounts),
            bucket=bucket,
            rehearsal=_longest_text(run.base, *_template(config)) if run.amounts.rehearsal else None,
            device=run.device,
        ),
    )


def _template(config: RunConfig) -> tuple[str | None, str]:
    return config.model.chat_template, json.dumps(config.model.template_options, default=str)


@cache
def _longest_text(base: Path, chat_template: str | None, options: str) -> OwnText:
    model = ModelConfig(str(base), chat_template=chat_template, template_options=json.loads(options))
    return longest_text(load_tokenizer(base, model))


def _with_any_attention(run: Run, look: Callable[[], Need]) -> Need:
    """What a run needs with its attention; the maximum if a GPU on another machine will decide it."""
    ways = [BLOCKS, FUSED] if run.attention == "auto" and run.device == mx.gpu else [run.attention]
    found = []
    for how in ways:
        with attending(how):
            found.append(look())
    return max(found, key=lambda need: need.peak)


def _kept(config: RunConfig, amounts: Amounts) -> int:
    """Copies of the trained parameters in memory, besides these and the gradient being computed."""
    training = config.training
    gradients = int(training.accumulation > 1 or bool(amounts.rehearsal))
    if config.passes == "deferred":
        gradients = training.window
    finds_rate = amounts.learning_rate is None  # the test keeps a copy to restore
    return gradients + bool(training.reference_sync_steps) + finds_rate


def need_of_scoring(run: Run, config: RunConfig) -> Need:
    training = config.training
    return _with_any_attention(
        run,
        lambda: scoring_need(
            run.model,
            run.pairs,
            run.held,
            training.forward,
            build_loss(config.loss),
            config.optimizer,
            run.device,
        ),
    )


def _shortened(pairs: Sequence[TokenizedPair], length: int) -> list[TokenizedPair] | None:
    """The longest pairs, cut as with `data.max_length=length`; None if a prompt leaves no room."""
    sizes = pair_sizes(pairs)
    if length < 64 or sizes[:, 0].max() > length - 2:
        return None
    rows = np.argsort(-sizes.sum(axis=1), kind="stable")[:64]
    cut = []
    for pair in (pairs[int(i)] for i in rows):
        room = length - len(pair.prompt)
        cut.append(replace(pair, chosen=pair.chosen[:room], rejected=pair.rejected[:room]))
    return cut


def disk_bytes(trained: int, keep: int, tokens: int, pairs: int) -> int:
    """Bytes that a run writes: adapter, checkpoints, tokens, and two scores for each pair.

    Args:
        trained, keep: as `adapter_bytes`.
    """
    return adapter_bytes(trained, keep) + 4 * tokens + 8 * pairs


def forward_flops(work: tuple[int, int], tokens: Sequence[int]) -> float:
    """Operations of one forward pass over all pairs: each product is a multiplication and an addition.

    Args:
        work: products for one token in the blocks, and in the head, which is computed for answers only.
        tokens: of all prompts, chosen and rejected answers.
    """
    blocks, head = work
    return 2.0 * (blocks * sum(tokens) + head * sum(tokens[1:]))


def traced_layout(config: RunConfig, run: Run, layout: Layout) -> tuple[Layout, int]:
    """The layout with its tracing decided for the device of the run, and the number of shapes."""
    unshared = {forward.name: forward for forward in (PLAIN, COMPLETION)}
    shared = SEPARATE if layout.separate else SHARED
    forward = unshared.get(config.training.forward, shared)
    return traced(layout, forward, config.training, run.amounts.epochs, run.pairs, run.device)
