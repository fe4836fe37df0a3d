"""Texts to vectors whose products are their similarity in meaning, by a sentence-transformers model."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..console import progress
from ..errors import DpoError, first_line

_BATCH = 64
"""Texts embedded at the same time, and between two updates of the progress bar."""


def embed(texts: Sequence[str], name: str) -> np.ndarray:
    """Unit vectors of the texts, float32 (n, size); a product of two vectors is their cosine.

    Equal texts are embedded once.

    Args:
        name: a sentence-transformers model: its folder, or its name on the Hub.

    Raises:
        DpoError: sentence-transformers is not installed, or it cannot load the model.
    """
    model = _model(name)
    once = list(dict.fromkeys(texts))
    parts = [np.zeros((0, model.get_embedding_dimension()), np.float32)]
    with progress("embedding", len(once), "texts") as advance:
        for start in range(0, len(once), _BATCH):
            some = once[start : start + _BATCH]
            parts.append(
                model.encode(some, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
            )
            advance(len(some))
    place = {text: i for i, text in enumerate(once)}
    return np.concatenate(parts)[[place[text] for text in texts]]


def check_embedder(
    name: str | None, setting: str = "pairs.embedder", without: str = "pairs.embedder=null"
) -> None:
    """Check that a model of this name could be loaded, before slow work whose results it will compare.

    Args:
        setting: the one that names it, for the message.
        without: the settings that need no embedder.

    Raises:
        DpoError: sentence-transformers is not installed.
    """
    if name and not find_spec("sentence_transformers"):
        raise DpoError(
            "sentence-transformers is not installed",
            where=setting,
            hint=f"pip install 'mlx-dpo[embeddings]', or set {without}",
        )


@cache
def _model(name: str) -> Any:
    check_embedder(name)
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        return SentenceTransformer(name)
    except Exception as error:  # the library raises what its many parts raise
        hint = "give a folder of a sentence-transformers model, or its name on the Hub"
        if Path(name).is_dir():
            hint = "the folder must have the files of a sentence-transformers model, such as modules.json"
        raise DpoError(f"cannot be loaded: {first_line(error)}", where=name, hint=hint) from None
