"""The figures of `mlx-dpo eval` in the run's folder, for the model card; they hold for one adapter only."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..console import json_text, say
from ..errors import DpoError
from ..evaluation.preference import Evaluation
from ..models.adapters import WEIGHTS
from ..storage.checksummed_folder import sha256
from ..storage.files import write_text
from ..storage.reading import is_there, read_object, read_text

EVALUATION = "evaluation.json"


def keep_evaluation(folder: Path, result: Evaluation) -> None:
    """Write the figures, without answers, and the SHA-256 of the adapter's file, if they are new.

    A folder that cannot be written is said, and is no error.
    """
    figures = {name: value for name, value in asdict(result).items() if name != "samples"}
    content = {"adapter_sha256": sha256(folder / WEIGHTS), **figures}
    path, text = folder / EVALUATION, json_text(content, indent=1, only_ascii=True) + "\n"
    try:
        if not is_there(path) or read_text(path) != text:
            write_text(path, text)
    except DpoError as error:
        say(f"note: the figures are not kept in the run's folder: {error.what}")


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The figures of the adapter that the folder has now; None if it was not evaluated.

    Raises:
        DpoError: the file is damaged.
    """
    path = folder / EVALUATION
    if not is_there(path):
        return None
    hint = "remove the file, or evaluate the run again: mlx-dpo eval"
    content = read_object(path, hint)
    if content.get("adapter_sha256") != sha256(folder / WEIGHTS):
        return None
    for side in ("base", "tuned"):
        share, ends = content.get(f"preferred_{side}"), content.get(f"preferred_{side}_interval")
        if not (
            isinstance(share, float) and isinstance(ends, list) and [type(e) for e in ends] == [float] * 2
        ):
            raise DpoError(f"preferred_{side} is not a share with its interval", where=path, hint=hint)
    return content
