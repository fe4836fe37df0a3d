"""Fuse a run's adapter into its base model, and compare the two on rows of the run."""

from pathlib import Path

from ..data.row_files import Source
from ..export.fuse import fuse_run
from ..export.precisions import MAX_KL_RATIO
from ..models.config_files import read_model_config
from ..models.load import find_model
from .comparison import comparison_rows, first_adapter
from .open_run import open_run


def fuse_folder(
    folder: Path | str,
    output: Path | str,
    model: str | None = None,
    *,
    precision: str | None = None,
    max_kl_ratio: float = MAX_KL_RATIO,
    original: str | None = None,
    data: Source | None = None,
) -> Path:
    """Write the fused model of a run, if it is like the run's adapter; see `export.fuse.fuse_run`.

    Args:
        model: where the base model is now; by default where it was when the run was made.
        precision: by default auto if the base is quantised, else plain.
        data: rows to compare on; by default the held-out rows of the run, else those it was trained on.

    Raises:
        DpoError: not a run folder, no rows to compare on, or as `fuse_run`.
    """
    config = open_run(folder, model)
    base = find_model(config.model.path)
    quantised = {"quantization", "quantization_config"} & read_model_config(base).keys()
    precision = precision or ("auto" if quantised else "plain")
    needed = precision != "plain" or bool(original)
    rows = comparison_rows(config, folder, base, "the fused model", data, needed=needed)
    return fuse_run(
        config.model.path,
        folder,
        output,
        config.model,
        precision=precision,
        rows=rows,
        max_kl_ratio=max_kl_ratio,
        original=original,
        start=first_adapter(config, folder) if rows else None,
    )
