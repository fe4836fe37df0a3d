"""inspect names held-out prompts that ask nearly the same as a prompt that is trained on."""

import json

from ..support.mistakes import pair


def test_a_held_out_prompt_that_asks_nearly_the_same_is_named(minilm, models, write_rows, outcome):
    train = write_rows(
        "train.jsonl",
        [
            pair(prompt="Explain how photosynthesis works."),
            pair(prompt="How do I remove red wine stains from a carpet?"),
            pair(prompt="What is the capital of France?"),
        ],
    )
    held = write_rows(
        "valid.jsonl",
        [
            pair(prompt="What is the capital of Germany?"),
            pair(prompt="What is the best way to get a red wine stain out of my carpet?"),
            pair(prompt="What is the capital of France?"),
        ],
    )
    code, out, err = outcome(
        *("inspect", "--model", models("llama"), "--data", train, "--valid", held, "--json", "--no-model"),
        *("--set", f"pairs.embedder={minilm}"),
    )
    assert code == 0, err
    found = {(d["code"], d["line"]): d["what"] for d in json.loads(out)["defects"]}
    assert found[("near-leak", 2)].startswith(f"{train}:2 asks nearly the same (similarity 0.9")
    assert {place for place in found if "leak" in place[0]} == {("near-leak", 2), ("leak", 3)}
