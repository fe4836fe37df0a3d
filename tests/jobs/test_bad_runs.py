"""Run folders and adapters that cannot be used: missing, damaged, or of another model."""

import json
import shutil

import pytest

from ..support.mistakes import (
    COPY_RUN,
    GEN_PAIRS,
    TRAIN,
    cases,
    changed,
    curated,
    cut,
    holding,
    pair,
    without,
)

RUNS = {
    "without config.yaml": (
        without("config.yaml"),
        "run: is not a run folder: it has no config.yaml",
        "name the folder that mlx-dpo train wrote (its run.output)",
    ),
    "without adapter": (
        without("adapters.safetensors"),
        "run: is not an adapter folder: it has no adapters.safetensors",
        "name the run folder of a finished training",
    ),
    "with an adapter that breaks off": (
        cut("adapters.safetensors", 100_000),
        "run/adapters.safetensors: is damaged or not whole",
        COPY_RUN,
    ),
    "with an empty adapter": (
        cut("adapters.safetensors", 0),
        "run/adapters.safetensors: is damaged or not whole",
        COPY_RUN,
    ),
    "with a list for an adapter's config": (
        holding("adapter_config.json", "[]"),
        "run/adapter_config.json: is not a JSON object",
        COPY_RUN,
    ),
    "with an adapter's config that says nothing": (
        holding("adapter_config.json", "{}"),
        "run/adapter_config.json: is not an adapter that mlx_lm can load: it has no 'num_layers'",
        COPY_RUN,
    ),
    "with an unknown kind of adapter": (
        changed("adapter_config.json", '"lora"', '"loha"'),
        "run/adapter_config.json: is not an adapter that mlx_lm can load: its fine_tune_type is 'loha'",
        COPY_RUN,
    ),
    "with an unknown setting": (
        changed("config.yaml", "model:\n", "modle:\n"),
        "run/config.yaml:1: unknown setting 'modle'",
        "did you mean model?",
    ),
    "whose model is gone": (
        changed("config.yaml", "path: /", "path: ./gone/"),
        "{model}: is not there: the base model of this run",
        "say where it lies now: --model FOLDER",
    ),
}


@cases(RUNS)
@pytest.mark.parametrize("command", ["eval --run run", "fuse --run run --output fused"], ids=["eval", "fuse"])
def test_a_damaged_run_is_refused(command, case, refused, tmp_path, trained, models):
    damage, what, remedy = case
    damage(shutil.copytree(trained("llama"), tmp_path / "run"))
    refused(command, what.replace("{model}", f"./gone{models('llama')}"), remedy)


def other_base(run, trained_on, given, models):
    """What is said where an adapter meets another model than its own, and the remedy."""
    return (
        f"{models(given)}: is not the model that {run} was trained on ({models(trained_on)}): "
        "other weights, config, tokenizer",
        "name that model with --model, wherever it lies now; to use the adapter on this one all the same, "
        f'remove "base_sha256" and "sha256" from {run}/adapter_config.json',
    )


def without_base(run):
    """The adapter as other programs write theirs: it does not say of which model it is."""
    path = run / "adapter_config.json"
    content = json.loads(path.read_text())
    del content["base_sha256"], content["sha256"]
    path.write_text(json.dumps(content))
    return run


MISFITS = (
    "mlp.down_proj.lora_a mlp.gate_proj.lora_b mlp.up_proj.lora_b self_attn.k_proj.lora_a "
    "self_attn.k_proj.lora_b self_attn.o_proj.lora_a self_attn.o_proj.lora_b self_attn.q_proj.lora_a "
    "self_attn.q_proj.lora_b self_attn.v_proj.lora_a"
)


@pytest.mark.parametrize("command", ["eval --run run", "fuse --run run --output fused"], ids=["eval", "fuse"])
def test_a_run_whose_model_was_exchanged_is_refused(command, refused, tmp_path, trained, models):
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    changed("config.yaml", str(models("llama")), str(models("granite")))(run)
    refused(command, *other_base("run", "llama", "granite", models))
    without_base(run)
    misfits = ", ".join(f"model.layers.0.{name}" for name in MISFITS.split())
    refused(
        command,
        f"run: this adapter does not fit the model: {misfits} and 17 more; "
        "model.layers.0.mlp.down_proj.lora_a has the shape (192, 16), the model's (128, 16)",
        f"use the model the adapter was trained on: {models('llama')}",
    )


@pytest.mark.parametrize(
    ("command", "row"), [(TRAIN, pair()), (GEN_PAIRS, curated())], ids=["train", "gen-pairs"]
)
def test_starting_from_what_is_no_adapter_of_this_model_is_refused(
    command, row, refused, tmp_path, write_rows, trained, models
):
    write_rows("rows.jsonl", [row])
    command += f" --model {models('llama')} --output out --set model.adapter="
    refused(
        f"{command}{models('llama')}",
        f"{models('llama')}: is not an adapter folder: it has no adapter_config.json",
        "name the run folder of a finished training",
    )
    refused(f"{command}{trained('granite')}", *other_base(trained("granite"), "granite", "llama", models))
    foreign = without_base(shutil.copytree(trained("granite"), tmp_path / "foreign"))
    refused(
        f"{command}{foreign}",
        f"{foreign}: this adapter does not fit: this model has no layer named mamba.in_proj, mamba.out_proj",
        "use the model the adapter was trained on",
    )


def test_eval_of_a_run_whose_starting_adapter_is_gone_is_refused(refused, tmp_path, trained):
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    changed("config.yaml", "\n  adapter: null\n", "\n  adapter: /gone\n")(run)
    refused(
        "eval --run run",
        "/gone: is not there: the adapter that this run started from, its reference",
        "put it back, or say where it lies now: model.adapter in run/config.yaml",
    )


def test_eval_without_held_out_pairs_is_refused(refused, tmp_path, trained):
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    refused(
        "eval --run run --data pairs.jsonl",
        "pairs.jsonl: no such file",
        "check the path, relative to this folder",
    )
    changed("config.yaml", f"valid: {trained('llama').parent}/valid.jsonl", "valid: null")(run)
    refused("eval --run run", "run: the run has no held-out pairs", "name a file of pairs: --data FILE")


@pytest.mark.parametrize("command", ["eval --run .", "fuse --run . --output fused"], ids=["eval", "fuse"])
def test_a_folder_that_is_no_run_is_refused(command, refused):
    refused(
        command,
        ".: is not a run folder: it has no config.yaml",
        "name the folder that mlx-dpo train wrote (its run.output)",
    )


@pytest.mark.parametrize(
    "command", ["eval --run none", "fuse --run none --output fused", "report --run none"]
)
def test_a_folder_that_is_not_there_is_not_called_a_folder(command, refused):
    hint = "name the folder that mlx-dpo train wrote (its run.output)"
    refused(command, "none: no such folder", hint)
