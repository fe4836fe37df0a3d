"""A device that is slow in a model's types says so at the start, with the remedy."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_dpo.models.speed import is_slow, slow_products


class Model(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.layers = [block]


def test_three_times_float32_is_slow_but_only_where_a_layer_takes_10_ms():
    assert is_slow(0.040, 0.010)
    assert not is_slow(0.029, 0.010)
    assert not is_slow(0.009, 0.001)


def test_a_float32_model_is_never_slow():
    assert slow_products(Model(nn.Linear(576, 1536)), "m") is None


@pytest.mark.parametrize("trained", [True, False])
def test_the_measured_layer_is_the_largest_quantised_one_also_below_an_adapter(trained, monkeypatch):
    from mlx_lm.tuner.lora import LoRALinear

    import mlx_dpo.models.speed as module

    block = nn.Sequential(nn.Linear(64, 64), nn.Linear(1024, 2048), nn.Linear(64, 4096))
    nn.quantize(block, group_size=32, bits=4)
    if trained:
        block.layers[1] = LoRALinear.from_base(block.layers[1])
    times = iter([0.3, 0.02])
    monkeypatch.setattr(module, "_fastest", lambda product: (mx.eval(product()), next(times))[1])
    told = slow_products(Model(block), "org/name")
    assert "300 ms for one 4-bit layer (2,048 x 1,024)" in told and "in float32 20.0 ms" in told
    assert "--hf-path org/name --dequantize --dtype float32" in told


def test_half_precision_needs_no_dequantising(monkeypatch):
    import mlx_dpo.models.speed as module

    block = nn.Linear(256, 512)
    block.set_dtype(mx.bfloat16)
    times = iter([0.3, 0.02])
    monkeypatch.setattr(module, "_fastest", lambda product: (mx.eval(product()), next(times))[1])
    told = slow_products(Model(block), "org/name")
    assert "bfloat16 layer" in told and "--dequantize" not in told


def test_a_quantised_model_is_slow_on_a_cpu():
    if mx.default_device().type == mx.gpu:
        pytest.skip("a GPU is not")
    block = nn.Linear(1024, 2048)
    model = Model(nn.QuantizedLinear.from_linear(block, group_size=32, bits=4))
    assert "4-bit layer" in slow_products(model, "m")
