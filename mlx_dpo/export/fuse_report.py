"""What is said and written of a fused model: the table of precisions, the refusal, likeness.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DpoError
from ..storage.reading import is_there, read_object
from .ladder import Measured
from .likeness import FLOOR, Likeness, Yardstick

FILE = "likeness.json"
"""In the folder of a fused model: how like the adapter it is."""
HEADER = f"{'precision':<10} {'bits':>5} {'size':>9} {'KL ratio':>9} {'top-1':>6} {'kept':>6} {'noise':>6}"
_LOST = 0.9
"""KL ratio from which on the fused model is no nearer to the adapter than the base is."""


def table_row(measured: Measured, most: float) -> str:
    """A line of the table."""
    rung, likeness = measured
    passes = "passes" if likeness.ratio <= most else f"above {most:g}"
    return (
        f"{rung.name:<10} {rung.bits:5.1f} {size(rung.bytes):>9} {figure(likeness.ratio):>9} "
        f"{percent(likeness.top_1):>6} {figure(rung.kept.fraction):>6} {figure(rung.kept.noise):>6}  {passes}"
    )


def explanation(likeness: Likeness, tried: int) -> str:
    """What the columns mean; and, if several models were tried, that the last one was chosen."""
    chosen = (
        f"\nthe first of {tried} models that passes on these tokens: on others the KL ratio may be higher"
    )
    return (
        f"bits: mean of all weights; KL ratio: {ratio_text(likeness)} "
        f"over {likeness.positions:,} answer tokens\n"
        "top-1: share of them with the same likeliest token as the adapter\n"
        "kept: part of the trained change that is in the weights; noise: what rounding added, compared to it"
        f"{chosen if tried > 1 else ''}"
    )


def ratio_text(likeness: Likeness) -> str:
    """What the KL ratio is; with both figures if the run began from an adapter."""
    if likeness.ratio_to_start is None:
        return "KL(adapter || fused) / KL(adapter || base)"
    return (
        f"the larger of KL(adapter || fused) / KL(adapter || base) = {figure(likeness.ratio_to_base)} and "
        f"/ KL(adapter || start) = {figure(likeness.ratio_to_start)}, the adapter that the run began from,"
    )


def faint(yardstick: Yardstick) -> str | None:
    """What to say of an adapter that does nothing, or nothing beyond its start; else None."""
    if yardstick.to_base < FLOOR:
        return (
            "WARNING: the adapter itself hardly changes the model: KL(adapter || base) is "
            f"{figure(yardstick.to_base)} nats a token; KL ratios are taken against {FLOOR:g}"
        )
    if yardstick.to_start is not None and yardstick.to_start < FLOOR:
        return (
            "WARNING: the run hardly changed the adapter that it began from: KL(adapter || start) is "
            f"{figure(yardstick.to_start)} nats a token; the fused model is compared with the base only"
        )
    return None


def refusal(measured: Sequence[Measured], most: float, adapter: Path | str, precision: str) -> DpoError:
    """What to raise if nothing passes: with the figures of the rung that is most like the adapter."""
    rung, likeness = min(measured, key=lambda each: each.likeness.ratio)
    place = {"plain": "in plain precision", "mixed": "with mixed bits"}.get(rung.name, f"at {rung.name} bits")
    other = "use the adapter without fusing" if precision in ("auto", "plain") else "use --precision auto"
    what, code = too_far(likeness, most, "the fused model")
    return DpoError(
        f"{place} {what}; top-1 {percent(likeness.top_1)}, kept {figure(rung.kept.fraction)}, "
        f"noise {figure(rung.kept.noise)}",
        where=adapter,
        hint=f"{other}, or allow it with --max-kl-ratio {figure(1.1 * likeness.ratio)}; nothing was written",
        code=code,
    )


def check_like(likeness: Likeness, most: float, where: Path | str, subject: str, remedy: str) -> str:
    """Check that an export is like the adapter; the figures in a few words.

    Args:
        subject: the export, for the message; `remedy`: what to do instead.

    Raises:
        DpoError: the KL ratio is above `most`.
    """
    if not likeness.ratio <= most:
        what, code = too_far(likeness, most, subject, "export")
        raise DpoError(
            f"{what}; top-1 {percent(likeness.top_1)}",
            where=where,
            hint=f"nothing was exported; {remedy}, or allow it with --max-kl-ratio "
            f"{figure(1.1 * likeness.ratio)}",
            code=code,
        )
    return (
        f"KL ratio {figure(likeness.ratio)}, top-1 {percent(likeness.top_1)} over {likeness.positions:,} "
        "answer tokens"
    )


def too_far(likeness: Likeness, most: float, subject: str, short: str = "fused") -> tuple[str, str]:
    """What is wrong with a model that is not like the adapter, with its figures; and the error's code."""
    base_lost = likeness.ratio_to_base >= _LOST and likeness.to_base >= FLOOR
    start_lost = (likeness.ratio_to_start or 0.0) >= _LOST
    told = [f"KL(adapter || {short}) {figure(likeness.to_fused)}"]
    told.append(f"KL(adapter || base) {figure(likeness.to_base)}")
    if likeness.to_start is not None:
        told.append(f"KL(adapter || start) {figure(likeness.to_start)}")
    if base_lost:
        what = f"the training is lost: {subject} is as far from the adapter as the base is"
    elif start_lost:
        what = (
            f"what this run has trained is lost: {subject} is as far from the adapter as the adapter that "
            "the run began from"
        )
    else:
        what = f"{subject} does not behave like the adapter"
    code = "equals-the-base" if base_lost else "equals-the-start" if start_lost else "not-like-the-adapter"
    return (
        f"{what}: KL ratio {figure(likeness.ratio)}, at most {most:g} is allowed "
        f"({', '.join(told)} nats a token)",
        code,
    )


def report(measured: Sequence[Measured], most: float) -> dict[str, Any]:
    """The content of likeness.json; the last rung is the one that is written."""
    rung, likeness = measured[-1]
    layers = {
        path: {"bits": bits, "kept": choice.fraction, "noise": choice.noise}
        for path, (bits, choice) in rung.layers.items()
    }
    return {
        "precision": rung.name,
        "max_kl_ratio": most,
        "positions": likeness.positions,
        **_figures(measured[-1]),
        "ladder": [{"precision": each.rung.name, **_figures(each)} for each in measured],
        "layers": layers,
    }


def _figures(measured: Measured) -> dict[str, Any]:
    rung, likeness = measured
    return {
        "bits": rung.bits,
        "bytes": rung.bytes,
        **likeness_figures(likeness),
        "kept": rung.kept.fraction,
        "noise": rung.kept.noise,
    }


def likeness_figures(likeness: Likeness) -> dict[str, float | None]:
    """As plain values; those of the start are None for a run that began from the base."""
    return {
        "kl_ratio": likeness.ratio,
        "kl_ratio_base": likeness.ratio_to_base,
        "kl_ratio_start": likeness.ratio_to_start,
        "kl_adapter_fused": likeness.to_fused,
        "kl_adapter_base": likeness.to_base,
        "kl_adapter_start": likeness.to_start,
        "top_1": likeness.top_1,
    }


def read_report(folder: Path) -> dict[str, Any] | None:
    """The content of a fused model's likeness.json; None if it was not compared."""
    return read_object(folder / FILE) if is_there(folder / FILE) else None


def summary(content: dict[str, Any] | None) -> str:
    """A report in a few words."""
    if not content:
        return "not with the adapter, because rows of the run cannot be read"
    return (
        f"{content['precision']}, {size(content['bytes'])}; KL ratio {figure(content['kl_ratio'])}, "
        f"top-1 {percent(content['top_1'])}"
    )


def figure(value: float | None) -> str:
    """A number with two digits, or three from 1 on; "-" for none."""
    if value is None:
        return "-"
    return f"{value:.2f}" if 0.1 <= value < 100 else f"{value:.2g}"


def percent(share: float) -> str:
    """A share with one decimal, and never rounded up to 100 %."""
    return f"{min(share, 1.0) * 100:.0f} %" if share == 1 else f"{int(share * 1000) / 10} %"


def size(count: int) -> str:
    """Bytes in MB, from 1 GB on in GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
