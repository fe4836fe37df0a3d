"""Run folders and adapters that cannot be used: missing, damaged, or of another model."""

import json
import shutil

import pytest

from ..support.mistakes import (
    COPY_RUN,
    GEN_PAIRS,
    TRAIN,
    assert_told,
    cases,
    changed,
    curated,
    cut,
    holding,
    pair,
    without,
)

RUN_FOLDER = "run.output"

RUNS = {
    "without config.yaml": (without("config.yaml"), "run", "config.yaml", RUN_FOLDER),
    "without adapter": (without("adapters.safetensors"), "run", "adapters.safetensors", "run folder"),
    "with an adapter that breaks off": (
        cut("adapters.safetensors", 100_000),
        "run/adapters.safetensors",
        "is damaged",
        COPY_RUN,
    ),
    "with an empty adapter": (
        cut("adapters.safetensors", 0),
        "run/adapters.safetensors",
        "is damaged",
        COPY_RUN,
    ),
    "with a list for an adapter's config": (
        holding("adapter_config.json", "[]"),
        "run/adapter_config.json",
        "JSON object",
        COPY_RUN,
    ),
    "with an adapter's config that says nothing": (
        holding("adapter_config.json", "{}"),
        "run/adapter_config.json",
        "'num_layers'",
        COPY_RUN,
    ),
    "with an unknown kind of adapter": (
        changed("adapter_config.json", '"lora"', '"loha"'),
        "run/adapter_config.json",
        "'loha'",
        COPY_RUN,
    ),
    "with an unknown setting": (
        changed("config.yaml", "model:\n", "modle:\n"),
        "run/config.yaml:1",
        "'modle'",
        "did you mean model?",
    ),
    "whose model is gone": (
        changed("config.yaml", "path: /", "path: ./gone/"),
        "{model}",
        "the base model of this run",
        "--model FOLDER",
    ),
}


@cases(RUNS)
@pytest.mark.parametrize("command", ["eval --run run", "fuse --run run --output fused"], ids=["eval", "fuse"])
def test_a_damaged_run_is_refused(command, case, refused_at, tmp_path, trained, models):
    damage, place, phrase, remedy = case
    damage(shutil.copytree(trained("llama"), tmp_path / "run"))
    refused_at(command, place.replace("{model}", f"./gone{models('llama')}"), phrase, remedy)


def other_base(run, trained_on, given, models):
    """Place, key phrase and remedy where an adapter meets another model than the one it was trained on."""
    return (
        str(models(given)),
        str(models(trained_on)),
        f'"base_sha256" and "sha256" from {run}/adapter_config.json',
    )


def without_base(run):
    """The adapter as other programs write theirs: it does not say of which model it is."""
    path = run / "adapter_config.json"
    content = json.loads(path.read_text())
    del content["base_sha256"], content["sha256"]
    path.write_text(json.dumps(content))
    return run


@pytest.mark.parametrize("command", ["eval --run run", "fuse --run run --output fused"], ids=["eval", "fuse"])
def test_a_run_whose_model_was_exchanged_is_refused(command, refused_at, mistake, tmp_path, trained, models):
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    changed("config.yaml", str(models("llama")), str(models("granite")))(run)
    refused_at(command, *other_base("run", "llama", "granite", models))
    without_base(run)
    error = mistake(command)
    # Ten of the tensors that do not fit are named, the others counted, and two shapes are told apart.
    assert_told(error, "run", "model.layers.0.mlp.down_proj.lora_a", str(models("llama")))
    assert error.what.count(".lora_") == 11 and " 17 more" in error.what
    assert "(192, 16)" in error.what and "(128, 16)" in error.what


@pytest.mark.parametrize(
    ("command", "row"), [(TRAIN, pair()), (GEN_PAIRS, curated())], ids=["train", "gen-pairs"]
)
def test_starting_from_what_is_no_adapter_of_this_model_is_refused(
    command, row, refused_at, tmp_path, write_rows, trained, models
):
    write_rows("rows.jsonl", [row])
    command += f" --model {models('llama')} --output out --set model.adapter="
    refused_at(f"{command}{models('llama')}", str(models("llama")), "adapter_config.json", "run folder")
    refused_at(f"{command}{trained('granite')}", *other_base(trained("granite"), "granite", "llama", models))
    foreign = without_base(shutil.copytree(trained("granite"), tmp_path / "foreign"))
    refused_at(f"{command}{foreign}", str(foreign), "mamba.in_proj, mamba.out_proj", "the model")


def test_eval_of_a_run_whose_starting_adapter_is_gone_is_refused(refused_at, tmp_path, trained):
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    changed("config.yaml", "\n  adapter: null\n", "\n  adapter: /gone\n")(run)
    refused_at("eval --run run", "/gone", "the adapter", "model.adapter in run/config.yaml")


def test_eval_without_held_out_pairs_is_refused(refused_at, tmp_path, trained):
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    refused_at("eval --run run --data pairs.jsonl", "pairs.jsonl", "no such file", "check the path")
    changed("config.yaml", f"valid: {trained('llama').parent}/valid.jsonl", "valid: null")(run)
    refused_at("eval --run run", "run", "no held-out pairs", "--data FILE")


@pytest.mark.parametrize("command", ["eval --run .", "fuse --run . --output fused"], ids=["eval", "fuse"])
def test_a_folder_that_is_no_run_is_refused(command, refused_at):
    refused_at(command, ".", "config.yaml", RUN_FOLDER)


@pytest.mark.parametrize(
    "command", ["eval --run none", "fuse --run none --output fused", "report --run none"]
)
def test_a_folder_that_is_not_there_is_not_called_a_folder(command, refused_at):
    refused_at(command, "none", "no such folder", RUN_FOLDER)
