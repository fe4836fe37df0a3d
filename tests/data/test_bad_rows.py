"""Rows that cannot be used: each is refused with its line, what it is and a remedy."""

import pytest

from mlx_dpo.data.templates import prompt_tokens
from mlx_dpo.models.load import load_tokenizer

from ..support.mistakes import (
    GEN_PAIRS,
    NEEDS_CURATED,
    NEEDS_OBJECT,
    NEEDS_PAIR,
    NEEDS_TEXT,
    NEEDS_TURN,
    NO_MODEL,
    TRAIN,
    cases,
    chat,
    curated,
    lines,
    pair,
    write,
)

NEEDS_CALL = 'a tool call is {"type": "function", "function": {"name": "...", "arguments": {...}}}'
TRANSCRIPTS = (
    'split it at each "Human:" and "Assistant:" and write the turns as messages; after the last "Assistant:" '
    "of chosen and rejected are the answers, what they share is the prompt"
)


def called(arguments):
    call = {"type": "function", "function": {"name": "find", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


PAIRS = {
    "a missing file": (None, "rows.jsonl: no such file", "check the path, relative to this folder"),
    "an empty file": ("", "rows.jsonl: has no rows", "see data/README.md for what a row looks like"),
    "a file of blank lines": (
        "\n\n",
        "rows.jsonl: has no rows",
        "see data/README.md for what a row looks like",
    ),
    "a line that breaks off": (
        lines(pair(), pair()) + '{"prompt": "How?"\n',
        "rows.jsonl:3: not JSON: Expecting ',' delimiter at column 18",
        NEEDS_OBJECT,
    ),
    "an array for an object": (
        lines(pair(), ["How?", "So.", "Thus."]),
        "rows.jsonl:2: is a JSON array, not an object",
        NEEDS_OBJECT,
    ),
    "a text for an object": (lines("How?"), "rows.jsonl:1: is a JSON string, not an object", NEEDS_OBJECT),
    "lists without end": (
        "[" * 100_000,
        "rows.jsonl:1: not JSON: a number too long or lists too deep",
        NEEDS_OBJECT,
    ),
    "a line that is not UTF-8": (
        lines(*[pair()] * 4).encode() + '{"prompt": "Où?"}\n'.encode("latin-1"),
        "rows.jsonl:5: is not UTF-8 text",
        "save the file as UTF-8",
    ),
    "UTF-16": (
        lines(pair()).encode("utf-16"),
        "rows.jsonl: is UTF-16 text",
        "turn it into JSONL: iconv -f UTF-16 -t UTF-8 rows.jsonl > rows-rows.jsonl",
    ),
    "half an emoji": (
        lines(pair(chosen="Good \ud83d")),
        r"rows.jsonl:1: holds half of a character: '\ud83d'",
        "an emoji was cut in two where this file was made; write it whole or remove it",
    ),
    "no prompt": (
        lines({"chosen": "So.", "rejected": "Thus."}),
        "rows.jsonl:1: 'prompt' is missing",
        NEEDS_PAIR,
    ),
    "no chosen answer": (
        lines(pair(), {"prompt": "How?", "rejected": "Thus."}),
        "rows.jsonl:2: 'chosen' is missing",
        NEEDS_PAIR,
    ),
    "no rejected answer": (
        lines({"prompt": "How?", "chosen": "So."}),
        "rows.jsonl:1: 'rejected' is missing",
        NEEDS_PAIR,
    ),
    "an empty answer": (lines(pair(chosen="  ")), "rows.jsonl:1: 'chosen' is empty", NEEDS_PAIR),
    "null for an answer": (lines(pair(rejected=None)), "rows.jsonl:1: 'rejected' is empty", NEEDS_PAIR),
    "an empty prompt": (lines(pair(prompt=[])), "rows.jsonl:1: 'prompt' is empty", NEEDS_PAIR),
    "a number for a prompt": (
        lines(pair(prompt=5)),
        "rows.jsonl:1: 'prompt' must be text, got a number",
        NEEDS_TEXT,
    ),
    "an object for an answer": (
        lines(pair(chosen={"text": "So."})),
        "rows.jsonl:1: 'chosen' must be text, got an object",
        NEEDS_TEXT,
    ),
    "a turn without content": (
        lines(pair(prompt=[{"role": "user"}])),
        "rows.jsonl:1: 'prompt' has a turn without role and content",
        NEEDS_TURN,
    ),
    "a turn with an image": (
        lines(pair(prompt=chat(("user", [{"type": "image_url", "image_url": "a.png"}])))),
        "rows.jsonl:1: 'prompt' has a content part of type 'image_url'",
        "only text is trained on; remove the row, or leave images, sound and video out of it",
    ),
    "an unknown role": (
        lines(pair(prompt=chat(("user", "How?"), ("narrator", "42")))),
        "rows.jsonl:1: 'prompt' has the role 'narrator'",
        "roles are system, user, assistant, tool",
    ),
    "a role as another format calls it": (
        lines(pair(chosen=[{"role": "gpt", "content": "So."}])),
        "rows.jsonl:1: 'chosen' has the role 'gpt'",
        "write 'assistant'",
    ),
    "a name written twice": (
        lines(pair()) + '{"prompt": "How?", "chosen": "So.", "chosen": "Or so.", "rejected": "Thus."}\n',
        "rows.jsonl:2: 'chosen' is written twice",
        "keep one of the two",
    ),
    "text beside the prompt": (
        lines(pair(input="a kettle")),
        "rows.jsonl:1: 'input' is beside the prompt and would be left out",
        "add it to the prompt, or rename the column where the prompt does not need it",
    ),
    "images beside the prompt": (
        lines(pair(images=["a.png"])),
        "rows.jsonl:1: 'images' is beside the prompt and would be left out",
        "only text is trained on: remove the row, or what the text does not need",
    ),
    "a prompt that contradicts the conversations": (
        lines(
            {
                "prompt": "A customer asks: How?",
                "chosen": chat(("user", "How?"), ("assistant", "So.")),
                "rejected": chat(("user", "How?"), ("assistant", "Thus.")),
            }
        ),
        "rows.jsonl:1: 'prompt' is not what the conversation begins with",
        "give the prompt's turns and one assistant message each, or whole conversations only",
    ),
    "transcripts": (
        lines({name: f"\n\nHuman: How?\n\nAssistant: {name}." for name in ("chosen", "rejected")}),
        "rows.jsonl:1: chosen and rejected are transcripts (Human: ..., Assistant: ...)",
        TRANSCRIPTS,
    ),
    "transcripts beside a prompt": (
        lines({"prompt": "How?"} | dict.fromkeys(["chosen", "rejected"], "Human: How?\n\nAssistant: So.")),
        "rows.jsonl:1: chosen and rejected are transcripts (Human: ..., Assistant: ...)",
        TRANSCRIPTS,
    ),
    "a transcript for a prompt": (
        lines(pair(prompt="\n\nHuman: How?\n\nAssistant:")),
        "rows.jsonl:1: prompt is a transcript (Human: ..., Assistant: ...)",
        TRANSCRIPTS,
    ),
    "messages beside the answers": (
        lines({"messages": chat(("user", "How?")), "chosen": "So.", "rejected": "Thus."}),
        "rows.jsonl:1: is a row of axolotl (messages beside chosen and rejected)",
        "rename messages to prompt, and write chosen and rejected as lists of one message, or as text",
    ),
    "images in a turn": (
        lines(pair(prompt=[{"role": "user", "content": "How?", "images": ["a.png"]}])),
        "rows.jsonl:1: 'prompt' has images in a turn",
        "only text is trained on; tools and documents belong to the row, not to a turn",
    ),
    "two reasonings": (
        lines(pair(chosen=[{"role": "assistant", "content": "So.", "reasoning": "Hm.", "thinking": "Ah."}])),
        "rows.jsonl:1: 'chosen' has reasoning and thinking in a turn, which differ",
        "a turn has one reasoning: keep one of these fields",
    ),
    "arguments beside the function": (
        lines(pair(chosen=[called(None) | {"tool_calls": [{"function": {"name": "f"}, "args": {"a": 1}}]}])),
        "rows.jsonl:1: 'chosen' has a tool call with args beside its function's arguments",
        'put all of them into "arguments" of the function, or remove what is no argument',
    ),
    "arguments that are no object": (
        lines(pair(chosen=[called("city=Oslo")])),
        "rows.jsonl:1: 'chosen' has a tool call without a function's name and arguments",
        NEEDS_CALL,
    ),
    "arguments that never end": (
        lines(pair(chosen=[called("[" * 100_000)])),
        "rows.jsonl:1: 'chosen' has a tool call without a function's name and arguments",
        NEEDS_CALL,
    ),
    "arguments with half a character": (
        lines(pair(chosen=[called('{"a": "\\ud83d"}')])),
        "rows.jsonl:1: 'chosen' has a tool call without a function's name and arguments",
        NEEDS_CALL,
    ),
    "arguments under another name": (
        lines(
            pair(
                chosen=[called(None) | {"tool_calls": [{"function": {"name": "f", "parameters": {"a": 1}}}]}]
            )
        ),
        "rows.jsonl:1: 'chosen' has a tool call without a function's name and arguments",
        NEEDS_CALL,
    ),
    "an instruction for a prompt": (
        lines({"instruction": "How?", "input": "x", "chosen": "So.", "rejected": "Thus."}),
        "rows.jsonl:1: 'prompt' is missing, 'instruction' is there",
        "rename 'instruction' to 'prompt' and add 'input' to it",
    ),
    "turns of ShareGPT": (
        lines(pair(chosen=[{"from": "gpt", "value": "So."}])),
        "rows.jsonl:1: 'chosen' has turns of ShareGPT (from, value)",
        "write role for from (human is user, gpt is assistant) and content for value",
    ),
    "tools without a name": (
        lines(pair(tools=[{"type": "function"}])),
        "rows.jsonl:1: 'tools' must be a list of tool definitions",
        'a tool is {"type": "function", "function": {"name": "...", "parameters": {...}}}',
    ),
    "a prompt that ends in an answer": (
        lines(pair(prompt=chat(("user", "How?"), ("assistant", "So.")))),
        "rows.jsonl:1: the prompt must end with a user turn",
        "the completion is the assistant's turn",
    ),
    "an answer in the user's voice": (
        lines(pair(chosen=chat(("user", "So.")))),
        "rows.jsonl:1: 'chosen' must be one assistant message",
        "earlier turns go to 'prompt'",
    ),
    "conversations that part early": (
        lines(
            {
                "chosen": chat(("user", "How?"), ("assistant", "So.")),
                "rejected": chat(("user", "Why?"), ("assistant", "Thus.")),
            }
        ),
        "rows.jsonl:1: chosen and rejected differ before the last assistant turn",
        "a pair is one prompt with two answers; put the shared turns in 'prompt'",
    ),
    "unpaired rows": (
        lines({"prompt": "How?", "completion": "So.", "label": True}),
        "rows.jsonl:1: is an unpaired row (completion, label); DPO needs pairs",
        "write prompt, chosen and rejected",
    ),
    "one id twice": (
        lines(pair(id="a"), pair(id="b"), pair(id="a")),
        "rows.jsonl:3: the id 'a' stands at rows.jsonl:1 too",
        "ids must differ; rows without one are called line-1, line-2, ...",
    ),
    "a word for a mark": (
        lines(pair(), pair(rejected_cut="yes")),
        "rows.jsonl:2: 'rejected_cut' must be true or false, got text",
        "true says that the answer was cut off and has no end; leave it out for whole answers",
    ),
    "a number for a mark": (
        lines(pair(chosen_cut=0)),
        "rows.jsonl:1: 'chosen_cut' must be true or false, got a number",
        "true says that the answer was cut off and has no end; leave it out for whole answers",
    ),
    "a list for an id": (
        lines(pair(id=["a"])),
        "rows.jsonl:1: 'id' must be text or a whole number",
        "or leave it out",
    ),
}


@cases(PAIRS)
def test_pairs_are_refused_before_the_model_is_looked_for(case, refused, tmp_path):
    content, what, remedy = case
    if content is not None:
        write(tmp_path / "rows.jsonl", content)
    refused(f"{TRAIN} {NO_MODEL}", what, remedy)


CURATED = {
    "a missing file": (None, "rows.jsonl: no such file", "check the path, relative to this folder"),
    "no answer": (lines(curated(), {"prompt": "How?"}), "rows.jsonl:2: 'answer' is missing", NEEDS_CURATED),
    "no prompt": (lines({"answer": "So."}), "rows.jsonl:1: 'prompt' is missing", NEEDS_CURATED),
    "an empty answer": (lines(curated(answer=" ")), "rows.jsonl:1: 'answer' is empty", NEEDS_CURATED),
    "a list of texts for an answer": (
        lines(curated(answer=["So."])),
        "rows.jsonl:1: 'answer' has a turn without role and content",
        NEEDS_TURN,
    ),
    "messages without an answer": (
        lines({"messages": chat(("user", "How?"))}),
        "rows.jsonl:1: 'messages' must end with an assistant turn",
        NEEDS_CURATED,
    ),
    "messages with two answers": (
        lines({"messages": chat(("user", "How?"), ("assistant", "So."), ("assistant", "Thus."))}),
        "rows.jsonl:1: the prompt must end with a user turn",
        "the completion is the assistant's turn",
    ),
    "text for messages": (
        lines({"messages": "How?"}),
        "rows.jsonl:1: 'messages' must be a list of messages, got text",
        NEEDS_TURN,
    ),
    "an answer that is labelled": (
        lines({"prompt": "How?", "completion": "So.", "label": False}),
        "rows.jsonl:1: is an unpaired row (completion, label); DPO needs pairs",
        "keep the good ones without the label, or write pairs",
    ),
    "a prompt that contradicts the messages": (
        lines({"prompt": "Why?", "messages": chat(("user", "How?"), ("assistant", "So."))}),
        "rows.jsonl:1: 'prompt' is not what the conversation begins with",
        "give the prompt's turns and one assistant message each, or whole conversations only",
    ),
    "one id twice": (
        lines(curated(id=7), curated(id="7")),
        "rows.jsonl:2: the id '7' stands at rows.jsonl:1 too",
        "ids must differ; rows without one are called line-1, line-2, ...",
    ),
}


@cases(CURATED)
def test_curated_rows_are_refused_before_the_model_is_looked_for(case, refused, tmp_path):
    content, what, remedy = case
    if content is not None:
        write(tmp_path / "rows.jsonl", content)
    refused(f"{GEN_PAIRS} {NO_MODEL}", what, remedy)


def test_a_byte_order_mark_is_no_mistake(refused, tmp_path):
    write(tmp_path / "rows.jsonl", lines(pair()).encode("utf-8-sig"))
    # The rows are read: the next thing looked for is missing.
    refused(
        f"{TRAIN} {NO_MODEL}",
        "./no-model: no such folder, and not a Hub name (organisation/model)",
        "set model.path to a model folder, or to a name like ibm-granite/granite-4.0-h-micro",
    )


@pytest.mark.parametrize("command", [TRAIN, GEN_PAIRS], ids=["train", "gen-pairs"])
def test_a_folder_in_place_of_a_file_is_refused(command, refused, tmp_path):
    (tmp_path / "rows.jsonl").mkdir()
    remedy = "name the file inside it"
    refused(f"{command} {NO_MODEL}", "rows.jsonl: is a folder, not a file", remedy)


def test_a_prompt_in_both_files_is_refused(refused, write_rows):
    write_rows("rows.jsonl", [pair(), pair(prompt="Why?")])
    write_rows("valid.jsonl", [pair(prompt="Who?"), pair(prompt=" WHY? ")])
    refused(
        f"{TRAIN} --set data.valid=valid.jsonl {NO_MODEL}",
        "valid.jsonl: has prompts that are in data.train too: valid.jsonl:2",
        "held-out numbers would be too good; remove these rows from one of the files",
    )


LONG = "How? " * 30


@pytest.mark.parametrize(
    ("command", "row"), [(TRAIN, pair), (GEN_PAIRS, curated)], ids=["train", "gen-pairs"]
)
def test_prompts_that_leave_no_room_are_refused_and_ten_of_them_named(
    command, row, refused, write_rows, models
):
    tokens = len(prompt_tokens(load_tokenizer(models("llama")), chat(("user", LONG))))
    command += f" --model {models('llama')} --output out --set data.max_length=64"
    what = f"the prompt has {tokens} tokens, data.max_length is 64"
    remedy = f"set data.max_length to {tokens + 2} or more, or shorten or remove these rows"
    write_rows("rows.jsonl", [row(), row(prompt=LONG)])
    refused(command, f"rows.jsonl:2: {what}", remedy)
    write_rows("rows.jsonl", [row(prompt=LONG), row(), *[row(prompt=LONG)] * 12])
    refused(
        command,
        f"rows.jsonl:1: {what}; so have lines 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 2 more",
        remedy,
    )


def test_pairs_without_a_difference_are_refused(refused, write_rows, models):
    command = f"{TRAIN} --model {models('llama')} --output out --set data.max_length=32"
    what = "rows.jsonl: no pair is left of 2: chosen and rejected are the same in all"
    remedy = "rejected answers must differ from the chosen ones"
    write_rows("rows.jsonl", [pair(rejected="So."), pair(rejected=" So.\n")])
    refused(command, what, remedy)
    write_rows("rows.jsonl", [pair(rejected="So."), pair(chosen=LONG + "So.", rejected=LONG + "Thus.")])
    refused(command, what, f"{remedy} within data.max_length, 32 tokens")
