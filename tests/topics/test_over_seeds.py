"""Figures over runs with different seeds, by hand."""

import numpy as np
import pytest

from mlx_dpo.metrics import student_half_width
from mlx_dpo.topics.changes import Changes, Moment
from mlx_dpo.topics.evaluation import LabelFigures, WordFigures
from mlx_dpo.topics.over_seeds import FigureOverSeeds, Mean, end_figures, figures_over_seeds, snapshot_figures
from mlx_dpo.topics.win_lose import WinLose

T = 12.7062
"""Student's t of one degree of freedom, for 95 %."""


def moment(words, c_v, npmi, unique, distinct):
    figures = WordFigures(2, None, None, unique, distinct, None, c_v, npmi)
    return Moment(np.array(words), np.ones((3, 2)), [figures])


def run(end_c_v, *, improved=(0,), labels=True, snapshot=True):
    """Three topics of two words: one of topic 0's words is replaced, all others stay."""
    before = moment([[0, 1], [2, 3], [4, 5]], [0.1, 0.4, 0.6], [-0.3, 0.0, 0.2], 1.0, 1.0)
    end = moment([[0, 2], [2, 3], [4, 5]], end_c_v, [-0.1, 0.0, 0.2], 4 / 6, 5 / 6)
    preferences = {k: WinLose((2,), (1,)) for k in improved}
    clustering = LabelFigures(10, 2, 0.8, 0.5) if labels else None
    return Changes(end, clustering, before if snapshot else None, preferences)


def test_half_a_width_is_students():
    """0.1 and 0.3: standard deviation 0.1 · √2, standard error 0.1."""
    assert student_half_width(np.array([0.1, 0.3])) == pytest.approx(0.1 * T, rel=1e-5)


def test_the_figures_of_a_run():
    found = run([0.3, 0.5, 0.9])
    assert snapshot_figures(found) == pytest.approx(
        {
            "c_v, with preferences": 0.1,
            "npmi, with preferences": -0.3,
            "c_v, others": 0.5,
            "npmi, others": 0.1,
            "unique": 1,
            "distinct": 1,
        }
    )
    assert end_figures(found) == pytest.approx(
        {
            "c_v, with preferences": 0.3,
            "npmi, with preferences": -0.1,
            "kept, with preferences": 0.5,
            "c_v, others": 0.7,
            "npmi, others": 0.1,
            "kept, others": 1,
            "purity": 0.8,
            "nmi": 0.5,
            "unique": 4 / 6,
            "distinct": 5 / 6,
        }
    )


def test_two_seeds_have_means_and_intervals_paired_by_run():
    """C_V of topic 0 goes from 0.1 to 0.3, and from 0.1 to 0.5."""
    found = figures_over_seeds([run([0.3, 0.5, 0.9]), run([0.5, 0.5, 0.9])])["c_v, with preferences"]
    assert found.seeds == 2
    for mean, middle, half in (
        (found.snapshot, 0.1, 0),
        (found.end, 0.4, 0.1 * T),
        (found.change, 0.3, 0.1 * T),
    ):
        assert (mean.mean, mean.half_width) == pytest.approx((middle, half), rel=1e-5, abs=1e-12)


def test_what_only_the_end_has_does_not_change():
    found = figures_over_seeds([run([0.3, 0.5, 0.9]), run([0.5, 0.5, 0.9])])
    for name in ("kept, others", "kept, with preferences", "purity", "nmi"):
        assert (found[name].snapshot, found[name].change) == (None, None)


def test_a_seed_without_topics_with_preferences_does_not_count_for_them():
    found = figures_over_seeds([run([0.3, 0.5, 0.9]), run([0.5, 0.5, 0.9], improved=())])
    assert found["kept, with preferences"] == FigureOverSeeds(1, None, Mean(0.5, None), None)
    assert found["c_v, others"].seeds == 2
    assert found["c_v, others"].end.mean == pytest.approx((0.7 + 1.9 / 3) / 2)


def test_without_snapshot_texts_and_labels_there_are_diversities():
    found = run(None, improved=(), labels=False, snapshot=False)
    found.end.figures[0] = WordFigures(2, None, None, 0.5, 0.75, None, None, None)
    assert snapshot_figures(found) == {}
    assert end_figures(found) == {"unique": 0.5, "distinct": 0.75}
