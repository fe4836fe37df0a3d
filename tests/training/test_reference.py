"""The reference is scored once, and no score is lost."""

import math
import os
from itertools import chain

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.data.pair_store import open_pairs
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.errors import DpoError
from mlx_dpo.forward.pair_logps import COMPLETION
from mlx_dpo.forward.scoring import score_pairs
from mlx_dpo.jobs import prepare
from mlx_dpo.jobs.evaluate import evaluate_run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.models.adapters import attach
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.settings import save_settings
from mlx_dpo.storage.cache import entry_folder, keep, remove
from mlx_dpo.training import reference as module
from mlx_dpo.training import reference_check
from mlx_dpo.training.reference import reference_key, reference_scores

from ..conftest import some
from ..support.mistakes import flip
from ..support.runs import CLOCK, rows_of

LN2 = math.log(2)


@pytest.fixture
def forwards(monkeypatch):
    """Pairs given to the model for their reference, and calls of the model's embedding meanwhile."""
    scored, calls = [], []
    batch_scores, scores, embed = module.batch_scores, module.reference_scores, nn.Embedding.__call__

    def noted_batches(model, pairs, forward, batches):
        return batch_scores(model, pairs, forward, (scored.append(b) or b for b in batches))

    def noted_scores(*arguments):
        nn.Embedding.__call__ = lambda self, x: calls.append(x.shape) or embed(self, x)
        try:
            return scores(*arguments)
        finally:
            nn.Embedding.__call__ = embed

    monkeypatch.setattr(module, "batch_scores", noted_batches)
    monkeypatch.setattr(reference_check, "reference_scores", noted_scores)

    def since_last():
        found = (len(scored), bool(calls))
        scored.clear(), calls.clear()
        return found

    return since_last


# ---- whole runs


@pytest.fixture
def configure(configure):
    """A short run's settings: `configure("training.seed=1", model="llama")`."""

    def make(*overrides, model="granite", output="run"):
        return configure(model, *overrides, train=6, valid=2, output=output)

    return make


def test_a_second_run_makes_no_reference_forward_and_ends_the_same(configure, forwards, capsys):
    first = train_run(configure(output="a")).folder
    assert forwards() == (8, True)
    said = capsys.readouterr().err
    assert "reference, train pairs: 6 pairs scored\n" in said
    assert "reference, held-out pairs: 2 pairs scored\n" in said
    second = train_run(configure(output="b")).folder
    assert forwards() == (0, False)
    said = capsys.readouterr().err
    assert "reference, train pairs: 6 pairs from the cache" in said
    assert "reference, held-out pairs: 2 pairs from the cache" in said
    one_by_one = zip(*([*chain(*rows_of(folder))] for folder in (first, second)), strict=True)
    for one, other in one_by_one:
        same = [k for k in one if k not in CLOCK]
        assert {k: one[k] for k in same} == {k: other[k] for k in same}


SWEEP = {
    "another seed": ["training.seed=5"],
    "another rate": ["optimizer.learning_rate=1e-5"],
    "another window": ["training.accumulation=2"],
    "another micro-batch": ["training.micro_batch=3"],
    "another beta": ["beta.value=0.5"],
    "another loss": ["loss.options.label_smoothing=0.1"],
    "another rank": ["adapter.rank=2", "adapter.scale=7"],
    "other layers": ["adapter.layers=2", "adapter.targets=[q_proj, mamba.in_proj, mlp.up_proj]"],
    "more epochs": ["training.epochs=2"],
    "checkpointing": ["training.gradient_checkpointing=on"],
}


FEW = ("another micro-batch", "another loss", "other layers", "checkpointing")


@pytest.mark.parametrize("other", some(SWEEP, *FEW))
def test_a_sweep_makes_no_reference_forward_and_starts_unmoved(other, configure, forwards, once):
    overrides = SWEEP[other]
    once("a run before a sweep", lambda: train_run(configure(output="a")))
    forwards()
    train, held_out = rows_of(train_run(configure(*overrides, output="b")).folder)
    assert forwards() == (0, False)
    # One by one the policy's first scores are the reference's to the last bit. Several in a batch are padded
    # to the longest, and some libraries then add in another order.
    nearly = pytest.approx(0, abs=1e-5 if "training.micro_batch=3" in overrides else 0)
    assert train[0]["rewards/margins"] == nearly
    assert held_out[0]["eval/rewards/margins"] == nearly
    if "loss.options.label_smoothing=0.1" not in overrides:
        assert train[0]["loss"] == pytest.approx(LN2, abs=5e-7)


@pytest.mark.parametrize("setting", ["adapter.type=dora", "training.branches=separate"])
def test_evaluation_takes_the_runs_own_reference(configure, forwards, setting):
    folder = train_run(configure(setting)).folder
    forwards()
    evaluate_run(folder, samples=0)
    evaluate_run(folder, data=str(folder.parent / "train.jsonl"), samples=0)
    assert forwards() == (0, False)


def test_a_run_from_an_adapter_has_a_reference_of_its_own(configure, forwards):
    first = train_run(configure("optimizer.learning_rate=1e-2", output="a")).folder
    forwards()
    train_run(configure(f"model.adapter={first}", output="b"))
    assert forwards() == (8, True)
    train, _ = rows_of(train_run(configure(f"model.adapter={first}", output="c")).folder)
    assert forwards() == (0, False)
    assert train[0]["rewards/margins"] == 0
    evaluate_run(first.parent / "c", samples=0)
    assert forwards() == (0, False)


def test_a_stale_reference_is_noticed_said_and_scored_again(configure, forwards, capsys, monkeypatch):
    """The cache holds whole, checked scores, of this key, that are not this model's."""
    keys, key_of = [], module.reference_key
    monkeypatch.setattr(prepare, "reference_key", lambda *a: keys.append(key_of(*a)) or keys[-1])
    first = train_run(configure(output="a")).folder
    forwards()
    for key, label, count in zip(keys[:2], ("train pairs", "held-out pairs"), (6, 2), strict=True):
        remove("reference", key)
        keep("reference", key, module._writer(np.full((count, 2), -9.0, np.float32)))
        second = train_run(configure("run.output=" + str(first.parent / label))).folder
        assert forwards() == (count, True)
        said = f"reference, {label}: the cached scores are not those of the model; the pairs are scored again"
        assert said in capsys.readouterr().err
        assert rows_of(first)[0][0]["rewards/margins"] == rows_of(second)[0][0]["rewards/margins"]
        assert rows_of(first)[1][0]["eval/loss"] == rows_of(second)[1][0]["eval/loss"]
    train_run(configure(output="c"))
    assert forwards() == (0, False)


def test_a_run_stopped_while_the_reference_is_scored_goes_on_there(configure, forwards, capsys, monkeypatch):
    batch_scores = module.batch_scores

    def stopping(model, pairs, forward, batches):
        for number, scored in enumerate(batch_scores(model, pairs, forward, batches)):
            if number == 4:
                raise KeyboardInterrupt
            yield scored

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "batch_scores", stopping)
        train_run(configure())
    assert "interrupted; run the same command again" in capsys.readouterr().err
    forwards()
    train_run(configure())
    assert forwards() == (6 - 4 + 2, True)
    assert "6 pairs scored, 4 of them by an earlier run" in capsys.readouterr().err


# ---- the scores


@pytest.fixture
def job(models, pair_rows, write_rows):
    """Policy, pairs and key of a reference: `job()` scores it."""
    pairs = open_pairs(
        index_rows(write_rows("rows.jsonl", pair_rows[::50])), load_tokenizer(models("granite")), 128
    )
    policy, _ = load_model(models("granite"))
    attach(policy, load_config(None, ["adapter.rank=4"]).adapter)
    key = reference_key(policy, models("granite"), None, pairs, COMPLETION)

    def score(forward=COMPLETION):
        return reference_scores(policy, pairs, forward, key, "pairs")

    score.policy, score.pairs, score.key = policy, pairs, key
    return score


def counted(stop_after=10**9, error=KeyboardInterrupt):
    """The forward, counting the pairs it scores, and failing after so many."""
    count = []

    def score(*arguments, **named):
        if len(count) == stop_after:
            raise error
        count.append(1)
        return COMPLETION.score(*arguments, **named)

    return COMPLETION._replace(score=score), count


def test_scores_from_the_cache_are_those_that_were_computed_bit_for_bit(job):
    first, second = job(), job()
    assert (first.found, second.found) == (0, len(job.pairs))
    assert first.scores.dtype == second.scores.dtype == np.float32
    np.testing.assert_array_equal(first.scores, second.scores)
    singles = [[i] for i in range(len(job.pairs))]
    np.testing.assert_array_equal(first.scores, score_pairs(job.policy, job.pairs, COMPLETION, singles))


def test_the_second_time_the_model_is_not_called(job):
    forward, count = counted()
    job(forward)
    assert len(count) == len(job.pairs)
    job(forward)
    assert len(count) == len(job.pairs)


def test_a_score_does_not_depend_on_the_other_pairs(job, models, write_rows, pair_rows):
    few = open_pairs(
        index_rows(write_rows("few.jsonl", pair_rows[100::200])), load_tokenizer(models("granite")), 128
    )
    key = reference_key(job.policy, models("granite"), None, few, COMPLETION)
    scores = reference_scores(job.policy, few, COMPLETION, key, "pairs").scores
    np.testing.assert_array_equal(scores, job().scores[2::4])


DAMAGE = {
    "flipped": lambda f: flip(f / "scores", 21),
    "cut": lambda f: os.truncate(f / "scores", 16),
    "missing": lambda f: (f / "scores").unlink(),
    "no list of files": lambda f: (f / "entry.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_scores_are_refused_once_and_computed_again(damage, job, capsys):
    expected = job().scores
    damage(entry_folder("reference", job.key))
    forward, count = counted()
    for _ in range(2):
        np.testing.assert_array_equal(job(forward).scores, expected)
    assert len(count) == len(job.pairs)
    assert capsys.readouterr().err.count("is damaged") == 1


def partial(job):
    return entry_folder("reference", job.key).with_suffix(".partial")


def test_an_interrupted_pass_goes_on_where_it_was(job):
    with pytest.raises(KeyboardInterrupt):
        job(counted(4)[0])
    with pytest.raises(KeyboardInterrupt):
        job(counted(2)[0])
    forward, count = counted()
    reference = job(forward)
    assert (reference.found, len(count)) == (6, len(job.pairs) - 6)
    assert not partial(job).exists()
    remove("reference", job.key)
    np.testing.assert_array_equal(reference.scores, job().scores)


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda path: os.truncate(path, 6 * 12 - 5), 5),
        (lambda path: flip(path, 3 * 12 + 1), 3),
        (lambda path: flip(path, 2 * 12 + 9), 2),
        (lambda path: path.write_bytes(path.read_bytes()[12:]), 0),
        (lambda path: path.write_bytes(b""), 0),
        (lambda path: path.write_bytes(path.read_bytes() + bytes(40)), 6),
    ],
    ids=[
        "a torn record",
        "a flipped score",
        "a flipped checksum",
        "records moved",
        "empty",
        "zeros after it",
    ],
)
def test_of_a_damaged_pass_the_whole_records_before_are_used(damage, left, job):
    with pytest.raises(KeyboardInterrupt):
        job(counted(6)[0])
    damage(partial(job))
    forward, count = counted()
    reference = job(forward)
    assert (reference.found, len(count)) == (left, len(job.pairs) - left)
    remove("reference", job.key)
    np.testing.assert_array_equal(reference.scores, job().scores)


KILLED = """
import os, signal
from pathlib import Path
import mlx_dpo
from mlx_dpo.jobs import train
from mlx_dpo.config import load_config
from mlx_dpo.training import reference
batch_scores = reference.batch_scores
def killing(*arguments):
    for number, scored in enumerate(batch_scores(*arguments)):
        yield scored
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
reference.batch_scores = killing
train.train_run(load_config("run.yaml"))
"""


def test_a_killed_run_loses_no_score(configure, forwards, tmp_path, forked):
    save_settings(configure(), tmp_path / "run.yaml")
    assert forked(code=KILLED, cwd=tmp_path).wait() == -9
    train_run(configure())
    assert forwards() == (6 - 4 + 2, True)


def test_scores_that_are_not_finite_are_not_kept(job):
    def nothing(*arguments, **named):
        return COMPLETION.score(*arguments, **named) * mx.nan

    assert not np.isfinite(job(COMPLETION._replace(score=nothing)).scores).any()
    reference = job()
    assert reference.found == 0
    assert np.isfinite(reference.scores).all()


def test_a_half_pass_that_cannot_be_read_is_an_error_with_the_remedy(job):
    job()
    remove("reference", job.key)
    partial(job).mkdir()
    with pytest.raises(DpoError, match="cannot be written: Is a directory") as caught:
        job()
    assert "MLX_DPO_CACHE" in caught.value.hint


def test_a_cache_without_room_is_an_error_with_the_remedy(job, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_record", full)
    with pytest.raises(DpoError, match="cannot be written: No space left on device") as caught:
        job()
    assert "MLX_DPO_CACHE" in caught.value.hint
