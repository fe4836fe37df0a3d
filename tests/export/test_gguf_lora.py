"""An adapter as GGUF-LoRA."""

from importlib.util import find_spec

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.demo.family_models import CONFIGS, make_adapter
from mlx_dpo.errors import DpoError
from mlx_dpo.export.gguf import export_gguf
from mlx_dpo.export.gguf_lora import export_gguf_lora, lora_content
from mlx_dpo.export.predictions import mlx_predictions
from mlx_dpo.models.adapters import WEIGHTS, AdapterConfig, load_adapter, read_adapter_config
from mlx_dpo.models.load import load_model

from ..support.export_content import ROWS, content_of, made, source_of

needs_llama_cpp = pytest.mark.skipif(
    find_spec("gguf") is None or find_spec("xllamacpp") is None, reason="xllamacpp is not installed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lora")


def content(folder, family):
    base, adapter = made(folder, family)
    weights = mx.load(str(adapter / WEIGHTS))
    kind = CONFIGS[family][0]["model_type"]
    return lora_content(kind, load_model(base)[0], read_adapter_config(adapter), weights, base)


@pytest.mark.parametrize("family", ["llama", "qwen3", "granite", "hybrid"])
def test_base_and_adapter_in_llama_cpps_order_give_the_fused_tensors(folder, family):
    """W + alpha / rank * B A for every adapted tensor, as llama.cpp computes it."""
    lora = content(folder, family)
    tensors = {t.name: t.make() for t in lora.tensors}
    alpha = next(f.value for f in lora.fields if f.key == "adapter.lora.alpha")
    still = made(folder, family)[1].with_name(f"{family}-still")
    if not still.exists():
        make_adapter(made(folder, family)[0], still, size=0.0)
    before = {t.name: t for t in content_of(source_of(made(folder, family)[0], still)).tensors}
    after = {t.name: t for t in content_of(source_of(*made(folder, family))).tensors}
    names = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
    assert len(names) > 15 and "blk.1.attn_q.weight" in names
    for name in names:
        a, b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        sum_ = before[name].make() + alpha / a.shape[0] * b @ a
        np.testing.assert_allclose(sum_, after[name].make(), atol=1e-6, err_msg=name)


def test_adapters_that_llama_cpp_does_not_have_are_refused(folder):
    base, adapter = made(folder, "hybrid-moe")
    model, weights = load_model(base)[0], mx.load(str(adapter / WEIGHTS))
    with pytest.raises(DpoError, match=r"no adapters on experts: model\.layers\.0\.block_sparse") as error:
        lora_content("granitemoehybrid", model, AdapterConfig(rank=4), weights, base)
    assert "mlx-dpo export gguf without --lora" in error.value.hint
    for kind in ("dora", "full"):
        with pytest.raises(DpoError, match=f"no adapters of type {kind}"):
            lora_content("llama", model, AdapterConfig(type=kind), {}, base)


@needs_llama_cpp
@pytest.mark.parametrize("family", ["llama", "hybrid"])
def test_llama_cpp_with_base_and_adapter_predicts_what_mlx_predicts(folder, tmp_path, family):
    from mlx_dpo.export.prove_llama_cpp import llama_cpp

    base, adapter = made(folder, family)
    still = make_adapter(base, tmp_path / "still", size=0.0)
    file = export_gguf(str(base), still, tmp_path / "base", "f32")
    lora = export_gguf_lora(str(base), adapter, tmp_path / "lora")
    model = load_model(base)[0]
    before = mlx_predictions(model, ROWS, 0).logps
    load_adapter(model, adapter)
    wanted = mlx_predictions(model, ROWS, 0).logps
    with llama_cpp(file, 256, lora) as server:
        got = np.stack([server.after(row, wanted.shape[1]) for row in ROWS])
    assert np.abs(got - wanted).max() < 1e-5 < 1e-1 < np.abs(before - wanted).max()
