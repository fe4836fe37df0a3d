"""Train and valid rows that share no prompt."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence, Set

from ..records import Message


def prompt_key(prompt: Sequence[Message]) -> str:
    """What makes two prompts the same: roles, words and tool calls; not case, spacing or tools offered."""
    turns = [[m["role"], " ".join(m["content"].casefold().split()), *m.get("tool_calls", ())] for m in prompt]
    return json.dumps(turns, ensure_ascii=False)


def valid_prompts(
    prompts: Iterable[Sequence[Message]], fraction: float, seed: int, trained: Set[str] = frozenset()
) -> set[str]:
    """The keys of the prompts that go to valid: round-up share of the distinct ones, at least one of two.

    The choice orders prompts by a hash of seed and key, so a prompt stays where it is when others come or go
    nearby, and repeated prompts go together.

    Args:
        trained: keys of prompts that were given to train before. They stay there: an adapter may have seen
            them. The share is smaller where the other prompts do not suffice.
    """
    keys = {prompt_key(p) for p in prompts}
    if fraction == 0 or len(keys) < 2:
        return set()
    ordered = sorted(keys - trained, key=lambda k: hashlib.sha256(f"{seed}:{k}".encode()).digest())
    share = math.ceil(round(fraction * len(keys), 9))  # 0.07 * 100 is 7.000000000000001
    return set(ordered[: min(len(keys) - 1, share)])
