"""Small models of real mlx_lm architectures, in hub layout, made from a seed.

Each folder has config.json, model.safetensors and a byte-level BPE tokenizer trained on given texts, with the
chat template and the special tokens of the family. The same code loads them as models from the Hub.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path

from ..errors import DpoError
from ..upstream import model_classes


class ChatFormat(NamedTuple):
    """A family's turn format; the first special token pads, `end` ends a turn."""

    template: str
    special: tuple[str, ...]
    end: str
    bos: str | None = None


GRANITE = ChatFormat(
    template=(
        "{% for m in messages %}{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] "
        "+ '<|end_of_text|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
    ),
    special=("<|pad|>", "<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|unk|>"),
    end="<|end_of_text|>",
)
CHATML = ChatFormat(
    template=(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
    ),
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    end="<|im_end|>",
)
LLAMA3 = ChatFormat(
    template=(
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] "
        "+ '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    special=(
        "<|finetune_right_pad_id|>",
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ),
    end="<|eot_id|>",
    bos="<|begin_of_text|>",
)
GEMMA = ChatFormat(
    template=(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
        "+ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    special=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    end="<eos>",
    bos="<bos>",
)


GRANITE_HYBRID = {
    "model_type": "granitemoehybrid",
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "attention_bias": False,
    "position_embedding_type": "nope",
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
    "mamba_d_conv": 4,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
"""What the config of a small Granite hybrid has, whatever its size."""


def _granite_hybrid(hidden: int, layers: int, vocab: int) -> dict[str, Any]:
    return {
        **GRANITE_HYBRID,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "shared_intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        # As in H-Micro, attention is rare and never first; here it is every third block.
        "layer_types": ["attention" if i % 3 == 1 else "mamba" for i in range(layers)],
        "num_attention_heads": max(2, hidden // 32),
        "num_key_value_heads": 2,
        "attention_multiplier": 1 / 32,
        "mamba_n_heads": hidden // 32,
        "mamba_d_head": 64,
        "mamba_d_state": 32,
        "max_position_embeddings": 4096,
        "vocab_size": vocab,
    }


def _llama(hidden: int, layers: int, vocab: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(2, hidden // 32),
        "num_key_value_heads": max(1, hidden // 64),
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "vocab_size": vocab,
    }


def _qwen3(hidden: int, layers: int, vocab: int) -> dict[str, Any]:
    return {
        **_llama(hidden, layers, vocab),
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
    }


ARCHITECTURES = {
    "granite": (_granite_hybrid, GRANITE),
    "llama": (_llama, LLAMA3),
    "qwen3": (_qwen3, CHATML),
}


def make_model(
    folder: Path,
    architecture: str,
    texts: Iterable[str],
    *,
    hidden: int = 64,
    layers: int = 3,
    vocab: int = 1024,
    seed: int = 0,
    bits: int | None = None,
) -> Path:
    """Write a model with random float32 weights and a tokenizer trained on `texts`.

    Args:
        architecture: granite (Mamba-2/attention hybrid, tied, scaled logits, no positions), llama or qwen3.
        hidden: width, a multiple of 32.
        vocab: maximum number of vocabulary entries; fewer texts give fewer entries.
        bits: quantise the weights to this number of bits, in groups of 32.
    """
    from mlx_lm.utils import quantize_model, save_config

    build_config, chat = ARCHITECTURES[architecture]
    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(folder, chat, texts, vocab)
    config = build_config(hidden, layers, size)
    config |= {"eos_token_id": chat.special.index(chat.end), "pad_token_id": 0, "torch_dtype": "float32"}
    model_class, arguments = model_classes(config)
    model = model_class(arguments.from_dict(config))
    initialise(model, seed)
    if bits:
        model, config = quantize_model(model, config, group_size=32, bits=bits)
    mx.save_safetensors(
        str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "mlx"}
    )
    save_config(config, folder / "config.json")
    return folder


def initialise(model: nn.Module, seed: int) -> None:
    """Normal weights with deviation 1/sqrt(inputs) from `seed`; norms, biases and Mamba's vectors stay."""
    keys = iter(mx.random.split(mx.random.key(seed), len(tree_flatten(model.parameters()))))

    def draw(path: str, value: mx.array) -> mx.array:
        key = next(keys)
        if path.endswith("dt_bias"):
            return mx.random.uniform(-4.0, -1.0, value.shape, key=key)
        if value.ndim < 2:
            return value
        inputs = value[0].size  # of a convolution: its kernel's width
        deviation = 0.02 if "embed_tokens" in path else inputs**-0.5
        return deviation * mx.random.normal(value.shape, key=key)

    model.update(tree_map_with_path(draw, model.parameters()))
    mx.eval(model.parameters())


def write_tokenizer(folder: Path, chat: ChatFormat, texts: Iterable[str], vocab: int) -> int:
    """Train a byte-level BPE tokenizer and write it with its chat template; returns the vocabulary size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if vocab < 256 + len(chat.special):
        raise DpoError(f"a byte-level vocabulary needs at least {256 + len(chat.special)} entries")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(chat.special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": chat.end,
        "pad_token": chat.special[0],
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat.template,
    }
    if chat.bos:
        settings["bos_token"] = chat.bos
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    return tokenizer.get_vocab_size()
