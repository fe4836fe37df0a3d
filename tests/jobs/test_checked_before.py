"""What train would refuse of its settings is refused by the commands before it, in the same words."""

import pytest

from ..support.mistakes import cases, lines, pair

REFUSED = {
    "a warm-up longer than the run": (
        "beta.rule=risk",
        ("beta.risk.warmup_steps", "120 updates", "set beta.risk.warmup_steps=0, or more training.epochs"),
        False,
    ),
    "a reference that would never move": (
        "training.reference_sync_steps=1000",
        ("training.reference_sync_steps", "1,000 updates", "training.epochs"),
        False,
    ),
    "an output that is a file": (
        "run.output=rows.jsonl",
        ("rows.jsonl", "is a file", "output folder"),
        True,
    ),
    "an output in a file": (
        "run.output=rows.jsonl/run",
        ("rows.jsonl/run", "/rows.jsonl is a file", "output folder"),
        True,
    ),
}


@pytest.mark.parametrize("command", ["train", "plan", "inspect", "inspect --no-model", "gen-pairs"])
@cases(REFUSED)
def test_settings_that_train_refuses_are_refused_before_it(case, command, refused_at, tmp_path, models):
    setting, told, without_pairs = case
    if command == "gen-pairs" and not without_pairs:
        pytest.skip("gen-pairs does not know how many pairs there will be")
    (tmp_path / "rows.jsonl").write_text(lines(*(pair(prompt=q, answer="So.") for q in ("How?", "Why?"))))
    given = "--set data.train=rows.jsonl --set data.valid=null --set pairs.source=rows.jsonl"
    given += f" --set training.epochs=3 --model {models('llama')} --set {setting}"
    refused_at(f"{command} {given}", *told)


@pytest.mark.parametrize("command", ["inspect", "gen-pairs"])
def test_a_memory_limit_that_does_not_hold_the_weights_is_refused(command, refused_at, tmp_path, models):
    (tmp_path / "rows.jsonl").write_text(lines(pair(answer="So.")))
    weights = (models("llama") / "model.safetensors").stat().st_size / 1e9
    given = "--set data.train=rows.jsonl --set data.valid=null --set pairs.source=rows.jsonl"
    given += f" --model {models('llama')} --set training.memory_limit=0.0001"
    refused_at(f"{command} {given}", "training.memory_limit", f"{weights:.3f} GB", "a larger number")


def test_a_trackers_missing_key_or_library_is_told_by_inspect(outcome, tmp_path, models, monkeypatch):
    from mlx_dpo.errors import DpoError
    from mlx_dpo.jobs import output_folder

    def missing(names):
        if "wandb" in names:
            raise DpoError("no key", where="run.report_to", hint="wandb login")

    monkeypatch.setattr(output_folder, "check_trackers", missing)
    (tmp_path / "rows.jsonl").write_text(lines(pair(answer="So.")))
    for command in ("inspect --no-model", "plan", "gen-pairs", "train"):
        given = f"--set data.train=rows.jsonl --set data.valid=null --model {models('llama')}"
        given += " --set run.report_to=[wandb] --set pairs.source=rows.jsonl"
        code, out, err = outcome(*command.split(), *given.split())
        assert (code, out) == (1, "") and "Error: run.report_to: no key" in err, command
