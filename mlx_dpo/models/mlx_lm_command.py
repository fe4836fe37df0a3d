"""The mlx_lm command that gives a user the same answers as mlx_dpo."""

import json
from pathlib import Path
from typing import Any

from ..data.chat_template import render, template_options
from ..printed_commands import command_line, path_word
from .end_of_turn import stop_flags


def generate_command(
    model: str, folder: Path, tokenizer: Any, max_tokens: int, adapter: Path | str | None = None
) -> str:
    """The `mlx_lm generate` command line, with all options for the same prompt and the same end of an answer.

    Args:
        model: the model's folder or its name on the Hub.
        folder: where its files are.
        tokenizer: of that folder.
        max_tokens: longest answer, in tokens.
        adapter: an adapter folder.
    """
    words = ["python", "-m", "mlx_lm", "generate", "--model", path_word(model)]
    words += ["--adapter-path", path_word(adapter)] if adapter else []
    words += ["--max-tokens", str(max_tokens), *stop_flags(folder, tokenizer)]
    if _needs_options(tokenizer):
        words += ["--chat-template-config", json.dumps(template_options(tokenizer))]
    # Without a template prompts end with a blank line; mlx_lm turns the \n in its argument into line breaks.
    question = "..." if tokenizer.has_chat_template else r"...\n\n"
    return f'{command_line(words)} --prompt "{question}"'


def _needs_options(tokenizer: Any) -> bool:
    """Whether the template renders another prompt without our options."""
    if not tokenizer.has_chat_template:
        return False
    asked = [{"role": "user", "content": "a"}]
    plain = render(tokenizer, asked, generation_prompt=True, options={})
    return plain != render(tokenizer, asked, generation_prompt=True)
