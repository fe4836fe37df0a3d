"""mlx-dpo judge --check: a person's votes, from the terminal or a file, against the judge's."""

import io

from mlx_dpo.config import load_config
from mlx_dpo.jobs.judge_check import agreement_by_vote

from ..support.judge_server import judging, smaller, verdicts


def vote_rows(judged, wrong):
    """Votes of a person who prefers the smaller answer, except in the first `wrong` pairs."""
    pairs = {(row["prompt"], *sorted((row["A"], row["B"]))) for row in judged}
    for number, (prompt, small, large) in enumerate(sorted(pairs)):
        yield {"prompt": prompt, "answers": [large, small], "vote": 1 if number < wrong else 2}


def test_votes_from_a_file_give_agreement_and_kappa(judge, serve, tmp_path, write_rows):
    server = serve(judging(smaller))
    judge(server)
    write_rows("votes.jsonl", vote_rows(verdicts(tmp_path), 6))
    code, told, err = judge(server, "--check-file", "votes.jsonl")
    assert code == 0, err
    assert told["n"] - told["same"] == 6
    assert told["kappa_interval"][0] < told["kappa"] < told["kappa_interval"][1] < 1


def test_votes_that_fit_no_pair_are_refused(judge, serve, write_rows):
    server = serve(judging(smaller))
    judge(server)
    write_rows("votes.jsonl", [{"prompt": "Other?", "answers": ["a", "b"], "vote": "tie"}])
    code, _, err = judge(server, "--check-file", "votes.jsonl")
    assert code == 1
    assert "votes.jsonl: has no vote on a pair that was judged" in err


def test_a_person_votes_blind_and_goes_on_later(judge, serve, tmp_path):
    server = serve(judging(smaller))
    judge(server)
    config = load_config(
        None,
        [
            f"judge.url={server.url}",
            f"judge.completions={tmp_path}/completions.jsonl",
            f"judge.output={tmp_path}/judged",
        ],
    )
    calls, seen = server.calls, []

    def vote(prompt, one, other):
        seen.append((one, other))
        return None if len(seen) == 3 else "1"

    assert agreement_by_vote(config, 8, vote).n == 2
    told = agreement_by_vote(config, 8, vote)
    assert (told.n, len(seen), len(set(seen)), server.calls) == (8, 9, 8, calls)
    assert told.same == sum(one < other for one, other in set(seen))
    assert 0 < told.same < 8  # a coin decides which answer is shown first


def test_the_terminal_shows_the_texts_and_takes_the_votes(judge, serve, monkeypatch):
    server = serve(judging(smaller))
    judge(server)
    monkeypatch.setattr("sys.stdin", io.StringIO("1\nx\nt\nq\n"))
    code, told, err = judge(server, "--check", "8")
    assert (code, told["n"]) == (0, 2)
    assert err.count("Answer 1\n") == 3 and "verdict" not in err


def test_a_person_sees_the_whole_conversation_and_the_vote_is_found_again(judge, serve, tmp_path):
    turns = [
        {"role": "user", "content": " Hello. "},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "How do I clean it?\n"},
    ]
    rows = [{"prompt": turns, "completions": ["a", "b"]}]
    server = serve(judging(smaller))
    judge(server, rows=rows)
    settings = {
        "url": server.url,
        "completions": f"{tmp_path}/completions.jsonl",
        "output": f"{tmp_path}/judged",
    }
    config, seen = load_config(None, [f"judge.{name}={value}" for name, value in settings.items()]), []

    def vote(prompt, one, other):
        seen.append(prompt)
        return "1" if one == "a" else "2"

    told = agreement_by_vote(config, 1, vote)
    assert (told.n, told.same) == (1, 1)
    assert agreement_by_vote(config, 1, vote).n == 1 and len(seen) == 1
    assert "Hello." in seen[0] and "assistant: Good day." in seen[0] and "How do I clean it?" in seen[0]
