"""What a run will need, and which settings follow from it, before any weight is loaded."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..config import RunConfig
from ..console import say
from ..data.store import open_pairs
from ..data.tokenize import TokenizedPair, pair_lengths, pair_sizes
from ..errors import DpoError, first_line
from ..losses import build_loss
from ..models.forward import COMPLETION, PLAIN, SEPARATE, SHARED
from ..models.fused import BLOCKS, FUSED, attending
from ..models.load import find_model, load_tokenizer, read_model_config
from ..models.skeleton import Skeleton, skeleton
from ..training.arrange import Arrangement, arrange
from ..training.memory import LAYOUTS, Layout, Need, need, scoring_need
from .inputs import read_rows, say_if_slow, starting_adapter

_GIB = 2**30
_SHARES = (0.75, 0.5, 0.375, 0.25)
"""Of the longest row: lengths that are tried when nothing fits."""


@dataclass(frozen=True)
class Plan:
    """What a run will need.

    `needs`: the layouts that the settings allow, from the fastest, as far as they were looked at. `chosen`:
    the first that fits into `limit` bytes, or None; then `hint` names the nearest setting that does.
    `disk`, `shapes`, `flops`: bytes that the run writes, shapes of the batches where a step may be traced
    (else 0), operations of one forward pass over all pairs; None where they were not asked for.
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
        """What the chosen layout needs; if none fits, the least."""
        if self.chosen is None:
            return min((n for _, n in self.needs), key=lambda n: n.peak)
        return dict(self.needs)[self.chosen]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in self.need._asdict().items() if value)
        layout = f"; {self.chosen}" if self.chosen else ""
        return f"{self.need.peak / 1e9:.1f} GB of {self.limit / 1e9:.1f} GB: {parts}{layout}"

    def refusal(self) -> DpoError:
        """What to raise where nothing fits."""
        overruled = f"training.memory_limit={self.need.peak / 1e9 + 0.1:.1f}"
        hint = f"{self.hint}; if you know better, {overruled} lets it run"
        return DpoError(f"does not fit: {self}", where="training", hint=hint)

    def as_json(self) -> dict[str, Any]:
        """For a script: bytes throughout."""
        return {
            "limit": self.limit,
            "fits": self.chosen is not None,
            "chosen": self.chosen and self.chosen._asdict(),
            "hint": self.hint,
            "layouts": [
                {**layout._asdict(), "peak": n.peak, **n._asdict(), "fits": n.peak <= self.limit}
                for layout, n in self.needs
            ],
            "disk": self.disk,
            "shapes": self.shapes,
            "forward_flops": self.flops,
        }

    def text(self) -> str:
        """For a person."""
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


class Run(NamedTuple):
    """What is planned: a model, its folder, the pairs it trains on and perhaps held-out ones, and where."""

    model: Skeleton
    base: Path
    pairs: Sequence[TokenizedPair]
    held: Sequence[TokenizedPair] | None
    device: mx.DeviceType

    def all(self) -> list[Sequence[TokenizedPair]]:
        """Train and held-out pairs."""
        return [self.pairs, self.held] if self.held else [self.pairs]

    def shortened(self, length: int) -> "Run | None":
        """The longest pairs, cut as `data.max_length` would; None where a prompt leaves no room."""
        cut = [_shortened(some, length) for some in self.all()]
        return self._replace(pairs=cut[0], held=cut[1] if self.held else None) if all(cut) else None


class _Untraceable(Exception):
    """A model's own code does not run on arrays without values; in its words."""


@contextmanager
def _model_code() -> Iterator[None]:
    """Whatever a model's own code raises, a plan is a service and must not stop a run: `_Untraceable`."""
    try:
        yield
    except DpoError:
        raise
    except Exception as error:
        raise _Untraceable(first_line(error)) from None


def plan_run(config: RunConfig, memory: float | None = None) -> Plan:
    """Plan a run as configured; no weight is loaded.

    Args:
        memory: plan for a Mac with so many GiB; by default for this machine.

    Raises:
        DpoError: settings or training pairs that a run would refuse too, or a model that cannot be planned.
    """
    rows, held_rows = read_rows(config)
    if config.model.adapter:
        config = replace(config, adapter=starting_adapter(config))
    base = find_model(config.model.path, weights=False)
    tokenizer = load_tokenizer(base)
    pairs = open_pairs(rows, tokenizer, config.data.max_length)
    held = open_pairs(held_rows, tokenizer, config.data.max_length) if held_rows else None
    device = mx.gpu if memory else mx.default_device().type
    try:
        with _model_code():
            run = Run(skeleton(base, config.adapter), base, pairs, held, device)
            limit = run_limit(config, memory)
            if memory is None:
                say_if_slow(run.model.model, config.model.path)
            plan = plan_memory(run, config, limit, every=True)
            if plan.chosen is None:
                plan = replace(plan, hint=nearest(plan, run, config))
    except DpoError as error:
        if not config.model.adapter:
            raise
        what, hint = f"this adapter does not fit: {error.what}", "use the model the adapter was trained on"
        raise DpoError(what, where=config.model.adapter, hint=hint) from None
    except _Untraceable as error:
        raise DpoError(
            f"this model cannot be planned: {error}",
            where=base,
            hint="train runs without one; training.gradient_checkpointing=on needs the least memory",
        ) from None
    sizes = sum(pair_sizes(some).astype(np.int64).sum(axis=0) for some in run.all())
    blocks, head = run.model.work
    return replace(
        plan,
        disk=(1 + 3 * (config.training.keep_checkpoints + 2)) * run.model.trained
        + 4 * int(sizes.sum())
        + 8 * sum(map(len, run.all())),
        shapes=_arrangement(config, pairs, plan.chosen or LAYOUTS[-1], device).shapes,
        flops=2.0 * (blocks * int(sizes.sum()) + head * int(sizes[1:].sum())),
    )


def plan_memory(run: Run, config: RunConfig, limit: int, *, every: bool = False) -> Plan:
    """The fastest layout that the settings allow and that fits.

    Args:
        every: look at all layouts; else at the first that fits and those before it.
    """
    needs, chosen, scoring = [], None, _scoring_need(run, config)
    for layout in allowed(config):
        needs.append((layout, max(_step_need(run, config, layout), scoring, key=lambda n: n.peak)))
        if chosen is None and needs[-1][1].peak <= limit:
            chosen = layout
            if not every:
                break
    return Plan(limit, needs, chosen)


def allowed(config: RunConfig) -> list[Layout]:
    """The layouts that the settings leave open, from the fastest."""
    training = config.training
    checkpointing = training.gradient_checkpointing
    branches = training.branches if training.forward in ("auto", "shared") else "joint"
    # Dropout excludes checkpointing; branches are separate only where their prompt is shared.
    return [
        layout
        for layout in LAYOUTS
        if checkpointing == ("on" if layout.checkpointing else "off")
        or (checkpointing == "auto" and not (layout.checkpointing and config.adapter.dropout))
        if branches in ("auto", "separate" if layout.separate else "joint")
    ]


def settled(
    config: RunConfig,
    base: Path,
    pairs: Sequence[TokenizedPair],
    held: Sequence[TokenizedPair] | None,
    forward: str | None = None,
) -> RunConfig:
    """The settings with `auto` replaced by what fits this machine; says what it will need.

    A model that cannot be planned is left to the rule of thumb.

    Args:
        forward: the only one that is exact on this model, where that is known.

    Raises:
        DpoError: nothing fits; with the nearest setting that does.
    """
    limit = run_limit(config)
    known = replace(config, training=replace(config.training, forward=forward or config.training.forward))
    try:
        with _model_code():
            try:
                model = skeleton(base, config.adapter)
            except DpoError:  # an adapter that does not go with the model: loading it says so
                return config
            run = Run(model, base, pairs, held, mx.default_device().type)
            plan = plan_memory(run, known, limit)
            if plan.chosen is None:
                plan = replace(plan, hint=nearest(plan, run, known))
    except _Untraceable as error:
        unheld = "; training.memory_limit is not held" if config.training.memory_limit else ""
        say(f"plan: none, this model cannot be planned: {error}{unheld}")
        return config
    if plan.chosen is None:
        raise plan.refusal()
    say(f"plan: {plan}")
    return replace(config, training=replace(config.training, **_settings(plan.chosen)))


def _settings(layout: Layout) -> dict[str, str]:
    return {
        "gradient_checkpointing": "on" if layout.checkpointing else "off",
        "branches": "separate" if layout.separate else "joint",
    }


def nearest(plan: Plan, run: Run, config: RunConfig) -> str:
    """The smallest change of settings under which the run fits, in words."""
    free = replace(config, training=replace(config.training, gradient_checkpointing="auto", branches="auto"))
    tried = [(run, free, "")]
    if config.adapter.dropout:
        without = replace(free, adapter=replace(config.adapter, dropout=0.0))
        model = skeleton(run.base, without.adapter)
        tried.append((run._replace(model=model), without, "adapter.dropout=0, "))
    for changed_run, changed, also in tried:
        if other := plan_memory(changed_run, changed, plan.limit).chosen:
            words = " and ".join(f"training.{name}={value}" for name, value in _settings(other).items())
            return f"set {also}{words}"
    layout = min(plan.needs, key=lambda row: row[1].peak)[0]
    layout = Layout(layout.checkpointing or not config.adapter.dropout, layout.separate)

    def peak(run, config):
        step = _step_need(run, config, layout).peak
        return max(step, _scoring_need(run, config).peak) if step <= plan.limit else step

    variants = [(config, "")]
    if single := _one_pair_at_a_time(config):
        window = config.training.window
        if peak(run, single) <= plan.limit:
            return f"set training.micro_batch=1 and training.accumulation={window}, with {layout}"
        variants.append((single, f"training.micro_batch=1, training.accumulation={window} and "))
    longest = int(max(pair_lengths(some).max() for some in run.all()))
    for changed, also in variants:
        for share in _SHARES:
            length = int(longest * share) // 32 * 32
            short = run.shortened(length)
            if short and peak(short, changed) <= plan.limit:
                return f"set {also}data.max_length={length}, with {layout}"
    settings = read_model_config(run.base)
    if not settings.get("quantization") and config.adapter.type != "full":
        quantised = {**settings, "quantization": {"group_size": 64, "bits": 4}}
        smaller = run._replace(model=skeleton(quantised, config.adapter))
        for changed, also in variants:
            if (size := peak(smaller, changed)) <= plan.limit:
                command = f"python -m mlx_lm convert -q --hf-path {config.model.path}"
                need = f"{size / 1e9:.1f} GB with {layout}"
                return f"set {also}model.path to a 4-bit copy of the model: {need}; make one with: {command}"
    return "choose a smaller model"


def _one_pair_at_a_time(config: RunConfig) -> RunConfig | None:
    """The same window in micro-batches of one pair; None if it has them or other settings forbid it."""
    training = config.training
    try:
        single = replace(config, training=replace(training, micro_batch=1, accumulation=training.window))
    except DpoError:
        return None
    return single if training.micro_batch > 1 else None


def less_memory(
    config: RunConfig,
    base: Path,
    pairs: Sequence[TokenizedPair],
    held: Sequence[TokenizedPair] | None,
) -> str:
    """The nearest setting that needs a fifth less than the run was planned to need, in words."""
    try:
        with _model_code():
            run = Run(skeleton(base, config.adapter), base, pairs, held, mx.default_device().type)
            limit = int(0.8 * plan_memory(run, config, run_limit(config)).need.peak)
            what = nearest(plan_memory(run, config, limit, every=True), run, config)
    except (DpoError, _Untraceable):
        what = "set training.gradient_checkpointing=on and training.micro_batch=1, or shorten data.max_length"
    going_on = "; --accept-changes then goes on from the last checkpoint"
    return what + (going_on if what.startswith(("set training.", "set data.", "set adapter.")) else "")


def run_limit(config: RunConfig, memory: float | None = None) -> int:
    """Bytes that a run may use: as set, else what a Mac with `memory` GiB, or this machine, lets it."""
    limit = config.training.memory_limit
    return int(limit * 1e9) if limit else memory_limit(memory)


def memory_limit(memory: float | None = None) -> int:
    """Bytes a run may use: of a Mac with `memory` GiB, or of this machine.

    macOS lets the GPU use two thirds of 36 GiB or less, and three quarters of more.
    """
    if memory:
        return int(memory * _GIB * (2 / 3 if memory <= 36 else 0.75))
    if mx.default_device().type == mx.gpu:
        facts: dict[str, Any] = mx.device_info()
        for name in ("max_recommended_working_set_size", "total_memory", "memory_size"):
            if facts.get(name):
                return int(facts[name])
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_group_limits()])


def _group_limits() -> list[int]:
    """What a container or a batch system lets this process use (Linux)."""
    found = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    return found


def _step_need(run: Run, config: RunConfig, layout: Layout) -> Need:
    training = config.training
    bucket = _arrangement(config, run.pairs, layout, run.device).bucket
    return _with_any_attention(
        run,
        config,
        lambda: need(
            run.model,
            run.pairs,
            training.micro_batch,
            layout,
            training.forward,
            build_loss(config.loss),
            config.optimizer,
            kept=_kept(config),
            bucket=bucket,
            device=run.device,
        ),
    )


def _with_any_attention(run: Run, config: RunConfig, look: Callable[[], Need]) -> Need:
    """What a run needs with its attention; the most, where a GPU that is not here has yet to settle it."""
    setting = config.training.attention
    ways = [BLOCKS, FUSED] if setting == "auto" and run.device == mx.gpu else [setting]
    found = []
    for how in ways:
        with attending(how):
            found.append(look())
    return max(found, key=lambda need: need.peak)


def _kept(config: RunConfig) -> int:
    """Copies of what is trained that are held beside it and the gradient being computed."""
    training = config.training
    gradients = training.window if config.passes == "deferred" else int(training.accumulation > 1)
    return gradients + bool(training.reference_sync_steps)


def _scoring_need(run: Run, config: RunConfig) -> Need:
    training = config.training
    return _with_any_attention(
        run,
        config,
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
    """The longest pairs, cut as `data.max_length` would; None where a prompt leaves no room."""
    sizes = pair_sizes(pairs)
    if length < 64 or sizes[:, 0].max() > length - 2:
        return None
    rows = np.argsort(-sizes.sum(axis=1), kind="stable")[:64]
    cut = []
    for pair in (pairs[int(i)] for i in rows):
        room = length - len(pair.prompt)
        cut.append(replace(pair, chosen=pair.chosen[:room], rejected=pair.rejected[:room]))
    return cut


def _arrangement(
    config: RunConfig, pairs: Sequence[TokenizedPair], layout: Layout, device: mx.DeviceType
) -> Arrangement:
    """How the run would lay its batches out."""
    unshared = {forward.name: forward for forward in (PLAIN, COMPLETION)}
    shared = SEPARATE if layout.separate else SHARED
    return arrange(unshared.get(config.training.forward, shared), config.training, pairs, device)
