"""Fuse a run's adapter into its base model, and compare the two on rows of the run."""

from collections.abc import Sequence
from pathlib import Path

from ..config import RunConfig
from ..console import say
from ..data.row_files import Source
from ..data.row_index import index_rows
from ..data.tokenize import TokenizedPair
from ..errors import DpoError
from ..export.fuse import fuse_run
from ..export.likeness import few_rows
from ..export.precisions import MAX_KL_RATIO
from ..models.config_files import read_model_config
from ..models.load import find_model, load_tokenizer
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
    return fuse_run(
        config.model.path,
        folder,
        output,
        config.model,
        precision=precision,
        rows=_rows(config, folder, base, data, needed=precision != "plain" or bool(original)),
        max_kl_ratio=max_kl_ratio,
        original=original,
    )


def _rows(
    config: RunConfig, folder: Path | str, base: Path, data: Source | None, *, needed: bool
) -> Sequence[TokenizedPair]:
    """Rows to compare on; none, with a warning, if the run's files are gone and they are not needed."""
    try:
        index = index_rows(data or config.data.valid or config.data.train, answers=config.loss.answers_only)
    except DpoError as error:
        if data:
            raise
        if needed:
            hint = "name a file of pairs to compare the fused model with the adapter: --data FILE"
            raise error.instead(hint=hint) from None
        say(
            f"WARNING: the fused model is not compared with the adapter, because rows of {folder} cannot be "
            f"read ({error.where}: {error.what}); --data FILE names others"
        )
        return []
    return few_rows(index, load_tokenizer(base, config.model), config.data.max_length)
