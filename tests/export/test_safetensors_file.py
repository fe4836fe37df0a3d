"""Safetensors files that are written tensor by tensor."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.export.hub_layout import HubTensors
from mlx_dpo.export.safetensors_file import write_safetensors

DTYPES = [mx.float32, mx.float16, mx.bfloat16, mx.int64, mx.int32, mx.int8, mx.uint32, mx.uint8, mx.bool_]


@pytest.fixture
def several():
    """Arrays of all dtypes and of several shapes, one of them a view that is not contiguous."""
    draw = mx.random.normal((3, 8, 5), key=mx.random.key(1))
    found = {f"of {dtype}": (10 * draw).astype(dtype) for dtype in DTYPES}
    return found | {"turned": draw.swapaxes(0, 2), "one": mx.array(3.5), "none": mx.zeros((0, 4))}


def same(one, other):
    return (one.dtype, one.shape) == (other.dtype, other.shape) and mx.array_equal(one, other).item()


def test_mlx_reads_every_bit_back(several, tmp_path):
    file = tmp_path / "a.safetensors"
    write_safetensors(file, [*several], several, {"format": "pt"})
    back, about = mx.load(str(file), return_metadata=True)
    assert about == {"format": "pt"} and back.keys() == several.keys()
    assert all(same(back[name], value) for name, value in several.items())


def test_the_format_s_own_library_reads_it(several, tmp_path):
    from safetensors.numpy import load_file

    file = tmp_path / "a.safetensors"
    names = [name for name in several if "bfloat16" not in name]
    write_safetensors(file, names, several, {})
    back = load_file(file)
    assert back.keys() == {*names}
    assert all(np.array_equal(back[name], np.array(several[name])) for name in names)


def test_a_file_of_joined_tensors_takes_the_memory_of_one(tmp_path):
    """A Granite's gate and up projection are one tensor on the Hub: 20 times 2 MB here."""
    names = [f"model.layers.{n}.mlp.{half}_proj.weight" for n in range(20) for half in ("gate", "up")]
    tensors = HubTensors("granitemoehybrid", {name: mx.ones((512, 512)) for name in names})
    mx.eval([tensors._parts[name] for name in tensors])
    before, one = mx.get_active_memory(), 2 * 2**20
    mx.reset_peak_memory()
    write_safetensors(tmp_path / "a.safetensors", [*tensors], tensors, {})
    assert mx.get_peak_memory() - before <= 2 * one
    assert (tmp_path / "a.safetensors").stat().st_size > 20 * one
