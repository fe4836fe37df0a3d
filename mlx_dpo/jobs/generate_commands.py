"""The commands that ask a run's model a question."""

from dataclasses import replace
from pathlib import Path

from ..config import RunConfig
from ..models.load import find_model, load_tokenizer
from ..models.mlx_lm_command import generate_command
from ..printed_commands import fuse_command
from .open_run import open_run


def ask_run(folder: Path | str, model: str | None = None) -> str:
    """How to ask a run's model: the `mlx_lm generate` command for its base and adapter.

    mlx_lm takes no chat template besides the model's, so a run with its own template must be fused first.

    Args:
        model: where the base model is now; by default where it was when the run was made.

    Raises:
        DpoError: not a run folder, or its base model is gone.
    """
    config = open_run(folder, model)
    if config.model.chat_template:
        return f"this run has its own chat template, so fuse it first: {fuse_command(folder, model)}"
    base = find_model(config.model.path, weights=False)
    return generate_command(
        config.model.path, base, load_tokenizer(base, config.model), config.generate.max_tokens, folder
    )


def ask_fused(folder: Path, config: RunConfig) -> str:
    """The `mlx_lm generate` command for a fused model, with the options of its chat template.

    Args:
        config: of the run from which the model was made.
    """
    tokenizer = load_tokenizer(folder, replace(config.model, chat_template=None))
    return generate_command(str(folder), folder, tokenizer, config.generate.max_tokens)
