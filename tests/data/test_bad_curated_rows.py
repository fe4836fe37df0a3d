"""Curated rows that cannot be used: each is refused with its line, a code, what is wrong and a remedy."""

from ..support.mistakes import A_TURN, GEN_PAIRS, TYPE, cases, chat, curated, lines

PARTS_OF_A_CURATED_ROW = '"prompt" and "answer"'


CURATED = {
    "a missing file": (None, "", "no such file", "check the path", ""),
    "no answer": (
        lines(curated(), {"prompt": "How?"}),
        ":2",
        "'answer' is missing",
        PARTS_OF_A_CURATED_ROW,
        "missing-answer",
    ),
    "no prompt": (
        lines({"answer": "So."}),
        ":1",
        "'prompt' is missing",
        PARTS_OF_A_CURATED_ROW,
        "missing-prompt",
    ),
    "an empty answer": (
        lines(curated(answer=" ")),
        ":1",
        "'answer' is empty",
        PARTS_OF_A_CURATED_ROW,
        "empty-answer",
    ),
    "a list of texts for an answer": (
        lines(curated(answer=["So."])),
        ":1",
        "'answer' has a turn",
        A_TURN,
        "bad-turn",
    ),
    "messages without an answer": (
        lines(curated(), {"messages": chat(("user", "How?"))}),
        ":2",
        "'messages' must end with an assistant turn",
        PARTS_OF_A_CURATED_ROW,
        "not-one-answer",
    ),
    "messages with two answers": (
        lines({"messages": chat(("user", "How?"), ("assistant", "So."), ("assistant", "Thus."))}),
        ":1",
        "must end with a user turn",
        "",
        "prompt-ends-in-answer",
    ),
    "text for messages": (
        lines({"messages": "How?"}),
        ":1",
        "'messages' must be a list of messages, got text",
        A_TURN,
        TYPE,
    ),
    "an answer that is labelled": (
        lines({"prompt": "How?", "completion": "So.", "label": False}),
        ":1",
        "unpaired row (completion, label)",
        "label",
        "unpaired",
    ),
    "a prompt that contradicts the messages": (
        lines({"prompt": "Why?", "messages": chat(("user", "How?"), ("assistant", "So."))}),
        ":1",
        "'prompt' differs",
        "whole conversations",
        "prompt-differs",
    ),
    "one id twice": (
        lines(curated(id=7), curated(id="7")),
        ":2",
        "the id '7' is also used at rows.jsonl:1",
        "different id",
        "duplicate-id",
    ),
}


@cases(CURATED)
def test_curated_rows_are_refused_before_the_model_is_looked_for(case, refused_rows):
    refused_rows(GEN_PAIRS, case)
