"""Chat templates that a setting names: a file, one of the tokenizer's own, or ChatML."""

from collections.abc import Mapping

from ..errors import DpoError
from ..storage.reading import expanded, is_there, read_text

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The format on which most instruct models without a published template were trained."""


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
    path = expanded(name)
    if not is_there(path):
        raise DpoError(
            f"{name[:200]} is neither a file nor a known template",
            where="model.chat_template",
            hint=f"set it to a .jinja file, or to one of {', '.join(sorted(known))}",
        )
    return read_text(path, "set model.chat_template to a .jinja file")
