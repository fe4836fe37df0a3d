"""How every export begins: with checks that need no weights, so that a mistake is told at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.nn as nn

from ..data.conversation_tokens import end_of_turn
from ..errors import DpoError
from ..models.adapters import fitting_weights, read_adapter_config
from ..models.base_of_adapter import check_base
from ..models.config_files import CONFIG
from ..models.load import ModelConfig, find_model, load_tokenizer
from ..storage.reading import is_there, read_object
from ..upstream import model_classes
from .finite import check_finite


def check_target(output: Path, remedy: str = "choose another folder with --output") -> None:
    """Check that nothing is at the place of an export.

    Args:
        remedy: what to do if something is there.

    Raises:
        DpoError: something is there.
    """
    if is_there(output) or output.is_symlink():
        raise DpoError("exists already", where=output, hint=remedy, code="exists")


def find_base(model_path: str, adapter: Path | str, output: Path, *, weights: bool = True) -> Path:
    """The base's folder, after checking that nothing is at `output` and that the adapter can be read.

    Args:
        weights: whether the base's weights are needed.

    Raises:
        DpoError: something is at `output`, or the adapter or the base cannot be read.
    """
    check_target(output)
    read_adapter_config(adapter)
    return find_model(model_path, weights=weights)


@contextmanager
def named(folder: Path, output: Path) -> Iterator[None]:
    """Errors about `folder`, which is written beside `output`, name `output`."""
    try:
        yield
    except DpoError as error:
        raise error.instead(where=error.where.replace(str(folder), str(output))) from None


def checked_tokenizer(base: Path, adapter: Path | str, asked: ModelConfig | None = None) -> Any:
    """The base's tokenizer, after checking that the adapter belongs to this base.

    Args:
        asked: the model settings of the run.

    Raises:
        DpoError: it belongs to another base, has tensors for which the base has no place or numbers that are
            not finite, or there is no end of turn.
    """
    tokenizer = load_tokenizer(base, asked)
    end_of_turn(tokenizer)
    check_base(adapter, base, tokenizer)
    weights = fitting_weights(without_weights(base)[1], adapter)
    if (
        read_adapter_config(adapter).type != "full"
    ):  # a whole model is checked tensor by tensor as it is written
        for name, value in weights.items():
            check_finite(value, f"{adapter}: {name}")
    return tokenizer


def without_weights(base: Path) -> tuple[str, nn.Module]:
    """The type and the model of a base's config, with weights that are never computed."""
    config = read_object(base / CONFIG)
    kind, arguments = model_classes(config)
    return str(config.get("model_type")), kind(arguments.from_dict(config))
