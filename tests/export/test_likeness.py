"""The figures by which a fused model is judged, worked by hand."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.data.row_index import index_rows
from mlx_dpo.errors import DpoError
from mlx_dpo.export.grids import Grid, codes, stored_bytes, tidied, values
from mlx_dpo.export.kept import Kept, kept, together
from mlx_dpo.export.ladder import mixture
from mlx_dpo.export.layer_precisions import Choice
from mlx_dpo.export.likeness import FLOOR, TOKENS, Likeness, Yardstick, answer_logits, divergence, few_rows
from mlx_dpo.models.load import load_model, load_tokenizer

from ..conftest import half_precision
from ..support.planted import random_rows


def test_a_divergence_is_a_sum_over_the_vocabulary():
    """p = (1/2, 1/2), q = (1/4, 3/4): 1/2 ln 2 + 1/2 ln 2/3; 0 if logits differ by a constant."""
    p, q = np.log([[0.5, 0.5], [0.2, 0.8]]), np.array([[0.0, math.log(3)], [5.0, 5.0 + math.log(4)]])
    found = divergence(p.astype(np.float32), q.astype(np.float32))
    assert found == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0], abs=1e-7)


def test_far_logits_give_no_infinity():
    found = divergence(np.array([[0.0, -3e4]], np.float32), np.array([[-3e4, 0.0]], np.float32))
    assert found == pytest.approx([3e4])


def test_a_ratio_is_taken_against_the_base_but_never_against_less_than_the_floor():
    assert Likeness(0.02, 0.005, 1.0, 9).ratio == pytest.approx(0.25)
    assert Likeness(0.0, FLOOR / 2, 1.0, 9).ratio == pytest.approx(0.5)


def test_a_change_of_which_a_part_was_rounded_away():
    """D = (3, 4), stored (3, 0): <F, D> / <D, D> = 9/25, and 4 of 5 is missing."""
    own = kept(mx.array([1.0, 1.0]), mx.array([4.0, 5.0]), mx.array([4.0, 1.0]))
    assert (own.fraction, own.noise) == (pytest.approx(9 / 25), pytest.approx(4 / 5))
    both = together([own, Kept(25.0, 25.0, 0.0)])
    assert (both.fraction, both.noise) == (pytest.approx(34 / 50), pytest.approx(math.sqrt(16 / 50)))


def test_of_a_layer_that_did_not_change_nothing_can_be_kept():
    same = mx.array([[1.0, 2.0]])
    assert (kept(same, same, same).fraction, kept(same, same, same).noise) == (None, None)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_weights_are_within_half_a_step_also_where_scales_are_bfloat16(bits):
    """MLX's own codes are chosen for float32 scales: with rounded ones some weights are further away."""
    weight, grid = 0.02 * mx.random.normal((32, 128), key=mx.random.key(0)) + 0.1, Grid(64, bits)
    packed, scales, biases = codes(weight, grid, mx.bfloat16)
    assert (packed.dtype, packed.shape, scales.dtype) == (mx.uint32, (32, 128 * bits // 32), mx.bfloat16)
    first, step = (mx.repeat(a.astype(mx.float32), 64, axis=1) for a in (biases, scales))
    last = first + step * (2**bits - 1)  # rounded scales leave a few weights outside of what codes can reach
    reached = mx.clip(weight, mx.minimum(first, last), mx.maximum(first, last))
    assert (mx.abs(values((packed, scales, biases), grid) - reached) / mx.abs(step)).max().item() < 0.501


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_codes_are_packed_as_mlx_packs_them(bits):
    """Scales that bfloat16 can hold: nothing is rounded, so MLX's codes and ours are the same."""
    whole = mx.floor(mx.arange(64, dtype=mx.float32) * (2**bits - 1) / 63 + 1e-3)
    weight = mx.stack([whole, whole * 0.25])
    ours, theirs = codes(weight, Grid(64, bits), mx.bfloat16), mx.quantize(weight, group_size=64, bits=bits)
    assert mx.array_equal(ours[1].astype(mx.float32), theirs[1])
    assert mx.array_equal(ours[0], theirs[0])


def test_the_size_of_a_layer_is_that_of_its_arrays():
    weight = mx.random.normal((64, 128))
    for grid in (Grid(64, 4), Grid(32, 6), Grid(32, 4, "mxfp4")):
        arrays = codes(weight, grid, mx.bfloat16)
        assert stored_bytes((64, 128), mx.bfloat16, grid) == sum(a.nbytes for a in arrays)
    assert stored_bytes((64, 128), mx.bfloat16) == 64 * 128 * 2


def test_a_config_names_only_layers_that_differ_from_the_usual():
    four, eight = Grid(64, 4), Grid(64, 8)
    config = tidied({"quantization": {"group_size": 64, "bits": 4}}, {"a": four, "b": eight, "c": four})
    assert config["quantization"] == {"group_size": 64, "bits": 4, "mode": "affine", "b": eight._asdict()}
    assert tidied(config, {}) == {}


def choices(*errors):
    """Of a layer with <D, D> = 1, by bits: 4 takes 4 bytes, 8 takes 8, unquantised 32."""
    return {
        bits: Choice(None, Kept(1.0, 1.0, error), size)
        for bits, size, error in zip((4, 8, None), (4, 8, 32), errors, strict=True)
    }


def test_a_mixture_raises_the_layers_that_lose_most_noise_for_a_byte():
    """Noise² is (2 + 0.5 + 1) / 3 = 1.17 at 4 bits; first "a" goes to 8 bits, then "c"."""
    costs = {"a": choices(2.0, 0.1, 0.0), "b": choices(0.5, 0.3, 0.0), "c": choices(1.0, 0.2, 0.0)}
    steps = [4, 8, None]
    assert mixture(costs, steps, 1.1) == {"a": 4, "b": 4, "c": 4}
    assert mixture(costs, steps, 0.75) == {"a": 8, "b": 4, "c": 4}  # 1.6 / 3 = 0.53 <= 0.56
    assert mixture(costs, steps, 0.6) == {"a": 8, "b": 4, "c": 8}
    assert mixture(costs, steps, 0.0) == dict.fromkeys("abc", None)


def test_a_mixture_does_not_take_a_step_that_adds_noise():
    assert mixture({"a": choices(0.5, 0.6, 0.7)}, [4, 8, None], 0.0) == {"a": 4}


def test_logits_are_those_before_each_answer_token_in_float32_whatever_the_weights(models, tmp_path):
    row = random_rows(1)[0]
    model, _ = load_model(models("granite"))
    tokens = mx.array(np.concatenate([row.prompt, row.chosen])[None])
    np.testing.assert_allclose(answer_logits(model, row), np.array(model(tokens)[0, 7:-1]), atol=1e-4)
    half, _ = load_model(half_precision(models("granite"), tmp_path / "half"))
    wide, _ = load_model(tmp_path / "half")
    wide.set_dtype(mx.float32)
    exact, plain = answer_logits(wide, row), half(tokens)
    found = (answer_logits(half, row), np.array(plain[0, 7:-1].astype(mx.float32)))
    error, usual = (np.abs(one - exact).max() for one in found)
    assert plain.dtype == mx.bfloat16
    assert error < usual / 10


def test_a_model_compared_with_itself_is_alike(models):
    yardstick, model = Yardstick(random_rows(2)), load_model(models("llama"))[0]
    yardstick.see_base(model)
    yardstick.see_adapter(model)
    assert yardstick.likeness(model) == Likeness(0.0, 0.0, 1.0, 32)


@pytest.mark.parametrize(
    "figures", [(0.02, float("nan"), 0.01), (float("nan"), 0.001, 0.01), (0.02, 0.001, float("nan"))]
)
def test_a_ratio_that_is_not_a_number_passes_no_limit(figures):
    to_base, to_fused, to_start = figures
    assert np.isnan(Likeness(to_base, to_fused, 1.0, 9, to_start).ratio)


def test_a_first_adapter_that_diverged_is_refused(models):
    model, _ = load_model(models("llama"))
    weight = model.model.norm.weight
    model.model.norm.weight = weight * float("nan")
    with pytest.raises(DpoError, match="the logits of the first adapter are not finite") as told:
        Yardstick(random_rows(1)).see_start(model)
    assert "its run diverged" in told.value.hint


def test_a_few_rows_are_spread_over_different_prompts_and_cut(models, pair_rows, write_rows):
    rows = [pair_rows[0], *pair_rows[:40]]
    rows = [{**row, "id": str(i), "chosen": row["chosen"] * 9} for i, row in enumerate(rows)]
    tokenizer = load_tokenizer(models("llama"))
    found = few_rows(index_rows(write_rows("rows.jsonl", rows)), tokenizer, 1024)
    assert len({row.prompt.tobytes() for row in found}) == 8
    assert {len(row.chosen) for row in found} == {TOKENS}
    assert (found[0].where[-2:], found[-1].where[-3:]) == (":1", ":41")
