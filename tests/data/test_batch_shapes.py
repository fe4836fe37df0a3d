"""How pairs are laid out: prompts once, little padding, few shapes."""

from dataclasses import replace

import numpy as np

from mlx_dpo.data.shared_prompts import build_shared, choose_bucket, shapes
from mlx_dpo.data.tokenize import TokenizedPair

from ..support.policies import pair


def tokens_of(batch):
    """Positions computed, padding included."""
    return sum(f.prompts.size + sum(s.inputs.size for s in f.segments) for f in batch.families)


def test_every_prompt_stands_once_and_its_branches_continue_it():
    batch = build_shared(
        [TokenizedPair(*(np.array(a, np.int32) for a in ([1, 2, 3], [4, 5], [6, 7])), "r:1")]
    )
    ((prompts, (segment,)),) = batch.families
    assert prompts.tolist() == [
        [1, 2]
    ]  # its last token predicts the answer's first and goes with the branches
    assert segment.inputs.tolist() == [[3, 4], [3, 6]]
    assert segment.targets.tolist() == [[4, 5], [6, 7]]
    assert segment.mask.tolist() == [[True, True], [True, True]]
    assert [batch.order.tolist(), batch.lengths.tolist()] == [[0, 1], [2, 2]]


def test_what_is_left_of_a_longer_prompt_is_not_scored():
    pairs = [TokenizedPair(*(np.array(a, np.int32) for a in parts), "r:1") for parts in (
        ([1, 2, 3], [4, 5, 6], [7, 8, 9]), ([1, 2, 3, 4], [5, 6], [7, 8]))]  # fmt: skip
    ((prompts, (segment,)),) = build_shared(pairs).families
    assert prompts.tolist() == [[1, 2], [1, 2]]
    assert segment.inputs.tolist() == [[3, 4, 5], [3, 7, 8], [3, 4, 5], [3, 4, 7]]
    assert segment.targets.tolist() == [[4, 5, 6], [7, 8, 9], [0, 5, 6], [0, 7, 8]]
    assert segment.mask.sum(axis=1).tolist() == [3, 3, 2, 2]
    pairs[1] = replace(pairs[1], prompt=np.array([1, 2, 3, 4, 5], np.int32))
    assert build_shared(pairs[1:]).families[0].segments[0].targets.tolist() == [[5, 6], [7, 8]]


def test_unequal_answers_do_not_pay_for_each_others_padding():
    assert tokens_of(build_shared([pair(50, 100, 20, 0)])) == 49 + 100 + 20
    four = [pair(50, 100, 20, 0), pair(300, 8, 90, 1), pair(16, 200, 210, 2), pair(120, 60, 61, 3)]
    exact = sum(p.tokens - 1 for p in four)
    assert exact <= tokens_of(build_shared(four)) <= 1.08 * exact


def test_pairs_of_like_length_are_computed_together():
    batch = build_shared([pair(64, 32, 32, seed) for seed in range(4)])
    assert [f.prompts.shape for f in batch.families] == [(4, 63)]
    assert [s.inputs.shape for s in batch.families[0].segments] == [(8, 32)]


def test_buckets_are_chosen_from_the_data_so_that_shapes_are_few():
    rng = np.random.default_rng(0)
    pairs = [pair(*(int(n) for n in rng.integers(20, 300, 3)), seed) for seed in range(100)]
    bucket, count = choose_bucket([[p] for p in pairs], separate=False)
    assert bucket > 1
    assert count == len({shapes(build_shared([p], bucket=bucket)) for p in pairs}) <= 100
    assert choose_bucket([[pair(50, 20, 20, seed)] for seed in range(9)], separate=False) == (1, 1)


def test_a_bucket_costs_no_more_than_a_twelfth_of_the_tokens():
    rng = np.random.default_rng(1)
    pairs = [pair(*(int(n) for n in rng.integers(20, 120, 3)), seed) for seed in range(100)]
    bucket, _ = choose_bucket([[p] for p in pairs], separate=False)
    exact, filled = (sum(tokens_of(build_shared([p], bucket=b)) for p in pairs) for b in (1, bucket))
    assert exact < filled <= 1.08 * exact
