"""What a run will need, and which settings follow from that, before any weight is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..config import RunConfig
from ..console import say
from ..data.pair_store import PairStore, open_pairs
from ..data.tokenize import pair_sizes
from ..errors import DpoError, first_line
from ..machine.resources import memory_limit
from ..models.load import find_model, load_tokenizer
from ..models.peft_adapter import check_adapter
from ..planning.layout_choice import Plan, Run, disk_bytes, forward_flops, plan_memory, traced_layout
from ..planning.model_without_weights import Skeleton, skeleton
from ..planning.settings_that_fit import nearest
from ..planning.step_memory import LAYOUTS
from ..training.layout import Amounts, Layout
from ..upstream import UpstreamError
from .output_folder import output_folder
from .run_inputs import amounts_of, check_rule, read_rows, say_if_slow, starting_adapter


class Start(NamedTuple):
    """What a run starts from: the base model's folder, the training pairs and perhaps held-out pairs."""

    base: Path
    pairs: PairStore
    held: PairStore | None
    amounts: Amounts

    def run(self, model: Skeleton, attention: str, before: Layout | None = None) -> Run:
        """What is planned, on this machine."""
        device = mx.default_device().type
        return Run(model, self.base, self.pairs, self.held, device, self.amounts, attention, before)


class _Untraceable(Exception):
    """A model's own code does not run on arrays without values; with its error message."""


@contextmanager
def _model_code() -> Iterator[None]:
    """Turn any error of a model's own code into `_Untraceable`: a failed plan must not stop a run."""
    try:
        yield
    except UpstreamError as error:
        raise _Untraceable(error.what) from None
    except DpoError:
        raise
    except Exception as error:
        raise _Untraceable(first_line(error)) from None


def plan_run(config: RunConfig, memory: float | None = None) -> Plan:
    """Plan a run as configured; no weight is loaded.

    Args:
        memory: plan for a Mac with this many GiB; by default for this machine.

    Raises:
        DpoError: a run would refuse these settings or pairs too, or the model cannot be planned.
    """
    output_folder(config)
    rows, held_rows = read_rows(config)
    if config.model.adapter:
        check_adapter(config.model.adapter)
    base = find_model(config.model.path, weights=False)
    if config.model.adapter:
        config = replace(config, adapter=starting_adapter(config, base))
    tokenizer = load_tokenizer(base, config.model)
    pairs = open_pairs(rows, tokenizer, config.data.max_length)
    held = open_pairs(held_rows, tokenizer, config.data.max_length) if held_rows else None
    amounts = amounts_of(config, len(pairs))
    check_rule(config, config.training.updates(len(pairs), amounts.epochs))
    device = mx.gpu if memory else mx.default_device().type
    try:
        with _model_code():
            model = skeleton(base, config.adapter)
            run = Run(model, base, pairs, held, device, amounts, config.training.attention)
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
        raise error.instead(what=what, where=config.model.adapter, hint=hint) from None
    except _Untraceable as error:
        raise DpoError(
            f"the memory need of this model cannot be planned: {error}",
            where=base,
            hint="train works without a plan; training.gradient_checkpointing=on needs the least memory",
        ) from None
    tokens = sum(pair_sizes(some).astype(np.int64).sum(axis=0) for some in run.all()).tolist()
    return replace(
        plan,
        disk=disk_bytes(
            run.model.trained, config.training.keep_checkpoints, sum(tokens), sum(map(len, run.all()))
        ),
        shapes=traced_layout(config, run, plan.chosen or LAYOUTS[-1])[1],
        flops=forward_flops(run.model.work, tokens),
    )


def planned_layout(
    config: RunConfig, start: Start, attention: str, before: Layout | None, forward: str | None = None
) -> tuple[Layout | None, int | None]:
    """The fastest layout that fits this machine, and the bytes planned; prints both.

    Both are None if the model cannot be planned; a rule of thumb then chooses the layout.

    Args:
        attention: BLOCKS or FUSED.
        before: the layout that an earlier start of the run chose, if there was one.
        forward: the only exact forward on this model, if that is known.

    Raises:
        DpoError: nothing fits; the hint names the nearest setting that does.
    """
    known = replace(config, training=replace(config.training, forward=forward or config.training.forward))
    try:
        with _model_code():
            try:
                model = skeleton(start.base, config.adapter)
            except DpoError:  # the adapter does not fit the model: loading it says so
                return None, None
            run = start.run(model, attention, before)
            plan = plan_memory(run, known, run_limit(config))
            if plan.chosen is None:
                plan = replace(plan, hint=nearest(plan, run, known))
    except _Untraceable as error:
        unchecked = "; training.memory_limit is not checked" if config.training.memory_limit else ""
        say(f"plan: none, because this model cannot be planned: {error}{unchecked}")
        return None, None
    if plan.chosen is None:
        raise plan.refusal()
    say(f"plan: {plan}")
    return plan.chosen._replace(attention=attention), plan.need.peak


def less_memory(config: RunConfig, start: Start, attention: str) -> str:
    """The nearest setting that needs at least a fifth less memory than planned, in words."""
    try:
        with _model_code():
            run = start.run(skeleton(start.base, config.adapter), attention)
            plan = plan_memory(run, config, run_limit(config), every=True)
            what = nearest(replace(plan, limit=int(0.8 * plan.need.peak)), run, config)
    except (DpoError, _Untraceable):
        what = "set training.gradient_checkpointing=on and training.micro_batch=1, or shorten data.max_length"
    going_on = "; then continue from the last checkpoint with --accept-changes"
    return what + (going_on if what.startswith(("set training.", "set data.", "set adapter.")) else "")


def run_limit(config: RunConfig, memory: float | None = None) -> int:
    """Bytes that a run may use: as set, or else what a Mac with `memory` GiB, or this machine, allows."""
    limit = config.training.memory_limit
    return int(limit * 1e9) if limit else memory_limit(memory)
