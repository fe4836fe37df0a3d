"""Tokens per second of gen-pairs' answering: batched against one prompt at a time, and several answers a
prompt in one run against as many runs of one answer.

    python benchmarks/bench_generate.py [--batch 16] [--prompts 48] [--tokens 64] [--repeats 3]
    python benchmarks/bench_generate.py --models "$(python scripts/get_smollm2.py | head -1)"
    python benchmarks/bench_generate.py --samples 4 --prompts 8 --prompt-tokens 400 --tokens 32

Models of 20 million parameters with random weights (Llama; Granite hybrid), or a model's folder, which
answers questions of data/curated.jsonl; all answers have the same length. Rounds are interleaved;
prints JSON: medians, spread, ratio, versions, hardware.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import mlx_dpo  # noqa: F401  (loads the fast BLAS before MLX)
from mlx_dpo.data.sources import read_curated
from mlx_dpo.data.templates import prompt_tokens
from mlx_dpo.demo.run_demo import shipped
from mlx_dpo.demo.tiny_models import make_model
from mlx_dpo.models.generate import GenerateConfig, generate_answers
from mlx_dpo.models.load import load_model, load_tokenizer, weight_bytes

LAYERS = {"llama": 8, "granite": 10}


def tokens_per_second(model, tokenizer, prompts, tokens, batch):
    config = GenerateConfig(max_tokens=tokens, temperature=0.0, batch_size=batch)
    start = time.perf_counter()
    answers = list(generate_answers(model, tokenizer, prompts, config))
    return sum(a.tokens for a in answers) / (time.perf_counter() - start)


def one_at_a_time(model, tokenizer, prompts, tokens):
    """mlx_lm's own generation, prompt after prompt."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    start, made = time.perf_counter(), 0
    for prompt in prompts:
        made += sum(1 for _ in generate_step(mx.array(prompt), model, max_tokens=tokens))
    return made / (time.perf_counter() - start)


def samples_together(model, tokenizer, prompts, a):
    """Tokens a second of a.samples answers to each prompt, with the prompt tokens processed."""
    config = GenerateConfig(max_tokens=a.tokens, temperature=1.0, batch_size=a.batch)
    rows, processed = [prompt for prompt in prompts for _ in range(a.samples)], []
    start = time.perf_counter()
    made = sum(x.tokens for x in generate_answers(model, tokenizer, rows, config, processed=processed.append))
    return made / (time.perf_counter() - start), sum(processed)


def samples_apart(model, tokenizer, prompts, a):
    """The same answers by a.samples runs of one answer to each prompt."""
    config = GenerateConfig(max_tokens=a.tokens, temperature=1.0, batch_size=a.batch)
    start, made, processed = time.perf_counter(), 0, []
    for sample in range(a.samples):
        streams = [i * a.samples + sample for i in range(len(prompts))]
        answers = generate_answers(model, tokenizer, prompts, config, streams, processed=processed.append)
        made += sum(x.tokens for x in answers)
    return made / (time.perf_counter() - start), sum(processed)


def measure_samples(folder, model, tokenizer, prompts, a):
    long = [(prompt * a.prompt_tokens)[: a.prompt_tokens] for prompt in prompts]
    together, apart = [], []
    for _ in range(a.repeats):
        apart.append(samples_apart(model, tokenizer, long, a))
        together.append(samples_together(model, tokenizer, long, a))
    speeds = [[speed for speed, _ in found] for found in (apart, together)]
    return {
        "model": folder.name,
        "parameters_millions": round(weight_bytes(model) / 4e6, 1),
        "apart_tokens_per_second": summary(speeds[0]),
        "together_tokens_per_second": summary(speeds[1]),
        "ratio": round(statistics.median(speeds[1]) / statistics.median(speeds[0]), 2),
        "apart_prompt_tokens": apart[0][1],
        "together_prompt_tokens": together[0][1],
    }


def measure(name, a):
    if name in LAYERS:
        folder = Path(tempfile.mkdtemp(prefix="bench-")) / name
        texts = [f"word{i} of the text number {i * i}" for i in range(4000)]
        make_model(folder, name, texts, hidden=384, layers=LAYERS[name], vocab=16384)
    else:
        folder = Path(name)
    model, _ = load_model(folder)
    tokenizer = load_tokenizer(folder)
    if name in LAYERS:
        prompts = [list(range(300 + i, 332 + i + i % 16)) for i in range(a.prompts)]
    else:
        rows = read_curated(shipped("data/curated.jsonl"))
        prompts = [prompt_tokens(tokenizer, row.prompt) for row in rows[: a.prompts]]
    tokenizer.eos_token_ids = set()  # every answer has as many tokens
    if a.samples > 1:
        return measure_samples(folder, model, tokenizer, prompts, a)
    single, batched = [], []
    for _ in range(a.repeats):
        single.append(one_at_a_time(model, tokenizer, prompts[: a.prompts // 4], a.tokens))
        batched.append(tokens_per_second(model, tokenizer, prompts, a.tokens, a.batch))
    return {
        "model": folder.name,
        "parameters_millions": round(weight_bytes(model) / 4e6, 1),
        "single_tokens_per_second": summary(single),
        "batched_tokens_per_second": summary(batched),
        "ratio": round(statistics.median(batched) / statistics.median(single), 2),
    }


def summary(values):
    return {
        "median": round(statistics.median(values), 1),
        "min": round(min(values), 1),
        "max": round(max(values), 1),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1, help="answers a prompt, against as many runs")
    parser.add_argument("--prompt-tokens", type=int, default=400, help="length of the prompts with --samples")
    parser.add_argument("--models", nargs="*", default=list(LAYERS))
    a = parser.parse_args()
    result = {
        "settings": vars(a),
        "models": [measure(name, a) for name in a.models],
        "versions": {n: version(n) for n in ("mlx", "mlx-lm", "mlx-dpo")}
        | {"python": platform.python_version()},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
