"""Texts become lists of words."""

import time

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
        ("the U.S.Army, p.m. and J. K. Smith", ["the", "army", "and", "smith"]),
        ("Well...then he said.The end", ["well", "then", "said", "the", "end"]),
        ("See https://a.org/cats?x=dogs, www.owls.net/mice or (HTTP://x.y)!", ["see"]),
        ("the news.site.com/cats/dogs now", ["the", "now"]),
        ("snake_case, semi-detached/house", ["snake", "case", "semi", "detached", "house"]),
        ("Größe naïve Москва", ["größe", "naïve", "москва"]),
        ("cafe\u0301 caf\u00e9", ["caf\u00e9", "caf\u00e9"]),
        ("हिन्दी में पानी", ["हिन्दी", "में", "पानी"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("الْكِتَابُ جميل", ["الْكِتَابُ", "جميل"]),
        ("co\u00adoperate \u2764\ufe0flove \ufeffstart", ["cooperate", "love", "start"]),
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
    assert {"the", "dont", "youre", "thats"} <= load_stop_words("english")
    assert load_stop_words("none") == frozenset()
    assert load_stop_words(str(tmp_path / "stop.txt")) == {"und", "isnt"}


def test_contractions_of_stop_words_are_stop_words_and_words_that_look_like_them_are_not():
    text = (
        "That's what you're told: don\u2019t, doesn't, he'll, she'd, I'm, let's, we've, it\u2019s; dont youre"
    )
    assert words_of(text, load_stop_words("english"), 1) == ["told"]
    words = "hell shell shed wed ill john's rock'n'roll"
    kept = ["hell", "shell", "shed", "wed", "ill", "johns", "rocknroll"]
    assert words_of(words, load_stop_words("english"), 1) == kept
    assert words_of("you're it's", {"you"}, 1) == ["its"]


@pytest.mark.parametrize("part", ["a@", "a.", "a-", "'a", "www.", "\u4e2d", "\u0915\u093f", "a1"])
def test_a_text_without_blanks_takes_time_in_proportion_to_its_length(part):
    start = time.process_time()
    words_of(part * 100_000, frozenset(), 1)
    assert time.process_time() - start < 3  # minutes, if it grew with the square


def test_a_stop_word_list_that_is_missing_or_has_two_words_on_a_line_is_refused(tmp_path):
    with pytest.raises(DpoError, match="there is no list or file 'german'"):
        load_stop_words("german")
    (tmp_path / "stop.txt").write_text("one\ntwo words\n")
    with pytest.raises(DpoError, match=r"is not one word: 'two words'") as error:
        load_stop_words(str(tmp_path / "stop.txt"))
    assert error.value.where.endswith("stop.txt:2")
