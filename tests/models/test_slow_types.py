"""A device that is slow in a model's types says so at the start, with the remedy."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_dpo.forward.quantised import product, speed_up_products
from mlx_dpo.models.slow_types import is_slow, slow_products


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

    import mlx_dpo.models.slow_types as module

    block = nn.Sequential(nn.Linear(64, 64), nn.Linear(1024, 2048), nn.Linear(64, 4096))
    nn.quantize(block, group_size=32, bits=4)
    if trained:
        block.layers[1] = LoRALinear.from_base(block.layers[1])
    times = iter([0.3, 0.02])
    monkeypatch.setattr(module, "_fastest", lambda product: (mx.eval(product()), next(times))[1])
    told = slow_products(Model(block), "org/name")
    assert "300 ms for one 4-bit layer (2,048 x 1,024)" in told and "20.0 ms in float32" in told
    assert "--hf-path org/name --dequantize --dtype float32" in told


def test_half_precision_needs_no_dequantising(monkeypatch):
    import mlx_dpo.models.slow_types as module

    block = nn.Linear(256, 512)
    block.set_dtype(mx.bfloat16)
    times = iter([0.3, 0.02])
    monkeypatch.setattr(module, "_fastest", lambda product: (mx.eval(product()), next(times))[1])
    told = slow_products(Model(block), "org/name")
    assert "bfloat16 layer" in told and "--dequantize" not in told


def test_half_precision_is_slow_on_a_cpu():
    if mx.default_device().type == mx.gpu:
        pytest.skip("a GPU is not")
    linear = nn.Linear(1024, 2048)
    linear.set_dtype(mx.bfloat16)
    assert "bfloat16 layer" in slow_products(Model(linear), "m")
    assert (linear.weight != 0).any()  # measuring leaves the model as it is


DTYPES = [mx.float32, mx.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_products_are_exact_forwards_and_backwards(dtype, rows, bits):
    """MLX's own, in bfloat16 on a CPU, are off by 3 and 4 %, because it adds up in bfloat16."""
    linear = nn.Linear(256, 320, bias=False)
    linear.set_dtype(dtype)
    layer = nn.QuantizedLinear.from_linear(linear, group_size=32, bits=bits)
    x, slope = (mx.random.normal((1, rows, n), key=mx.random.key(n)).astype(dtype) for n in (256, 320))
    parts = (a.astype(mx.float32) for a in (layer.scales, layer.biases))
    weight = float64(mx.dequantize(layer.weight, *parts, group_size=32, bits=bits))
    (y,), (gradient,) = mx.vjp(lambda x: product(layer, x), [x], [slope])
    allowed = 1e-6 if dtype == mx.float32 else 0.003 if rows > 1 else 0.1
    for ours, truth in ((y, float64(x) @ weight.T), (gradient, float64(slope) @ weight)):
        assert ours.dtype == dtype
        assert np.linalg.norm(float64(ours) - truth) < allowed * np.linalg.norm(truth)


def test_a_gradient_is_that_of_the_weights_which_the_layer_had():
    """A head that answers for some words holds others by the time a gradient is taken."""
    layer = nn.QuantizedLinear(64, 96, bias=False, group_size=32, bits=4)
    x = mx.ones((9, 64))

    def score(x):
        y = product(layer, x)
        layer.scales = 3 * layer.scales
        layer.biases = 3 * layer.biases
        return y.sum()

    before = mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=32, bits=4).sum(axis=0)
    assert mx.allclose(mx.grad(score)(x)[0], before, atol=1e-5)


def float64(array):
    return np.array(array.astype(mx.float32)).astype(np.float64)


def test_all_quantised_layers_and_tied_heads_multiply_so(monkeypatch):
    import mlx_dpo.forward.quantised as module

    seen = []
    monkeypatch.setattr(module, "product", lambda layer, x: seen.append(layer) or x)
    speed_up_products()
    linear = nn.QuantizedLinear(64, 64, bias=False, group_size=32, bits=4)
    head = nn.QuantizedEmbedding(64, 64, group_size=32, bits=4)
    linear(mx.zeros((9, 64))), head.as_linear(mx.zeros((9, 64)))
    assert seen == [linear, head]


def test_nothing_dense_is_kept_for_the_backward_pass():
    """64 layers of 1,024 x 1,024: 268 MB in float32."""
    layers = [nn.QuantizedLinear(1024, 1024, bias=False, group_size=32, bits=4) for _ in range(64)]
    speed_up_products()
    x = mx.zeros((16, 1024))
    mx.eval(x, [layer.parameters() for layer in layers])

    def through(x):
        for layer in layers:
            x = layer(x)
        return x.sum()

    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(mx.grad(through)(x))
    assert mx.get_peak_memory() - before < 0.7 * 64 * 1024 * 1024 * 4
