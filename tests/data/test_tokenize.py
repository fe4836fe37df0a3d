"""Pairs of text to pairs of tokens: nothing of a prompt is ever cut, and both answers have the same room."""

import dataclasses
import json

import numpy as np
import pytest

from mlx_dpo.data.batches import build_batch
from mlx_dpo.data.conversation_tokens import completion_tokens, end_of_turn, prompt_tokens
from mlx_dpo.data.tokenize import TokenCounts, TokenizedPair, tokenize_pairs
from mlx_dpo.demo.tiny_models import GRANITE, write_tokenizer
from mlx_dpo.errors import DpoError
from mlx_dpo.models.load import load_tokenizer
from mlx_dpo.records import Preference

from ..support.mistakes import assert_told

QUESTION = "How do I clean silver?"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """One token a letter: a vocabulary of bytes and special tokens, nothing merged."""
    folder = tmp_path_factory.mktemp("letters")
    write_tokenizer(folder, GRANITE, ["a"], 256 + len(GRANITE.special))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 1}))
    return load_tokenizer(folder)


def row(chosen, rejected, number=1, question=QUESTION):
    prompt = ({"role": "user", "content": question},)
    return Preference(prompt, chosen, rejected, str(number), f"pairs.jsonl:{number}")


def prompt_length(tokenizer, question=QUESTION):
    """<start> u s e r <end>, the question, <end of text> and newline, <start> a s s i s t a n t <end>."""
    length = 6 + len(question) + 2 + 11
    assert length == len(prompt_tokens(tokenizer, row("", "", question=question).prompt))
    return length


def test_a_pair_that_fits_is_whole(tokenizer):
    pairs, counts = tokenize_pairs([row("yes", "no no")], tokenizer, 1024)
    end = end_of_turn(tokenizer)
    prompt = row("", "").prompt
    assert pairs[0].prompt.tolist() == prompt_tokens(tokenizer, prompt)
    assert pairs[0].chosen.tolist() == completion_tokens(tokenizer, prompt, "yes", end)
    assert pairs[0].rejected.tolist() == completion_tokens(tokenizer, prompt, "no no", end)
    assert (len(pairs[0].chosen), len(pairs[0].rejected)) == (4, 6)
    assert pairs[0].where == "pairs.jsonl:1"
    assert {a.dtype for a in (pairs[0].prompt, pairs[0].chosen, pairs[0].rejected)} == {np.dtype(np.int32)}
    assert counts == TokenCounts(rows=1, kept=1, cut=0, same=0)


@pytest.mark.parametrize(
    ("room", "chosen", "rejected", "cut"),
    [
        (10, 10, 4, 1),  # the longer one is cut, the shorter one is whole
        (4, 4, 4, 1),  # "abc" and its end just fit
        (3, 3, 3, 1),  # both are cut at the same place
        (2, 2, 2, 1),
        (20, 20, 4, 1),
        (21, 21, 4, 0),  # 20 letters and the end
        (500, 21, 4, 0),
    ],
)
def test_both_answers_keep_at_most_the_room_the_prompt_leaves(tokenizer, room, chosen, rejected, cut):
    length = prompt_length(tokenizer)
    pairs, counts = tokenize_pairs([row("x" * 20, "abc")], tokenizer, length + room)
    whole, _ = tokenize_pairs([row("x" * 20, "abc")], tokenizer, 1024)
    assert pairs[0].prompt.tolist() == whole[0].prompt.tolist()
    assert pairs[0].chosen.tolist() == whole[0].chosen.tolist()[:chosen]
    assert pairs[0].rejected.tolist() == whole[0].rejected.tolist()[:rejected]
    assert (len(pairs[0].chosen), len(pairs[0].rejected)) == (chosen, rejected)
    assert pairs[0].length <= length + room
    assert counts.cut == cut


def test_after_truncation_both_branches_of_a_batch_still_begin_with_the_whole_prompt(tokenizer):
    rows = [row("x" * 90, "y" * 50, 1), row("short", "z" * 200, 2, question="Why? " * 9)]
    pairs, _ = tokenize_pairs(rows, tokenizer, prompt_length(tokenizer, rows[1].prompt[0]["content"]) + 5)
    inputs = np.array(build_batch(pairs).inputs)
    for i, pair in enumerate(pairs):
        expected = prompt_tokens(tokenizer, rows[i].prompt)
        for branch in (inputs[i], inputs[i + 2]):
            assert branch[: len(expected)].tolist() == expected
        assert pair.length == len(expected) + max(len(pair.chosen), len(pair.rejected))


def test_tokens_count_the_prompt_once_and_length_is_the_longer_branch():
    pair = TokenizedPair(np.arange(5), np.arange(3), np.arange(7), "here")
    assert (pair.tokens, pair.length) == (15, 12)


def test_pairs_with_the_same_answers_are_dropped_and_counted(tokenizer):
    rows = [
        row("yes", "no", 1),
        row("same", "same", 2),
        row("x" * 30 + " end", "x" * 30 + " other end", 3),  # the same once cut
        row("x" * 30, "y" * 30, 4),
        row("yes", "yes.", 5),
    ]
    pairs, counts = tokenize_pairs(rows, tokenizer, prompt_length(tokenizer) + 20)
    assert [p.where for p in pairs] == ["pairs.jsonl:1", "pairs.jsonl:4", "pairs.jsonl:5"]
    assert counts == TokenCounts(rows=5, kept=3, cut=1, same=2)
    assert str(counts) == "5 pairs: 3 kept, 1 of them cut to max_length, 2 dropped (identical answers)"


def test_counts_say_only_what_happened():
    assert str(TokenCounts(rows=1004, kept=1004, cut=0, same=0)) == "1,004 pairs: 1,004 kept"


def test_a_prompt_that_leaves_no_room_is_refused_with_the_length_it_needs(tokenizer):
    rows = [row("yes", "no", 1), row("yes", "no", 2, "?" * 80), row("yes", "no", 3, "?" * 100)]
    length = prompt_length(tokenizer, "?" * 80)
    with pytest.raises(DpoError) as caught:
        tokenize_pairs(rows, tokenizer, length + 1)
    what = f"{length} tokens, but data.max_length is {length + 1}; also too long: lines 3"
    assert_told(
        caught.value,
        "pairs.jsonl:2",
        what,
        f"set data.max_length to {length + 22} or more",
        "prompt-too-long",
    )
    kept, _ = tokenize_pairs(rows, tokenizer, length + 20 + 2)
    assert len(kept) == 3


def test_a_file_of_equal_answers_only_is_refused(tokenizer):
    with pytest.raises(DpoError) as caught:
        tokenize_pairs([row("a", "a", 1), row("b", "b", 2)], tokenizer, 1024)
    assert_told(caught.value, "pairs.jsonl", "no pair of 2 is left", "must differ", "identical-answers")
    assert "max_length" not in caught.value.hint


def test_the_order_of_rows_is_kept(tokenizer):
    rows = [row("a" * n, "b", n) for n in (5, 1, 9, 3)]
    pairs, _ = tokenize_pairs(rows, tokenizer, 1024)
    assert [p.where for p in pairs] == [r.where for r in rows]


def test_a_tokenized_pair_cannot_be_changed():
    pair = TokenizedPair(np.arange(5), np.arange(3), np.arange(7), "here")
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.prompt = np.arange(1)
