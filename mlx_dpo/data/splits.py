"""Train and valid rows that share no prompt."""

import hashlib
import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from types import MappingProxyType

from ..records import Message


def prompt_key(prompt: Sequence[Message]) -> str:
    """The key that equal prompts share: roles, words and tool calls; not case, spacing or offered tools."""
    turns = [[m["role"], " ".join(m["content"].casefold().split()), *m.get("tool_calls", ())] for m in prompt]
    return json.dumps(turns, ensure_ascii=False)


def valid_prompts(
    prompts: Iterable[Sequence[Message]],
    fraction: float,
    seed: int,
    trained: Set[str] = frozenset(),
    cluster: Mapping[str, Hashable] = MappingProxyType({}),
) -> set[str]:
    """The keys of the prompts that become held-out: a share of the distinct prompts, rounded up.

    The prompts are ordered by a hash of seed and key. So most prompts stay in their file when others are
    added or removed, and repeated prompts stay together.

    Args:
        trained: keys of prompts that an earlier call put into train. They stay there, because an adapter may
            have seen them. The share is smaller if there are too few other prompts.
        cluster: by key; prompts of one cluster stay together. A cluster larger than what is left of the share
            goes to train.
    """
    keys = {prompt_key(p) for p in prompts}
    if fraction == 0 or len(keys) < 2:
        return set()
    share = math.ceil(round(fraction * len(keys), 9))  # 0.07 * 100 is 7.000000000000001
    left = min(len(keys) - 1, share)
    together: dict[Hashable, list[str]] = {}
    for key in sorted(keys, key=lambda k: hashlib.sha256(f"{seed}:{k}".encode()).digest()):
        together.setdefault(cluster.get(key, key), []).append(key)
    held: set[str] = set()
    for group in together.values():
        if len(held) + len(group) <= left and not trained.intersection(group):
            held.update(group)
    return held
