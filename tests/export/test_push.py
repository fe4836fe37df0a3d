"""What `mlx-dpo push` would upload, and its model card: `--dry-run` writes both and asks nobody."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
import yaml

from mlx_dpo.errors import DpoError
from mlx_dpo.export.local_paths import is_local, without_local_paths
from mlx_dpo.export.made_from import FILE
from mlx_dpo.export.model_card import block, code
from mlx_dpo.jobs.push import dry_run
from mlx_dpo.metrics import wilson_interval
from mlx_dpo.models.adapters import read_adapter_config

from ..conftest import ROOT
from ..support.hub_uploads import BASE, REPO, TOKEN, card_data
from ..support.mistakes import changed, holding, lines

ADAPTER = ["README.md", "adapter_config.json", "adapters.safetensors"]


@pytest.fixture
def written(finished, hub, tmp_path):
    """Run a dry run on a folder; the folder that it wrote."""

    def write(source=finished, **asked):
        dry_run(source, REPO, tmp_path / "out", **{"base_model": BASE, **asked})
        return tmp_path / "out"

    return write


@pytest.fixture
def fused(finished, outcome):
    """The fused model of the run."""
    folder = finished.parent / "fused"
    code, _, err = outcome("fuse", "--run", finished, "--output", folder)
    assert code == 0, err
    return folder


def numbers(text):
    return re.findall(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\d)", text)


def shown(values):
    """Every way in which a card may write one of these numbers."""
    forms = ("%.4f", "%.3f", "%+.3f", "%.4g", "%.1f", "%.2f", "%.2g")
    return {form % value for value in values for form in forms} | {str(value) for value in values}


def values_in(content):
    """All numbers in plain values."""
    if isinstance(content, dict):
        return [n for inner in content.values() for n in values_in(inner)]
    if isinstance(content, list):
        return [n for inner in content for n in values_in(inner)]
    return [content] if isinstance(content, int | float) and not isinstance(content, bool) else []


def figures_of(finished):
    """All numbers of a run's folder, and the interval of its accuracy."""
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    held = [row for row in rows if "eval/loss" in row][-1]
    found = [*values_in(rows), *values_in(yaml.safe_load((finished / "config.yaml").read_text()))]
    found += values_in(json.loads((finished / "inspection.json").read_text()))
    wins = round(held["eval/rewards/accuracies"] * held["eval/pairs"])
    return [*found, *wilson_interval(wins, held["eval/pairs"])]


def part(card, heading):
    """A section of a card."""
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", card, re.S | re.M)[1]


def test_a_dry_run_writes_the_listed_files_and_makes_no_request(finished, hub, outcome, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, out, err = outcome("push", finished, REPO, "--base-model", BASE, "--dry-run")
    assert (code, hub.asked) == (0, []), err
    output = finished.parent / "whole-hub"
    assert out.splitlines()[0] == f"written: {output} (3 files; the card is README.md)"
    assert sorted(path.name for path in output.iterdir()) == ADAPTER
    assert "stays here: checkpoints, config.yaml, events.jsonl, inspection.json, metrics.jsonl" in err
    assert "the card shows 1 held-out prompt with the model's answers; --samples 0 leaves them out" in err
    assert (output / "adapters.safetensors").read_bytes() == (finished / "adapters.safetensors").read_bytes()


def test_the_adapter_names_its_base_by_its_hub_name_and_is_still_whole(written):
    folder = written()
    assert json.loads((folder / "adapter_config.json").read_text())["model"] == BASE
    assert read_adapter_config(folder).rank == 2


@pytest.mark.parametrize("kind", ["finished", "fused"])
def test_no_path_of_this_machine_and_no_token_leaves(kind, written, request, tmp_path):
    folder = written(request.getfixturevalue(kind))
    for file in folder.iterdir():
        content = file.read_bytes()
        for secret in (str(tmp_path), "/srv/example", str(Path.home()), TOKEN):
            assert secret.encode() not in content, (file.name, secret)


def test_every_figure_of_the_card_is_one_of_the_runs_folder(written, finished):
    card = (written() / "README.md").read_text()
    figures = figures_of(finished)
    known = shown(figures)
    checked = part(card, "Training") + part(card, "Held-out results")
    told = numbers(checked.replace("95 % interval", ""))
    assert len(told) > 25
    assert [one for one in told if one not in known and float(one) not in figures] == []


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
    told = numbers(part(card, "Likeness to the adapter").replace("0.1", ""))
    percent = {f"{int(likeness['top_1'] * 1000) / 10}", "100"}
    assert (
        told and {*told} <= shown(values_in({k: v for k, v in likeness.items() if k != "layers"})) | percent
    )
    assert "--model me/tiny-dpo" in part(card, "How to run it")
    assert {n: w.tolist() for n, w in mx.load(str(folder / "model.safetensors")).items()}.keys()


KINDS = {
    "peft": (["peft"], ["adapter_config.json", "adapter_model.safetensors"], "adapter", "peft"),
    "hf": (["hf"], ["config.json", "model.safetensors", "tokenizer.json"], "finetune", "transformers"),
    "gguf": (["gguf"], ["Modelfile", "export-f16.gguf"], "finetune", "gguf"),
    "gguf-lora": (["gguf", "--lora"], ["export-lora.gguf"], "adapter", "gguf"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_export_has_its_files_its_relation_and_its_commands(kind, finished, written, outcome, tmp_path):
    words, files, relation, library = KINDS[kind]
    if "gguf" in words:
        pytest.importorskip("gguf")
    export = finished.parent / "export"
    proof = [] if kind == "gguf-lora" else ["--no-prove"]
    code, _, err = outcome("export", *words, "--run", finished, "--output", export, *proof)
    assert code == 0, err
    folder = written(export)
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", *files} <= names and FILE not in names
    card = (folder / "README.md").read_text()
    about = card_data(card)
    assert (about["base_model_relation"], about["library_name"]) == (relation, library)
    assert about["mlx_dpo_kind"] == kind and about["base_model"] == BASE
    assert "6.4419 at the last" in card and "tiny-dpo" in part(card, "How to run it")
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in folder.iterdir())
    if kind == "peft":
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == BASE
        assert "convert_lora_to_gguf.py tiny-dpo" in card


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


def test_without_an_inspection_rows_are_counted_from_the_checkpoint(finished, written):
    (finished / "inspection.json").unlink()
    assert "| trained on | 8 pairs: `train.jsonl` |" in (written() / "README.md").read_text()


def test_an_adapter_with_a_chat_template_of_its_own_is_loaded_with_it(finished, written):
    changed("config.yaml", "chat_template: null", "chat_template: chatml")(finished)
    (finished / "chat_template.jinja").write_text("{{ messages }}")
    folder = written()
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"
    assert 'open("tiny-dpo/chat_template.jinja")' in (folder / "README.md").read_text()


def test_the_export_finds_its_run_where_both_were_moved_together(fused, finished, written, tmp_path):
    moved = shutil.move(finished.parent, tmp_path / "elsewhere")
    (Path(moved) / "model").rename(finished.parent)  # the card of the base is still asked for by its old path
    shutil.move(finished.parent, tmp_path / "model")
    folder = written(Path(moved) / "fused", licence="mit")
    assert "6.4419 at the last" in (folder / "README.md").read_text()


MISTAKES = {
    "a folder of something else": (
        lambda finished: (finished.parent / "other").mkdir(),
        "other",
        "is neither a run folder nor",
        "mlx-dpo fuse or mlx-dpo export",
    ),
    "no folder": (lambda finished: None, "gone", "no such folder", "run folder"),
    "a run without an update": (
        holding("metrics.jsonl", lines({"step": 0, "eval/loss": 1.0, "eval/pairs": 2})),
        "whole",
        "made no update",
        "train first",
    ),
    "a damaged adapter": (
        changed("adapter_config.json", '"rank": 2', '"rank": 3'),
        "whole",
        "its rank is 3",
        "copy the whole run folder",
    ),
    "a run without metrics": (
        holding("metrics.jsonl", ""),
        "whole",
        "has no lines yet",
        "train first",
    ),
    "a base without a licence": (
        lambda finished: (finished.parent / "model" / "README.md").write_text("---\ntags: [a]\n---\n"),
        "whole",
        "the licence of the base model is not known",
        "--license apache-2.0",
    ),
}


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_told_before_anything_is_written(case, finished, hub, mistake, monkeypatch, tmp_path):
    change, source, phrase, remedy = case
    change(finished)
    error = mistake(f"push desk/{source} {REPO} --base-model {BASE} --dry-run --output out")
    assert phrase in error.what and remedy in error.hint
    assert hub.asked == [] and not (tmp_path / "out").exists()


def test_names_and_places_are_checked_first(finished, hub, mistake, tmp_path):
    (tmp_path / "there").mkdir()
    error = mistake(f"push desk/whole {REPO} --base-model {BASE} --dry-run --output there")
    assert (error.where, error.what) == ("there", "exists already")
    error = mistake("push desk/whole tiny-dpo --dry-run")
    assert (error.where, error.what) == ("tiny-dpo", "has no owner")
    assert mistake("push desk/whole a/b/c --dry-run").what == "is not the name of a repository"
    error = mistake(f"push desk/whole {REPO} --dry-run")
    assert error.where == str(finished.parent / "model") and "--base-model ORGANISATION/MODEL" in error.hint
    assert "the name of a model" in mistake(f"push desk/whole {REPO} --base-model ./model --dry-run").what


def test_an_export_of_another_run_is_refused(fused, finished, hub, mistake):
    error = mistake(f"push desk/fused {REPO} --run desk/stopped --base-model {BASE} --dry-run")
    assert "was made from another adapter than the one in desk/stopped" in error.what
    error = mistake(f"push desk/whole {REPO} --run desk/stopped --base-model {BASE} --dry-run")
    assert error.what == "is a run itself"
    shutil.move(finished, finished.parent / "renamed")
    error = mistake(f"push desk/fused {REPO} --base-model {BASE} --dry-run")
    assert "which is not there" in error.what and "--run FOLDER" in error.hint


def test_the_quantised_base_and_its_makers_card_are_suggested(finished, hub, mistake):
    card = finished.parent / "model" / "README.md"
    card.write_text("---\nbase_model: org/original\nlicense: mit\n---\n")
    assert "--base-model org/original" in mistake(f"push desk/whole {REPO} --dry-run").hint


def test_a_dry_run_killed_at_any_moment_leaves_nothing_behind_the_next_one(finished, tmp_path):
    """Every kill is a -9; what was being written is cut in half."""
    shutil.copytree(finished, tmp_path / "start" / "whole")
    command = ["push", "whole", REPO, "--base-model", BASE, "--dry-run", "--output", "out"]
    arguments = [str(tmp_path / name) for name in ("start", "work", "states")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kills", *arguments, "4", *command],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes.pop("whole") == 0 and len(codes) == 4
    whole = {p.name: p.read_bytes() for p in (tmp_path / "states" / "whole" / "out").iterdir()}
    assert sorted(whole) == ADAPTER
    for moment, (killed, again) in codes.items():
        states = tmp_path / "states" / moment
        there = (states / "killed" / "out").exists()
        assert (killed, again) == (-9, 1 if there else 0)  # a whole one is not replaced
        assert {p.name: p.read_bytes() for p in (states / "again" / "out").iterdir()} == whole
        assert sorted(p.name for p in (states / "again").iterdir()) == ["out", "tmp", "whole"]


def test_a_path_that_may_matter_is_refused_and_one_that_does_not_is_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    here = str(tmp_path / "a")
    content = {"_name_or_path": here, "tokenizer_file": here, "n": 3, "unk_token": "/", "x": "/v1/models"}
    kept = without_local_paths(content, BASE, Path("config.json"))
    assert kept == {"_name_or_path": BASE, "n": 3, "unk_token": "/", "x": "/v1/models"}
    with pytest.raises(DpoError, match=r"names paths of this machine.*: rope\.table, list") as told:
        without_local_paths({"rope": {"table": here}, "list": [1, here]}, BASE, Path("config.json"))
    assert told.value.code == "local-path"
    assert is_local(f"{Path.home()}/gone") and is_local("~/gone") and is_local("/Users/a/base")
    assert not is_local("org/base") and not is_local("{% if a %}/{% endif %}")


def test_text_of_models_cannot_leave_its_block():
    assert block("a\n```\nb") == "````text\na\n```\nb\n````"
    assert block("\x1b[31m") == "```text\n\\x1b[31m\n```"
    assert code("a|b`c") == "`` a\\|b`c ``"
