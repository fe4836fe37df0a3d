#!/usr/bin/env python
"""One training step at Granite 4.0 H-Micro's real shape, with random float32 weights: peak memory by part.

    python benchmarks/bench_full_size.py [--prompt 512 --chosen 256 --rejected 256] [--branches separate]

Needs about 18 GB of memory and some minutes on two cores. LoRA rank 16 on every linear layer, checkpointing.
Each part is measured on its own, over what was in memory before: scoring without a gradient, the head with
its gradient, one Mamba block and one attention block with theirs on the prompt, the whole step. Beside them
stands what `mlx-dpo plan` says of this step, and of bfloat16 and 4-bit weights on a 16 GB Mac. Prints JSON.
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_flatten

from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.forward.checkpointing import checkpoint_layers
from mlx_dpo.forward.completion_logps import score_tokens
from mlx_dpo.forward.kernels import lean
from mlx_dpo.forward.pair_logps import SEPARATE, SHARED
from mlx_dpo.forward.prompt_cache import empty_state
from mlx_dpo.forward.scoring import score_pairs
from mlx_dpo.losses import LossConfig, build_loss
from mlx_dpo.machine.resources import memory_limit
from mlx_dpo.models.adapters import AdapterConfig, attach
from mlx_dpo.optimizers import OptimizerConfig
from mlx_dpo.planning.model_without_weights import skeleton
from mlx_dpo.planning.step_memory import LAYOUTS, need, scoring_need
from mlx_dpo.training.layout import Layout
from mlx_dpo.training.step import pair_gradient, update
from mlx_dpo.training.window_gradient import window_gradient

H_MICRO = {
    "model_type": "granitemoehybrid",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "shared_intermediate_size": 8192,
    "num_hidden_layers": 40,
    "layer_types": ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)],
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "attention_bias": False,
    "position_embedding_type": "nope",
    "embedding_multiplier": 12.0,
    "attention_multiplier": 1 / 64,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
    "mamba_n_heads": 64,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_d_conv": 4,
    "mamba_n_groups": 1,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "vocab_size": 100352,
}


def make_model(layers: int):
    """The model with LoRA rank 16, weights drawn array by array."""
    from mlx_lm.models.granitemoehybrid import Model, ModelArgs

    config = {**H_MICRO, "num_hidden_layers": layers, "layer_types": H_MICRO["layer_types"][:layers]}
    model = Model(ModelArgs.from_dict(config))
    for name, value in tree_flatten(model.parameters()):
        if value.ndim > 1:
            drawn = mx.random.uniform(-1, 1, value.shape) * value[0].size ** -0.5
            model.load_weights([(name, drawn)], strict=False)
            mx.eval(drawn)
    attach(model, AdapterConfig(rank=16))
    checkpoint_layers(model)
    return model


def peak_over(work) -> float:
    """MB that `work` needs over what is in memory already."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(work())
    return round((mx.get_peak_memory() - before) / 1e6, 1)


def block_gradient(model, index: int, tokens: int):
    """Gradient through one block on a prompt of so many tokens."""
    block, memory = model.layers[index], empty_state(model)[index]
    mask = "causal" if block.layer_type == "attention" else None

    def loss(x):
        with lean():
            return block(x, mask=mask, cache=memory.rebuilt(memory.arrays())).sum()

    return mx.grad(loss)(mx.random.normal((1, tokens, model.args.hidden_size)))


def head_gradient(model, tokens: int):
    """Scores of so many answer tokens and their gradient in the hidden states."""
    hidden = mx.random.normal((1, tokens, model.args.hidden_size))
    targets = mx.zeros((1, tokens), mx.int32)
    return mx.grad(lambda h: score_tokens(model, h, targets, targets == 0, gradient=True).sum())(hidden)


def random_pair(sizes: tuple[int, int, int]) -> TokenizedPair:
    """Random tokens: two equal answers would be computed once."""
    rng = np.random.default_rng(0)
    return TokenizedPair(*(rng.integers(3, 100_000, n).astype(np.int32) for n in sizes), "random:1")


def planned(
    sizes: tuple[int, int, int], layout: Layout, device: mx.DeviceType, **changes
) -> dict[str, float]:
    """What the plan says, MB, peak and parts; `changes` of the config."""
    pair = random_pair(sizes)
    model = skeleton({**H_MICRO, "torch_dtype": "float32", **changes}, AdapterConfig(rank=16))
    arguments = (layout, "shared", build_loss(LossConfig()), OptimizerConfig(learning_rate=2e-5))
    found = need(model, [pair], 1, *arguments, kept=int(device == mx.gpu), device=device)
    checks = scoring_need(model, [pair], None, "shared", arguments[2], arguments[3], device)
    rows = [("peak", found.peak), *found._asdict().items(), ("checks at the start", checks.peak)]
    return {name: round(n / 1e6, 1) for name, n in rows}


def planned_for_a_mac(gigabytes: int = 16) -> dict[str, dict]:
    """Weights in bfloat16 and 4-bit, prompt 1024 and answers of 512 tokens, and of 1024."""
    quantised = {"quantization": {"group_size": 64, "bits": 4}}
    return {"limit": round(memory_limit(gigabytes) / 1e6, 1)} | {
        f"{name}, 1024 + 2 x {answer}, {layout}": planned((1024, answer, answer), layout, mx.gpu, **changes)
        for name, changes in (("bfloat16", {}), ("4-bit", quantised))
        for answer in (512, 1024)
        for layout in LAYOUTS[2:]
        for changes in [{"torch_dtype": "bfloat16", **changes}]
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("prompt", 512), ("chosen", 256), ("rejected", 256), ("layers", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--branches", choices=("joint", "separate"), default="joint")
    parser.add_argument("--plan-only", action="store_true", help="no step, only what the plan says")
    options = parser.parse_args()

    sizes = (options.prompt, options.chosen, options.rejected)
    plan = planned(sizes, Layout(True, options.branches == "separate"), mx.cpu)
    mac = planned_for_a_mac()
    if options.plan_only:
        print(json.dumps({"plan_mb": plan, "plan_mb_of_a_16_gb_mac": mac}, indent=1))
        return
    model = make_model(options.layers)
    frozen = sum(v.nbytes for _, v in tree_flatten(model.parameters()))
    adapter = sum(v.nbytes for _, v in tree_flatten(model.trainable_parameters()))
    pair = random_pair(sizes)
    forward = SHARED if options.branches == "joint" else SEPARATE

    parts = {
        "head with its gradient": peak_over(lambda: head_gradient(model, options.chosen + options.rejected))
    }
    for kind in ("mamba", "attention"):
        index = next((i for i, name in enumerate(model.args.layer_types) if name == kind), None)
        if index is not None:
            parts[f"one {kind} block with its gradient, prompt"] = peak_over(
                lambda index=index: block_gradient(model, index, options.prompt - 1)
            )
    start = time.perf_counter()
    scores = []
    parts["scoring without a gradient"] = peak_over(
        lambda: scores.append(score_pairs(model, [pair], forward, [[0]])) or mx.zeros(1)
    )
    scored = time.perf_counter() - start
    optimizer = optimizers.AdamW(learning_rate=1e-6, bias_correction=True)
    compute = pair_gradient(model, build_loss(LossConfig()), forward)
    model.train()

    def step():
        optimizer.init(model.trainable_parameters())
        mx.eval(optimizer.state)  # as in every step but the first
        gradient, result = window_gradient(compute, [pair], [[0]], scores[0], mx.array(0.1))
        update(model, optimizer, gradient, 1.0)
        return mx.array(result.losses)

    start = time.perf_counter()
    parts["whole step, optimiser's state included"] = peak_over(step)
    print(
        json.dumps(
            {
                "tokens": dict(zip(("prompt", "chosen", "rejected"), sizes, strict=True)),
                "branches": options.branches,
                "weights_mb": round((frozen - adapter) / 1e6, 1),
                "adapter_mb": round(adapter / 1e6, 1),
                "peak_mb_over_the_model": parts,
                "plan_mb": plan,
                "plan_mb_of_a_16_gb_mac": mac,
                "seconds": {"score": round(scored, 1), "step": round(time.perf_counter() - start, 1)},
                "versions": {name: version(name) for name in ("mlx", "mlx-lm", "mlx-dpo")},
                "hardware": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, float32",
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
