"""Rows that have no format, another format than the file, or values that do not fit: refused by line."""

import pytest

from mlx_dpo.data.row_index import index_rows
from mlx_dpo.errors import DpoError

from ..support.mistakes import assert_told, cases, chat, pair
from .row_fixtures import HH, PAIRS, RANKED, SHP, TLDR
from .row_parts import HOW, feedback, says, talk


def first_of(name, **changes):
    """The first row of a format with some values changed; ... removes one."""
    row = {**PAIRS[name][0][0], **changes}
    return {key: value for key, value in row.items() if value is not ...}


def with_file():
    """Messages as open-webui keeps them, of which the first has a document."""
    messages = feedback(1)["snapshot"]["chat"]["chat"]["history"]["messages"]
    return {**messages, "u1": {**messages["u1"], "files": [{"type": "file", "name": "a.pdf"}]}}


MALFORMED = {
    "an HH row without a transcript": (HH, {"chosen": "So."}, "does not look like", "other-format"),
    "an HH row without rejected": (HH, {"rejected": ...}, "'rejected' is missing", "other-format"),
    "an HH row with null": (HH, {"chosen": None}, "'chosen' must be text, got null", "wrong-type"),
    "an HH row with another prompt": (HH, {"prompt": "Why not?"}, "'prompt' differs", "prompt-differs"),
    "a choice in words": (TLDR, {"choice": "first"}, "'choice' must be a whole number", "wrong-type"),
    "no post": (TLDR, {"info": "post"}, "'info' must be an object, got text", "wrong-type"),
    "one conversation": (
        "UltraFeedback binarized",
        {"rejected": "Thus."},
        "'rejected' must be a list of messages, got text",
        "wrong-type",
    ),
    "conversations that part early": (
        "UltraFeedback binarized",
        {"rejected": chat(("user", "Why?"), ("assistant", "No."))},
        "differ before the last assistant turn",
        "conversations-part",
    ),
    "a turn of nobody": (
        "ShareGPT pairs",
        {"conversations": talk(("narrator", "How?"))},
        "has the unknown role 'narrator'",
        "bad-role",
    ),
    "a conversation that ends in an answer": (
        "ShareGPT pairs",
        {"conversations": talk(("human", "Hi."), ("gpt", "Hello."))},
        "must end with a user turn",
        "prompt-ends-in-answer",
    ),
    "an image": (
        "axolotl pairs",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}]}]},
        "has a content part of type 'image_url'",
        "not-text",
    ),
    "images beside it": ("ms-swift pairs", {"images": ["a.png"]}, "'images' is not part of", "left-out"),
    "no input": ("OpenAI preferences", {"input": ...}, "'input' is missing", "other-format"),
    "no messages": ("OpenAI preferences", {"input": {}}, "'input.messages' is empty", "empty-prompt"),
    "two preferred answers": (
        "OpenAI preferences",
        {"preferred_output": says("So.") * 2},
        "'preferred_output' must be one assistant message",
        "not-one-answer",
    ),
    "a number for an answer": (
        "Stack Exchange pairs",
        {"response_j": 5},
        "'response_j' must be text, got a number",
        "wrong-type",
    ),
    "an empty question": ("Stack Exchange pairs", {"question": " "}, "'question' is empty", "empty-prompt"),
    "a list of scores that is too short": (
        RANKED,
        {"completions": ["So.", "Thus."], "scores": [1]},
        "does not look like",
        "other-format",
    ),
    "a label in words": (SHP, {"labels": "A"}, "'labels' must be a whole number, got text", "wrong-type"),
    "two prompts": (
        "pairs with chosen_response and rejected_response",
        {"prompt": "Why?"},
        "has both 'instruction' and 'prompt'",
        "left-out",
    ),
    "a history in words": (
        "instructions with two answers",
        {"history": "Hi. Hello."},
        "'history' is not a list of questions with answers",
        "wrong-type",
    ),
    "a history of questions alone": (
        "instructions with two answers",
        {"history": [["Hi."]]},
        "'history' is not a list of questions with answers",
        "wrong-type",
    ),
    "text beside the turns of a prompt": (
        RANKED,
        {"instruction": HOW, "input": "Wie?"},
        "'input' would be left out of the prompt",
        "left-out",
    ),
    "a file beside a message": (
        "open-webui feedback",
        {"snapshot": {"history": {"messages": with_file()}}},
        "'prompt' has files in a turn",
        "not-text",
    ),
    "one answer": ("PKU-SafeRLHF", {"response_1": ...}, "'response_1' is missing", "other-format"),
    "true for an answer": ("PandaLM votes", {"response1": True}, "'response1' must be text", "wrong-type"),
    "a snapshot that is text": (
        "open-webui feedback",
        {"snapshot": "..."},
        "'snapshot' must be an object, got text",
        "wrong-type",
    ),
    "two system turns": (
        "distilabel Orca pairs",
        {"system": 7},
        "'system' must be text, got a number",
        "wrong-type",
    ),
}


@cases(MALFORMED)
def test_a_malformed_row_is_named_by_its_line(case, file_of):
    name, changes, phrase, code = case
    good = PAIRS[name][0][0]
    file = file_of(*[good] * 3, first_of(name, **changes))
    with pytest.raises(DpoError) as caught:
        index_rows(file)
    assert_told(caught.value, f"{file}:4", phrase, code=code)


def test_a_row_of_another_known_format_is_named_with_both(file_of):
    hh, other = PAIRS[HH][0][0], PAIRS[SHP][0][0]
    with pytest.raises(DpoError) as caught:
        index_rows(file_of(hh, hh, other))
    what = f"has the format {SHP!r}, but the first rows of the file have {HH!r}"
    assert_told(caught.value, caught.value.where, what, "list the files in data.train", "other-format")
    assert caught.value.where.endswith(":3")
    with pytest.raises(
        DpoError, match=f"has the format '{SHP}', but the first rows of the file have 'our own"
    ):
        index_rows(file_of(pair(), pair(), other))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "How?", "completion": "So.", "label": True},
        {"messages": HOW + says("So."), "label": False},
        {"prompt": "How?", "completion": "So.", "kto_tag": True},
    ],
)
def test_unpaired_rows_are_refused_with_the_reason(row, file_of):
    with pytest.raises(DpoError) as caught:
        index_rows(file_of(row))
    assert_told(caught.value, caught.value.where, "unpaired row", "prompt, chosen and rejected", "unpaired")


def test_an_unknown_format_is_refused_with_its_columns(file_of):
    with pytest.raises(DpoError) as caught:
        index_rows(file_of({"winner_text": "So.", "loser_text": "Thus."}))
    assert_told(
        caught.value, caught.value.where, "'chosen' is missing", "winner_text, loser_text", "missing-chosen"
    )


def test_ranked_answers_without_scores_are_refused(file_of):
    with pytest.raises(DpoError, match="several answers, but without scores"):
        index_rows(file_of({"prompt": "How?", "completions": ["So.", "Thus."]}))


def test_an_odd_first_row_does_not_decide_the_format_of_the_file(file_of):
    odd, good = {"chosen": "So.", "rejected": "Thus."}, PAIRS["HH-RLHF transcripts"][0][0]
    with pytest.raises(DpoError) as caught:
        index_rows(file_of(odd, good, good))
    assert caught.value.where.endswith("rows.jsonl:1") and "HH-RLHF transcripts" in str(caught.value)
