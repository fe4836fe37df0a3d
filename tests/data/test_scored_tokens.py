"""What is scored is the answer and one end-of-turn, whatever the family's chat template puts around it."""

from dataclasses import replace

import numpy as np
import pytest

from mlx_dpo.data.batches import build_batch
from mlx_dpo.data.chat_template import render
from mlx_dpo.data.conversation_tokens import completion_tokens, end_of_turn, prompt_tokens
from mlx_dpo.data.shared_prompts import build_shared
from mlx_dpo.data.tokenize import tokenize_pairs
from mlx_dpo.errors import DpoError
from mlx_dpo.models.load import load_tokenizer
from mlx_dpo.pairs.sampled_answers import cut_text
from mlx_dpo.records import Curated
from mlx_dpo.training.mask_check import check_masks

from ..support.family_prompts import (
    END,
    FAMILIES,
    HEADER,
    PROMPTS,
    REAL,
    USER,
    decode,
    loaded_again,
    prompts_of,
    row_of,
)

TRIMS = {"llama3", "gemma"}
"""Families whose template strips the content of a turn."""
ODD = [
    "no",
    ".",
    "0",
    "Grüße aus Zürich – 東京で会いましょう。Привет! नमस्ते",
    "👩‍👩‍👧‍👦 family, 🇨🇭 flag, e\u0301 accent, \u200bnothing, \u00a0space",
    "\U0010ffff\u0000\ufffd",
    "one\ntwo\n\nthree\r\nfour\ttab",
    "trailing newline\n",
    "\n\nleading newlines",
    " leading space",
    "trailing spaces   ",
    "   both   ",
    "```python\nprint('<b>')\n```\n",
    "1. first\n2. second\n\n| a | b |\n|---|---|",
    "word " * 200,
    "user\nassistant\nsystem",
    "</s> [INST] ### Response:",
    "{{ messages }} {% raw %}",
    "<|end_of_text",
    "< |im_end| >",
]
SPELT = [
    "A turn ends with {end} there.",
    "{end}",
    "{end}{end}",
    "It stops. {end}",
    "{end} comes first",
    "two {end} and {end}\n{end} three",
    "Grüße {end} 東京",
]


@pytest.fixture
def tokenizer(family, folders):
    return load_tokenizer(folders(family))


def as_rendered(family, answer):
    return answer.strip() if family in TRIMS else answer


def assert_scored(tokenizer, family, pair, answers):
    """Decode what the mask of a padded batch of one scores: the answer, one end-of-turn, nothing after it."""
    batch = build_batch([pair])
    inputs, positions = np.array(batch.inputs), np.array(batch.positions)
    targets, mask = np.array(batch.targets), np.array(batch.mask)
    for row, answer in enumerate(answers):
        scored = targets[row][mask[row]]
        assert decode(tokenizer, scored) == as_rendered(family, answer) + END[family]
        ends = [i for i, token in enumerate(scored) if int(token) in tokenizer.eos_token_ids]
        assert ends == [len(scored) - 1]
        # `positions` points at the token before each scored one: the header's last, then the answer's.
        before = inputs[row][positions[row][mask[row]]]
        np.testing.assert_array_equal(before[1:], scored[:-1])
        assert before[0] == pair.prompt[-1]
        assert HEADER[family].endswith(decode(tokenizer, before[:1]))


@pytest.mark.parametrize(("family", "prompt"), [(f, n) for f in FAMILIES for n in prompts_of(f)])
def test_what_is_scored_decodes_to_the_answer_and_one_end_of_turn(folders, family, prompt):
    tokenizer = load_tokenizer(folders(family))
    spelt = [text.format(end=end) for text in SPELT for end in END.values()]
    answers = REAL + ODD + spelt
    rows = [
        row_of(PROMPTS[prompt], chosen, rejected, f"pairs.jsonl:{number}")
        for number, (chosen, rejected) in enumerate(zip(answers, answers[1:] + answers[:1], strict=True), 1)
    ]
    pairs, counts = tokenize_pairs(rows, tokenizer, 2048)
    assert (counts.kept, counts.cut) == (len(rows), 0)
    for row, pair in zip(rows, pairs, strict=True):
        assert_scored(tokenizer, family, pair, (row.chosen, row.rejected))
        assert decode(tokenizer, pair.prompt).endswith(HEADER[family])
    check_masks(rows, pairs, tokenizer, 2048)


@pytest.mark.parametrize(("family", "prompt"), [(f, n) for f in FAMILIES for n in prompts_of(f)])
def test_of_a_cut_off_answer_all_its_text_is_scored_and_no_end(folders, family, prompt):
    tokenizer = load_tokenizer(folders(family))
    spelt = [text.format(end=end) for text in SPELT for end in END.values()]
    answers = [a[: max(1, 2 * len(a) // 3)] for a in REAL] + ODD + spelt
    rows = [
        row_of(PROMPTS[prompt], f"Whole {number}.", answer, f"pairs.jsonl:{number}")
        for number, answer in enumerate(answers, 1)
    ]
    rows = [replace(row, rejected_cut=True) for row in rows]
    pairs, counts = tokenize_pairs(rows, tokenizer, 2048)
    assert (counts.kept, counts.cut, counts.cut_off) == (len(rows), 0, len(rows))
    for row, pair in zip(rows, pairs, strict=True):
        batch = build_batch([pair])
        targets, mask = np.array(batch.targets), np.array(batch.mask)
        chosen, rejected = (targets[branch][mask[branch]] for branch in (0, 1))
        assert decode(tokenizer, chosen) == row.chosen + END[family]
        assert decode(tokenizer, rejected) == as_rendered(family, row.rejected).rstrip()
        assert not set(rejected.tolist()) & tokenizer.eos_token_ids
        shared = build_shared([pair])
        assert np.array(shared.lengths).tolist() == [len(chosen), len(rejected)]
    check_masks(rows, pairs, tokenizer, 2048)


EXOTIC = [
    "Grüße aus Zürich – 東京で会いましょう。Привет! नमस्ते",
    "👩‍👩‍👧‍👦 family, 🇨🇭 flag 🙂",
    "a.\n\n\nb\n\n- c",
]


def test_wherever_an_answer_is_cut_off_its_text_becomes_the_first_of_its_tokens(tokenizer):
    """In the middle of a character, a word or white space: at most an unfinished last character is lost."""
    end = end_of_turn(tokenizer)
    for answer in REAL[::4] + EXOTIC:
        whole = completion_tokens(tokenizer, (USER,), answer, end)
        for count in range(4, len(whole)):
            text = cut_text(tokenizer, Curated((USER,), "", "1"), whole[:count], end)
            scored = completion_tokens(tokenizer, (USER,), text, end, cut=True)
            assert scored == whole[: len(scored)]
            lost = tokenizer.decode(whole[len(scored) : count])
            assert not lost.replace("\ufffd", "").strip(), (answer, count, lost)


def test_a_line_break_in_one_token_with_the_full_stop_is_left_off_with_it(tmp_path):
    """White space at the end is stripped: without it the full stop is another token than the model's."""
    from tokenizers import Tokenizer, decoders, models

    words = ["<unk>", "</s>", ":", ".", "\n", *"Rub", " ", *"it", ".\n"]
    tokenizer = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [(".", "\n")], unk_token="<unk>", fuse_unk=False)
    )
    tokenizer.decoder = decoders.Fuse()
    template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ '</s>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '' }}{% endif %}"
    )
    loaded = loaded_again(tokenizer, template, tmp_path)
    end, prompt = end_of_turn(loaded), ({"role": "user", "content": ":"},)
    ids = loaded.encode("Rub it.\n", add_special_tokens=False)
    assert ids[-1] == words.index(".\n")
    assert cut_text(loaded, Curated(prompt, "", "1"), ids, end) == "Rub it"
    assert (
        cut_text(loaded, Curated(prompt, "", "1"), [*ids[:-1], words.index("."), words.index("\n")], end)
        == "Rub it."
    )


def test_an_answer_that_begins_with_white_space_keeps_its_end(tokenizer):
    """White space is stripped from the start, so its first token becomes another; all others stay."""
    end = end_of_turn(tokenizer)
    ids = tokenizer.encode(" Gladly! First, rub the copper pan with", add_special_tokens=False)
    assert (
        cut_text(tokenizer, Curated((USER,), "", "1"), ids, end) == "Gladly! First, rub the copper pan with"
    )


FAULTS = {
    "an end after an answer that was cut off": lambda pair, end: replace(
        pair, rejected=np.append(pair.rejected, np.int32(end))
    ),
    "the last token of an answer that was cut off": lambda pair, end: replace(
        pair, rejected=pair.rejected[:-1]
    ),
    "no end after a whole answer": lambda pair, end: replace(pair, chosen=pair.chosen[:-1]),
    "two ends": lambda pair, end: replace(pair, chosen=np.append(pair.chosen, np.int32(end))),
    "another token": lambda pair, end: replace(pair, rejected=pair.rejected[::-1].copy()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_of_masks_finds_each_fault(fault, tokenizer):
    row = replace(row_of((USER,), "Rub it with lemon.", "Wash it with the"), rejected_cut=True)
    (pair,), _ = tokenize_pairs([row], tokenizer, 256)
    check_masks([row], [pair], tokenizer, 256)
    wrong = FAULTS[fault](pair, end_of_turn(tokenizer))
    with pytest.raises(DpoError, match="the scored tokens are not the"):
        check_masks([row], [wrong], tokenizer, 256)


def test_the_check_of_masks_lets_max_length_cut_answers_of_both_kinds(tokenizer):
    answer = "Grüße aus Zürich – 東京で会いましょう。 " * 3
    row = replace(row_of((USER,), answer, "x " + answer), rejected_cut=True)
    shortest = len(prompt_tokens(tokenizer, row.prompt)) + 2
    whole, _ = tokenize_pairs([row], tokenizer, 2048)
    for max_length in range(shortest, shortest + max(len(whole[0].chosen), len(whole[0].rejected)) + 2):
        pairs, counts = tokenize_pairs([row], tokenizer, max_length)
        check_masks([row], pairs, tokenizer, max_length)
        assert counts.cut_off == 1
        longer = len(whole[0].prompt) + max(len(whole[0].chosen), len(whole[0].rejected))
        assert counts.cut == (longer > max_length)


def test_the_newline_that_granite_renders_after_the_end_is_not_scored(folders):
    tokenizer = load_tokenizer(folders("granite"))
    turn = {"role": "assistant", "content": "Lemon."}
    whole = render(tokenizer, [USER, turn], generation_prompt=False)
    assert whole.endswith("Lemon.<|end_of_text|>\n")
    tokens = completion_tokens(tokenizer, (USER,), "Lemon.", end_of_turn(tokenizer))
    assert decode(tokenizer, tokens) == "Lemon.<|end_of_text|>"


def test_the_prompts_tokens_begin_the_whole_conversations_tokens(tokenizer, family):
    end = end_of_turn(tokenizer)
    for prompt in prompts_of(family).values():
        before = prompt_tokens(tokenizer, prompt)
        for answer in [*REAL, "no", "Grüße aus Zürich", "👩‍👩‍👧‍👦", "```python\nx\n```"]:
            turn = {"role": "assistant", "content": answer}
            text = render(tokenizer, [*prompt, turn], generation_prompt=False)
            whole = tokenizer.encode(text, add_special_tokens=False)
            assert whole[: len(before)] == before
            branch = before + completion_tokens(tokenizer, prompt, answer, end)
            assert whole[: len(branch)] == branch
            assert decode(tokenizer, whole[len(branch) :]).strip() == ""


def test_a_prompt_is_rendered_by_the_template_once_without_a_second_start_token(tokenizer, family):
    tokens = prompt_tokens(tokenizer, (USER,))
    bos = {"llama3": "<|begin_of_text|>", "gemma": "<bos>"}.get(family)
    text = decode(tokenizer, tokens)
    assert text.endswith(HEADER[family])
    assert text.count("How do I clean silver?") == 1
    if bos:
        assert text.startswith(bos)
        assert text.count(bos) == 1


def test_a_pair_that_was_cut_scores_the_answers_start_and_no_end(tokenizer, family):
    row = row_of((USER,), "word " * 200, "short")
    room = 30
    max_length = len(prompt_tokens(tokenizer, row.prompt)) + room
    pairs, counts = tokenize_pairs([row], tokenizer, max_length)
    batch = build_batch(pairs)
    targets, mask = np.array(batch.targets), np.array(batch.mask)
    chosen, rejected = (targets[i][mask[i]] for i in range(2))
    assert counts.cut == 1
    assert len(chosen) == room
    assert ("word " * 200).startswith(decode(tokenizer, chosen))
    assert decode(tokenizer, rejected) == "short" + END[family]


def test_the_end_of_turn_is_the_templates_and_stops_sampling(tokenizer, family):
    end = end_of_turn(tokenizer)
    assert decode(tokenizer, [end]) == END[family]
    assert end in tokenizer.eos_token_ids
