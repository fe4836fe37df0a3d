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
from mlx_dpo.data.conversation_tokens import prompt_tokens
from mlx_dpo.data.sources import read_curated
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


def samples(model, tokenizer, prompts, streams, a):
    """Tokens sampled, and prompt tokens processed."""
    config = GenerateConfig(max_tokens=a.tokens, temperature=1.0, batch_size=a.batch)
    processed = []
    answers = list(generate_answers(model, tokenizer, prompts, config, streams, processed=processed.append))
    return sum(answer.tokens for answer in answers), sum(processed)


def measure_samples(folder, model, tokenizer, prompts, a):
    """a.samples answers to each prompt: together in one run, and apart in as many runs of one answer."""
    long = [(prompt * a.prompt_tokens)[: a.prompt_tokens] for prompt in prompts]
    rows = [prompt for prompt in long for _ in range(a.samples)]
    ways = {
        "apart": [(long, range(sample, len(rows), a.samples)) for sample in range(a.samples)],
        "together": [(rows, range(len(rows)))],
    }
    found = {way: [] for way in ways}
    for _ in range(a.repeats):
        for way, runs in ways.items():
            start, processor = time.perf_counter(), time.process_time()
            made, processed = map(
                sum, zip(*(samples(model, tokenizer, *run, a) for run in runs), strict=True)
            )
            seconds = time.perf_counter() - start, time.process_time() - processor
            found[way].append((made / seconds[0], made / seconds[1], processed))
    speeds = {way: list(zip(*rounds, strict=True)) for way, rounds in found.items()}
    median = {way: [statistics.median(column) for column in columns] for way, columns in speeds.items()}
    return {
        "model": folder.name,
        "parameters_millions": round(weight_bytes(model) / 4e6, 1),
        **{f"{way}_tokens_per_second": summary(columns[0]) for way, columns in speeds.items()},
        "ratio": round(median["together"][0] / median["apart"][0], 2),
        "ratio_of_processor_time": round(median["together"][1] / median["apart"][1], 2),
        **{f"{way}_prompt_tokens": columns[2][0] for way, columns in speeds.items()},
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
