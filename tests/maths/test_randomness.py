"""MLX's stream of random numbers can be left and taken up again."""

import mlx.core as mx

from mlx_dpo.randomness import random_key, random_untouched, set_random_key


def draw():
    return mx.random.uniform(shape=(4,)).tolist()


def test_the_stream_goes_on_from_a_key_as_it_did():
    mx.random.seed(2**63 + 5)
    draw()
    key = random_key()
    expected = [draw() for _ in range(3)]
    mx.random.seed(1)
    set_random_key(key)
    assert [draw() for _ in range(3)] == expected


def test_what_is_drawn_untouched_leaves_no_trace():
    mx.random.seed(3)
    expected = [draw(), draw()]
    mx.random.seed(3)
    first = draw()
    with random_untouched():
        assert draw() == expected[1]
    assert [first, draw()] == expected
