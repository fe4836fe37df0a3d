"""Chat templates that a setting names: a file, one of the tokenizer's own, or ChatML."""

from collections.abc import Mapping
from pathlib import Path

from ..errors import DpoError
from ..jsonl import readable

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""What most instruct models without a published template were tuned on."""


def template_source(name: str, own: Mapping[str, str]) -> str:
    """The source of a chat template.

    Args:
        name: a name in `own`, `chatml`, or a file.
        own: the tokenizer's templates by name.

    Raises:
        DpoError: there is no such template.
    """
    known = {**{"chatml": CHATML}, **own}
    if name in known:
        return known[name]
    path = Path(name)
    if not path.exists():
        raise DpoError(
            f"no such file, and not a known template: {name[:200]}",
            where="model.chat_template",
            hint=f"name a .jinja file, or one of {', '.join(sorted(known))}",
        )
    with readable(path):
        content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise DpoError("is not UTF-8 text", where=path, hint="name a chat template, a .jinja file") from None
