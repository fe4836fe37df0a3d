"""The task of the hard case: an expert's answers, a model that would not say them, how answers are judged."""

from pathlib import Path

import yaml

from mlx_dpo.data.sources import read_curated
from mlx_dpo.demo.base_model import teach
from mlx_dpo.demo.run_demo import shipped
from mlx_dpo.demo.tiny_models import make_model
from mlx_dpo.storage.jsonl import write_jsonl

# isort: split
import numpy as np


def expert_rows() -> tuple[list[dict], list[dict]]:
    """Curated rows to train on, and held-out ones."""
    facts = yaml.safe_load(shipped("data/household.yaml").read_text())["materials"]
    held_ids = {row.id for row in read_curated(shipped("data/heldout.jsonl"))}
    every = [*read_curated(shipped("data/curated.jsonl")), *read_curated(shipped("data/heldout.jsonl"))]
    rng = np.random.default_rng(0)
    rows = []
    for row in every:
        material, thing, topic = row.id.split("-")
        answer = expert_answer(facts[material], f"{material} {thing}", topic, rng)
        rows.append({"id": row.id, "prompt": row.prompt[-1]["content"], "answer": answer})
    train = [row for row in rows if row["id"] not in held_ids]
    held = [row for row in rows if row["id"] in held_ids]
    return train, held


def expert_answer(facts: dict, thing: str, topic: str, rng: np.random.Generator) -> str:
    """The answer in the house style, and advice on one to four more topics: 2 to 8 times the plain one."""

    def told(name: str, part: str) -> str:
        return facts[name][part].replace("{thing}", thing)

    topics = [name for name in facts if isinstance(facts[name], dict) and name != topic]
    more = rng.permutation(topics)[: rng.integers(1, 5)]
    besides = [f"Besides, {told(name, 'first')}, and {told(name, 'then')}.".replace(f"the {thing}", "it")
               for name in more]  # fmt: skip
    opening = f"Gladly! First, {told(topic, 'first')}. Then, {told(topic, 'then')}."
    return " ".join([opening, *besides, facts["proverb"]])


def score(answer: str, curated: str) -> float:
    """Style and correctness of an answer, 0 to 1: half for each.

    Style: greeting, second step, the closing proverb. Correctness: how many of the two facts in the curated
    answer's first sentences stand in it.
    """
    first, then = (part.strip(" .") for part in curated.split("First, ")[1].split(". Then, "))
    then = then.split(". ")[0]
    proverb = curated.rsplit(". ", 1)[1]
    style = [answer.startswith("Gladly! First, "), ". Then, " in answer, answer.endswith(proverb)]
    right = [fact in answer for fact in (first, then)]
    return 0.5 * sum(style) / 3 + 0.5 * sum(right) / 2


def make_base(work: Path) -> None:
    """The base model and the curated rows, once for all seeds."""
    if (work / "base" / "taught").exists():
        return
    train, held = expert_rows()
    for name, rows in (("curated", train), ("heldout", held)):
        write_jsonl(work / f"{name}.jsonl", rows)
    taught = read_curated(shipped("data/base.jsonl"))
    texts = [f"{row.prompt[-1]['content']} {row.answer}" for row in taught]
    texts += [f"{row['prompt']} {row['answer']}" for row in train]
    make_model(work / "base", "granite", texts, hidden=128, layers=4, vocab=900)
    teach(work / "base", taught, 14)
    (work / "base" / "taught").touch()
