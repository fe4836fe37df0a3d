"""For a run that does not fit: the nearest settings with which it does."""

from dataclasses import replace
from pathlib import Path

from ..config import RunConfig
from ..data.tokenize import pair_lengths
from ..errors import DpoError
from ..models.config_files import read_model_config
from ..printed_commands import assignment, beside, command_line
from ..training.layout import Layout
from .layout_choice import Plan, Run, need_of_scoring, need_of_step, plan_memory
from .model_without_weights import skeleton

_SHARES = (0.75, 0.5, 0.375, 0.25)
"""Shares of the longest row's length that are tried when nothing fits."""


def nearest(plan: Plan, run: Run, config: RunConfig) -> str:
    """The smallest change of settings with which the run fits, in words.

    Args:
        plan: of all layouts that the settings allow.
    """
    free = replace(config, training=replace(config.training, gradient_checkpointing="auto", branches="auto"))
    if free != config or run.before:  # else the plan has looked at every layout
        run = run._replace(before=None)
        other = plan_memory(run, free, plan.limit).chosen
    else:
        other = next((layout for layout, need in plan.needs if need.peak <= plan.limit), None)
    if other:
        return f"set {_as_settings(other)}"
    if config.adapter.dropout:
        without = replace(free, adapter=replace(config.adapter, dropout=0.0))
        changed = run._replace(model=skeleton(run.base, without.adapter))
        if other := plan_memory(changed, without, plan.limit).chosen:
            return f"set adapter.dropout=0, {_as_settings(other)}"
    layout = min(plan.needs, key=lambda row: row[1].peak)[0]
    layout = Layout(layout.checkpointing or not config.adapter.dropout, layout.separate)

    def peak(run, config):
        step = need_of_step(run, config, layout).peak
        return max(step, need_of_scoring(run, config).peak) if step <= plan.limit else step

    variants = [(run, config, "")]
    if single := _one_pair_at_a_time(config):
        window = config.training.window
        if peak(run, single) <= plan.limit:
            return f"set training.micro_batch=1 and training.accumulation={window}, with {layout}"
        variants.append((run, single, f"training.micro_batch=1, training.accumulation={window} and "))
    if run.amounts.rehearsal:
        without = run._replace(amounts=run.amounts._replace(rehearsal=0.0))
        if peak(without, config) <= plan.limit:
            return f"set training.rehearsal=0, with {layout}"
        variants.append((without, config, "training.rehearsal=0, "))
    longest = int(max(pair_lengths(some).max() for some in run.all()))
    for changed_run, changed, also in variants:
        for share in _SHARES:
            length = int(longest * share) // 32 * 32
            short = changed_run.shortened(length)
            if short and peak(short, changed) <= plan.limit:
                return f"set {also}data.max_length={length}, with {layout}"
    settings = read_model_config(run.base)
    if not settings.get("quantization") and config.adapter.type != "full":
        quantised = {**settings, "quantization": {"group_size": 64, "bits": 4}}
        model = skeleton(quantised, config.adapter)
        for changed_run, changed, also in variants:
            if (size := peak(changed_run._replace(model=model), changed)) <= plan.limit:
                copy = beside(Path(config.model.path).name, "4bit")
                words = ["python", "-m", "mlx_lm", "convert", "-q", "--hf-path", config.model.path]
                command = command_line([*words, "--mlx-path", copy])
                need = f"{size / 1e9:.1f} GB with {layout}"
                return (
                    f"set {also}{assignment('model.path', f'./{copy}')}, a 4-bit copy of the model: {need}; "
                    f"make it with: {command}"
                )
    return "choose a smaller model"


def _as_settings(layout: Layout) -> str:
    checkpointing = "on" if layout.checkpointing else "off"
    branches = "separate" if layout.separate else "joint"
    return f"training.gradient_checkpointing={checkpointing} and training.branches={branches}"


def _one_pair_at_a_time(config: RunConfig) -> RunConfig | None:
    """The same window in micro-batches of one pair; None if it already is or other settings forbid it."""
    training = config.training
    try:
        single = replace(config, training=replace(training, micro_batch=1, accumulation=training.window))
    except DpoError:
        return None
    return single if training.micro_batch > 1 else None
