"""Chat templates as families publish them, shortened, with tools, tool calls and reasoning."""

import json
from pathlib import Path

from mlx_dpo.demo.tiny_models import CHATML, GEMMA, GRANITE, LLAMA3, ChatFormat, write_tokenizer

TEMPLATES = Path(__file__).parent / "chat_templates"


def _of(name: str, like: ChatFormat) -> ChatFormat:
    """The template of that name, with tokens as another format has them."""
    return like._replace(template=(TEMPLATES / f"{name}.jinja").read_text())


QWEN3 = _of("qwen3", CHATML._replace(special=("<|endoftext|>", "<|im_start|>", "<|im_end|>")))
FAMILIES = {
    "qwen3": QWEN3,
    "granite4": _of("granite4", GRANITE),
    "llama31": _of("llama31", LLAMA3),
    "gemma": GEMMA,
    "thinking": _of("thinking", QWEN3),  # a model that always reasons first
    "r1": _of("r1", LLAMA3),  # reasoning is opened for the model, and taken away from answers that are given
}


def write_family(folder: Path, form: ChatFormat) -> None:
    """A tokenizer with this template, and a config that names its end of turn; no weights."""
    write_tokenizer(folder, form, ["How? So. Thus."] * 5, 400)
    config = {"model_type": "llama", "eos_token_id": form.special.index(form.end)}
    (folder / "config.json").write_text(json.dumps(config))
