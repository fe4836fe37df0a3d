"""The margins of every window as files, in the layout of SeanYHan888/dynamic-dpo-v1."""

import json
from pathlib import Path

import numpy as np

from ..files import entries, is_there, make_folder, unwritable, write_text
from ..jsonl import append_jsonl

MARGINS = "margins"
_SAMPLE = 32


def write_margins(folder: Path, epoch: int, step: int, margins: np.ndarray) -> None:
    """Keep one window's margins, float32 (n,), without beta, below `folder`/margins.

    epoch_000/step_00001.npy holds all of them, epoch_000/margins.jsonl one line a window about them.

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
    """Remove what was kept of windows after `step`.

    Raises:
        DpoError: the folder cannot be read.
    """
    for below in entries(folder / MARGINS):
        if not below.name.startswith("epoch_"):
            continue
        for path in entries(below):
            if path.match("step_*.npy") and int(path.stem.removeprefix("step_")) > step:
                path.unlink()
        index = below / "margins.jsonl"
        if is_there(index):
            lines = index.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            write_text(index, "".join(whole))


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
