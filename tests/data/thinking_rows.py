"""Rows with system, tool and think turns, and answers that reason, call, or do neither."""

from itertools import permutations, product

from ..support.mistakes import chat
from .row_parts import says

CALL = {"type": "function", "function": {"name": "find", "arguments": {"q": "flour"}}}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
WHERE = chat(("user", "Where?"))
PROMPT_KINDS = {
    "one turn": WHERE,
    "system": chat(("system", "Be kind."), ("user", "Where?")),
    "tools": [
        *chat(("user", "Look.")),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "the jar", "name": "find"},
    ],
    "earlier reasoning": chat(
        ("user", "Hi."), ("assistant", "<think>\nHm.\n</think>\n\nHello."), ("user", "Where?")
    ),
}
ANSWER_KINDS = {
    "plain": says("No."),
    "reasoned": says("<think>\nDamp spoils it.\n</think>\n\nIn a jar."),
    "reasoned in a field": [
        {"role": "assistant", "content": "In a jar.", "reasoning_content": "Damp spoils it."}
    ],
    "reasoned from the start": says("Damp spoils it.\n</think>\n\nIn a jar."),
    "call": [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
}
THINKING = {
    (asked, first, second): {
        "prompt": PROMPT_KINDS[asked],
        "chosen": ANSWER_KINDS[first],
        "rejected": ANSWER_KINDS[second],
        **({"tools": TOOLS} if asked == "tools" else {}),
    }
    for asked, (first, second) in product(PROMPT_KINDS, permutations(ANSWER_KINDS, 2))
}
"""Prompts with system, tool and think turns, each with every two answers that reason, call, or do neither."""
