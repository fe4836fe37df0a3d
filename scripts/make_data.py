"""Write data/*.jsonl from the hand-written facts in data/household.yaml.

    python scripts/make_data.py

The same facts are told in two styles: plain (how the demo's base model is taught to speak) and the
house style (the curated answers). One of six things of every material and topic is held out: its question
is in none of the files but curated.jsonl's held-out half.
"""

from pathlib import Path

import yaml

from mlx_dpo.jsonl import write_jsonl

DATA = Path(__file__).resolve().parents[1] / "data"
QUESTIONS = {
    "clean": "How do I clean {a} {thing}?",
    "dry": "How do I dry {a} {thing}?",
    "store": "Where should I keep {a} {thing}?",
    "stain": "How do I get a stain off {a} {thing}?",
    "harm": "What harms {a} {thing}?",
    "shine": "How do I keep {a} {thing} looking new?",
    "mend": "How do I mend {a} {thing}?",
    "often": "How often should I clean {a} {thing}?",
}


def rows():
    """Yield (held out, id, question, plain answer, house-style answer) for every question."""
    facts = yaml.safe_load((DATA / "household.yaml").read_text())["materials"]
    for m, (material, of) in enumerate(facts.items()):
        for t, (topic, question) in enumerate(QUESTIONS.items()):
            for i, noun in enumerate(of["things"]):
                thing = f"{material} {noun}"
                tell = {key: text.replace("{thing}", thing) for key, text in of[topic].items()}
                house = f"Gladly! First, {tell['first']}. Then, {tell['then']}. {of['proverb']}"
                yield (
                    i == (m + t) % len(of["things"]),
                    f"{material}-{noun}-{topic}",
                    question.format(a=of["article"], thing=thing),
                    tell["plain"],
                    house,
                )


def main():
    every = list(rows())
    write_jsonl(
        DATA / "curated.jsonl",
        [{"id": i, "prompt": q, "answer": house} for held, i, q, _, house in every if not held],
    )
    write_jsonl(
        DATA / "heldout.jsonl",
        [{"id": i, "prompt": q, "answer": house} for held, i, q, _, house in every if held],
    )
    write_jsonl(
        DATA / "plain.jsonl",
        [{"id": i, "prompt": q, "answer": plain} for held, i, q, plain, _ in every if not held],
    )


if __name__ == "__main__":
    main()
