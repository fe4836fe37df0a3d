"""From one layout's bytes to a plan: copies, disk, operations, shorter rows, the first that fits; by hand."""

import pytest

from mlx_dpo.config import load_config
from mlx_dpo.planning import layout_choice
from mlx_dpo.planning.layout_choice import Plan, _kept, _shortened, disk_bytes, forward_flops, plan_memory
from mlx_dpo.planning.step_memory import LAYOUTS, Need
from mlx_dpo.training.layout import Amounts

from ..support.policies import pair

GB = 10**9


def in_gigabytes(*parts):
    """`weights, adapter, optimizer, activations, head, state`, as far as they are given."""
    return Need(*(int(part * GB) for part in (*parts, 0, 0, 0, 0, 0, 0)[:6]))


def test_the_peak_is_the_sum_of_all_parts():
    assert Need(1, 2, 4, 8, 16, 32).peak == 63


@pytest.mark.parametrize(
    ("trained", "keep", "tokens", "pairs", "expected"),
    [
        (100, 2, 0, 0, 1300),  # adapter 100; 4 checkpoints of 300
        (100, 1, 0, 0, 1000),  # 3 checkpoints of 300
        (0, 2, 50, 0, 200),  # int32
        (0, 2, 0, 7, 56),  # two float32 scores for each pair
        (100, 2, 50, 7, 1556),
    ],
)
def test_disk_is_the_adapter_its_checkpoints_tokens_and_scores(trained, keep, tokens, pairs, expected):
    assert disk_bytes(trained, keep, tokens, pairs) == expected


@pytest.mark.parametrize(
    ("work", "tokens", "expected"),
    [
        ((10, 0), [3, 4, 5], 240),  # 2 · 10 · 12
        ((0, 10), [3, 4, 5], 180),  # 2 · 10 · 9: no logits of prompts
        ((10, 100), [3, 4, 5], 2040),
    ],
)
def test_operations_are_two_for_each_product_and_the_head_is_of_answers(work, tokens, expected):
    assert forward_flops(work, tokens) == expected


@pytest.mark.parametrize(
    ("settings", "rate", "rehearsal", "copies"),
    [
        (["training.accumulation=1"], 1e-5, 0.0, 0),
        (["training.accumulation=4"], 1e-5, 0.0, 1),  # the sum of the gradients before
        (["training.accumulation=1"], 1e-5, 0.1, 1),  # the gradient of the pairs beside that of a text
        (["training.accumulation=1"], None, 0.0, 1),  # where the search of a learning rate goes back to
        (["training.accumulation=4", "training.reference_sync_steps=5"], 1e-5, 0.0, 2),  # a reference
        (["training.accumulation=4"], None, 0.0, 2),
    ],
)
def test_copies_of_what_is_trained_are_counted(settings, rate, rehearsal, copies):
    assert _kept(load_config(None, settings), Amounts(1, rehearsal, rate)) == copies


def test_a_window_that_is_weighed_after_its_gradients_keeps_all_of_them():
    deferred = ["beta.rule=beta_dpo", "beta.beta_dpo.deferred=true"]
    config = load_config(None, [*deferred, "training.micro_batch=1", "training.accumulation=4"])
    assert _kept(config, Amounts(1, 0.0, 1e-5)) == 4


@pytest.mark.parametrize(
    ("sizes", "length", "expected"),
    [
        ([(60, 30, 10)], 64, [(60, 4, 4)]),
        ([(60, 30, 10)], 80, [(60, 20, 10)]),
        ([(60, 30, 10)], 62, None),  # shorter than any that is tried
        ([(63, 30, 10)], 64, None),  # one token of room
        ([(62, 30, 10)], 64, [(62, 2, 2)]),
        ([(10, 20, 30), (10, 70, 20), (90, 1, 1)], 128, [(10, 70, 20), (90, 1, 1), (10, 20, 30)]),
        ([(10, 20, 30), (10, 70, 20), (90, 1, 1)], 64, None),  # the third prompt is too long
    ],
)
def test_rows_are_cut_as_max_length_would_cut_them_the_longest_first(sizes, length, expected):
    cut = _shortened([pair(*row, seed) for seed, row in enumerate(sizes)], length)
    assert (cut and [(len(p.prompt), len(p.chosen), len(p.rejected)) for p in cut]) == expected


NEEDS = [in_gigabytes(4, 0, 0, parts) for parts in (8, 6, 4, 2)]
"""Of the four layouts, from the fastest: 12, 10, 8 and 6 GB."""


@pytest.mark.parametrize(
    ("limit", "scoring", "chosen", "looked_at"),
    [
        (12.0, 1, 0, 1),
        (11.9, 1, 1, 2),
        (8.5, 1, 2, 3),
        (6.0, 1, 3, 4),
        (5.9, 1, None, 4),
        (12.0, 13, None, 4),  # the checks at the start need more than any step
        (9.0, 9, 2, 3),
    ],
)
def test_the_first_layout_that_fits_is_chosen_and_none_after_it_is_looked_at(
    limit, scoring, chosen, looked_at, monkeypatch
):
    needs = dict(zip(LAYOUTS, NEEDS, strict=True))
    monkeypatch.setattr(layout_choice, "need_of_step", lambda run, config, layout: needs[layout])
    monkeypatch.setattr(layout_choice, "need_of_scoring", lambda run, config: in_gigabytes(scoring))
    run = layout_choice.Run(None, None, [], None, None, Amounts(1, 0.0, 1e-5), "blocks")
    plan = plan_memory(run, load_config(None, []), int(limit * GB))
    assert plan.chosen == (None if chosen is None else LAYOUTS[chosen])
    assert len(plan.needs) == looked_at
    assert [n.peak for _, n in plan.needs] == [max(n.peak, scoring * GB) for n in NEEDS[:looked_at]]
    assert len(plan_memory(run, load_config(None, []), int(limit * GB), every=True).needs) == 4


def test_a_plan_needs_what_its_layout_needs_or_the_least_where_none_fits():
    needs = list(zip(LAYOUTS, NEEDS, strict=True))
    assert Plan(10 * GB, needs, LAYOUTS[1]).need.peak == 10 * GB
    refused = Plan(5 * GB, needs, None)
    assert refused.need.peak == 6 * GB
    assert "training.memory_limit=6.1" in refused.refusal().hint  # 6 GB and a tenth
