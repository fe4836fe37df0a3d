"""The card of a run: every figure is one of the files of the run's folder."""

import hashlib
import json
import re
import shutil

import pytest
import yaml

from mlx_dpo.export.fuse_report import figure, percent
from mlx_dpo.export.made_from import FILE, read_made_from
from mlx_dpo.export.model_card import block, code
from mlx_dpo.metrics import wilson_interval

from ..support.hub_uploads import BASE, card_data, part
from ..support.mistakes import changed, edit, lines

UNLIKE = [
    {
        "step": 0,
        "eval/loss": 0.7012,
        "eval/pairs": 41,
        "eval/rewards/accuracies": 0.0,
        "eval/rewards/margins": 0.0,
    },
    {"step": 1, "epoch": 0.5, "loss": 0.6931},
    {
        "step": 2,
        "eval/loss": 0.6623,
        "eval/pairs": 41,
        "eval/rewards/accuracies": 0.6,
        "eval/rewards/margins": 0.2,
    },
    {"step": 3, "epoch": 1.5, "loss": 0.5847},
    {"step": 5, "epoch": 2.5, "loss": 0.5432},
    {
        "step": 5,
        "eval/loss": 0.6118,
        "eval/pairs": 41,
        "eval/rewards/accuracies": 30 / 41,
        "eval/rewards/margins": 0.3456,
    },
]
"""Rows of metrics of a run of which no two figures are the same."""


def rows_of(text):
    """The rows of tables below their heads."""
    heads = ("| | |", "| | value |")
    return [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(heads)]


def test_every_figure_of_the_card_is_the_one_of_the_runs_folder_that_its_line_names(written, finished):
    (finished / "metrics.jsonl").write_text(lines(*UNLIKE))
    shutil.rmtree(finished / "checkpoints")
    edit(finished / "inspection.json", measures={"pairs": 83})
    card = (written() / "README.md").read_text()
    low, high = wilson_interval(30, 41)
    assert rows_of(part(card, "Training")) == [
        f"| base model | `{BASE}` |",
        "| trained on | 83 pairs: `train.jsonl` |",
        "| held out | 41 pairs: `valid.jsonl` |",
        "| updates | 5, epoch 2.5 of 6 |",
        "| training loss | 0.6931 at the first report, 0.5432 at the last |",
    ]
    assert "On 41 held-out pairs, with the adapter of update 5," in part(card, "Held-out results")
    assert rows_of(part(card, "Held-out results")) == [
        f"| preference accuracy | 0.732 | {low:.3f} to {high:.3f} |",
        "| mean reward margin | +0.346 | |",
        "| mean loss | 0.6118 | |",
        "| mean loss before training | 0.7012 | |",
    ]
    (result,) = card_data(card)["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.732
    limits = part(card, "Limits")
    assert "measured on 41 pairs of 1 source." in limits and "- Training ended in epoch 2.5 of 6." in limits


def test_the_card_of_a_run_says_what_its_files_say(written, finished):
    card = (written() / "README.md").read_text()
    about = card_data(card)
    assert about == {
        "base_model": BASE,
        "library_name": "mlx",
        "license": "other",
        "license_name": "tiny",
        "license_link": "LICENSE",
        "pipeline_tag": "text-generation",
        "tags": ["mlx", "dpo", "lora"],
        "base_model_relation": "adapter",
        "mlx_dpo_kind": "adapter",
        "mlx_dpo_adapter": hashlib.sha256((finished / "adapters.safetensors").read_bytes()).hexdigest(),
        "model-index": about["model-index"],
    }
    (index,) = about["model-index"]
    (result,) = index["results"]
    assert index["name"] == "tiny-dpo"
    assert result["dataset"] == {"name": "2 held-out pairs (valid.jsonl)", "type": "preference-pairs"}
    assert [(m["name"], m["value"], m["verified"]) for m in result["metrics"]] == [
        ("preference accuracy", 1.0, False)
    ]
    assert "| trained on | 8 pairs: `train.jsonl` |" in card
    assert "| held out | 2 pairs: `valid.jsonl` |" in card
    assert "| updates | 24, epoch 6 of 6 |" in card
    assert "| training loss | 6.4476 at the first report, 6.4419 at the last |" in card
    assert "| preference accuracy | 1.000 | 0.342 to 1.000 |" in card
    assert "| mean loss before training | 6.4570 | |" in card
    assert "preference pairs, loss sigmoid + sft, beta 0.1 (risk)" in card
    assert "- Alarms were raised during training: unmoved." in card
    assert "--adapter-path tiny-dpo" in part(card, "How to run it")


def test_settings_on_the_card_are_those_that_differ_and_have_no_paths(written):
    card = (written() / "README.md").read_text()
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.S)[1])
    assert settings["adapter"] == {"type": "lora", "rank": 2, "scale": 2.0}
    assert settings["beta"] == {"rule": "risk", "value": 0.1, "risk": {"warmup_steps": 2}}
    assert settings["data"] == {"max_length": 128}
    assert {"model", "run", "pairs", "generate"}.isdisjoint(settings)


def test_figures_that_eval_kept_are_on_the_card_of_the_same_adapter_only(
    written, finished, outcome, tmp_path
):
    code, _, err = outcome("eval", "--run", finished, "--samples", "0")
    assert code == 0, err
    kept = json.loads((finished / "evaluation.json").read_text())
    assert "samples" not in kept and (kept["pairs"], kept["trained_on"]) == (2, 0)
    rows = re.findall(
        r"\| chosen answer more likely than rejected, (.*?) \| (.*?) \|",
        (written() / "README.md").read_text(),
    )
    assert rows == [
        ("base model", f"{kept['preferred_base']:.3f}"),
        ("this model", f"{kept['preferred_tuned']:.3f}"),
    ]
    changed("evaluation.json", kept["adapter_sha256"], "0" * 64)(finished)
    shutil.rmtree(tmp_path / "out")
    assert "more likely" not in (written() / "README.md").read_text()


def test_samples_are_those_of_the_runs_file_and_can_be_left_out(written, finished, tmp_path):
    rows = [{"step": step, "prompt": p, "answer": f"{p} {step}"} for step in (0, 4, 24) for p in ("A?", "B?")]
    (finished / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = (written(samples=1) / "README.md").read_text()
    assert re.findall(r"```text\n(.*?)\n```", part(card, "Samples"), re.S) == ["A?", "A? 0", "A? 24"]
    shutil.rmtree(tmp_path / "out")
    assert "## Samples" not in (written(samples=0) / "README.md").read_text()


def test_a_fused_model_has_its_likeness_and_only_files_of_a_model(fused, written):
    (fused / "notes.txt").write_text("mine")
    (fused / "train.jsonl").write_text("{}")
    folder = written(fused)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "likeness.json", "README.md"} <= names
    assert names.isdisjoint({FILE, "notes.txt", "train.jsonl"})
    card, likeness = (folder / "README.md").read_text(), json.loads((fused / "likeness.json").read_text())
    assert card_data(card)["base_model_relation"] == "finetune"
    told = " ".join(part(card, "Likeness to the adapter").split())
    bits, ratio, top = f"{likeness['bits']:.1f}", figure(likeness["kl_ratio"]), percent(likeness["top_1"])
    assert told == (
        f"The fused weights ({likeness['precision']}, {bits} bits per weight) were compared with the "
        f"adapter on {likeness['positions']} answer tokens: KL(adapter || fused) / KL(adapter || base) is "
        f"{ratio}, and the likeliest token is the same at {top} of them."
    )
    assert "--model me/tiny-dpo" in part(card, "How to run it")


def test_what_was_found_out_about_an_export_is_on_its_card(finished, written, outcome, tmp_path):
    pytest.importorskip("gguf")
    folder = finished.parent / "gguf"
    code, _, err = outcome("export", "gguf", "--run", finished, "--output", folder, "--no-prove", "--json")
    assert code == 0, err
    kept = json.loads((folder / FILE).read_text())["checks"]
    card = (written(folder) / "README.md").read_text()
    assert [*kept] == ["compared"] and part(
        card, "Checks of this export"
    ) == f"\n- compared with the adapter: {kept['compared']}\n\n"
    edit(folder / FILE, checks={"proof": "proved with llama.cpp: by 1e-05 nat"})
    shutil.rmtree(tmp_path / "out")
    card = (written(folder) / "README.md").read_text()
    assert "- proved with llama.cpp: by 1e-05 nat" in card and "not compared with" not in card


def test_a_fused_model_without_likeness_says_so(fused, written):
    (fused / "likeness.json").unlink()
    edit(
        fused / FILE,
        files={name: own for name, own in read_made_from(fused).files.items() if name != "likeness.json"},
    )
    assert (
        "- The fused model was not compared with the adapter." in (written(fused) / "README.md").read_text()
    )


def test_a_run_without_a_number_of_epochs_has_none_on_its_card(finished, written):
    changed("config.yaml", "  epochs: 6\n", "  epochs: null\n")(finished)
    card = (written() / "README.md").read_text()
    assert "| updates | 24, epoch 6 |" in card and "Training ended in epoch" not in card


def test_held_out_data_of_the_hub_are_named_as_there_and_every_source_counts(finished, written):
    named = ["hf://datasets/org/prefs@v1:test", "valid.jsonl"]
    valid = yaml.safe_load((finished / "config.yaml").read_text())["data"]["valid"]
    changed("config.yaml", f"valid: {valid}", f"valid: {json.dumps(named)}")(finished)
    card = (written() / "README.md").read_text()
    (result,) = card_data(card)["model-index"][0]["results"]
    assert result["dataset"]["type"] == "org/prefs"
    assert result["dataset"]["name"] == f"2 held-out pairs ({', '.join(named)})"
    assert "was measured on 2 pairs of 2 sources." in card


def test_a_supervised_run_has_a_loss_and_no_accuracy(finished, written):
    changed("config.yaml", "  name:\n  - sigmoid\n  - sft\n", "  name: sft\n")(finished)
    changed("config.yaml", "  rule: risk\n", "  rule: fixed\n")(finished)
    changed("config.yaml", "  label_smoothing: 0.1\n", "")(finished)
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if "rewards" not in k} for row in rows]
    (finished / "metrics.jsonl").write_text(lines(*kept))
    shutil.rmtree(finished / "checkpoints")
    (finished / "inspection.json").unlink()
    card = (written() / "README.md").read_text()
    assert card_data(card)["tags"] == ["mlx", "sft", "lora"] and "model-index" not in card_data(card)
    assert (
        "| trained on | `train.jsonl` |" in card and "with mlx_dpo: supervised fine-tuning, loss sft." in card
    )
    assert "| mean loss | 6.4565 | |" in card and "accuracy" not in card
    assert "- The held-out loss does not say" in card


def test_without_checkpoints_the_kept_adapter_is_the_best_one_of_the_events(finished, written):
    shutil.rmtree(finished / "checkpoints")
    with open(finished / "events.jsonl", "a") as events:
        events.write(lines({"step": 12, "event": "best", "what": "kept"}))
    card = (written() / "README.md").read_text()
    (row,) = [
        row
        for row in map(json.loads, (finished / "metrics.jsonl").read_text().splitlines())
        if row["step"] == 12 and "eval/loss" in row
    ]
    assert "with the adapter of update 12, which the run kept" in card
    assert f"| mean loss | {row['eval/loss']:.4f} | |" in card


def test_without_an_inspection_rows_are_counted_from_the_checkpoint(finished, written):
    (finished / "inspection.json").unlink()
    assert "| trained on | 8 pairs: `train.jsonl` |" in (written() / "README.md").read_text()


def test_text_of_models_cannot_leave_its_block():
    assert block("a\n```\nb") == "````text\na\n```\nb\n````"
    assert block("\x1b[31m") == "```text\n\\x1b[31m\n```"
    assert code("a|b`c") == "`` a\\|b`c ``"
