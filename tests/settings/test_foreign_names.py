"""Names and values that people bring from other trainers: each gets the setting that it means."""

import pytest

from mlx_dpo.cli import main
from mlx_dpo.config import RunConfig, load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.suggestions import known_names

from ..support.mistakes import IN_BETA

SCALE = "did you mean adapter.scale? scale = lora_alpha / rank."
DPO = "did you mean sigmoid (DPO as published)? choose from sigmoid, "


def hint(path, *overrides):
    with pytest.raises(DpoError) as caught:
        load_config(path, overrides)
    return caught.value.hint


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lora_alpha", SCALE),
        ("adapter.lora_alpha", SCALE),
        ("adapter.alpha", SCALE),
        ("lora.lora_alpha", SCALE),
        ("LoRA.Lora-Alpha", SCALE),
        ("r", "did you mean adapter.rank?"),
        ("lora_r", "did you mean adapter.rank?"),
        ("lora_parameters.rank", "did you mean adapter.rank?"),
        ("adapter.target_modules", "did you mean adapter.targets?"),
        ("lr", "did you mean optimizer.learning_rate?"),
        ("training.learning_rate", "did you mean optimizer.learning_rate?"),
        ("training_args.lr", "did you mean optimizer.learning_rate?"),
        ("training.learn_rate", "did you mean optimizer.learning_rate?"),
        ("num_epochs", "did you mean training.epochs?"),
        ("training.num_train_epochs", "did you mean training.epochs?"),
        ("batch_size", "did you mean training.micro_batch or generate.batch_size?"),
        ("training.batch_size", "did you mean training.micro_batch?"),
        ("per_device_train_batch_size", "did you mean training.micro_batch?"),
        ("gradient_accumulation_steps", "did you mean training.accumulation?"),
        ("max_seq_length", "did you mean data.max_length?"),
        ("training.max_length", "did you mean data.max_length?"),
        ("model_name_or_path", "did you mean model.path?"),
        ("model.model_name", "did you mean model.path?"),
        ("dataset", "did you mean data.train?"),
        ("output_dir", "did you mean run.output?"),
        ("eval_steps", "did you mean training.eval_steps?"),
        ("logging_steps", "did you mean training.report_steps?"),
        ("lr_scheduler_type", "did you mean optimizer.schedule?"),
        ("weight_decay", "did you mean optimizer.weight_decay?"),
        ("loss.beta", "did you mean beta.value?"),
        ("loss_type", "did you mean loss.name?"),
        ("adapter.lora_alfa", "did you mean adapter.scale?"),
        ("bta.value", "did you mean beta?"),
        (
            "iters",
            "did you mean training.epochs? epochs = updates · pairs per update (micro_batch · accumulation) "
            "/ pairs.",
        ),
        (
            "warmup_steps",
            "did you mean optimizer.warmup_ratio? warmup_ratio = updates that ramp up / all updates of the "
            "run.",
        ),
        (
            "training.save_steps",
            "did you mean training.save_minutes? it is in minutes; a checkpoint also follows every "
            "evaluation (training.eval_steps).",
        ),
    ],
)
def test_a_name_of_another_trainer_gets_the_setting_that_it_means(name, meant):
    assert hint(None, f"{name}=1") == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("lora:\n  rank: 8\n  scale: 2\n", "did you mean adapter?"),
        ("lora:\n  alpha: 16\n", f"{SCALE} The section is called adapter."),
        ("training_args:\n  seed: 1\n  samples: 2\n", "did you mean training?"),
        ("dataset: rows.jsonl\n", "did you mean data.train?"),
        ("dataset: {train: a, valid: b}\n", "did you mean data?"),
        (
            "model: some/name\n",
            "did you mean model.path? known there: path, adapter, chat_template, template_options",
        ),
        ("beta: 0.2\n", f"did you mean beta.value? known there: {IN_BETA}"),
        ("beta.value: 0.2\n", "write value: on a line of its own, indented below beta:"),
        ("beta.risk.delta: 0.2\n", "write delta: on a line of its own, indented below beta: and risk:"),
    ],
)
def test_a_whole_section_or_its_one_value_is_understood_too(text, meant, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    assert hint(tmp_path / "run.yaml") == meant


@pytest.mark.parametrize(
    ("assignment", "meant"),
    [
        ("loss.name=dpo", DPO),
        ("loss.name=DPO", DPO),
        ("loss.name=[dpo, sft]", DPO),
        (
            "loss.name=grpo",
            "this method needs rewards of sampled answers, but mlx-dpo trains on pairs: sigmoid",
        ),
        ("loss.name=ppo", "this method needs rewards"),
        ("loss.name=kto", "KTO needs single answers"),
        ("loss.name=kto_pair", "KTO needs single answers"),
        ("adapter.type=qlora", "QLoRA is lora on a 4-bit copy of the model (model.path); choose from lora"),
        ("run.report_to=wandb", "write it as a list: [wandb]"),
    ],
)
def test_a_value_of_another_trainer_gets_what_there_is_instead(assignment, meant):
    assert hint(None, assignment).startswith(meant)


@pytest.mark.parametrize(
    ("assignment", "meant"),
    [
        ("loss.name=simp0", "simpo"),
        ("loss.name=SimPO", "simpo"),
        ("loss.name=sigmod", "sigmoid"),
        ("optimizer.name=adamw_torch", "adamw"),
        ("optimizer.name=paged_adamw_8bit", "adamw"),
        ("optimizer.schedule=cosine_with_restarts", "cosine"),
    ],
)
def test_a_slip_or_a_longer_name_gets_the_near_one(assignment, meant):
    assert hint(None, assignment).endswith(f"did you mean {meant}?")


def test_every_declared_name_leads_to_its_setting_from_the_top_and_from_its_section():
    known = list(known_names(RunConfig))
    assert sum(len(k.also) for k in known) > 150
    for setting in known:
        section = setting.name.rpartition(".")[0]
        for word in [] if setting.is_section else setting.also:
            assert word not in {k.key for k in known if k.name == f"{section}.{word}"}, word
            assert setting.name in hint(None, f"{section}.{word}=1"), word
            if word not in {k.name for k in known}:
                assert setting.name in hint(None, f"{word}=1"), word


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train --lr 1e-5", "optimizer.learning_rate"),
        ("train --beta 0.2", "beta.value"),
        ("sft --epochs 3", "training.epochs"),
        ("inspect --max-length 3", "data.max_length"),
    ],
)
def test_a_flag_that_is_a_setting_is_answered_with_the_setting(command, option, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    assert stop.value.code == 2
    assert f"Did you mean '--set {option}=VALUE'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("dpo", "Did you mean 'train'?"),
        ("simpo", "It is a loss: mlx-dpo train --set loss.name=NAME."),
        ("grpo", "It is not available; 'train' learns from preference pairs."),
        ("merge", "Did you mean 'fuse'?"),
    ],
)
def test_a_command_of_another_trainer_gets_what_there_is_instead(command, meant, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command])
    assert stop.value.code == 2
    assert f"Error: No such command '{command}'. {meant}\n" in capsys.readouterr().err


def test_a_command_without_settings_names_none(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--run", "run", "--lr", "1"])
    assert "--set" not in capsys.readouterr().err
