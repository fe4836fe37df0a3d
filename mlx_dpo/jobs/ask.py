"""The commands that put a question to a run's model."""

from pathlib import Path

from ..models.ask import generate_command
from ..models.load import find_model, load_tokenizer
from .evaluate import load_run


def ask_run(folder: Path | str, model: str | None = None) -> str:
    """The `mlx_lm generate` command for a run's base model and adapter.

    Args:
        model: where the base model lies now; by default where it lay when the run was made.

    Raises:
        DpoError: not a run folder, or its base model is gone.
    """
    config = load_run(folder, model)
    base = find_model(config.model.path, weights=False)
    return generate_command(
        config.model.path, base, load_tokenizer(base, config.model), config.generate.max_tokens, folder
    )


def ask_fused(folder: Path, max_tokens: int) -> str:
    """The `mlx_lm generate` command for a fused model."""
    return generate_command(str(folder), folder, load_tokenizer(folder), max_tokens)
