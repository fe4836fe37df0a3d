"""An LLM that replies oddly or not at all: what `topics prefer` says, and what it leaves in the folder."""

import json
import shutil

import numpy as np
import pytest

from mlx_dpo.topics.preferences import LOGITS

from ..support.mistakes import cases
from ..support.openai_server import NO_CHOICES, Cuts, Fails, Raw, Says
from ..support.topic_server import by_function, corpus, function_of, listed, logits, reply

STAGES = ("topic_scores.jsonl", "topic_descriptions.jsonl", "extra_words.jsonl", "preferences.jsonl")
COUNTED = "named another topic; they count for the topic of the question"
SCORING, DESCRIBING, COMPARING = (
    f"{stage}: no usable reply about topic 1, even when asked again; the first: "
    for stage in ("scoring topics", "describing topics", "comparing words")
)
BOTH = [
    "preferences: 2 of 4 topics, with 14.5 winners and 8.0 losers on average",
    "without winners or without losers: topics 0, 2",
]
UNCOMPARED = [
    "preferences: 1 of 4 topics, with 9.0 winners and 12.0 losers on average",
    "without winners or without losers: topics 0, 1, 2",
]
UNDESCRIBED = [
    "preferences: 1 of 4 topics, with 8.0 winners and 11.0 losers on average",
    "without winners or without losers: topics 0, 2",
]


@pytest.fixture
def folder(once, tmp_path, outcome):
    """The folder of a snapshot, inside a folder with its corpus."""

    def make():
        (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in corpus().texts))
        prepare = ("topics", "prepare", "--source", "texts.txt", "--set", "corpus.test_fraction=0")
        assert outcome(*prepare, "--output", "corpus")[0] == 0
        (tmp_path / "run" / "preferences").mkdir(parents=True)
        np.save(tmp_path / "run" / "preferences" / LOGITS, logits())

    once("a snapshot", make)
    return tmp_path / "run" / "preferences"


@pytest.fixture
def prefer(folder, outcome):
    """Run `topics prefer` with a server: exit code, and the lines that it says."""

    def run(server, *more):
        command = ("topics", "prefer", "--corpus", "corpus", "--output", "run", "--endpoint", server.url)
        for setting in ("key_variable=NO_KEY", "concurrency=1"):
            command = (*command, "--set", f"preferences.{setting}")
        code, _, err = outcome(*command, *more)
        return code, err.splitlines()

    return run


def odd(function, given, topic=1):
    """Answers as the scripted LLM does, but to this function about this topic by `given`."""

    def answer(body):
        if function_of(body) == function and listed(body, "Topic") == topic:
            return given(reply(body)) if callable(given) else given
        return by_function(body)

    return answer


def says(arguments):
    return Says(None, call=arguments if isinstance(arguments, str) else json.dumps(arguments))


def changed(**fields):
    """The right arguments, except for these."""
    return lambda right: says(right | fields)


def as_texts(right):
    return {
        "w_win_indices": [float(index) for index in right["w_win_indices"]],
        "w_loose_indices": [str(index) for index in right["w_loose_indices"]],
    }


def in_parts(right):
    """A reply in two parts, signed by a list of names, with tokens that are not numbers."""
    text = json.dumps(right)
    parts = [{"type": "text", "text": part} for part in (text[:9], text[9:])]
    odd = {"model": ["a", "b"], "usage": {"prompt_tokens": "12", "completion_tokens": [1]}}
    return Raw(json.dumps({"choices": [{"message": {"content": parts}, "finish_reason": "stop"}], **odd}))


ODD = {
    "another topic's number": (
        odd("score_topic", changed(k=9)),
        ["asked the LLM 12 times", f"replies about topic 1 {COUNTED}", *BOTH],
    ),
    "no JSON": (
        odd("score_topic", says("a good topic")),
        [f"{SCORING}the reply is not one JSON object", "asked the LLM 13 times", *BOTH],
    ),
    "a score of 4": (
        odd("score_topic", changed(llm_score=4)),
        [f"{SCORING}llm_score is not 1, 2 or 3", "asked the LLM 13 times", *BOTH],
    ),
    "half an object": (
        odd("score_topic", Says('{"k": 1, "llm', finish_reason="length")),
        [f"{SCORING}the reply ended early (length)", "asked the LLM 13 times", *BOTH],
    ),
    "a refusal": (
        odd("score_topic", Says(None, refusal="I cannot judge words.")),
        [f"{SCORING}the reply ended early (refusal)", "asked the LLM 13 times", *BOTH],
    ),
    "nothing": (
        odd("describe_topic", Says("")),
        [f"{DESCRIBING}the reply is empty", "asked the LLM 12 times", *UNDESCRIBED],
    ),
    "a blank description": (
        odd("describe_topic", changed(main_meaning=" ")),
        [f"{DESCRIBING}main_meaning is not a text", "asked the LLM 12 times", *UNDESCRIBED],
    ),
    "a paragraph for a description": (
        odd("describe_topic", changed(main_meaning="so " * 40)),
        [f"{DESCRIBING}main_meaning has 40 words, more than 6", "asked the LLM 12 times", *UNDESCRIBED],
    ),
    "a long word for a description": (
        odd("describe_topic", changed(main_meaning="x" * 10_000)),
        [
            f"{DESCRIBING}main_meaning has 10,000 characters, more than 150",
            "asked the LLM 12 times",
            *UNDESCRIBED,
        ],
    ),
    "half of a character": (
        odd("describe_topic", changed(main_meaning="cats \ud83d")),
        [f"{DESCRIBING}the reply has half of a character", "asked the LLM 12 times", *UNDESCRIBED],
    ),
    "half of a character and no JSON": (
        odd("score_topic", Says("good \ud83d")),
        [f"{SCORING}the reply is not one JSON object", "asked the LLM 13 times", *BOTH],
    ),
    "a score as text": (
        odd("score_topic", changed(llm_score="2")),
        ["asked the LLM 12 times", *BOTH],
    ),
    "numbers as text or with decimals": (
        odd("build_preferences", lambda right: says({**right, **as_texts(right)})),
        ["asked the LLM 12 times", *BOTH],
    ),
    "arguments that are an object": (
        odd("build_preferences", lambda right: Says(None, call=right)),
        ["asked the LLM 12 times", *BOTH],
    ),
    "parts of a text, and odd fields": (
        odd("build_preferences", lambda right: in_parts(right)),
        ["asked the LLM 12 times", *BOTH],
    ),
    "unknown words": (
        odd("build_preferences", changed(w_win_indices=["banana", 999])),
        [
            f"{COMPARING}w_win_indices has no number of a word that was given",
            "asked the LLM 13 times",
            *UNCOMPARED,
        ],
    ),
    "a list missing": (
        odd("build_preferences", says({"k": 1, "w_win_indices": [30]})),
        [f"{COMPARING}w_loose_indices is not a list", "asked the LLM 13 times", *UNCOMPARED],
    ),
    "empty lists": (
        odd("build_preferences", changed(w_win_indices=[], w_loose_indices=[])),
        ["asked the LLM 12 times", *UNCOMPARED],
    ),
    "the same words in both lists": (
        odd("build_preferences", changed(w_win_indices=[30, 31], w_loose_indices=[31, 30])),
        ["asked the LLM 12 times", *UNCOMPARED],
    ),
}


@cases(ODD)
def test_an_odd_reply_is_told_and_is_not_paid_for_again(case, prefer, serve, folder):
    answer, told = case
    server = serve(answer)
    assert prefer(server) == (0, told)
    stages = {name: (folder / name).read_text() for name in STAGES}
    assert {name: text.count("\n") for name, text in stages.items()} == lines_of(told)
    calls = server.calls
    assert prefer(server) == (0, told[-2:])
    assert server.calls == calls
    assert {name: (folder / name).read_text() for name in STAGES} == stages


def test_half_of_a_character_is_kept_and_is_not_paid_for_again(prefer, serve, folder):
    server = serve(odd("describe_topic", changed(main_meaning="cats \ud83d")))
    told = prefer(server)
    assert told[0] == 0
    stages = {name: (folder / name).read_text() for name in STAGES}
    for name in STAGES:
        (folder / name).unlink()
    assert prefer(server)[1][0] == "12 replies are kept from before; continuing"
    assert server.calls == 12
    assert {name: (folder / name).read_text() for name in STAGES} == stages


def test_control_characters_of_a_description_are_left_out(prefer, serve, folder):
    server = serve(odd("describe_topic", changed(main_meaning="cat\x1b[31m\n\u202ethings\x00")))
    assert prefer(server) == (0, ["asked the LLM 12 times", *BOTH])
    assert '{"k": 1, "main_meaning": "cat [31m things"}' in (folder / STAGES[1]).read_text().splitlines()


def test_a_reply_that_breaks_off_counts_as_a_request_and_makes_the_price_unknown(prefer, serve):
    broken = [Cuts()]
    server = serve(lambda body: broken.pop() if broken and listed(body, "Topic") == 1 else by_function(body))
    assert prefer(server, "--set", "preferences.input_price=1") == (0, ["asked the LLM 13 times", *BOTH])
    assert server.calls == 13


def lines_of(told):
    """A line a topic, but a topic without a description is not compared."""
    return dict.fromkeys(STAGES, 4) | {"preferences.jsonl": 3 if told[0].startswith("describing") else 4}


HINT = "  look at the server, then run the same command again: it asks only for what is missing"
NONE = "Error: judge: comparing words: no reply about topic 1; the first:"
STOPPED = {
    "a request that it refuses": (
        Fails(400, "this prompt is odd", param="messages"),
        [f"{NONE} the server answered 400: this prompt is odd", HINT],
    ),
    "a page of a proxy": (
        Raw("<html>Bad gateway</html>", "text/html"),
        [f"{NONE} the reply has no choices", HINT],
    ),
    "no choices": (NO_CHOICES, [f"{NONE} the reply has no choices", HINT]),
    "a key that is wrong by now": (
        Fails(401, "Incorrect API key"),
        [
            "Error: preferences.key_variable: the server needs a key, and there is none in the environment "
            "variable NO_KEY (Incorrect API key)",
            "  export NO_KEY=..., or set preferences.key_variable to another variable's name",
        ],
    ),
}


@cases(STOPPED)
def test_without_a_reply_the_stage_has_no_file_and_the_same_command_continues(case, prefer, serve, folder):
    step, told = case
    whole = shutil.copytree(folder.parent, folder.parent.parent / "whole") / "preferences"
    broken = [odd("build_preferences", step)]
    server = serve(lambda body: (broken or [by_function])[0](body))
    assert prefer(server) == (1, told)
    assert [name for name in STAGES if (folder / name).exists()] == [*STAGES][:-1]
    paid = sum(server.answered.values())
    broken.clear()
    assert prefer(server)[0] == 0
    assert sum(server.answered.values()) == 12 > paid
    assert prefer(server, "--output", "whole")[0] == 0
    for name in STAGES:
        assert (folder / name).read_text() == (whole / name).read_text()


def test_a_kept_reply_that_was_spoiled_is_told_with_its_line(prefer, serve, folder):
    server = serve(by_function)
    assert prefer(server)[0] == 0
    (folder / "preferences.jsonl").unlink()
    kept = (folder / "replies.jsonl").read_text().splitlines()
    (folder / "replies.jsonl").write_text(
        "\n".join([kept[0], '{"key": "1", "k": 1, "function": "score_topic", "q', *kept[2:], ""])
    )
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    told = [
        "Error: run/preferences/replies.jsonl:2: not JSON: Unterminated string starting at at column 49",
        "  remove the line: the same command then makes it again",
    ]
    assert prefer(server) == (1, told)
    assert server.calls == 12
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_account_without_credit_is_told_and_what_was_paid_is_kept(prefer, serve, folder):
    broken = [odd("build_preferences", Fails(429, "You exceeded your quota", code="insufficient_quota"))]
    server = serve(lambda body: (broken or [by_function])[0](body))
    told = [
        f"Error: {server.url}: the server answered 429: You exceeded your quota",
        "  look at the server or its account, then run the same command again",
    ]
    assert prefer(server) == (1, told)
    assert not (folder / "preferences.jsonl").exists()
    broken.clear()
    assert prefer(server)[0] == 0
    assert sum(server.answered.values()) == 12
