"""The proofs find planted damages and name them; by gguf, llama.cpp and torch where these are installed."""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.export.gguf import export_gguf
from mlx_dpo.export.gguf_fields import Field
from mlx_dpo.export.hf import export_hf
from mlx_dpo.export.predictions import Predictions, check_alike, likeness
from mlx_dpo.export.prove_transformers import check_files, check_tokens, prove_transformers

from ..support.export_content import ROWS, content_of, made, source_of

needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="the package gguf is not installed")
needs_llama_cpp = pytest.mark.skipif(
    find_spec("gguf") is None or find_spec("xllamacpp") is None, reason="xllamacpp is not installed"
)
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    """Base, adapter and fused model of the tiny hybrid."""
    base, adapter = made(tmp_path_factory.mktemp("hybrid"), "hybrid")
    return base, adapter, source_of(base, adapter)


@pytest.fixture(scope="module")
def hub_folder(hybrid, tmp_path_factory):
    base, adapter, _ = hybrid
    return export_hf(str(base), adapter, tmp_path_factory.mktemp("hub") / "out")


def damaged(folder, to, change=None, **files):
    """A copy of an export whose tensors went through `change`, and whose JSON files got other values."""
    shutil.copytree(folder, to)
    if change:
        tensors = dict(mx.load(str(folder / "model.safetensors")))
        change(tensors)
        mx.save_safetensors(str(to / "model.safetensors"), tensors, metadata={"format": "pt"})
    for name, values in files.items():
        file = to / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return to


MLP, CONV = "model.layers.1.shared_mlp.input_linear.weight", "model.layers.0.mamba.conv1d.weight"


def one_number(tensors):
    value = np.array(tensors[MLP])
    value[3, 5] = np.nextafter(value[3, 5], 9)
    tensors[MLP] = mx.array(value)


def halves(tensors):
    gate, up = mx.split(tensors[MLP], 2)
    tensors[MLP] = mx.concatenate([up, gate])


def transposed(tensors):
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors[name] = mx.contiguous(tensors[name].T)


def kernel(tensors):
    tensors[CONV] = tensors[CONV][..., ::-1]


def renamed(tensors):
    tensors["model.layers.1.self_attn.query.weight"] = tensors.pop("model.layers.1.self_attn.q_proj.weight")


def too_few(tensors):
    del tensors["model.norm.weight"]


def too_many(tensors):
    tensors["extra"] = mx.zeros(3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (one_number, "layers.1.mlp.gate_proj"),
        (halves, "layers.1.mlp.gate_proj"),
        (transposed, "layers.1.self_attn.q_proj"),
        (kernel, "layers.0.mamba.conv1d"),
        (renamed, "the tensor model.layers.1.self_attn.q_proj.weight is missing"),
        (too_few, "the tensor model.norm.weight is missing"),
        (too_many, "the tensor extra is too much"),
    ],
)
def test_one_changed_tensor_in_the_hub_folder_is_named(hybrid, hub_folder, tmp_path, change, named):
    with pytest.raises(DpoError, match=re.escape(named)):
        check_files(damaged(hub_folder, tmp_path / "bad", change), hybrid[2])


FILES = {
    "config.json": ({"logits_scaling": 3.0}, "the field logits_scaling is not"),
    "config.json, where answers end": ({"eos_token_id": 7}, "the field eos_token_id is not"),
    "config.json, quantised": ({"quantization": {"bits": 4}}, "the field quantization is not"),
    "tokenizer.json": ({"version": "2"}, "differs from the base's file"),
    "tokenizer_config.json": ({"add_bos_token": True}, "the field add_bos_token is not"),
    "generation_config.json": ({"temperature": 9.0}, "the field temperature is not"),
    "generation_config.json, where answers end": ({"eos_token_id": 7}, "the field eos_token_id is not"),
}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """A Gemma, whose base says how to sample, and its export."""
    folder = tmp_path_factory.mktemp("sampled")
    base, adapter = made(folder, "gemma3")
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.7, "eos_token_id": [1]}))
    return source_of(base, adapter), export_hf(str(base), adapter, folder / "out")


@pytest.mark.parametrize("damage", FILES)
def test_one_changed_field_or_file_of_the_hub_folder_is_named(sampled, tmp_path, damage):
    source, folder = sampled
    check_files(folder, source)
    values, named = FILES[damage]
    name = damage.partition(",")[0]
    with pytest.raises(DpoError, match=named) as error:
        check_files(damaged(folder, tmp_path / "bad", **{name.removesuffix(".json"): values}), source)
    assert error.value.where == str(tmp_path / "bad" / name)


def test_another_template_in_the_hub_folder_is_named(hybrid, hub_folder, tmp_path):
    source = hybrid[2]
    check_tokens(hub_folder, source, ROWS[:1])
    with pytest.raises(DpoError, match="another chat template"):
        settings = {"chat_template": "{{ messages }}"}
        check_tokens(damaged(hub_folder, tmp_path / "c", tokenizer_config=settings), source, ROWS[:1])


@needs_torch
def test_transformers_predicts_what_mlx_predicts(tmp_path):
    """The stored numbers have all families; torch computes a hybrid slowly."""
    base, adapter = made(tmp_path, "qwen3")
    folder = export_hf(str(base), adapter, tmp_path / "out")
    found = prove_transformers(folder, source_of(base, adapter), ROWS)
    assert found.difference < 1e-5 and found.same_greedy == 32


def predicted(logps, greedy=(1, 2), leads=(1.0, 1.0)):
    return Predictions(np.log(np.array(logps)), list(greedy), list(leads))


def test_the_likeness_is_worked_by_hand():
    """KL = 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75) = 0.1438."""
    found = likeness(predicted([[0.5, 0.5]]), predicted([[0.25, 0.75]], greedy=(1, 3)))
    assert found.divergence == pytest.approx(0.1438, abs=1e-4)
    assert found.difference == pytest.approx(np.log(2))
    assert found.same_greedy == 1


def test_another_greedy_token_is_forgiven_only_where_two_are_equally_likely():
    one = predicted([[0.5, 0.5]], leads=(1.0, 1e-4))
    other = predicted([[0.5, 0.5]], greedy=(1, 3))
    assert check_alike(one, other, "it", "file", 1e-4).same_greedy == 1
    with pytest.raises(DpoError, match="it does not predict") as error:
        check_alike(one._replace(leads=[1.0, 1.0]), other, "it", "file", 1e-4)
    assert error.value.code == "not-alike"


def test_a_prediction_that_is_not_a_number_is_never_alike():
    with pytest.raises(DpoError, match="does not predict"):
        check_alike(predicted([[0.5, 0.5]]), predicted([[np.nan, 0.5]]), "it", "file", 1e-4)
    with pytest.raises(DpoError, match="does not predict"):
        check_alike(predicted([[0.5, 0.5]]), predicted([[np.nan, 0.5]]), "it", "file", None)


# GGUF files


def rewritten(path, content, fields=None, tensors=None):
    """A GGUF file of this content with other fields or tensors."""
    from mlx_dpo.export.gguf_file import write_gguf

    content = content._replace(fields=fields or content.fields, tensors=tensors or content.tensors)
    write_gguf(path, content.architecture, content.fields, content.tensors, content.type)
    return path


def other_field(content, key, value):
    return [f._replace(value=value) if f.key == key else f for f in content.fields]


def other_tensor(content, name, change):
    values = {t.name: t for t in content.tensors}
    new = change(values[name].make())
    changed = values[name]._replace(shape=new.shape, make=lambda: new)
    return [changed if t.name == name else t for t in content.tensors]


KEY = "granitehybrid."
FIELD_DAMAGES = {
    f"{KEY}rope.scaling.finetuned": True,
    f"{KEY}attention.head_count_kv": [2, 2, 0],
    f"{KEY}ssm.time_step_rank": 4,
    f"{KEY}logit_scale": 1.0,
    f"{KEY}attention.layer_norm_rms_epsilon": 1e-6,
    "general.file_type": 1,
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.eos_token_id": 5,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.chat_template": "{{ messages }}",
}
TENSOR_DAMAGES = {
    "blk.0.ssm_a": lambda v: -v,
    "blk.0.ssm_conv1d.weight": lambda v: v[:, ::-1].copy(),
    "blk.0.ffn_gate.weight": lambda v: np.roll(v, 1, 0),
    "blk.1.attn_q.weight": lambda v: v.T.copy(),
    "blk.1.attn_k.weight": lambda v: v.reshape(2, 8, 2, -1).swapaxes(1, 2).reshape(v.shape).copy(),
    "token_embd.weight": lambda v: np.nextafter(v, np.float32(9)),
}


@needs_gguf
@pytest.mark.parametrize("key", FIELD_DAMAGES)
def test_one_changed_field_of_a_gguf_file_is_named(hybrid, tmp_path, key):
    from mlx_dpo.export.prove_llama_cpp import check_content

    content = content_of(hybrid[2])
    file = rewritten(tmp_path / "a.gguf", content, other_field(content, key, FIELD_DAMAGES[key]))
    with pytest.raises(DpoError, match=f"the field {re.escape(key)} is not what"):
        check_content(file, content)


@needs_gguf
@pytest.mark.parametrize("name", TENSOR_DAMAGES)
def test_one_changed_tensor_of_a_gguf_file_is_named(hybrid, tmp_path, name):
    from mlx_dpo.export.prove_llama_cpp import check_content

    content = content_of(hybrid[2])
    file = rewritten(tmp_path / "a.gguf", content, None, other_tensor(content, name, TENSOR_DAMAGES[name]))
    with pytest.raises(DpoError, match=f"the tensor {re.escape(name)} is not what"):
        check_content(file, content)


@needs_gguf
def test_a_missing_name_one_too_many_and_one_other_token_are_named(hybrid, tmp_path):
    from mlx_dpo.export.prove_llama_cpp import check_content

    content = content_of(hybrid[2])
    check_content(rewritten(tmp_path / "a.gguf", content), content)
    renamed = [
        t._replace(name="blk.1.attn_query.weight") if "attn_q." in t.name else t for t in content.tensors
    ]
    with pytest.raises(DpoError, match=r"the tensor blk\.1\.attn_q\.weight is missing"):
        check_content(rewritten(tmp_path / "b.gguf", content, None, renamed), content)
    less = [f for f in content.fields if f.key != f"{KEY}rope.scaling.finetuned"]
    with pytest.raises(DpoError, match=r"the field granitehybrid\.rope\.scaling\.finetuned is missing"):
        check_content(rewritten(tmp_path / "c.gguf", content, less), content)
    more = [*content.fields, Field("extra.field", "uint32", 1)]
    with pytest.raises(DpoError, match=r"the field extra\.field is too much"):
        check_content(rewritten(tmp_path / "d.gguf", content, more), content)
    tokens = next(f.value for f in content.fields if f.key == "tokenizer.ggml.tokens")
    other = other_field(content, "tokenizer.ggml.tokens", [*tokens[:300], "other", *tokens[301:]])
    with pytest.raises(DpoError, match=r"the field tokenizer\.ggml\.tokens is not what"):
        check_content(rewritten(tmp_path / "e.gguf", content, other), content)
    half = tmp_path / "half.gguf"
    half.write_bytes((tmp_path / "a.gguf").read_bytes()[:3000])
    with pytest.raises(DpoError, match="is not a GGUF file"):
        check_content(half, content)


@needs_gguf
@pytest.mark.parametrize(("type", "relative"), [("f16", 1e-3), ("bf16", 8e-3), ("q8_0", 2e-2)])
def test_matrices_are_packed_and_vectors_are_not(hybrid, tmp_path, type, relative):
    from gguf import GGMLQuantizationType, quants

    from mlx_dpo.export.gguf_file import read_gguf

    content = content_of(hybrid[2], type)
    _, tensors = read_gguf(rewritten(tmp_path / "a.gguf", content))
    for tensor in content.tensors:
        kind, data = tensors[tensor.name]
        assert kind == ("F32" if tensor.float32 else type.upper())
        values = quants.dequantize(data, GGMLQuantizationType[kind])
        wanted = tensor.make()
        assert np.abs(values - wanted).max() <= (0 if tensor.float32 else relative) * np.abs(wanted).max()


@needs_gguf
def test_a_number_that_half_precision_cannot_hold_is_refused(hybrid, tmp_path):
    content = content_of(hybrid[2], "f16")
    large = other_tensor(content, "blk.0.ffn_up.weight", lambda v: v * np.float32(1e6))
    with pytest.raises(DpoError, match="not finite in F16") as error:
        rewritten(tmp_path / "a.gguf", content, None, large)
    assert error.value.where == "blk.0.ffn_up.weight"


@needs_gguf
def test_nothing_is_left_when_the_proof_of_a_gguf_fails(hybrid, tmp_path):
    base, adapter, _ = hybrid
    seen = []

    def prove(folder, source):
        seen.extend(sorted(p.name for p in folder.iterdir()))
        raise DpoError("is wrong", where=folder / "x")

    with pytest.raises(DpoError, match="is wrong") as error:
        export_gguf(str(base), adapter, tmp_path / "out", "q8_0", prove=prove)
    assert error.value.where == str(tmp_path / "out" / "x")
    assert seen == ["Modelfile", "out-q8_0.gguf"]
    assert list(tmp_path.iterdir()) == []


@needs_llama_cpp
@pytest.mark.parametrize("type", ["f32", "q8_0"])
def test_llama_cpp_predicts_what_mlx_predicts(hybrid, tmp_path, type):
    from mlx_dpo.export.prove_llama_cpp import prove_llama_cpp

    base, adapter, _ = hybrid
    found = []
    export_gguf(
        str(base),
        adapter,
        tmp_path / "out",
        type,
        prove=lambda folder, source: found.append(prove_llama_cpp(folder, source, type, ROWS)),
    )
    assert found[0].difference < (1e-5 if type == "f32" else 0.05)
    assert (tmp_path / "out" / "Modelfile").read_text().startswith(f"FROM ./out-{type}.gguf\n")


@needs_llama_cpp
def test_llama_cpp_itself_finds_rope_tokens_and_template_that_are_wrong(hybrid, tmp_path):
    """Where the content were made wrongly, reading it back would not show it."""
    from mlx_dpo.export.predictions import mlx_predictions
    from mlx_dpo.export.prove_llama_cpp import check_template, check_tokens, llama_cpp

    source = hybrid[2]
    content, tokenizer = content_of(source), source.tokenizer
    fields = other_field(content, f"{KEY}rope.scaling.finetuned", True)
    fields = [f._replace(value="{{ messages }}") if f.key == "tokenizer.chat_template" else f for f in fields]
    merges = next(f.value for f in fields if f.key == "tokenizer.ggml.merges")
    fields = [f._replace(value=merges[::-1]) if f.key == "tokenizer.ggml.merges" else f for f in fields]
    file = rewritten(tmp_path / "a.gguf", content, fields)
    wanted = mlx_predictions(source.fused.model, ROWS, 4)
    with llama_cpp(file, 256) as server:
        with pytest.raises(DpoError, match=r"llama\.cpp has other tokens for 'How do I"):
            check_tokens(server, tokenizer, ["How do I clean a copper kettle?"], file)
        with pytest.raises(DpoError, match=r"llama\.cpp renders"):
            check_template(server, tokenizer, file)
        got = server.predictions(ROWS, wanted.logps.shape[1])
    with pytest.raises(DpoError, match=r"llama\.cpp does not predict"):
        check_alike(wanted, got, "llama.cpp", file, 1e-4)


@needs_llama_cpp
def test_a_file_that_llama_cpp_does_not_load_is_refused_with_its_reason(hybrid, tmp_path):
    from mlx_dpo.export.prove_llama_cpp import llama_cpp

    content = content_of(hybrid[2])
    less = [t for t in content.tensors if t.name != "blk.0.ssm_a"]
    file = rewritten(tmp_path / "a.gguf", content, None, less)
    with pytest.raises(DpoError, match=r"blk\.0\.ssm_a") as error, llama_cpp(file, 64):
        pass
    assert Path(error.value.where) == file
