"""Near-duplicate prompts form clusters, by the cosine of their vectors."""

import numpy as np
import pytest

from mlx_dpo.data import prompt_clusters
from mlx_dpo.data.prompt_clusters import asked, clusters, nearest


def at(*degrees):
    """Unit vectors in a plane: two that are d degrees apart have the cosine of d."""
    turned = np.radians(degrees)
    return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)


def test_rows_that_are_close_enough_share_the_number_of_the_first():
    # cos 10 degrees is 0.985, cos 30 degrees is 0.866
    assert clusters(at(0, 90, 10, 120), 0.95).tolist() == [0, 1, 0, 3]


def test_a_chain_of_close_rows_is_one_cluster():
    assert clusters(at(0, 10, 20, 30), 0.98).tolist() == [0, 0, 0, 0]
    assert clusters(at(0, 20), 0.98).tolist() == [0, 1]


def test_a_later_row_joins_two_clusters():
    assert clusters(at(0, 20, 90, 10), 0.98).tolist() == [0, 0, 2, 0]
    assert clusters(at(0, 20, 100, 80, 10, 90), 0.98).tolist() == [0, 0, 2, 2, 0, 2]


def test_no_rows_have_no_clusters():
    assert clusters(np.zeros((0, 2), np.float32), 0.9).tolist() == []


@pytest.mark.parametrize("block", [1, 3, 7])
def test_the_size_of_a_block_does_not_matter(monkeypatch, block):
    vectors = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = clusters(vectors, 0.8)
    assert 1 < len(set(whole.tolist())) < 20
    monkeypatch.setattr(prompt_clusters, "_SIMILARITIES", block * len(vectors))
    assert clusters(vectors, 0.8).tolist() == whole.tolist()


@pytest.mark.parametrize("block", [1, 2, 1024])
def test_the_nearest_row_is_found_with_its_cosine(monkeypatch, block):
    monkeypatch.setattr(prompt_clusters, "_SIMILARITIES", block * 3)
    numbers, cosines = nearest(at(0, 50, 90), at(80, 60, 10))
    assert numbers.tolist() == [2, 1, 0]
    assert cosines == pytest.approx(np.cos(np.radians(10)) * np.ones(3))
    assert [len(found) for found in nearest(at(), at(0))] == [0, 0]


def test_similarities_to_many_rows_take_little_memory(monkeypatch):
    """One row of `others` more than fits: the rows are compared one by one."""
    monkeypatch.setattr(prompt_clusters, "_SIMILARITIES", 100)
    assert [(rows.start, rows.stop) for rows in prompt_clusters._blocks(3, 101)] == [(0, 1), (1, 2), (2, 3)]
    assert [(rows.start, rows.stop) for rows in prompt_clusters._blocks(30, 5)] == [(0, 20), (20, 40)]


def test_what_is_compared_is_all_of_a_prompt_but_its_system_turn():
    turns = [("system", "Be brief."), ("user", "How?"), ("assistant", "So."), ("user", "Why?")]
    assert asked([{"role": role, "content": text} for role, text in turns]) == "How?\nSo.\nWhy?"
