"""Four families' templates, what each puts around an answer, and prompts of every shape."""

import json

from mlx_dpo.demo.tiny_models import CHATML, GEMMA, GRANITE, LLAMA3
from mlx_dpo.models.load import load_tokenizer
from mlx_dpo.records import Preference

from ..conftest import ROOT

DATA = ROOT / "data"
FAMILIES = {"granite": GRANITE, "chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA}
END = {"granite": "<|end_of_text|>", "chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}
HEADER = {
    "granite": "<|start_of_role|>assistant<|end_of_role|>",
    "chatml": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<start_of_turn>model\n",
}

REAL = [
    row["answer"]
    for name in ("curated", "base")
    for row in map(json.loads, (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[::16])
]

USER = {"role": "user", "content": "How do I clean silver?"}
TURNS = [
    {"role": "user", "content": "Hello,\n\nwho are you?"},
    {"role": "assistant", "content": "A kettle."},
    {"role": "user", "content": "  Zürich or 東京?  "},
]
PROMPTS = {
    "one turn": (USER,),
    "three turns": tuple(TURNS),
    "five turns": (*TURNS, {"role": "assistant", "content": "Tokyo."}, USER),
    "system": ({"role": "system", "content": "Answer\n\nbriefly."}, USER),
    "system and three turns": ({"role": "system", "content": "Be brief."}, *TURNS),
}


def prompts_of(family):
    """Gemma's template knows no system turn."""
    return {n: p for n, p in PROMPTS.items() if not (family == "gemma" and n.startswith("system"))}


def decode(tokenizer, tokens):
    return tokenizer.decode([int(t) for t in tokens], skip_special_tokens=False)


def row_of(prompt, chosen, rejected, where="pairs.jsonl:1"):
    return Preference(tuple(prompt), chosen, rejected, "1", where)


def loaded_again(tokenizer, template, folder):
    """A tokenizer whose token 1 is </s>, as mlx_lm loads it with a chat template."""
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 1}))
    return load_tokenizer(folder)
