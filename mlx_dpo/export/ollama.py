"""An Ollama Modelfile beside a GGUF file."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..data.chat_template import render
from ..errors import DpoError
from ..records import Message

_SYSTEM, _USER, _ANSWER, _AGAIN = "SYSTEMTEXT", "USERTEXT", "ANSWERTEXT", "AGAINTEXT"


class _Turns(NamedTuple):
    """What the chat template puts before and after the text of each role, and before an answer."""

    start: str
    system: tuple[str, str]
    user: tuple[str, str]
    answer: tuple[str, str]
    unasked: str


def modelfile(gguf: str, tokenizer: Any, end: int, system: str | None = None) -> str:
    """The text of a Modelfile.

    Ollama has its own template language: the template is translated where it only puts text around each turn,
    and left to Ollama's own choice where it does more.

    Args:
        gguf: name of the GGUF file beside it.
        end: the token that ends an answer.
        system: the system prompt.
    """
    lines = [f"FROM ./{gguf}"]
    template = go_template(tokenizer)
    if template is None:
        lines.append(
            "# The chat template does more than Ollama's template language can; Ollama reads the GGUF's."
        )
    else:
        lines.append(f'TEMPLATE """{template}"""')
    stops = sorted({end, *tokenizer.eos_token_ids})
    for text in (tokenizer.decode([number]) for number in stops):
        if text.strip():
            lines.append(f'PARAMETER stop "{_escaped(text)}"')
    if system:
        lines.append(f'SYSTEM """{system}"""')
    return "\n".join(lines) + "\n"


def check_system(text: str) -> None:
    """Check that a Modelfile can hold this system prompt: between three quotes, it has no way to write them.

    Raises:
        DpoError: it cannot.
    """
    if '"""' in text or text.endswith('"'):
        raise DpoError(
            "a Modelfile cannot hold three double quotes in a row, or one at the end",
            where="--system",
            hint="write it with single quotes",
        )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def go_template(tokenizer: Any) -> str | None:
    """The chat template in Ollama's language; None if it does more than put text around each turn."""
    try:
        turns = _turns(tokenizer)
        return turns and _checked(tokenizer, turns)
    except DpoError:  # the template refuses one of the conversations
        return None


def _checked(tokenizer: Any, turns: _Turns) -> str | None:
    """The Go template, if it gives the template's text for conversations that it was not made from."""
    others: list[list[Message]] = [
        [{"role": "user", "content": "One?"}],
        [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "3?"},
        ],
    ]
    if turns.system[0] or turns.system[1]:
        others.append([{"role": "system", "content": "Be brief."}, *others[1]])
    if any(_by(turns, one) != _rendered(tokenizer, one) for one in others):
        return None
    if any(
        "{{" in text or '"""' in text for text in (*turns.system, *turns.user, *turns.answer, turns.unasked)
    ):
        return None
    system = f"{{{{ if .System }}}}{turns.system[0]}{{{{ .System }}}}{turns.system[1]}{{{{ end }}}}"
    if not (turns.system[0] or turns.system[1]):
        system = ""
    if turns.unasked:
        system = system.replace("{{ end }}", f"{{{{ else }}}}{turns.unasked}{{{{ end }}}}")
    begins = tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
    user, answer = (f"{before}{{{{ .Content }}}}{after}" for before, after in (turns.user, turns.answer))
    return (
        f"{'' if begins else turns.start}{system}{{{{ range .Messages }}}}"
        f'{{{{ if eq .Role "user" }}}}{user}{{{{ else if eq .Role "assistant" }}}}{answer}{{{{ end }}}}'
        f"{{{{ end }}}}{turns.answer[0]}"
    )


def _by(turns: _Turns, conversation: Sequence[Message]) -> str:
    """What the Go template gives."""
    around = {"user": turns.user, "assistant": turns.answer, "system": turns.system}
    text = turns.start
    if conversation[0]["role"] != "system":
        text += turns.unasked
    for turn in conversation:
        before, after = around[turn["role"]]
        text += before + turn["content"] + after
    return text + turns.answer[0]


def _rendered(tokenizer: Any, conversation: Sequence[Message]) -> str:
    return render(tokenizer, conversation, generation_prompt=True)


def _turns(tokenizer: Any) -> _Turns | None:
    """Read off one rendered conversation what is around each text; None if that cannot be told."""
    if not tokenizer.has_chat_template:
        return None
    asked: list[Message] = [
        {"role": "user", "content": _USER},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _AGAIN},
    ]
    text = _rendered(tokenizer, asked)
    bos = tokenizer.bos_token or ""
    start = bos if bos and text.startswith(bos) else ""  # llama.cpp may add it, by the GGUF's add_bos_token
    first, rest = text.removeprefix(start).split(_USER)
    middle, rest = rest.split(_ANSWER)
    between, last = rest.split(_AGAIN)
    unasked, user_open = _shared_end(first, between)
    answer_close = between.removesuffix(user_open)
    if middle != last:
        return None
    user_close = answer_close if middle.startswith(answer_close) else ""
    answer_open = middle.removeprefix(user_close)
    system = _system(tokenizer, asked, start, user_open)
    return _Turns(start, system, (user_open, user_close), (answer_open, answer_close), unasked)


def _shared_end(first: str, between: str) -> tuple[str, str]:
    """Split `first` where its end stops to be the end of `between`."""
    count = 0
    while count < min(len(first), len(between)) and first[-1 - count] == between[-1 - count]:
        count += 1
    return first[: len(first) - count], first[len(first) - count :]


def _system(tokenizer: Any, asked: list[Message], start: str, user_open: str) -> tuple[str, str]:
    """What is around a system prompt; two empty texts if the template takes none."""
    try:
        text = _rendered(tokenizer, [{"role": "system", "content": _SYSTEM}, *asked])
    except DpoError:
        return "", ""
    before, found, after = text.removeprefix(start).partition(_SYSTEM)
    if not found:
        return "", ""
    return before, after.split(_USER)[0].removesuffix(user_open)
