"""Figures of a set of pairs: worked by hand, and properties that any set has."""

import dataclasses
import random

import numpy as np
import pytest

from mlx_dpo.inspection.measures import figures, length_bias, likelihood, repetition
from mlx_dpo.inspection.surface_features import FEWEST_PROMPTS, features, prompt_folds, separability
from mlx_dpo.inspection.words import words
from mlx_dpo.metrics import distinct_n, wilson_interval
from mlx_dpo.records import Preference


def test_words_are_runs_of_letters_and_digits_single_signs_and_single_characters():
    assert words("So, SO: it_is 5°!") == ["so", ",", "so", ":", "it", "is", "5", "°", "!"]
    assert words("用盐 it") == ["用", "盐", "it"]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a b a b a b", 2 / 3),  # abab baba abab
        ("a b c d", 1),
        ("a a a a a a a", 1 / 4),
        ("a b c", None),
        ("", None),
    ],
)
def test_distinct_4_by_hand(text, share):
    assert distinct_n(words(text), 4) == share


def sizes_of(*answers):
    return np.array([(10, *pair) for pair in answers], np.int32)


def test_length_bias_by_hand():
    # Ratios 2, 1/2, 1, 4: their logarithms' median is half of log 2.
    bias = length_bias(sizes_of((20, 10), (5, 10), (7, 7), (8, 2)))
    assert (bias.n, bias.chosen_longer, bias.rule, bias.accuracy) == (4, 2 / 4, "longer", 2.5 / 4)
    assert bias.median_ratio == pytest.approx(2**0.5)
    short = length_bias(sizes_of((1, 3), (2, 3), (9, 3)))
    assert (short.chosen_longer, short.rule, short.accuracy) == (1 / 3, "shorter", pytest.approx(2 / 3))
    assert length_bias(sizes_of().reshape(0, 3)) is None


def test_likelihood_by_hand():
    # A token: chosen -2 and -1, rejected -0.5 and -1.5.
    scores = np.array([[-20, -5], [-10, -30]], np.float32)
    likely = likelihood(scores, sizes_of((10, 10), (10, 20)))
    assert dataclasses.astuple(likely) == (2, -1.5, -1.0, 0.5, 0.5)
    assert likelihood(scores[:0], sizes_of((1, 1))[:0]) is None


WORDS = ["salt", "lemon", "copper", "brush", "towel", "rinse", "dry", "soak", "rub", "cloth", "water"]


def sentence(draw, count=12):
    return " ".join(draw.choice(WORDS) for _ in range(count)) + "."


def rows_of(count, answers, prompts=None):
    """`count` pairs of `answers(draw)`, under as many prompts unless told otherwise."""
    draw = random.Random(0)
    return [
        Preference(
            ({"role": "user", "content": f"Question {i % (prompts or count)}?"},), *answers(draw), str(i)
        )
        for i in range(count)
    ]


def exchanged(rows):
    return [dataclasses.replace(row, chosen=row.rejected, rejected=row.chosen) for row in rows]


def noise(draw):
    return sentence(draw), sentence(draw)


def greeting(draw):
    return f"Gladly! {sentence(draw)}", sentence(draw)


def test_labels_drawn_by_chance_are_told_by_chance():
    """Within four standard errors of one half."""
    style = separability(rows_of(400, noise))
    assert style.n == 400
    assert abs(style.accuracy - 0.5) < 4 * 0.5 / 400**0.5
    assert style.interval == wilson_interval(round(style.accuracy * 400), 400)


@pytest.mark.parametrize(
    "answers",
    [
        greeting,
        lambda draw: (sentence(draw)[:-1] + "!", sentence(draw)),
        lambda draw: ("- " + sentence(draw, 4) + "\n- " + sentence(draw, 4), sentence(draw, 8)),
        lambda draw: (sentence(draw).upper(), sentence(draw)),
    ],
    ids=["a greeting", "the last sign", "lists", "capitals"],
)
def test_a_plain_difference_in_style_is_always_told(answers):
    assert separability(rows_of(60, answers)).accuracy == 1


def test_features_are_at_most_one_long_however_long_the_answer_is():
    answer = sentence(random.Random(1))
    assert all(np.linalg.norm(features(" ".join([answer] * n))) <= 1 + 1e-6 for n in (1, 3, 300))


def test_exchanging_all_answers_leaves_separability_and_turns_the_length_bias():
    rows = [
        *rows_of(40, lambda draw: (f"Well, {sentence(draw, 9)}", sentence(draw, 5))),
        *rows_of(41, noise)[40:],
    ]
    assert separability(exchanged(rows)) == separability(rows)
    sizes = sizes_of((20, 10), (5, 10), (7, 7), (8, 2), (3, 4), (9, 1))
    bias, turned = length_bias(sizes), length_bias(sizes[:, [0, 2, 1]])
    assert turned.chosen_longer == pytest.approx(1 - bias.chosen_longer - 1 / 6)  # one pair is of one length
    assert turned.median_ratio == pytest.approx(1 / bias.median_ratio)
    assert (turned.rule, turned.accuracy) == ("shorter", bias.accuracy)


def test_pairs_of_one_prompt_are_judged_together():
    folds = prompt_folds(rows_of(100, noise, prompts=FEWEST_PROMPTS))
    assert [len(set(folds[i::FEWEST_PROMPTS].tolist())) for i in range(FEWEST_PROMPTS)] == [1] * 20
    assert np.bincount(folds).tolist() == [20] * 5


def test_what_marks_the_answers_to_one_prompt_tells_nothing_of_other_prompts():
    """Ten pairs a prompt, and a word that begins the chosen ones; the same where each has its own prompt."""
    draw = random.Random(0)

    def word():
        return "".join(draw.choices("bcdfghklmnprstvz", k=6))

    marks = [word() for _ in range(FEWEST_PROMPTS)]
    rows = [
        dataclasses.replace(
            row,
            chosen=f"{marks[i % FEWEST_PROMPTS]} {row.chosen}",
            rejected=f"{word()} {row.rejected}",
        )
        for i, row in enumerate(rows_of(200, noise, prompts=FEWEST_PROMPTS))
    ]
    alone = [dataclasses.replace(a, prompt=b.prompt) for a, b in zip(rows, rows_of(200, noise), strict=True)]
    assert abs(separability(rows).accuracy - 0.5) < 4 * 0.5 / 200**0.5
    assert separability(alone).accuracy > 0.8


def test_too_few_prompts_have_no_separability():
    assert separability(rows_of(FEWEST_PROMPTS - 1, greeting)) is None
    assert separability(rows_of(100, greeting, prompts=FEWEST_PROMPTS - 1)) is None
    assert separability(rows_of(FEWEST_PROMPTS, greeting)).accuracy == 1
    assert separability([]) is None


@pytest.mark.parametrize("text", ["", "a", "é", "___", "\n\n", "用"], ids=repr)
def test_the_shortest_answers_have_features(text):
    assert features(text).shape == (4096,)
    assert np.isfinite(features(text)).all()


def test_repetition_is_a_mean_over_pairs_that_have_runs_of_four():
    rows = [
        Preference((), "a b a b a b", "a b c d", "1"),
        Preference((), "a b c d", "a a a a a a a", "2"),
        Preference((), "a b c", "a b c d", "3"),
    ]
    same = repetition(rows)
    assert (same.n, same.chosen, same.rejected) == (2, pytest.approx((2 / 3 + 1) / 2), (1 + 1 / 4) / 2)
    assert repetition(rows[2:]) is None


def test_texts_are_a_sample_and_lengths_are_all():
    class Pairs(list):
        texts = rows_of(100, greeting)
        sizes = sizes_of(*[(2, 1)] * 100)

    found = figures(Pairs([None] * 100), None, sample=30)
    assert (found.pairs, found.lengths.n, found.style.n, found.repetition.n) == (100, 100, 30, 30)
    assert found.likelihood is None
