"""A run through the API is the run of the command line; a callback hears it and may end it."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

import mlx_dpo
from mlx_dpo import DpoError
from mlx_dpo.losses import LOSSES

from ..support.mistakes import assert_told
from ..support.runs import CLOCK, rows_of

SETTINGS = [
    *("data.max_length=128", "adapter.rank=4", "optimizer.learning_rate=1e-3", "beta.value=0.2"),
    *("training.accumulation=2", "training.epochs=2", "training.samples=0", "training.rehearsal=0"),
    "training.eval_steps=4",
]


@pytest.fixture
def short():
    """Settings of a run of 8 updates on 8 pairs."""
    return mlx_dpo.load_config(overrides=SETTINGS)


@pytest.fixture
def rows(pair_rows):
    """Pairs to train on, and three held out."""
    return pair_rows[:80:10], pair_rows[100:130:10]


@pytest.fixture
def run(models, rows, short, tmp_path):
    """Train through the API in the test's folder."""

    def make(output="run", **more):
        asked = {"valid": rows[1], "config": short, "output": tmp_path / output, **more}
        return mlx_dpo.train(models("granite"), rows[0], **asked)

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory, models, pair_rows):
    """One run in its folder, not to be changed."""
    folder = tmp_path_factory.mktemp("api") / "run"
    config = mlx_dpo.load_config(overrides=SETTINGS)
    rows, held = pair_rows[:80:10], pair_rows[100:130:10]
    return mlx_dpo.train(models("granite"), rows, valid=held, output=folder, config=config)


def adapter(folder):
    return (folder / "adapters.safetensors").read_bytes()


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def deterministic(rows):
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


def test_rows_in_memory_train_the_bytes_that_the_command_line_trains(
    finished, models, rows, write_rows, outcome, tmp_path, monkeypatch
):
    monkeypatch.setattr("mlx_dpo.jobs.report.find_spec", lambda name: None)  # no report is drawn
    files = [write_rows("train.jsonl", rows[0]), write_rows("valid.jsonl", rows[1])]
    command = ["train", "--model", models("granite"), "--data", files[0], "--valid", files[1]]
    command += ["--output", "command", *(word for s in SETTINGS for word in ("--set", s))]
    code, _, _ = outcome(*command)
    assert code == 0
    theirs = tmp_path / "command"
    assert adapter(finished.folder) == adapter(theirs)
    config = "adapter_config.json"
    assert (finished.folder / config).read_text() == (theirs / config).read_text()
    assert deterministic(finished.metrics) == deterministic(lines_of(theirs / "metrics.jsonl"))


def test_a_loaded_model_pairs_that_were_read_and_named_arguments_train_the_same(
    finished, models, rows, tmp_path
):
    model, pairs = mlx_dpo.load(models("granite")), mlx_dpo.read_pairs(rows[0])
    before = mlx_dpo.score(model, pairs)
    again = mlx_dpo.train(
        model,
        pairs,
        valid=mlx_dpo.read_pairs(rows[1]),
        output=tmp_path / "again",
        config=mlx_dpo.load_config(overrides=[s for s in SETTINGS if not s.startswith("beta")]),
        loss=mlx_dpo.losses.sigmoid,
        beta=0.2,
    )
    assert adapter(again.folder) == adapter(finished.folder)
    np.testing.assert_array_equal(mlx_dpo.score(model, pairs), before)  # the loaded weights are untouched


def test_a_run_says_its_folder_its_metrics_and_its_best_step(finished):
    reports, evaluations = rows_of(finished.folder)
    assert finished.metrics == lines_of(finished.folder / "metrics.jsonl")
    assert [row["step"] for row in reports] == [*range(1, 9)]
    best = min(evaluations, key=lambda row: row["eval/loss"])
    assert (finished.held_out, finished.best_step) == (best, best["step"])


def test_a_run_without_held_out_pairs_ends_with_its_last_step(run):
    ended = run(valid=None)
    assert (ended.held_out, ended.best_step) == (None, 8)
    assert not any("eval/loss" in row for row in ended.metrics)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_callback_hears_every_row_and_ends_the_run_when_it_returns_false(held_out, run, rows):
    few = mlx_dpo.load_config(overrides=[*SETTINGS, "training.eval_steps=8"])
    asked, heard = {"valid": rows[1] if held_out else None, "config": few}, []

    def callback(step, row):
        heard.append((step, row))
        return None if step < 2 else step < 3

    ended = run(**asked, callback=callback)
    assert heard == [(row["step"], row) for row in ended.metrics]
    reports, evaluations = rows_of(ended.folder)
    assert [row["step"] for row in reports] == [1, 2, 3]
    assert [row["step"] for row in evaluations] == ([0, 3] if held_out else [])
    assert ended.best_step == 3
    told = "the run ends at step 3 of 8: the callback returned False"
    assert told in [event["what"] for event in lines_of(ended.folder / "events.jsonl")]
    again = run(**asked)  # it counts as finished
    assert again.metrics == ended.metrics


def test_what_a_callback_raises_is_passed_on_and_the_same_call_goes_on(run, finished):
    def fail(step, row):
        if step == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(callback=fail)
    ended = run()
    assert adapter(ended.folder) == adapter(finished.folder)
    assert deterministic(ended.metrics) == deterministic(finished.metrics)


def test_a_loss_of_ones_own_is_what_is_minimised(run, finished):
    @mlx_dpo.register_loss("half_sigmoid", source="this test, 2026")
    def half_sigmoid(pairs, beta):
        return 0.5 * mlx_dpo.losses.sigmoid(pairs, beta)

    try:
        ended = run(loss=half_sigmoid, callback=lambda step, row: step < 1)
        first, usual = rows_of(ended.folder)[0][0], rows_of(finished.folder)[0][0]
        assert first["loss"] == pytest.approx(np.log(2) / 2)
        assert first["grad_norm"] == pytest.approx(usual["grad_norm"] / 2, rel=1e-5)
        assert mlx_dpo.evaluate(ended, samples=0).metrics["loss"] == ended.held_out["eval/loss"]
    finally:
        del LOSSES["half_sigmoid"]


def test_several_losses_are_summed(run):
    ended = run(loss=["sigmoid", mlx_dpo.losses.hinge], callback=lambda step, row: False)
    assert ended.metrics[0]["eval/loss"] == pytest.approx(np.log(2) + 1)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"loss": "sigmod"}, ("loss.name", "'sigmod'", "did you mean sigmoid")),
        ({"loss": np.sin}, ("loss", "sin", "@mlx_dpo.register_loss")),
        ({"beta": 0}, ("beta.value", "at least 1e-06, got 0.0")),
        ({"beta": "much"}, ("beta.value", "a number, got 'much'")),
        ({"valid": []}, ("valid", "no rows")),
        (
            {"valid": [{"prompt": "Q", "chosen": "A"}]},
            ("valid[0]", "'rejected'", '"rejected"', "missing-rejected"),
        ),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(asked, told, run, tmp_path):
    with pytest.raises(DpoError) as caught:
        run(**asked)
    assert_told(caught.value, *told)
    assert not (tmp_path / "run").exists()


def test_a_prompt_in_both_lists_is_named_by_both_places(run, rows):
    with pytest.raises(DpoError) as caught:
        run(valid=[*rows[1], rows[0][4]])
    assert_told(caught.value, "valid", "valid[3]")


def test_a_long_prompt_is_named_by_its_place_in_the_list(models, rows, short, tmp_path):
    pairs = [*rows[0], {**rows[0][0], "id": "long", "prompt": "so " * 200}]
    with pytest.raises(DpoError, match="the prompt has 215 tokens") as caught:
        mlx_dpo.train(models("granite"), pairs, config=short, output=tmp_path / "run")
    assert caught.value.where == "pairs[8]"


def test_other_pairs_in_the_folder_of_a_run_are_refused_and_leave_its_own(finished, run, rows, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(DpoError, match="the run in this folder "):
        run("copy", valid=rows[1][:2])
    assert before.items() <= {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}.items()
    begun = run("copy", valid=rows[1][:2], overwrite=True, callback=lambda step, row: False)
    assert begun.metrics[-1]["step"] == 0


def test_a_run_on_pairs_in_memory_can_be_judged_from_its_folder_alone(finished, rows, tmp_path, outcome):
    """As in another process, later: config.yaml names the pairs in the run's folder."""
    code, out, _ = outcome("eval", "--run", finished.folder, "--samples", "0", "--json")
    assert code == 0
    ours = mlx_dpo.evaluate(str(finished.folder), rows[1], samples=0)
    assert (ours.pairs, ours.trained_on) == (3, 0)
    assert json.loads(out)["metrics"] == ours.metrics
    assert ours.metrics["loss"] == finished.held_out["eval/loss"]


def test_answers_alone_are_learnt_from_rows_of_prompt_and_answer(models, pair_rows, short, tmp_path):
    rows = [{"prompt": row["prompt"], "answer": row["chosen"]} for row in pair_rows[:4]]
    ended = mlx_dpo.train(models("granite"), rows, loss="sft", config=short, output=tmp_path / "sft")
    assert ended.metrics[-1]["loss"] < ended.metrics[0]["loss"]


def test_a_fused_run_scores_as_its_adapter_does(finished, models, rows, tmp_path):
    fused = mlx_dpo.fuse(finished, tmp_path / "fused")
    assert fused == tmp_path / "fused"
    tuned = mlx_dpo.load(models("granite"), adapter=finished)
    ours, theirs = (mlx_dpo.score(model, rows[1]) for model in (fused, tuned))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    with pytest.raises(DpoError, match="exists already"):
        mlx_dpo.fuse(finished, fused)


def test_an_exported_run_scores_as_its_adapter_does(finished, models, rows, tmp_path):
    made = mlx_dpo.export(finished, "hf", tmp_path / "hf", prove=False)
    assert (made.path, made.proof, made.notes) == (tmp_path / "hf", None, ())
    tuned = mlx_dpo.load(models("granite"), adapter=finished)
    ours, theirs = (mlx_dpo.score(model, rows[1]) for model in (made.path, tuned))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    with pytest.raises(DpoError, match="exists already"):
        mlx_dpo.export(finished, "hf", made.path)


def test_each_kind_of_export_writes_what_the_command_writes(finished, tmp_path):
    made = mlx_dpo.export(finished, "peft", tmp_path / "peft", prove=False, base="org/base")
    assert (
        json.loads((made.path / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"
    )
    assert any("convert_lora_to_gguf.py" in note for note in made.notes)
    pytest.importorskip("gguf")
    made = mlx_dpo.export(finished, "gguf", tmp_path / "gguf", prove=False, type="f32", system="Be kind.")
    assert made.path == tmp_path / "gguf" / "gguf-f32.gguf" and made.path.is_file()
    assert "Be kind." in (made.path.parent / "Modelfile").read_text()
    made = mlx_dpo.export(finished, "gguf-lora", tmp_path / "lora")
    assert made.path == tmp_path / "lora" / "lora-lora.gguf" and made.path.is_file()


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("onnx", {}, ("kind", "cannot be 'onnx'", "hf, gguf, gguf-lora, peft")),
        ("gguf", {"type": "q3"}, ("type", "cannot be 'q3'", "f32, f16, q8_0, bf16")),
        ("hf", {"type": "f16"}, ("type", "is not an option of hf", "gguf can take it")),
        ("gguf-lora", {"prove": True}, ("prove", "is not an option of gguf-lora", "hf, gguf, peft")),
    ],
)
def test_a_mistaken_export_is_named_before_anything_is_written(finished, tmp_path, kind, options, told):
    with pytest.raises(DpoError) as caught:
        mlx_dpo.export(finished, kind, tmp_path / "out", **options)
    assert_told(caught.value, *told)
    assert not (tmp_path / "out").exists()


def test_a_moved_base_model_is_given_by_its_new_place(finished, models, rows, tmp_path):
    moved = shutil.copytree(models("granite"), tmp_path / "moved")
    ours = mlx_dpo.evaluate(finished, rows[1], samples=1, max_tokens=4, model=moved)
    assert len(ours.samples) == 1
    assert ours.metrics["loss"] == finished.held_out["eval/loss"]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for ask in (mlx_dpo.evaluate, lambda folder: mlx_dpo.fuse(folder, tmp_path / "fused")):
        with pytest.raises(DpoError, match="is not a run folder"):
            ask(tmp_path)


def test_a_loss_may_be_called_by_hand():
    one = mx.array([1.0])
    pairs = mlx_dpo.PairLogps(10 * one, 0 * one, 0 * one, 0 * one, one, one, mx.array(1.0))
    loss = mlx_dpo.losses.sigmoid(pairs, mx.array(0.1))
    assert loss.item() == pytest.approx(np.log1p(np.exp(-1)))
