"""The chat template of a run, in exports of which the base's files would give another."""

from pathlib import Path
from typing import Any

from ..models.load import ModelConfig

FILE = "chat_template.jinja"


def own_template(tokenizer: Any, asked: ModelConfig | None) -> str | None:
    """The chat template of the run, if it replaces the base's.

    Args:
        tokenizer: loaded with the model settings of the run, `asked`.
    """
    template = tokenizer.chat_template
    return template if asked and asked.chat_template and isinstance(template, str) else None


def write_own_template(folder: Path, tokenizer: Any, asked: ModelConfig | None) -> bool:
    """Write the run's chat template into `folder`, if it replaces the base's; whether it does."""
    template = own_template(tokenizer, asked)
    if template:
        (folder / FILE).write_text(template, encoding="utf-8")
    return bool(template)
