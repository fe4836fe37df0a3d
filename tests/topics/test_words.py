"""Texts become lists of words."""

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.topics.words import load_stop_words, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat sat.", ["the", "cat", "sat"]),
        ("Mail me@home.org or @somebody now", ["mail", "now"]),
        ("It's John’s: don't!", ["its", "johns", "dont"]),
        ("The U.S.A. won 3 of B2B's 10th", ["the", "usa", "won"]),
        ("snake_case, semi-detached/house", ["snake", "case", "semi", "detached", "house"]),
        ("Größe naïve Москва", ["größe", "naïve", "москва"]),
        ("... 12 !!", []),
    ],
)
def test_words_are_lower_case_letters_without_addresses_digits_and_punctuation(text, words):
    assert words_of(text, frozenset(), 3) == words


def test_short_words_and_stop_words_are_left_out():
    assert words_of("an owl and a hawk", {"and"}, 2) == ["an", "owl", "hawk"]
    assert words_of("an owl and a hawk", {"and"}, 4) == ["hawk"]


def test_a_list_of_stop_words_is_english_none_or_a_file(tmp_path):
    (tmp_path / "stop.txt").write_text("Und\n\nisn't\n")
    assert "the" in load_stop_words("english")
    assert load_stop_words("none") == frozenset()
    assert load_stop_words(str(tmp_path / "stop.txt")) == {"und", "isnt"}


def test_a_stop_word_list_that_is_missing_or_has_two_words_on_a_line_is_refused(tmp_path):
    with pytest.raises(DpoError, match="there is no list or file 'german'"):
        load_stop_words("german")
    (tmp_path / "stop.txt").write_text("one\ntwo words\n")
    with pytest.raises(DpoError, match=r"is not one word: 'two words'") as error:
        load_stop_words(str(tmp_path / "stop.txt"))
    assert error.value.where.endswith("stop.txt:2")
