"""What a GGUF file holds: fields, tensors, tokens. No package of GGUF is needed."""

import json
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.demo.family_models import LLAMA3_SPLIT, QWEN_SPLIT
from mlx_dpo.errors import DpoError
from mlx_dpo.export.gguf_fields import architecture, check_computable, model_fields
from mlx_dpo.export.gguf_tensors import gguf_tensors, rope_factors, rope_order
from mlx_dpo.export.gguf_tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    split_name,
    token_list,
    tokenizer_fields,
)
from mlx_dpo.export.ollama import go_template, modelfile
from mlx_dpo.models.load import load_tokenizer

from ..support.export_content import content_of


def fields_of(source):
    return {field.key: field.value for field in content_of(source).fields}


def test_rows_of_a_head_are_interleaved_for_llama_cpp():
    """Two heads of four rows."""
    assert rope_order(mx.arange(8), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert rope_order(mx.arange(8).reshape(8, 1), 1)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_only_layers_with_attention_have_key_heads_in_a_hybrid(sources):
    fields = fields_of(sources("hybrid"))
    assert fields["granitehybrid.attention.head_count_kv"] == [0, 2, 0]
    assert fields["granitehybrid.rope.scaling.finetuned"] is False
    assert "granite.rope.scaling.finetuned" not in fields_of(sources("granite"))


def test_a_hybrid_without_mamba_is_a_granite_for_llama_cpp(sources):
    model = sources("hybrid").fused.model
    args = SimpleNamespace(layer_types=["attention"], use_moe=False)
    assert architecture("granitemoehybrid", model, "base") == "granitehybrid"
    assert architecture("granitemoehybrid", SimpleNamespace(args=args), "base") == "granite"


def tensors_of(source):
    content = content_of(source)
    return {t.name: t for t in content.tensors}


def test_mamba_is_written_as_llama_cpp_computes_it(sources):
    source = sources("hybrid")
    tensors, hub = tensors_of(source), source.tensors
    log = np.array(hub["model.layers.0.mamba.A_log"])
    np.testing.assert_allclose(tensors["blk.0.ssm_a"].make(), -np.exp(log)[:, None], rtol=1e-6)
    kernel = np.array(hub["model.layers.0.mamba.conv1d.weight"])
    assert (tensors["blk.0.ssm_conv1d.weight"].make() == kernel[:, 0]).all()
    assert tensors["blk.0.ssm_norm.weight"].shape == (1, 128)
    joined = np.array(hub["model.layers.0.shared_mlp.input_linear.weight"])
    assert (tensors["blk.0.ffn_gate.weight"].make() == joined[:96]).all()
    assert (tensors["blk.0.ffn_up.weight"].make() == joined[96:]).all()


def test_what_llama_cpp_needs_in_float32_is_never_packed(sources):
    kept = {n.split(".")[2] for n, t in tensors_of(sources("hybrid-moe")).items() if t.float32 and "blk" in n}
    names = {"attn_norm", "ffn_norm", "ssm_norm", "ssm_conv1d", "ssm_a", "ssm_d", "ssm_dt", "ffn_gate_inp"}
    assert kept == names


def test_norms_of_gemma_are_stored_with_one_added(sources):
    source = sources("gemma3")
    norm = np.array(source.tensors["model.layers.0.post_feedforward_layernorm.weight"])
    assert np.allclose(tensors_of(source)["blk.0.post_ffw_norm.weight"].make(), norm + 1)
    assert not any("attn_q_norm" in n for n in tensors_of(sources("llama")))


def test_long_waves_are_divided_and_short_ones_stay():
    """Width 8, base 10,000, context 100: waves of 6.3, 63, 628 and 6,283 positions."""
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    factors = rope_factors(scaling | {"original_max_position_embeddings": 100}, 10_000.0, 8)
    smooth = (100 / (2 * np.pi * 10) - 1) / 3
    np.testing.assert_allclose(factors, [1, 1 / ((1 - smooth) / 8 + smooth), 8, 8], rtol=1e-6)


def test_the_model_of_a_wrapper_that_sees_is_written_without_its_eyes(sources):
    source = sources("qwen3")
    wrapper = SimpleNamespace(language_model=source.fused.model)
    tensors = {f"language_model.{n}": source.tensors[n] for n in source.tensors}
    tensors["vision_tower.patch.weight"] = mx.zeros((2, 2))
    written = gguf_tensors("qwen3", wrapper, tensors, "base")
    assert [t.name for t in written] == [t.name for t in content_of(source).tensors]


def test_a_tensor_without_a_place_is_refused(sources):
    source = sources("qwen3")
    with pytest.raises(DpoError, match=r"model\.layers\.0\.router\.weight has no place") as error:
        gguf_tensors("qwen3", source.fused.model, {"model.layers.0.router.weight": mx.zeros(2)}, "base")
    assert "mlx-dpo export hf" in error.value.hint and "convert_hf_to_gguf.py" in error.value.hint


@pytest.mark.parametrize(
    ("family", "setting", "value", "phrase"),
    [
        ("llama", "rope_scaling", {"type": "yarn", "factor": 4.0}, "rope scaling of type 'yarn'"),
        ("llama", "rope_traditional", True, "rope_traditional"),
        ("llama", "layer_types", ["sliding_attention"], "sliding attention"),
        ("gemma3", "query_pre_attn_scalar", 256, "query_pre_attn_scalar is 256"),
        ("gemma3", "rope_local_base_freq", 1e3, "rope_local_base_freq"),
        ("gemma3", "sliding_window_pattern", 2, "every Gemma 3 with 6"),
        ("hybrid", "mamba_n_groups", 2, "normalises each group"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(sources, family, setting, value, phrase):
    source = sources(family)
    args = SimpleNamespace(**{**vars(source.fused.model.args), setting: value})
    kind = content_of(source).architecture
    with pytest.raises(DpoError, match=phrase) as error:
        check_computable(kind, args, "base")
    assert error.value.code == "no-gguf"


def test_an_architecture_that_is_not_written_names_the_way_by_llama_cpp():
    with pytest.raises(DpoError, match="no GGUF for the architecture 'mamba2'") as error:
        architecture("mamba2", None, "base")
    assert "mlx-dpo export hf" in error.value.hint


def test_a_linear_scale_of_positions_is_written(sources):
    model = sources("llama").fused.model
    args = SimpleNamespace(**{**vars(model.args), "rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    fields = {f.key: f.value for f in model_fields("llama", SimpleNamespace(args=args), "base")}
    assert (fields["llama.rope.scaling.type"], fields["llama.rope.scaling.factor"]) == ("linear", 8.0)


def split(pattern, **model):
    return {
        "model": model,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}},
                {"type": "ByteLevel", "use_regex": False},
            ],
        },
    }


def test_the_way_a_text_is_split_has_a_name_in_llama_cpp():
    digits = [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}]
    assert split_name(split(LLAMA3_SPLIT), "f") == "dbrx"
    assert split_name(split(LLAMA3_SPLIT, ignore_merges=True), "f") == "llama-bpe"
    assert split_name(split(QWEN_SPLIT), "f") == "qwen2"
    assert split_name({"model": {}, "pre_tokenizer": {"type": "ByteLevel"}}, "f") == "gpt-2"
    assert split_name({"pre_tokenizer": {"type": "Sequence", "pretokenizers": digits}}, "f") == "smollm"
    with pytest.raises(DpoError, match="pre_tokenizer is not known"):
        split_name(split(r"\w+"), "f")


def test_tokens_are_listed_by_id_with_their_kind_and_gaps_are_filled():
    content = {
        "model": {"vocab": {"a": 0, "b": 2}},
        "added_tokens": [
            {"id": 1, "content": "<end>", "special": True},
            {"id": 3, "content": "<think>", "special": False},
            {"id": 5, "content": "<|tool|>", "special": False},
            {"id": 6, "content": "<beyond>", "special": True},
        ],
    }
    assert token_list(content, 6, byte_level=True) == (
        ["a", "<end>", "b", "<think>", "[PAD4]", "<|tool|>"],
        [NORMAL, CONTROL, NORMAL, USER_DEFINED, UNUSED, CONTROL],
    )


def test_a_tokenizer_of_sentencepiece_gets_scores_in_the_order_of_its_merges(sources, tmp_path):
    """As Gemma's: bytes are tokens, a space is an underscore."""
    content = {
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "unk_token": "<unk>",
            "vocab": {"<unk>": 0, "<0x0A>": 1, "▁": 2, "a": 3, "▁a": 4, "aa": 5},
            "merges": [["a", "a"], ["▁", "a"]],
        },
        "added_tokens": [{"id": 0, "content": "<unk>", "special": True}],
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace"}, {"type": "ByteFallback"}]},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    fields = {f.key: f.value for f in tokenizer_fields(tmp_path, sources("gemma3").tokenizer, 4, 6)}
    assert fields["tokenizer.ggml.model"] == "llama"
    assert fields["tokenizer.ggml.token_type"] == [2, BYTE, NORMAL, NORMAL, NORMAL, NORMAL]
    assert fields["tokenizer.ggml.scores"][4:] == [-1.0, 0.0]
    assert fields["tokenizer.ggml.add_space_prefix"] is False


def test_the_end_of_turn_stands_beside_the_end_of_text(sources):
    source = sources("gemma3")
    fields = fields_of(source)
    tokens = fields["tokenizer.ggml.tokens"]
    assert tokens[fields["tokenizer.ggml.eos_token_id"]] == "<eos>"
    assert tokens[fields["tokenizer.ggml.eot_token_id"]] == "<end_of_turn>"
    assert "tokenizer.ggml.eot_token_id" not in fields_of(sources("llama"))
    assert fields["tokenizer.chat_template"] == source.tokenizer.chat_template


def test_the_modelfile_puts_the_same_text_around_each_turn(sources):
    text = modelfile("a.gguf", sources("granite").tokenizer, sources("granite").end, "Be brief.")
    assert text.splitlines()[0] == "FROM ./a.gguf"
    assert 'SYSTEM """Be brief."""' in text
    assert 'PARAMETER stop "<|end_of_text|>"' in text
    assert (
        "{{ if .System }}<|start_of_role|>system<|end_of_role|>{{ .System }}<|end_of_text|>\n{{ end }}"
        in text
    )
    assert '{{ if eq .Role "user" }}<|start_of_role|>user<|end_of_role|>{{ .Content }}<|end_of_text|>' in text
    assert text.count("ADAPTER") == 0


def test_a_template_that_changes_texts_is_left_to_ollama(models, sources):
    tokenizer = load_tokenizer(models("granite"))
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content'] | upper")
    assert go_template(tokenizer) is None
    assert go_template(sources("gemma3").tokenizer).startswith("<bos>{{ range .Messages }}")
