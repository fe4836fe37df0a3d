"""Which rows the checks before the first update look at."""

from mlx_dpo.training import checked_rows

from ..support.policies import pair


def test_rows_that_are_checked_go_from_the_shortest_to_the_longest():
    """Whatever their order in the file: the longest is the one that a window of attention may cut."""
    pairs = [
        pair(300, 20, 20, 0),
        pair(20, 5, 5, 1),
        pair(100, 9, 9, 2),
        pair(50, 9, 9, 3),
        pair(60, 9, 9, 4),
    ]
    assert checked_rows.spread_rows(pairs, 2) == [1, 0]
    assert checked_rows.sample_rows(pairs) == [1, 3, 4]


def test_rows_of_a_proof_are_the_end_of_a_prompt_and_the_start_of_its_answers():
    pairs = [pair(1500, 500, 40, 0), pair(1500, 40, 900, 1), pair(40, 20, 20, 2)]
    cut = checked_rows.sample_pairs(pairs)
    assert [(len(p.prompt), len(p.chosen), len(p.rejected)) for p in cut] == [(40, 20, 20), (76, 32, 32)]
    assert (cut[1].prompt == pairs[0].prompt[-76:]).all()
    long = checked_rows.longest_row(pairs, 2000)
    assert (long.chosen == pairs[1].rejected).all()
    assert (len(long.prompt), len(long.rejected)) == (1100, 2)
    assert checked_rows.longest_row(pairs, 300).tokens <= 302
