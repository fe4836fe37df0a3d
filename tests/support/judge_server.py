"""A scripted judge, which reads the two quoted answers of a request and prefers one by a rule; its rows."""

import json
import math
import re

from mlx_dpo.data.sources import read_pairs

from .openai_server import Says

RIGHT = "The capital of France is Paris."


def shown(body):
    """The texts quoted as answer A and answer B."""
    text = body["messages"][0]["content"]
    return [
        re.search(rf"\[begin answer {n} (\w+)\]\n(.*?)\n\[end answer {n} \1\]", text, re.S)[2] for n in "AB"
    ]


def judging(prefer, *, labels=False, says=Says):
    """Replies by `prefer(a, b)`, which gives "A", "B" or "tie"; on the probe's question, the right answer.

    Args:
        labels: give the log-probabilities of the letters too.
        says: makes the reply from its text, for replies in another form.
    """

    def answer(body):
        if "begin answer A" not in body["messages"][0]["content"]:
            return Says("Hello there.")
        a, b = shown(body)
        verdict = ("A" if a == RIGHT else "B") if RIGHT in (a, b) else prefer(a, b)
        if labels and body.get("logprobs"):
            return Says(verdict[0], logprobs=LOGPROBS[verdict])
        return says(json.dumps({"reason": f"{verdict} is better", "verdict": verdict}))

    return answer


LOGPROBS = {
    "A": (("A", math.log(0.9)), ("B", math.log(0.1))),
    "B": (("B", math.log(0.9)), ("A", math.log(0.1))),
    "tie": (("A", math.log(0.5)), ("B", math.log(0.5))),
}


def longer(a, b):
    return "A" if len(a) > len(b) else "B" if len(b) > len(a) else "tie"


def smaller(a, b):
    """The answer that is earlier in the alphabet."""
    return "A" if a < b else "B"


def always_first(a, b):
    return "A"


ROWS = [
    {"prompt": f"Question {n}?", "completions": [f"{n} b", f"{n} a, longer", f"{n} c"]} for n in range(12)
]


def pairs(tmp_path):
    """The pairs that judge wrote."""
    files = [tmp_path / "judged" / f"{name}.jsonl" for name in ("train", "valid")]
    return [pair for file in files if file.stat().st_size for pair in read_pairs(file)]


def verdicts(tmp_path):
    """The lines of verdicts.jsonl."""
    return [json.loads(line) for line in (tmp_path / "judged" / "verdicts.jsonl").read_text().splitlines()]
