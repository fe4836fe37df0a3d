"""The preference pipeline with a scripted LLM: its artefacts, and what becomes of odd replies."""

import json
from collections import Counter

import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.topics.preferences import LOGITS, build_preferences
from mlx_dpo.topics.preferences_config import PreferencesConfig
from mlx_dpo.topics.win_lose import WinLose

from ..support.openai_server import Fails, Says
from ..support.topic_server import (
    CAT,
    SUN,
    TAX,
    THEMES,
    VOCABULARY,
    by_function,
    corpus,
    function_of,
    in_words,
    listed,
    logits,
    reply,
    theme,
)

CORPUS = corpus()


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / LOGITS, logits())
    return tmp_path


@pytest.fixture
def build(folder):
    """Build preferences with a server, and with settings."""

    def run(server=None, **settings):
        if server:
            settings = {"url": server.url, "key_variable": "NO_KEY", **settings}
        return build_preferences(folder, CORPUS, PreferencesConfig(**settings))

    return run


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def answered(function, replies):
    """Answers as the scripted LLM does, except to a function: then by `replies(body)`, as arguments."""

    def answer(body):
        given = replies(body) if function_of(body) == function else reply(body)
        return Says(None, call=given if isinstance(given, str) else json.dumps(given))

    return answer


def test_words_of_the_theme_win_and_other_top_words_lose(build, serve):
    found = build(serve(by_function))
    assert found.scores == {0: 3, 1: 2, 2: 3, 3: 1}
    assert found.win_lose[1].lose == tuple(SUN[:4])
    assert set(CAT[:16]) <= set(found.win_lose[1].win) <= set(CAT)
    assert set(found.win_lose[3].win) <= set(TAX)  # car, cat and sun are taken
    assert len(found.win_lose[3].lose) == 12
    assert set(found.win_lose) == {1, 3}  # the top words of the others are all good


def test_every_artefact_has_its_schema(build, serve, folder):
    build(serve(by_function))
    assert lines(folder, "topic_scores.jsonl") == [
        {"k": k, "llm_score": score} for k, score in enumerate([3, 2, 3, 1])
    ]
    assert lines(folder, "topic_descriptions.jsonl") == [
        {"k": k, "main_meaning": f"{name} things"} for k, name in enumerate(["car", "cat", "sun", "tax"])
    ]
    rows = lines(folder, "preferences.jsonl")
    assert [set(row) for row in rows] == [{"k", "w_win_indices", "w_loose_indices"}] * 4
    assert rows[1]["w_loose_indices"] == SUN[:4]
    extra = lines(folder, "extra_words.jsonl")
    assert [row["k"] for row in extra] == [0, 1, 2, 3]
    for row in extra:
        assert set(row) == {"k", "extra_words"}
        assert all(VOCABULARY[index] == word for pair in row["extra_words"] for word, index in pair.items())
    for count in (10, 15, 20, 25):
        top = lines(folder, f"top_words_{count}.jsonl")[1]
        assert (top["k"], top["main meaning"], top["llm_score"]) == (1, "cat things", 2)
        assert len(top["top_words"]) == count
        assert top["top_words"][0] == {"cata": CAT[0]}
        assert len((folder / f"top_words_{count}.txt").read_text().splitlines()[0].split()) == count


def test_a_server_without_functions_or_schemas_gives_the_same_preferences(build, serve, folder):
    server = serve(lambda body: Fails(400, "no tools here") if "tools" in body else in_words(body))
    found = build(server)
    assert set(found.win_lose) == {1, 3}
    assert server.bodies[-1]["response_format"]["json_schema"]["schema"]["required"] == [
        "k",
        "w_win_indices",
        "w_loose_indices",
    ]


def test_the_offered_words_are_the_top_15_and_ranks_16_to_25_with_extra_words(build, serve, folder):
    server = serve(by_function)
    build(server)
    (body,) = [b for b in server.bodies if function_of(b) == "build_preferences" and listed(b, "Topic") == 1]
    ranked = np.argsort(-logits()[1], kind="stable")
    extra = [i for pair in lines(folder, "extra_words.jsonl")[1]["extra_words"] for i in pair.values()]
    assert [*listed(body, "List A").values()] == ranked[:15].tolist()
    assert [*listed(body, "List B").values()] == [*ranked[15:25].tolist(), *extra]


def test_a_topic_without_a_theme_is_described_unlike_all_others(build, serve):
    server = serve(by_function)
    build(server)
    asked = [body for body in server.bodies if function_of(body) == "describe_topic"]
    assert [listed(body, "Topic") for body in asked][-1] == 3
    assert listed(asked[-1], "Other topics") == ["car things", "cat things", "sun things"]
    assert all("Other topics" not in body["messages"][0]["content"] for body in asked[:-1])


def test_extra_words_are_near_the_description_and_outside_the_top_25(build, serve, folder):
    build(serve(by_function))
    for row in lines(folder, "extra_words.jsonl"):
        outside = np.argsort(-logits()[row["k"]], kind="stable")[25:]
        assert {index for pair in row["extra_words"] for index in pair.values()} <= set(outside.tolist())


@pytest.mark.parametrize("name", ["topic_scores", "topic_descriptions", "extra_words", "preferences"])
def test_a_stage_whose_file_is_there_is_skipped_and_no_reply_is_paid_twice(build, serve, folder, name):
    server = serve(by_function)
    first = build(server)
    calls = server.calls
    assert build(server) == first
    before = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
    (folder / f"{name}.jsonl").unlink()
    assert build(server) == first
    assert server.calls == calls == 12
    assert {path.name: path.read_bytes() for path in folder.glob("*.jsonl")} == before


def test_a_stage_reads_what_a_user_has_corrected(build, serve, folder):
    server = serve(by_function)
    build(server)
    text = (folder / "topic_descriptions.jsonl").read_text().replace("cat things", "sun things")
    (folder / "topic_descriptions.jsonl").write_text(text)
    (folder / "preferences.jsonl").unlink()
    found = build(server)
    assert set(SUN[:4]) <= set(found.win_lose[1].win) <= set(SUN)
    assert set(found.win_lose[1].lose) <= set(CAT)
    assert server.calls == 13


def test_after_other_logits_or_with_another_llm_the_files_are_refused(build, serve, folder):
    server = serve(by_function)
    build(server)
    with pytest.raises(DpoError, match="made with another LLM"):
        build(server, model="judge")
    np.save(folder / LOGITS, logits() + 1)
    with pytest.raises(DpoError, match="made with another snapshot of the model") as error:
        build(server)
    assert "delete this folder to start over" in error.value.hint


def test_a_reply_about_another_topic_counts_for_the_one_that_was_asked_about(build, serve, capsys):
    found = build(serve(answered("score_topic", lambda body: {**reply(body), "k": 9})))
    assert found.scores == {0: 3, 1: 2, 2: 3, 3: 1}
    assert "replies about topics 0, 1, 2, 3 named another topic" in capsys.readouterr().err


def test_unknown_words_are_left_out_and_words_in_both_lists_too(build, serve):
    def replies(body):
        return {
            "k": 1,
            "w_win_indices": [CAT[0], CAT[0], "catb", "banana", TAX[3], -1, True, 4.0, CAT[2]],
            "w_loose_indices": [SUN[0], CAT[2], 999],
        }

    found = build(serve(answered("build_preferences", replies)))
    assert found.win_lose[1] == WinLose((CAT[0], CAT[1]), (SUN[0],))


def test_a_topic_with_an_empty_list_gets_no_preferences(build, serve, capsys, folder):
    def replies(body):
        return {**reply(body), **({"w_loose_indices": []} if listed(body, "Topic") == 1 else {})}

    found = build(serve(answered("build_preferences", replies)))
    assert set(found.win_lose) == {3}
    assert "without winners or without losers: topics 0, 1, 2" in capsys.readouterr().err
    assert lines(folder, "preferences.jsonl")[1]["w_loose_indices"] == []


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("no JSON", "the reply is not one JSON object"),
        ("[1]", "the reply is not one JSON object"),
        ('{"k": 1}', "llm_score is not 1, 2 or 3"),
        ('{"k": 1, "llm_score": 4}', "llm_score is not 1, 2 or 3"),
        ('{"k": 1, "llm_score": "good"}', "llm_score is not 1, 2 or 3"),
        ('{"k": 1, "llm_score": 2.5}', "llm_score is not 1, 2 or 3"),
    ],
)
def test_an_unreadable_reply_is_asked_for_once_more(build, serve, bad, why):
    asked = []

    def replies(body):
        if listed(body, "Topic") == 1 and len(body["messages"]) == 1:
            return bad
        if len(body["messages"]) == 3:
            asked.append(body["messages"][2]["content"])
        return reply(body)

    assert build(serve(answered("score_topic", replies))).scores[1] == 2
    (again,) = asked
    assert again.startswith(f"Your reply cannot be used: {why}. Call the function score_topic.")


def test_a_topic_whose_replies_stay_unreadable_has_no_score_and_is_still_described(
    build, serve, capsys, folder
):
    found = build(
        serve(answered("score_topic", lambda body: "?" if listed(body, "Topic") == 1 else reply(body)))
    )
    assert found.scores == {0: 3, 1: None, 2: 3, 3: 1}
    assert "no usable reply about topic 1, even when asked again" in capsys.readouterr().err
    assert lines(folder, "topic_scores.jsonl")[1] == {"k": 1, "llm_score": None}
    assert 1 in found.win_lose


@pytest.mark.parametrize(
    "text", ["", " ", 7, "one two three four five six seven eight nine ten eleven twelve more"]
)
def test_a_topic_without_a_description_gets_no_preferences(build, serve, folder, text):
    def replies(body):
        return {"k": 1, "main_meaning": text} if listed(body, "Topic") == 1 else reply(body)

    found = build(serve(answered("describe_topic", replies)))
    assert set(found.win_lose) == {3}
    assert lines(folder, "topic_descriptions.jsonl")[1]["main_meaning"] is None
    assert lines(folder, "extra_words.jsonl")[1]["extra_words"] == []


def test_positions_in_place_of_numbers_are_not_taken_for_words(build, serve, capsys):
    def replies(body):
        return {"k": 1, "w_win_indices": [100, 101], "w_loose_indices": [102]}

    assert build(serve(answered("build_preferences", replies))).win_lose == {}
    err = capsys.readouterr().err
    assert "w_win_indices has no number of a word that was given" in err
    assert "preferences will change nothing" in err


def test_after_max_calls_the_same_call_continues(build, serve, folder):
    server = serve(by_function)
    for calls in (5, 10):
        with pytest.raises(DpoError, match="stopped after 5 requests") as error:
            build(server, max_calls=5, concurrency=1)
        assert error.value.where == "preferences.max_calls"
        assert server.calls == calls
    assert set(build(server, max_calls=5).win_lose) == {1, 3}
    assert server.calls == 12


def test_a_request_that_fails_ends_the_stage_and_the_same_call_asks_only_for_it(build, serve, folder):
    broken = [True]

    def answer(body):
        if broken and function_of(body) == "score_topic" and listed(body, "Topic") == 2:
            return Fails(400, "this prompt is odd", param="messages")
        return by_function(body)

    server = serve(answer)
    with pytest.raises(DpoError, match=r"scoring topics: no reply about topic 2; the first: .*400"):
        build(server)
    assert not (folder / "topic_scores.jsonl").exists()
    broken.clear()
    calls = server.calls
    build(server)
    assert server.calls == calls + 9


def test_calls_and_their_price_are_told(build, serve, capsys):
    build(serve(by_function), input_price=1.0, output_price=2.0)
    assert "asked the LLM 12 times, price 0.0" in capsys.readouterr().err


def test_an_llm_that_cannot_be_reached_is_told_before_anything_is_written(build, folder):
    with pytest.raises(DpoError, match="no server answers") as error:
        build(url="http://127.0.0.1:9/v1")
    assert error.value.where == "preferences.url"
    assert [path.name for path in folder.iterdir()] == [LOGITS]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "no such file"),
        (b"junk", "is not an array of numbers by NumPy"),
        (np.zeros((4, 3)), "has the shape"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_told(build, folder, content, what):
    (folder / LOGITS).unlink()
    if isinstance(content, bytes):
        (folder / LOGITS).write_bytes(content)
    elif content is not None:
        np.save(folder / LOGITS, content)
    with pytest.raises(DpoError, match=what):
        build()


def test_without_an_llm_vectors_of_the_words_find_the_same_themes(build, folder):
    found = build()
    assert found.scores == {0: 3, 1: 2, 2: 3, 3: 1}
    win, lose = map(set, found.win_lose[1])
    assert win <= set(CAT)
    assert set(SUN[:4]) <= lose
    assert not lose & set(CAT)
    described = [row["main_meaning"].split() for row in lines(folder, "topic_descriptions.jsonl")]
    themes = [Counter(map(theme, words)).most_common(1)[0] for words in described]
    assert [name for name, _ in themes] == [*THEMES]
    assert [count for _, count in themes] == [5, 5, 5, 4]
    again = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
    for path in folder.glob("*.jsonl"):
        path.unlink()
    assert build() == found
    assert {path.name: path.read_bytes() for path in folder.glob("*.jsonl")} == again


def test_a_model_on_this_machine_is_asked_too_and_its_replies_are_kept(build, folder, models, capsys):
    found = build(model=str(models("llama")), max_tokens=16)
    assert found.win_lose == {}
    assert found.scores == dict.fromkeys(range(4))  # a random model writes no JSON
    kept = lines(folder, "replies.jsonl")
    assert {row["function"] for row in kept} == {"score_topic", "describe_topic"}
    assert len(kept) == 16  # each question is asked twice
    assert "no usable reply about topics 0, 1, 2, 3" in capsys.readouterr().err
