"""Rows that cannot be used: each is refused with its line, a code, what is wrong and a remedy."""

import pytest

from mlx_dpo.data.conversation_tokens import prompt_tokens
from mlx_dpo.models.load import load_tokenizer

from ..support.mistakes import (
    A_TURN,
    GEN_PAIRS,
    NO_MODEL,
    TRAIN,
    TYPE,
    cases,
    chat,
    curated,
    lines,
    pair,
    write,
)

PARTS_OF_A_PAIR = '"prompt", "chosen" and "rejected"'
A_CALL = '{"type": "function", "function": {"name": "...", "arguments": {...}}}'


def called(arguments):
    call = {"type": "function", "function": {"name": "find", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


PAIRS = {
    "a missing file": (None, "", "no such file", "check the path", ""),
    "an empty file": ("", "", "has no rows", "data/README.md", ""),
    "a file of blank lines": ("\n\n", "", "has no rows", "data/README.md", ""),
    "a line that breaks off": (
        lines(pair(), pair()) + '{"prompt": "How?"\n',
        ":3",
        "Expecting ',' delimiter at column 18",
        "one complete object",
        "not-json",
    ),
    "an array for an object": (
        lines(pair(), ["How?", "So.", "Thus."]),
        ":2",
        "JSON array",
        "one complete object",
        "not-an-object",
    ),
    "a text for an object": (lines("How?"), ":1", "JSON string", "one complete object", "not-an-object"),
    "lists without end": ("[" * 100_000, ":1", "nested too deeply", "one complete object", "not-json"),
    "a line that is not UTF-8": (
        lines(*[pair()] * 4).encode() + '{"prompt": "Où?"}\n'.encode("latin-1"),
        ":5",
        "not UTF-8",
        "UTF-8",
        "not-utf-8",
    ),
    "UTF-16": (
        lines(pair()).encode("utf-16"),
        "",
        "UTF-16",
        "iconv -f UTF-16 -t UTF-8 rows.jsonl > rows-rows.jsonl",
        "",
    ),
    "half an emoji": (
        lines(pair(chosen="Good \ud83d")),
        ":1",
        r"half of a character: '\ud83d'",
        "emoji",
        "half-character",
    ),
    "no prompt": (
        lines({"chosen": "So.", "rejected": "Thus."}),
        ":1",
        "'prompt' is missing",
        PARTS_OF_A_PAIR,
        "missing-prompt",
    ),
    "no chosen answer": (
        lines(pair(), {"prompt": "How?", "rejected": "Thus."}),
        ":2",
        "'chosen' is missing",
        PARTS_OF_A_PAIR,
        "missing-chosen",
    ),
    "no rejected answer": (
        lines({"prompt": "How?", "chosen": "So."}),
        ":1",
        "'rejected' is missing",
        PARTS_OF_A_PAIR,
        "missing-rejected",
    ),
    "an empty answer": (lines(pair(chosen="  ")), ":1", "'chosen' is empty", PARTS_OF_A_PAIR, "empty-chosen"),
    "null for an answer": (
        lines(pair(rejected=None)),
        ":1",
        "'rejected' is empty",
        PARTS_OF_A_PAIR,
        "empty-rejected",
    ),
    "an empty prompt": (lines(pair(prompt=[])), ":1", "'prompt' is empty", PARTS_OF_A_PAIR, "empty-prompt"),
    "a number for a prompt": (lines(pair(prompt=5)), ":1", "'prompt' must be text, got a number", "", TYPE),
    "an object for an answer": (
        lines(pair(chosen={"text": "So."})),
        ":1",
        "'chosen' must be text, got an object",
        "",
        TYPE,
    ),
    "a turn without content": (
        lines(pair(prompt=[{"role": "user"}])),
        ":1",
        "'prompt' has a turn",
        A_TURN,
        "bad-turn",
    ),
    "a turn with an image": (
        lines(pair(prompt=chat(("user", [{"type": "image_url", "image_url": "a.png"}])))),
        ":1",
        "'prompt' has a content part of type 'image_url'",
        "remove",
        "not-text",
    ),
    "an unknown role": (
        lines(pair(prompt=chat(("user", "How?"), ("narrator", "42")))),
        ":1",
        "role 'narrator'",
        "system, user, assistant, tool",
        "bad-role",
    ),
    "a role as another format calls it": (
        lines(pair(chosen=[{"role": "gpt", "content": "So."}])),
        ":1",
        "role 'gpt'",
        "'assistant'",
        "bad-role",
    ),
    "a name written twice": (
        lines(pair()) + '{"prompt": "How?", "chosen": "So.", "chosen": "Or so.", "rejected": "Thus."}\n',
        ":2",
        "'chosen' is written twice",
        "keep one",
        "written-twice",
    ),
    "text beside the prompt": (lines(pair(input="a kettle")), ":1", "'input'", "to the prompt", "left-out"),
    "images beside the prompt": (
        lines(pair(images=["a.png"])),
        ":1",
        "'images'",
        "remove the row",
        "left-out",
    ),
    "a prompt that contradicts the conversations": (
        lines(
            {
                "prompt": "A customer asks: How?",
                "chosen": chat(("user", "How?"), ("assistant", "So.")),
                "rejected": chat(("user", "How?"), ("assistant", "Thus.")),
            }
        ),
        ":1",
        "'prompt' differs",
        "whole conversations",
        "prompt-differs",
    ),
    "images in a turn": (
        lines(pair(prompt=[{"role": "user", "content": "How?", "images": ["a.png"]}])),
        ":1",
        "'prompt' has images in a turn",
        "remove it",
        "not-text",
    ),
    "two reasonings": (
        lines(pair(chosen=[{"role": "assistant", "content": "So.", "reasoning": "Hm.", "thinking": "Ah."}])),
        ":1",
        "reasoning and thinking differ",
        "keep one",
        "bad-turn",
    ),
    "arguments beside the function": (
        lines(pair(chosen=[called(None) | {"tool_calls": [{"function": {"name": "f"}, "args": {"a": 1}}]}])),
        ":1",
        "'chosen' has a tool call with 'args' outside",
        "function.arguments",
        "bad-tools",
    ),
    "arguments that are no object": (
        lines(pair(chosen=[called("city=Oslo")])),
        ":1",
        "'chosen' has a tool call",
        A_CALL,
        "bad-tools",
    ),
    "arguments that never end": (
        lines(pair(chosen=[called("[" * 100_000)])),
        ":1",
        "'chosen' has a tool call",
        A_CALL,
        "bad-tools",
    ),
    "arguments with half a character": (
        lines(pair(chosen=[called('{"a": "\\ud83d"}')])),
        ":1",
        "'chosen' has a tool call",
        A_CALL,
        "bad-tools",
    ),
    "arguments under another name": (
        lines(
            pair(
                chosen=[called(None) | {"tool_calls": [{"function": {"name": "f", "parameters": {"a": 1}}}]}]
            )
        ),
        ":1",
        "'chosen' has a tool call",
        A_CALL,
        "bad-tools",
    ),
    "turns of ShareGPT": (
        lines(pair(chosen=[{"from": "gpt", "value": "So."}])),
        ":1",
        "'chosen' has ShareGPT turns",
        "role",
        "bad-turn",
    ),
    "tools without a name": (
        lines(pair(tools=[{"type": "function"}])),
        ":1",
        "'tools' must be a list",
        '"name"',
        "bad-tools",
    ),
    "a prompt that ends in an answer": (
        lines(pair(prompt=chat(("user", "How?"), ("assistant", "So.")))),
        ":1",
        "must end with a user turn",
        "",
        "prompt-ends-in-answer",
    ),
    "an answer in the user's voice": (
        lines(pair(chosen=chat(("user", "So.")))),
        ":1",
        "'chosen' must be one assistant message",
        "'prompt'",
        "not-one-answer",
    ),
    "conversations that part early": (
        lines(
            {
                "chosen": chat(("user", "How?"), ("assistant", "So.")),
                "rejected": chat(("user", "Why?"), ("assistant", "Thus.")),
            }
        ),
        ":1",
        "chosen and rejected differ before the last assistant turn",
        "'prompt'",
        "conversations-part",
    ),
    "unpaired rows": (
        lines({"prompt": "How?", "completion": "So.", "label": True}),
        ":1",
        "unpaired row (completion, label)",
        "prompt, chosen and rejected",
        "unpaired",
    ),
    "one id twice": (
        lines(pair(id="a"), pair(id="b"), pair(id="a")),
        ":3",
        "the id 'a' is also used at rows.jsonl:1",
        "different id",
        "duplicate-id",
    ),
    "a word for a mark": (
        lines(pair(), pair(rejected_cut="yes")),
        ":2",
        "'rejected_cut' must be true or false, got text",
        "true",
        TYPE,
    ),
    "a number for a mark": (
        lines(pair(chosen_cut=0)),
        ":1",
        "'chosen_cut' must be true or false, got a number",
        "true",
        TYPE,
    ),
    "a list for an id": (lines(pair(id=["a"])), ":1", "'id' must be text or a whole number", "", TYPE),
}


@cases(PAIRS)
def test_pairs_are_refused_before_the_model_is_looked_for(case, refused_rows):
    refused_rows(TRAIN, case)


def test_a_byte_order_mark_is_no_mistake(refused_at, tmp_path):
    write(tmp_path / "rows.jsonl", lines(pair()).encode("utf-8-sig"))
    # The rows are read: the next thing looked for is missing.
    refused_at(f"{TRAIN} {NO_MODEL}", "./no-model", "no such folder", "model.path")


@pytest.mark.parametrize("command", [TRAIN, GEN_PAIRS], ids=["train", "gen-pairs"])
def test_a_folder_in_place_of_a_file_is_refused(command, refused_at, tmp_path):
    (tmp_path / "rows.jsonl").mkdir()
    refused_at(f"{command} {NO_MODEL}", "rows.jsonl", "is a folder without files of rows", "path of a file")


def test_a_prompt_in_both_files_is_refused(refused_at, write_rows):
    write_rows("rows.jsonl", [pair(), pair(prompt="Why?")])
    write_rows("valid.jsonl", [pair(prompt="Who?"), pair(prompt=" WHY? ")])
    command = f"{TRAIN} --set data.valid=valid.jsonl {NO_MODEL}"
    refused_at(command, "valid.jsonl", "valid.jsonl:2", "remove these rows")


LONG = "How? " * 30


@pytest.mark.parametrize(
    ("command", "row"), [(TRAIN, pair), (GEN_PAIRS, curated)], ids=["train", "gen-pairs"]
)
def test_prompts_that_leave_no_room_are_refused_and_ten_of_them_named(
    command, row, refused_at, write_rows, models
):
    tokens = len(prompt_tokens(load_tokenizer(models("llama")), chat(("user", LONG))))
    command += f" --model {models('llama')} --output out --set data.max_length=64"
    what, remedy = f"{tokens} tokens, but data.max_length is 64", f"set data.max_length to {tokens + 2}"
    write_rows("rows.jsonl", [row(), row(prompt=LONG)])
    refused_at(command, "rows.jsonl:2", what, remedy, "prompt-too-long")
    write_rows("rows.jsonl", [row(prompt=LONG), row(), *[row(prompt=LONG)] * 12])
    others = "lines 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 2 more"
    for phrase in (what, others):
        refused_at(command, "rows.jsonl:1", phrase, remedy, "prompt-too-long")


def test_pairs_without_a_difference_are_refused(refused_at, write_rows, models):
    command = f"{TRAIN} --model {models('llama')} --output out --set data.max_length=32"
    what, remedy = "no pair of 2 is left", "must differ"
    write_rows("rows.jsonl", [pair(rejected="So."), pair(rejected=" So.\n")])
    refused_at(command, "rows.jsonl", what, remedy, "identical-answers")
    write_rows("rows.jsonl", [pair(rejected="So."), pair(chosen=LONG + "So.", rejected=LONG + "Thus.")])
    refused_at(command, "rows.jsonl", what, "within data.max_length (32 tokens)", "same-once-cut")
