"""The parts of a step's peak: the worst batch, blocks that are left out, states; sums worked by hand."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_dpo.data.shared_prompts import build_shared
from mlx_dpo.optimizers import OptimizerConfig
from mlx_dpo.planning import liveness, step_memory
from mlx_dpo.planning.liveness import Moment
from mlx_dpo.planning.model_without_weights import Skeleton
from mlx_dpo.planning.step_memory import (
    LAYOUTS,
    _left_out,
    _optimizer_bytes,
    _spare,
    _state_bytes,
    _top,
    forward_of,
    largest,
)

from ..support.policies import CONFIGS, pair, policy


def skeleton_of(model=None, alike=(), trained=0):
    return Skeleton(model, [*alike], 0, trained, (0, 0), None)


@pytest.mark.parametrize(
    ("setting", "separate", "names"),
    [
        ("plain", False, ["plain"]),
        ("completion", True, ["completion"]),
        ("shared", False, ["shared"]),
        ("auto", False, ["shared", "completion", "plain"]),
        ("auto", True, ["shared, branch by branch", "completion", "plain"]),
    ],
)
def test_the_forwards_that_a_run_would_try(setting, separate, names):
    layout = LAYOUTS[0]._replace(separate=separate)
    assert [forward.name for forward in forward_of(setting, layout)] == names


# Tokens in all: 30, 41, 29. Tokens of the longer branch: 20, 21, 27.
ROWS = [(10, 10, 10), (1, 20, 20), (25, 2, 2)]


@pytest.mark.parametrize(
    ("micro_batch", "batches"),
    [
        (1, [[1], [2]]),  # the most tokens, the longest branch
        (2, [[0, 1], [1, 2]]),
        (3, [[0, 1, 2]]),
        (9, [[0, 1, 2]]),
    ],
)
def test_the_worst_batches_have_the_most_tokens_or_the_longest_rows(micro_batch, batches):
    assert rows_of(ROWS, micro_batch) == batches


def test_rows_with_the_most_answer_tokens_may_need_the_most_too():
    """Tokens in all: 268, 259, 261; of answers: 74, 80, 198; of the longer branch: 236, 243, 164."""
    assert rows_of([(194, 42, 32), (179, 16, 64), (63, 101, 97)], 1) == [[0], [2], [1]]


def rows_of(sizes, micro_batch):
    """The row numbers of every batch that `largest` gives."""
    pairs = [pair(*size, seed) for seed, size in enumerate(sizes)]
    rows = {id(p): row for row, p in enumerate(pairs)}
    return [[rows[id(p)] for p in batch] for batch in largest(pairs, micro_batch)]


def moments_of(*moments):
    """Moments of (block at work, {block: bytes})."""
    return [Moment(block, blocks) for block, blocks in moments]


@pytest.mark.parametrize(
    ("alike", "moments", "extra"),
    [
        # Two of five are there: the three others hold what the idler of the two does.
        ([([0, 1], 5)], [(0, {0: 10, 1: 4}), (1, {0: 10, 1: 12}), (None, {0: 2})], [12, 30, 0]),
        # One of three: it is at work itself, so the others hold no more than it does under the head.
        ([([2], 3)], [(2, {2: 9}), (None, {2: 5}), (None, {2: 1})], [10, 10, 2]),
        ([([0, 1], 2)], [(0, {0: 10, 1: 4})], [0]),
        ([([0], 2), ([1], 4)], [(None, {0: 10, 1: 1}), (None, {0: 5, 1: 2})], [13, 11]),
        ([([0], 2)], [(0, {0: 9})], [0]),  # the head never comes
    ],
    ids=["two of five", "one of three", "all", "two kinds", "no head"],
)
def test_blocks_that_are_left_out_hold_what_the_idlest_of_their_kind_holds(alike, moments, extra):
    assert _left_out(skeleton_of(alike=alike), moments_of(*moments)) == extra


def test_the_peak_is_where_blocks_left_out_ones_and_the_rest_together_hold_the_most(monkeypatch):
    """100 + 50 + 3 · 20 is more than 120 + 20 + 3 · 20, and each part is planned a tenth larger."""
    seen = moments_of((0, {None: 100, 0: 50}), (None, {None: 120, 0: 20}))
    monkeypatch.setattr(step_memory, "moments", lambda graph, gpu: seen)
    assert _top(skeleton_of(alike=[([0], 4)]), None, mx.cpu) == (121, 110)


def test_buffers_of_what_is_trained_are_larger_by_the_share_of_one_copy(monkeypatch):
    """Of 4,400 bytes 400 of the large array and 400 of the small one: 800 / 4,400 of 8,800."""
    monkeypatch.setattr(liveness, "_SPARE", 400)
    model = nn.Module()
    model.large, model.small = mx.zeros((1000,)), mx.zeros((100,))
    assert _spare(skeleton_of(model, trained=8800)) == 1600


@pytest.mark.parametrize(("name", "moments"), [("adamw", 2), ("adam", 2), ("lion", 1)])
def test_an_optimiser_holds_its_moments_for_all_blocks(name, moments):
    """The model here has a fourth of what is trained; counts and rates are a few bytes."""
    model = nn.Module()
    model.weight = mx.zeros((10_000,))
    found = _optimizer_bytes(skeleton_of(model, trained=160_000), OptimizerConfig(name=name))
    assert moments * 160_000 <= found < moments * 160_000 + 200


def test_a_prompts_state_is_the_keys_and_values_of_all_blocks():
    """All tokens but the last of a prompt; float32 keys and values of 1 head of 32 numbers; 7 blocks."""
    heads = CONFIGS["llama"]
    assert (heads["num_key_value_heads"], heads["hidden_size"] // heads["num_attention_heads"]) == (1, 32)
    skeleton = skeleton_of(policy("llama"), alike=[([0, 1], 5), ([2, 3], 2)])
    batch = build_shared([pair(60, 5, 5, 0)])
    assert _state_bytes(skeleton, batch) == 7 * 2 * 59 * 1 * 32 * 4


def test_the_first_forward_that_the_model_allows_is_looked_at():
    tried = []

    def look(forward):
        tried.append(forward)
        if forward < 3:
            raise (TypeError, ValueError)[forward % 2](f"not {forward}")
        return 10 * forward

    assert step_memory.first_possible([1, 2, 3, 4], look) == 30 and tried == [1, 2, 3]
    with pytest.raises(TypeError, match="not 2"):
        step_memory.first_possible([1, 2], look)
    with pytest.raises(RuntimeError):  # the machine's fault is not the model's
        step_memory.first_possible([1], _out_of_memory)


def _out_of_memory(forward):
    raise RuntimeError("[malloc] Unable to allocate 9 bytes.")
