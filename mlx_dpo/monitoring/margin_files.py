"""The margins of every window as files, in the layout of SeanYHan888/dynamic-dpo-v1."""

from pathlib import Path

import numpy as np

from ..errors import DpoError
from ..storage.files import make_folder, unwritable, write_text
from ..storage.jsonl import append_jsonl, parse_line, read_lines
from ..storage.reading import files_in, is_there

MARGINS = "margins"
_SAMPLE = 32


def write_margins(folder: Path, epoch: int, step: int, margins: np.ndarray) -> None:
    """Keep one window's margins, float32 (n,), without beta, below `folder`/margins.

    epoch_000/step_00001.npy contains all of them, epoch_000/margins.jsonl a summary line per window.

    Raises:
        DpoError: the folder cannot be written.
    """
    below = folder / MARGINS / f"epoch_{epoch:03d}"
    make_folder(below)
    path = below / f"step_{step:05d}.npy"
    row = margin_summary(margins) | {"epoch": epoch, "step": step, "npy": path.name}
    try:
        np.save(path, margins)
    except OSError as error:
        raise unwritable(path, error) from None
    append_jsonl(below / "margins.jsonl", [row])


def rewind_margins(folder: Path, step: int) -> None:
    """Remove the files and lines of windows after `step`."""
    for below in files_in(folder / MARGINS, "epoch_*") if is_there(folder / MARGINS) else []:
        for path in files_in(below, "step_*.npy"):
            number = path.stem.removeprefix("step_")
            if number.isdecimal() and int(number) > step:
                path.unlink()
        index = below / "margins.jsonl"
        if is_there(index):
            write_text(index, "".join(_lines_until(index, step)))


def _lines_until(index: Path, step: int) -> list[str]:
    """Whole lines of windows up to `step`."""
    kept = []
    for number, _, line in read_lines(index):
        if line.endswith(b"\n"):
            where = f"{index}:{number}"
            row = parse_line(line, where)
            if not isinstance(row.get("step"), int):
                raise DpoError(
                    "has no step", where=where, hint="mlx-dpo train does not write such a line; remove it"
                )
            kept += [line.decode()] if row["step"] <= step else []
    return kept


def margin_summary(margins: np.ndarray) -> dict[str, float | list[float]]:
    """Number, moments (population) and quantiles of margins (n,), in float64, and the first few of them."""
    values = margins.astype(np.float64)
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {
        "batch_size": len(values),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "p10": float(low),
        "median": float(middle),
        "p90": float(high),
        "max": float(values.max()),
        "pos_frac": float((values > 0).mean()),
        "sample": values[:_SAMPLE].tolist(),
    }
