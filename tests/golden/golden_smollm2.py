#!/usr/bin/env python
"""Float64 scores and a gradient of SmolLM2-135M-Instruct on twelve real pairs, for test_real_scores.py.

    python -m tests.golden.golden_smollm2 rows MODEL tests/golden/smollm2.json
    python -m venv torch && torch/bin/pip install torch==2.13.0 safetensors==0.8.0 numpy
    torch/bin/python -m tests.golden.golden_smollm2 truth MODEL tests/golden/smollm2.json

MODEL is the float32 folder. `rows` takes twelve curated rows as chosen answers and lets the model itself
answer their prompts, greedily, for the rejected ones, cut to 60 to 247 tokens. `truth` scores them in an
environment of its own (torch is no dependency). The model is written out below, in float64 from end to end,
because the one in transformers computes norms and positions in float32.

Of the gradient, each array's length is stored, and its products with 32 vectors of signs (`directions`).
"""

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

SHARES = (1.0, -0.5)
"""Of the chosen and the rejected score in what is differentiated."""
RANK, SCALE = 2, 2.0
DIRECTIONS = 32
LINEAR = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def lora(shapes: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Float32 adapter arrays, as mlx_lm lays them out, for linear layers (outputs, inputs) by name."""
    made = {}
    for name, (outputs, inputs) in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        made[f"{name}.lora_a"] = (rng.normal(0, 1, (inputs, RANK)) / inputs**0.5).astype(np.float32)
        made[f"{name}.lora_b"] = (0.02 * rng.normal(0, 1, (RANK, outputs))).astype(np.float32)
    return made


def directions(name: str, size: int) -> np.ndarray:
    """Signs (32, size). The mean square of a vector's products with them estimates its squared length."""
    return np.random.default_rng(zlib.crc32(name.encode())).choice([-1.0, 1.0], (DIRECTIONS, size))


def rows(model: Path) -> list[dict[str, Any]]:
    """Twelve curated rows with the model's own answers, and the tokens of both."""
    from mlx_dpo.data.conversation_tokens import end_of_turn, pair_tokens, prompt_tokens
    from mlx_dpo.models.generate import GenerateConfig, generate_answers
    from mlx_dpo.models.load import load_model, load_tokenizer

    curated = Path(__file__).parents[2] / "data" / "curated.jsonl"
    chosen = [json.loads(line) for line in curated.read_text().splitlines()][::41]
    tokenizer, (loaded, _) = load_tokenizer(model), load_model(model)
    end = end_of_turn(tokenizer)
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in chosen]
    asked = [prompt_tokens(tokenizer, prompt) for prompt in prompts]
    config = GenerateConfig(max_tokens=250, temperature=0)
    answers = {a.index: a for a in generate_answers(loaded, tokenizer, asked, config)}
    made = []
    for number, (row, prompt) in enumerate(zip(chosen, prompts, strict=True)):
        texts = [row["answer"], answers[number].text]
        before, (curated_answer, own) = pair_tokens(tokenizer, prompt, texts, end)
        own = own[:-1][: 60 + 17 * number]  # an open prefix: no end token
        made.append(
            {
                "id": row["id"],
                "prompt": row["prompt"],
                "chosen": row["answer"],
                "rejected": tokenizer.decode(own),
                "tokens": [before, curated_answer, own],
            }
        )
    return made


def truth(model: Path, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores (12, 2) of the base model, and the gradient of the first block's adapter on the first pair."""
    import torch
    from safetensors.torch import load_file

    torch.set_default_dtype(torch.float64)
    config = json.loads((model / "config.json").read_text())
    weights = {name: w.double() for name, w in load_file(model / "model.safetensors").items()}
    with torch.no_grad():
        scores = [
            [float(score(weights, config, {}, before, answer)) for answer in answers]
            for before, *answers in (pair["tokens"] for pair in pairs)
        ]
    blocks = [f"model.layers.{i}" for i in range(config["num_hidden_layers"])]
    shapes = {f"{b}.{name}": tuple(weights[f"{b}.{name}.weight"].shape) for b in blocks for name in LINEAR}
    adapter = {name: torch.tensor(a).double() for name, a in lora(shapes).items()}
    own = {n: a.requires_grad_() for n, a in adapter.items() if n.startswith("model.layers.0.")}
    before, *answers = pairs[0]["tokens"]
    adapted = [score(weights, config, adapter, before, answer) for answer in answers]
    sum(share * s for share, s in zip(SHARES, adapted, strict=True)).backward()
    found = {name.removeprefix("model.layers.0."): a.grad.numpy().ravel() for name, a in own.items()}
    return {
        "scores": scores,
        "adapted": [float(s.detach()) for s in adapted],
        "gradient": {
            name: {
                "norm": float(np.linalg.norm(g)),
                "products": [float(f"{p:.9g}") for p in directions(name, g.size) @ g],
            }
            for name, g in found.items()
        },
    }


def score(weights: dict, config: dict, adapter: dict, before: list[int], answer: list[int]) -> Any:
    """Log-probability of `answer` after `before`, in nats."""
    import torch

    tokens = torch.tensor(before + answer[:-1])
    logits = llama(weights, config, adapter, tokens)[len(before) - 1 :]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None]).sum()


def llama(weights: dict, config: dict, adapter: dict, tokens: Any) -> Any:
    """Logits (T, V) of one sequence of token ids (T,), with adapters where there are any."""
    import torch

    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    width = config["hidden_size"] // heads
    angles = torch.arange(len(tokens))[:, None] * config["rope_theta"] ** (
        -torch.arange(0, width, 2).double() / width
    )
    cos, sin = angles.cos(), angles.sin()

    def linear(name, x):
        y = x @ weights[f"{name}.weight"].T
        if f"{name}.lora_a" in adapter:
            y = y + SCALE * (x @ adapter[f"{name}.lora_a"]) @ adapter[f"{name}.lora_b"]
        return y

    def norm(name, x):
        size = x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]
        return weights[f"{name}.weight"] * x * size.rsqrt()

    def turned(x):
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def split(name, x, count):
        return linear(name, x).reshape(len(tokens), count, width).transpose(0, 1)

    future = torch.full((len(tokens), len(tokens)), -torch.inf).triu(1)
    h = weights["model.embed_tokens.weight"][tokens]
    for number in range(config["num_hidden_layers"]):
        block = f"model.layers.{number}"
        x = norm(f"{block}.input_layernorm", h)
        q, k = (turned(split(f"{block}.self_attn.{n}_proj", x, c)) for n, c in (("q", heads), ("k", groups)))
        v = split(f"{block}.self_attn.v_proj", x, groups)
        k, v = (a.repeat_interleave(heads // groups, dim=0) for a in (k, v))
        seen = torch.softmax(q @ k.transpose(1, 2) / width**0.5 + future, -1) @ v
        h = h + linear(f"{block}.self_attn.o_proj", seen.transpose(0, 1).flatten(1))
        x = norm(f"{block}.post_attention_layernorm", h)
        gate = torch.nn.functional.silu(linear(f"{block}.mlp.gate_proj", x))
        h = h + linear(f"{block}.mlp.down_proj", gate * linear(f"{block}.mlp.up_proj", x))
    return norm("model.norm", h) @ weights["model.embed_tokens.weight"].T


def main() -> None:
    what, model, file = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what == "rows":
        stored = {"pairs": rows(model)}
    else:
        from importlib.metadata import version

        stored = json.loads(file.read_text())
        about = {"script": "tests/golden/golden_smollm2.py", "model": "SmolLM2-135M-Instruct, float32 folder"}
        about |= {"versions": {name: version(name) for name in ("torch", "numpy", "safetensors")}}
        stored = {"about": about, **stored, "truth": truth(model, stored["pairs"])}
    file.write_text(json.dumps(stored) + "\n")


if __name__ == "__main__":
    main()
