"""Runs of topics that are damaged, incomplete or of another corpus: what the commands that read them say."""

import os
import shutil

import numpy as np
import pytest

from ..support.mistakes import cases, cut, flip, holding, lines, without, write
from ..support.topic_corpus import VOCABULARY, train_words, write_corpus

AGAIN = "train the model again, or evaluate it with the corpus that it was trained on"
GUIDED = ("training.epochs=4", "dpo.start_epoch=2", "dpo.topic_filter=none", "preferences.file=wanted.jsonl")


def array(name, values):
    return lambda run: np.save(run / name, values)


def npy(header):
    """A file of NumPy with this header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(100)


def top_words(*rows):
    return holding("top_words_15.jsonl", lines(*rows))


def damaged_checkpoints(run):
    for checkpoint in (run / "checkpoints").iterdir():
        flip(checkpoint / "model.safetensors", 500)


def unused(damage):
    """Damage to a run that does not use its preferences yet."""
    return lambda run: [(run / CHOSEN).unlink(), damage(run)]


LOGITS, CHOSEN = "preferences/beta_ref_logits.npy", "preferences/dpo_selected_topics.jsonl"
SNAPSHOT = "use the corpus that the model was trained on, or train again"
REPORT, EVAL, PREFER = (
    "topics report --run run",
    "topics eval --run run",
    "topics prefer --config run/config.yaml",
)
TOPICS = (
    "run: is the run of a topic model",
    "use mlx-dpo topics eval --run run or mlx-dpo topics report --run run",
)
TRAIN = "topics train --config run/config.yaml"
RESTORE = "restore the files in this folder, or start anew with --overwrite"
PREFERRED, OTHER = "preferences/preferences.jsonl", {"k": 0, "w_win_indices": [3], "w_loose_indices": [4]}
ANEW = f"{PREFER} --set preferences.file=null"
RUNS = {
    "top words missing": (
        without("top_words_15.jsonl"),
        EVAL,
        "run: has no top words: the run is not finished",
        "mlx-dpo topics train writes them at the end of a run",
    ),
    "top words that break off": (
        holding("top_words_15.jsonl", '{"k": 0, "top_words": [{"bre'),
        EVAL,
        "run/top_words_15.jsonl:1: not JSON: Unterminated string starting at at column 25",
        AGAIN,
    ),
    "top words without indices": (
        top_words({"k": 0, "top_words": ["bread", "oven"]}),
        EVAL,
        "run/top_words_15.jsonl:1: top_words must be a list of words with their indices, of the same length "
        "for all topics",
        AGAIN,
    ),
    "top words whose indices are not whole numbers": (
        top_words({"k": 0, "top_words": [{"bread": float(VOCABULARY.index("bread"))}]}),
        EVAL,
        "run/top_words_15.jsonl:1: has words that the corpus numbers otherwise",
        AGAIN,
    ),
    "top words of another corpus": (
        top_words({"k": 0, "top_words": [{"bread": 23}]}),
        EVAL,
        "run/top_words_15.jsonl:1: has words that the corpus numbers otherwise",
        AGAIN,
    ),
    "shares of topics in other documents": (
        array("theta_test.npy", np.eye(4)),
        EVAL,
        "run/theta_test.npy: has the shape (4, 4), not (20, 1 or more)",
        AGAIN,
    ),
    **{
        f"shares of words in a file that is {what}": (
            holding("beta.npy", content),
            REPORT,
            "run/beta.npy: is not an array of numbers by NumPy",
            AGAIN,
        )
        for what, content in (
            ("not a zip", b"PK\x03\x04" + b"x" * 99),
            ("of brackets", npy(b"((((((\n")),
            ("too large", npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 10000000000000)}\n")),
            ("of no size", npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 2)}\n")),
        )
    },
    "shares of words missing": (without("beta.npy"), REPORT, "run/beta.npy: no such file", AGAIN),
    "metrics without a line": (
        holding("metrics.jsonl", ""),
        REPORT,
        "run/metrics.jsonl: is empty",
        "mlx-dpo topics train writes it: train again",
    ),
    "a chosen topic without preferences": (
        holding(CHOSEN, lines({"k": 2})),
        REPORT,
        f"run/{CHOSEN}:1: topic 2 has no line in preferences.jsonl",
        "mlx-dpo topics train writes this file: train again",
    ),
    "a corpus that was moved": (
        lambda run: os.rename(run.parent / "corpus", run.parent / "moved"),
        EVAL,
        "corpus: is not a folder with a corpus",
        "name the folder where the corpus is now with --corpus",
    ),
    "a run that is none": (
        lambda run: None,
        "topics eval --run corpus",
        "corpus: contains no run of a topic model",
        "give the folder that mlx-dpo topics train wrote",
    ),
    "a run on pairs": (
        holding("config.yaml", "data: {train: pairs.jsonl}\n"),
        REPORT,
        "run: contains no run of a topic model",
        "give the folder that mlx-dpo topics train wrote",
    ),
    **{
        f"a run of a topic model for {command}": (lambda run: None, command, *TOPICS)
        for command in (
            "eval --run run",
            "fuse --run run --output fused",
            "export gguf --run run --output gguf",
            "report --run run",
        )
    },
    "a run of a topic model in the folder of a run on pairs": (
        lambda run: None,
        "train --model none --data pairs.jsonl --output run --overwrite",
        "run: contains the run of a topic model",
        "choose another folder with --output",
    ),
    "no snapshot": (
        without(LOGITS),
        ANEW,
        f"run/{LOGITS}: no such file",
        "mlx-dpo topics train writes it when dpo.start_epoch is reached",
    ),
    "a snapshot that breaks off": (
        cut(LOGITS, 200),
        ANEW,
        f"run/{LOGITS}: is not an array of numbers by NumPy",
        SNAPSHOT,
    ),
    "a snapshot with numbers that are none": (
        array(LOGITS, np.full((3, 24), np.nan)),
        ANEW,
        f"run/{LOGITS}: has a value that is not finite",
        SNAPSHOT,
    ),
    "scores of some topics": (
        unused(holding("preferences/topic_scores.jsonl", lines({"k": 0, "llm_score": 1}))),
        ANEW,
        "run/preferences/topic_scores.jsonl: has no line for topic 1, as for 2 of 3 topics",
        "delete the file: the same command then makes it again",
    ),
    "scores of an unknown kind": (
        unused(holding("preferences/topic_scores.jsonl", lines({"k": 0, "llm_score": "good"}))),
        ANEW,
        "run/preferences/topic_scores.jsonl:1: llm_score must be 1, 2, 3 or null, got 'good'",
        "delete the file: the same command then makes it again",
    ),
    "replies of another program": (
        unused(holding("preferences/replies.jsonl", "mine\n")),
        ANEW,
        "run/preferences: contains replies.jsonl, but topics train did not write it",
        "choose another folder with --output, so that no file of yours is replaced",
    ),
    "preferences in the place of those that are there": (
        unused(lambda run: None),
        f"{PREFER} --set preferences.file=other.jsonl",
        f"run/{PREFERRED}: has other preferences than other.jsonl",
        "set preferences.file=null to use them, or delete them to use the file",
    ),
    "preferences for a run that uses some already": (
        lambda run: None,
        f"{PREFER} --set preferences.file=other.jsonl",
        "run/preferences: the run uses its preferences already",
        "they are in this folder; to use others, train in another folder with --preferences FILE",
    ),
    "preferences that were changed while they are in use": (
        holding(PREFERRED, lines(OTHER)),
        TRAIN,
        "run/preferences: the preferences have changed since the run began to use them",
        RESTORE,
    ),
    "preferences that were removed while they are in use": (
        lambda run: shutil.rmtree(run / "preferences"),
        TRAIN,
        "run/preferences: the run uses preferences, but there is no beta_ref_logits.npy and no "
        "preferences.jsonl and no dpo_selected_topics.jsonl",
        RESTORE,
    ),
    "no checkpoint that is intact": (
        damaged_checkpoints,
        TRAIN,
        "run/checkpoints: has no intact checkpoint (damaged: 12, 6)",
        "restore them from a backup, or start anew with --overwrite",
    ),
    "another number of topics than the run has": (
        lambda run: None,
        "topics train --config run/config.yaml --set model.topics=4",
        "run: the run in this folder was started differently: model.topics is 4, was 3",
        "undo the change to continue, or restart with --overwrite",
    ),
}


@pytest.fixture
def run(once, tmp_path, outcome):
    """The folder of a finished run with preferences for its first topic."""

    def train():
        write_corpus(tmp_path / "corpus")
        write(tmp_path / "wanted.jsonl", lines({"k": 0, "w_win_indices": [0, 1], "w_loose_indices": [2]}))
        write(tmp_path / "other.jsonl", lines(OTHER))
        assert outcome(*train_words(*GUIDED))[0] == 0

    once("a run with preferences", train)
    return tmp_path / "run"


@cases(RUNS)
def test_a_run_that_is_damaged_or_incomplete_is_told(case, run, mistake):
    damage, command, told, remedy = case
    damage(run)
    before = set(run.parent.rglob("*"))
    assert str(mistake(command)) == f"{told}\n  {remedy}"
    assert set(run.parent.rglob("*")) == before


def test_a_page_leaves_out_numbers_that_no_chart_can_show(run, outcome):
    """As a file may have that was edited by hand."""
    path = run / "metrics.jsonl"
    path.write_text(path.read_text() + '{"epoch": 5, "loss": 1.5, "loss/dpo": 1' + "0" * 400 + "}\n")
    code, _, errors = outcome("topics", "report", "--run", "run")
    assert code == 0, errors


def test_a_run_whose_preferences_were_removed_can_start_anew(run, outcome):
    shutil.rmtree(run / "preferences")
    assert outcome(*TRAIN.split(), "--overwrite")[0] == 0
    assert (run / CHOSEN).is_file()
