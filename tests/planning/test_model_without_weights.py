"""A model without weights: the products of one token, and the blocks that stand for others; by hand."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.tuner.lora import LoRALinear

from mlx_dpo.models.adapters import AdapterConfig
from mlx_dpo.planning.model_without_weights import _products, skeleton

from ..support.policies import CONFIGS

LINEAR = nn.Linear(64, 32, bias=True)
PARTS = {
    "a product for each weight": (LINEAR, None, 64 * 32),
    "an adapter beside it": (LoRALinear.from_base(LINEAR, r=2), None, 64 * 32 + 64 * 2 + 2 * 32),
    "4-bit weights, eight in one number": (LINEAR.to_quantized(32, 4), None, 64 * 32),
    "8-bit weights, four in one number": (LINEAR.to_quantized(32, 8), None, 64 * 32),
    "two of eight experts": (SwitchLinear(16, 4, 8, bias=False), 2, 2 * 16 * 4),
    "all experts, where nothing says how many": (SwitchLinear(16, 4, 8, bias=False), None, 8 * 16 * 4),
    "no product in a norm": (nn.RMSNorm(64), None, 0),
}


@pytest.mark.parametrize(("part", "active", "expected"), PARTS.values(), ids=PARTS.keys())
def test_the_products_of_one_token(part, active, expected):
    assert _products(part, active) == expected


def test_the_bytes_and_products_of_a_model_are_those_of_all_blocks():
    """Llama, hidden size 64, 320 entries: attention 64·64·2 + 64·32·2, MLP 3·64·192, two norms of 64."""
    config = {**CONFIGS["llama"], "num_hidden_layers": 10, "torch_dtype": "float32"}
    block = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192
    # Rank 4: 4 · (in + out) for q and o, k and v, and the three of the MLP.
    trained = 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 192))
    found = skeleton(config, AdapterConfig(rank=4))
    assert found.weights == 4 * (10 * (block + 2 * 64) + 320 * 64 + 64)
    assert found.trained == 4 * 10 * trained
    assert found.work == (10 * (block + trained), 320 * 64)


@pytest.mark.parametrize(
    ("layers", "adapted", "kinds"),
    [
        (10, -1, [9, 1]),  # the last computes only what it remembers of a prompt
        (10, 2, [8, 1, 1]),  # frozen, adapted, the last
        (1, -1, [1]),
    ],
)
def test_blocks_that_are_alike_are_of_one_kind(layers, adapted, kinds):
    config = {**CONFIGS["llama"], "num_hidden_layers": layers}
    found = skeleton(config, AdapterConfig(rank=4, layers=adapted))
    assert [number for _, number in found.alike] == kinds
    places = sorted(place for places, _ in found.alike for place in places)
    assert places == list(range(len(found.model.layers)))
    assert len(places) <= 5


def test_no_array_of_a_model_without_weights_is_in_memory():
    before = mx.get_active_memory()
    skeleton({**CONFIGS["llama"], "hidden_size": 2048, "intermediate_size": 8192}, AdapterConfig())
    assert mx.get_active_memory() - before < 1e6  # the weights are some 400 MB
