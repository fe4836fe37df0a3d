"""With what a model made from a run is compared: rows of the run, and the adapter that the run began from."""

from collections.abc import Sequence
from pathlib import Path

from ..config import RunConfig
from ..console import say
from ..data.row_files import Source
from ..data.row_index import index_rows
from ..data.tokenize import TokenizedPair
from ..errors import DpoError
from ..export.likeness import TOKENS, few_rows
from ..models.load import load_tokenizer
from ..models.peft_adapter import check_adapter
from ..storage.reading import expanded


def comparison_rows(
    config: RunConfig,
    folder: Path | str,
    base: Path,
    what: str,
    data: Source | None = None,
    tokens: int = TOKENS,
    *,
    needed: bool = False,
) -> Sequence[TokenizedPair]:
    """A few rows of `data`, else of the run's held-out file, else of what it was trained on.

    Args:
        what: is compared, for the warning.
        tokens: answer tokens of each row at most.
        needed: raise if the run's files are gone; otherwise there is a warning, and no rows.

    Raises:
        DpoError: `data`, or the rows that are needed, cannot be read, or all prompts are too long.
    """
    try:
        index = index_rows(data or config.data.valid or config.data.train, answers=config.loss.answers_only)
    except DpoError as error:
        if data:
            raise
        if needed:
            hint = f"name a file of pairs to compare {what} with the adapter: --data FILE"
            raise error.instead(hint=hint) from None
        say(
            f"WARNING: {what} is not compared with the adapter, because rows of {folder} cannot be read "
            f"({error.where}: {error.what})"
        )
        return []
    return few_rows(index, load_tokenizer(base, config.model), config.data.max_length, tokens)


def first_adapter(config: RunConfig, folder: Path | str) -> str | None:
    """The adapter that the run began from; None, with a warning, if it cannot be read any more."""
    if not config.model.adapter:
        return None
    start = expanded(config.model.adapter)
    try:
        check_adapter(start)
    except DpoError as error:
        say(
            f"WARNING: {folder} began from the adapter {start}, which cannot be read ({error.what}): what "
            "only this run has changed is not compared"
        )
        return None
    return str(start)
