"""Write data/*.jsonl from the hand-written facts in data/household.yaml.

    python scripts/make_data.py

The same facts are told in two styles: plain, and the house style of the curated answers. Of the six things
of every material and topic one is held out: its question stands in heldout.jsonl and in no other file.
"""

from pathlib import Path

import yaml

from mlx_dpo.storage.jsonl import write_jsonl

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


def files():
    """Rows of curated.jsonl, heldout.jsonl and base.jsonl."""
    every = list(rows())
    learned = [row for row in every if not row[0]]
    curated = [{"id": i, "prompt": q, "answer": house} for _, i, q, _, house in learned]
    heldout = [{"id": i, "prompt": q, "answer": house} for held, i, q, _, house in every if held]
    plain = [{"id": i, "prompt": q, "answer": text} for _, i, q, text, _ in learned]
    # Like any base model this one has met the style before: one answer in six, never its first choice.
    met = [{**row, "id": f"{row['id']}-house"} for row in curated[2::5]]
    return curated, heldout, plain + met


def main():
    for name, content in zip(("curated.jsonl", "heldout.jsonl", "base.jsonl"), files(), strict=True):
        write_jsonl(DATA / name, content)


if __name__ == "__main__":
    main()
