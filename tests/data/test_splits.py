"""Held-out prompts: never trained on, the asked share, and the same ones when the file grows."""

import math

import pytest

from mlx_dpo.data.splits import prompt_key, valid_prompts
from mlx_dpo.pairs.from_curated import split_rows
from mlx_dpo.records import Curated


def prompt(text):
    return ({"role": "user", "content": text},)


def prompts(count, start=0):
    return [prompt(f"How do I clean object {i}?") for i in range(start, start + count)]


def curated(texts, name="curated"):
    return [Curated(prompt(t), f"answer {i}", str(i), f"{name}:{i}") for i, t in enumerate(texts, 1)]


def keys_of(split, name):
    return {prompt_key(row.prompt) for place, row in split if place == name}


@pytest.mark.parametrize(
    "same", ["how do I clean SILVER?", "  How  do I\nclean silver? ", "HOW DO I CLEAN\tSILVER?"]
)
def test_case_and_spacing_do_not_make_another_prompt(same):
    assert prompt_key(prompt(same)) == prompt_key(prompt("How do I clean silver?"))


def test_case_is_folded_in_every_script():
    assert prompt_key(prompt("GROSSE STRASSE ÉTÉ")) == prompt_key(prompt("große straße été"))


@pytest.mark.parametrize(
    "other",
    [
        prompt("How do I clean silver"),
        prompt("Howdo I clean silver?"),
        ({"role": "system", "content": "How do I clean silver?"},),
        ({"role": "system", "content": "Be brief."}, *prompt("How do I clean silver?")),
        (*prompt("How do I"), *prompt("clean silver?")),
    ],
)
def test_other_words_roles_or_turns_make_another_prompt(other):
    assert prompt_key(other) != prompt_key(prompt("How do I clean silver?"))


@pytest.mark.parametrize(
    ("count", "fraction", "held"),
    [
        (10, 0.1, 1),
        (10, 0.25, 3),  # 2.5, rounded up
        (11, 0.1, 2),  # 1.1, rounded up
        (100, 0.07, 7),  # the product in floating point is 7.000000000000001
        (100, 0.1, 10),
        (1000, 0.001, 1),
        (2, 0.01, 1),
        (2, 0.99, 1),  # one is left to train on
        (3, 0.99, 2),
        (1, 0.5, 0),  # one prompt cannot be in both
        (0, 0.5, 0),
        (50, 0.0, 0),
    ],
)
def test_the_share_of_distinct_prompts_held_out_is_the_asked_one(count, fraction, held):
    assert len(valid_prompts(prompts(count), fraction, seed=0)) == held


def test_repeated_prompts_count_once():
    assert len(valid_prompts(prompts(20) * 9, 0.5, seed=0)) == 10


@pytest.mark.parametrize("seed", range(5))
def test_no_prompt_stands_in_both_files_and_no_row_is_lost(seed):
    texts = [f"Question {i % 23}?" for i in range(60)] + [f"  QUESTION {i}? " for i in range(23)]
    rows = curated(texts)
    split = split_rows(rows, None, 0.3, seed)
    assert not keys_of(split, "train") & keys_of(split, "valid")
    assert len(keys_of(split, "valid")) == math.ceil(0.3 * 23)
    assert [row for _, row in split] == rows
    assert {name for name, _ in split} == {"train", "valid"}


def test_all_rows_of_a_repeated_prompt_go_to_one_file():
    rows = curated(["same", "Same ", *[f"other {i}" for i in range(8)], " SAME"])
    for seed in range(20):
        names = {name for name, row in split_rows(rows, None, 0.5, seed) if "same" in prompt_key(row.prompt)}
        assert len(names) == 1


def test_the_choice_does_not_depend_on_the_order_of_rows():
    asked = prompts(100)
    assert valid_prompts(asked[::-1], 0.2, seed=3) == valid_prompts(asked, 0.2, seed=3)


def test_another_seed_holds_out_other_prompts():
    chosen = {frozenset(valid_prompts(prompts(100), 0.2, seed)) for seed in range(10)}
    assert len(chosen) == 10


def test_one_row_more_moves_at_most_one_prompt():
    """Of the old prompts at most one changes file, whichever row comes."""
    before = valid_prompts(prompts(40), 0.25, seed=0)
    for extra in range(40, 140):
        after = valid_prompts([*prompts(40), *prompts(1, extra)], 0.25, seed=0)
        new = prompt_key(prompts(1, extra)[0])
        assert len((before ^ after) - {new}) <= 1


def test_a_prompt_that_was_trained_on_is_never_held_out_later():
    """23 prompts with a share of a tenth hold out 3, of which new ones must give the third."""
    before = valid_prompts(prompts(20), 0.1, seed=0)
    trained = {prompt_key(p) for p in prompts(20)} - before
    for start in range(20, 400, 3):
        after = valid_prompts([*prompts(20), *prompts(3, start)], 0.1, seed=0, trained=trained)
        assert len(after) == 3 and not after & trained


def test_where_only_trained_prompts_are_left_fewer_are_held_out():
    keys = [prompt_key(p) for p in prompts(20)]
    assert valid_prompts(prompts(20), 0.5, seed=0, trained={*keys[:18]}) == {*keys[18:]}


def test_when_rows_are_added_nearly_all_prompts_stay_where_they_are():
    """An even choice anew would move about 2 · 0.1 · 0.9 = 18 % of the prompts; here it is under 3 %."""
    before = valid_prompts(prompts(1000), 0.1, seed=0)
    after = valid_prompts(prompts(1300), 0.1, seed=0)
    old = {prompt_key(p) for p in prompts(1000)}
    assert len(after) == 130
    assert len((before ^ after) & old) <= 30


def test_with_a_source_of_its_own_valid_takes_all_of_it_and_its_prompts_leave_train():
    rows = curated(["a", "b", "c", "b"])
    held = curated(["x", " B"], "heldout")
    split = split_rows(rows, held, 0.9, seed=0)
    assert [(name, row.where) for name, row in split] == [
        ("train", "curated:1"),
        ("train", "curated:3"),
        ("valid", "heldout:1"),
        ("valid", "heldout:2"),
    ]
    assert not keys_of(split, "train") & keys_of(split, "valid")


def test_a_source_of_its_own_is_split_the_same_whatever_fraction_and_seed_say():
    rows, held = curated(["a", "b", "c"]), curated(["x"], "heldout")
    assert split_rows(rows, held, 0.0, 1) == split_rows(rows, held, 0.9, 2)


def test_without_a_share_every_row_is_trained_on():
    assert [name for name, _ in split_rows(curated(["a", "b", "c"]), None, 0.0, 0)] == ["train"] * 3


# ---- clusters of prompts that ask nearly the same


def test_prompts_of_one_cluster_are_on_one_side():
    keys = [prompt_key(p) for p in prompts(40)]
    cluster = {key: i // 2 for i, key in enumerate(keys)}
    for seed in range(20):
        held = valid_prompts(prompts(40), 0.25, seed, cluster=cluster)
        assert len(held) == 10
        assert all((keys[i] in held) == (keys[i + 1] in held) for i in range(0, 40, 2))


def test_a_cluster_that_is_larger_than_the_share_is_trained_on():
    keys = [prompt_key(p) for p in prompts(20)]
    cluster = dict.fromkeys(keys[:5], 0)
    for seed in range(20):
        held = valid_prompts(prompts(20), 0.2, seed, cluster=cluster)
        assert len(held) == 4 and not held & cluster.keys()


def test_a_cluster_with_a_prompt_that_was_trained_on_is_trained_on():
    keys = [prompt_key(p) for p in prompts(6)]
    cluster = {keys[0]: 0, keys[1]: 0}
    for seed in range(20):
        assert keys[1] not in valid_prompts(prompts(6), 0.5, seed, {keys[0]}, cluster)


def test_a_cluster_of_one_is_no_cluster():
    keys = [prompt_key(p) for p in prompts(30)]
    alone = {key: i for i, key in enumerate(keys)}
    assert valid_prompts(prompts(30), 0.3, 1, cluster=alone) == valid_prompts(prompts(30), 0.3, 1)
