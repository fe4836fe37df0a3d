"""Every printed command runs as it is printed, in the folder where it is printed, and does what it says."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from mlx_dpo.cli import main
from mlx_dpo.config import load_config
from mlx_dpo.demo import run_demo
from mlx_dpo.inspection import advice as verdict
from mlx_dpo.jobs import report
from mlx_dpo.models import slow_types as speed
from mlx_dpo.models.load import load_model
from mlx_dpo.settings import save_settings

from ..conftest import half_precision, some
from ..support.forking import module_code
from ..support.mistakes import lines

SHORT = [
    *(
        "data.max_length=128",
        "adapter.rank=4",
        "training.accumulation=4",
        "training.epochs=1",
        "training.eval_steps=99",
    ),
    *("training.samples=0", "training.rehearsal=0", "generate.max_tokens=6", "optimizer.learning_rate=1e-4"),
]
ODD = 'it\'s ü "#1" $HOME'


class Desk(NamedTuple):
    """Where one works: how a command is told of model, rows and run, and what it must then use."""

    given: list[str]
    train: str
    valid: str | None
    output: str


def settings(*assignments):
    return [word for one in assignments for word in ("--set", one)]


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys, forked):
    """Run a command as a user pastes it: a line, or the words that a shell would make of it."""
    desk = tmp_path / "desk"
    desk.mkdir()
    monkeypatch.chdir(desk)
    monkeypatch.setattr(report, "missing_libraries", lambda: ["matplotlib"])  # charts take half of the time

    def run(line):
        words = line if isinstance(line, list) else split(line)
        capsys.readouterr()
        if words[0] == "mlx-dpo":
            with pytest.raises(SystemExit) as stop:
                main(words[1:])
            out, err = capsys.readouterr()
            assert stop.value.code == 0, f"{line}\n{err}"
            return out
        assert words[:3] == ["python", "-m", "mlx_lm"]
        done = forked(code=module_code(words[2:]))
        assert done.wait() == 0, done.stderr
        return done.stdout

    return run


def split(line):
    """The words that bash makes of a line."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    return done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]


def after(label, out):
    """The command that follows this label."""
    (line,) = [line for line in out.splitlines() if line.startswith(f"{label}: ")]
    return line.removeprefix(f"{label}: ")


def advised(out):
    """The commands that inspect advises."""
    _, then, commands = out.partition("\nthen\n")
    return [line.strip() for line in commands.splitlines()] if then else []


def trained(folder):
    """The settings of a finished run."""
    assert (Path(folder) / "adapters.safetensors").is_file()
    return load_config(Path(folder) / "config.yaml")


def flags(model, train, valid, output):
    """As a user types them who has no settings file."""
    files = ["--data", train, *(["--valid", valid] if valid else [])]
    own = settings(f"model.path={model}", *SHORT, f"run.output={json.dumps(output, ensure_ascii=False)}")
    return Desk([*files, *own], train, valid, output)


def with_file(model, where, output):
    """A settings file in another folder, which names its rows by full paths."""
    folder = where.parent / "other folder"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text(Path(name).read_text())
    own = [f"model.path={model}", f"data.train={folder}/a.jsonl", f"data.valid={folder}/b.jsonl", *SHORT]
    save_settings(load_config(None, [*own, f"run.output={output}"]), folder / "my settings.yaml")
    given = ["--config", "../other folder/my settings.yaml"]
    return Desk(given, f"{folder}/a.jsonl", f"{folder}/b.jsonl", output)


SITUATIONS = {
    "with held-out pairs": lambda model, desk: flags(model, "a.jsonl", "b.jsonl", "runs/dpo"),
    "without": lambda model, desk: flags(model, "a.jsonl", None, "runs/dpo/"),
    "odd names": lambda model, desk: flags(
        model, f"[a] {ODD}.jsonl", f"./valid {ODD}.jsonl", f"'runs' {ODD}"
    ),
    "a settings file elsewhere": lambda model, desk: with_file(model, desk, "runs/dpo"),
    "folders that are taken": lambda model, desk: flags(model, "a.jsonl", "b.jsonl", "taken"),
}


FEW = (name for name in SITUATIONS if name != "with held-out pairs")  # which odd names are given too


@pytest.fixture(params=some(SITUATIONS, *FEW))
def desk(request, shell, models, pair_rows, tmp_path):
    """A folder with pairs, four to train on, and the situation that one is in there."""
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in pair_rows[::70]]
    for train, valid in (("a.jsonl", "b.jsonl"), (f"[a] {ODD}.jsonl", f"valid {ODD}.jsonl")):
        Path(train).write_text(lines(*rows[:4]))
        Path(valid).write_text(lines(*rows[4:6]))
    for name in ("taken", "taken-sft", "taken-pairs", "taken-fused", "taken-2-fused"):
        Path(name).mkdir()
        (Path(name) / "train.jsonl").write_text(lines(*rows[6:]))
    return SITUATIONS[request.param](models("llama"), tmp_path / "desk")


def test_pairs_are_sampled_trained_on_judged_fused_and_asked(desk, shell, monkeypatch):
    asks = "'" in desk.output  # in one situation: mlx_lm takes seconds to start
    monkeypatch.setattr(verdict, "NOT_OWN", -10.0)
    sample, train = advised(shell(["mlx-dpo", "inspect", *desk.given]))
    shell(sample)
    source = load_config(None, [word for word in split(sample) if "=" in word]).pairs
    assert (source.source, source.valid_source) == (desk.train, desk.valid)
    prompts = [
        json.loads(line)["prompt"] for line in (Path(source.output) / "train.jsonl").read_text().splitlines()
    ]
    assert prompts == [json.loads(line)["prompt"] for line in Path(desk.train).read_text().splitlines()]

    out = shell(train)
    config = trained(after("run", out))
    assert config.data.train == str(Path(source.output).absolute() / "train.jsonl")
    assert (config.data.valid is None) == (desk.valid is None)

    # What gen-pairs prints itself inspects them too, to be trained on in another folder than the run's.
    look = after("next", shell(sample))
    assert shell(look)
    again = shell(look.replace(" inspect ", " train ", 1))
    assert trained(after("run", again)).data == config.data
    assert Path(after("run", again)).resolve() != Path(after("run", out)).resolve()

    following = after("next", out)
    if desk.valid:
        assert split(following)[:2] == ["mlx-dpo", "eval"]
        following = after("next", shell(following))
    fused = shell(following)
    folder = Path(after("fused model", fused))
    assert (folder / "model.safetensors").is_file()
    assert split(after("ask it", out))[7] == after("run", out)
    assert split(after("next", fused))[5] == str(folder)
    if asks:
        assert "Prompt: " in shell(after("ask it", out))
        assert "Prompt: " in shell(after("next", fused))


def test_answers_are_learnt_and_the_pairs_inspected_from_there(desk, shell, monkeypatch):
    monkeypatch.setattr(verdict, "FAR_OFF_POLICY", -10.0)
    learn, look = advised(shell(["mlx-dpo", "inspect", *desk.given]))
    out = shell(learn)
    folder = after("run", out)
    assert trained(folder).loss.answers_only and trained(folder).data.train == str(
        Path(desk.train).absolute()
    )
    monkeypatch.setattr(verdict, "FAR_OFF_POLICY", 10.0)
    monkeypatch.setattr(verdict, "NOT_OWN", 10.0)
    for inspect in (look, after("next", out)):
        seen = shell(inspect)
        assert seen.startswith(f"{desk.train}: 4 rows, 4 pairs to train on")
        (train,) = advised(seen)
    run = after("run", shell(train))
    assert trained(run).model.adapter == str(Path(folder).absolute())
    assert trained(run).data.train == str(Path(desk.train).absolute())


def test_after_curated_answers_pairs_are_sampled_from_the_adapter(shell, models, pair_rows):
    """In a folder with a space; the run of pairs has the settings of pairs, and a folder of its own."""
    Path("my answers.jsonl").write_text(
        lines(*({"prompt": row["prompt"], "answer": row["chosen"]} for row in pair_rows[:280:70]))
    )
    given = ["--data", "my answers.jsonl", "--model", str(models("llama")), *settings(*SHORT)]
    out = shell(["mlx-dpo", "sft", *given, "--output", "runs/dpo", "--set", "loss.name=sft"])
    sample = after("next", out)
    assert split(sample)[:2] == ["mlx-dpo", "gen-pairs"]
    look = after("next", shell(sample))
    assert shell(look)
    config = trained(after("run", shell(look.replace(" inspect ", " train ", 1))))
    assert config.model.adapter == str(Path("runs/dpo").absolute())
    assert config.data.train == str(Path("runs/dpo-dpo-pairs/train.jsonl").absolute())
    assert (config.data.valid, config.run.output) == (None, "runs/dpo-dpo")
    assert config.loss.names == ["sigmoid"]
    assert config.training.epochs != 1  # that was said of the answers


def test_what_has_errors_is_mended_before_anything_else_is_advised(shell, models, pair_rows, monkeypatch):
    """Every other command would refuse the rows."""
    Path("rows.jsonl").write_text(lines(pair_rows[0], {}))
    monkeypatch.setattr(verdict, "FAR_OFF_POLICY", -10.0)
    again = advised(shell(["mlx-dpo", "inspect", "--data", "rows.jsonl", "--model", str(models("llama"))]))
    assert len(again) == 1 and advised(shell(again[0])) == again


def test_commands_in_a_run_folder_can_be_given_from_anywhere(shell, models, pair_rows, monkeypatch, tmp_path):
    """What the report advises: the run's own settings file, full paths, and folders beside the run."""
    Path("rows 1.jsonl").write_text(lines(*pair_rows[:280:70]))
    monkeypatch.setattr(verdict, "NOT_OWN", -10.0)
    monkeypatch.setattr(verdict, "FOREIGN", 0.0)
    given = ["--data", "rows 1.jsonl", "--model", str(models("llama")), *settings(*SHORT)]
    shell(["mlx-dpo", "train", *given, "--output", "run 1"])
    advice = json.loads(Path("run 1/inspection.json").read_text())["verdict"]
    monkeypatch.chdir(tmp_path)
    (remedy,) = [told["remedy"] for told in advice if told["advice"] == verdict.ADVICE["on_policy"]]
    sample, train = remedy.split("; then ")
    shell(sample)
    config = trained(after("run", shell(train)))
    beside = tmp_path / "desk" / "run 1"
    assert config.data.train == f"{beside}-pairs/train.jsonl"
    assert config.run.output == f"{beside}-2"


def test_commands_of_the_demo_run(shell, models, pair_rows, monkeypatch):
    """Those on Granite with a tiny model in its place; files that are shipped are found from any folder."""
    folder = Path("my demo")
    (folder / "run").mkdir(parents=True)
    (folder / "base").symlink_to(models("granite"))
    Path("rows.jsonl").write_text(lines(*pair_rows[:280:70]))
    tiny = settings(f"model.path={models('granite')}", *SHORT)
    shell(["mlx-dpo", "train", "--data", "rows.jsonl", *tiny, "--output", f"{folder}/run"])
    printed = [line.strip() for line in run_demo._whereabouts(folder, 1.0)]
    (ask,) = [line for line in printed if line.startswith("python ")]
    assert split(ask)[-1] == "How do I clean a copper kettle?" and "Prompt: 24 tokens" in shell(ask)
    sample, train, judge, fuse = [line for line in printed if line.startswith("mlx-dpo ")]
    made = shell([*split(sample), "--limit", "5", *tiny, "--set", "pairs.valid_fraction=0.3"])
    assert "5 rows: " in made and Path("data/pairs/valid.jsonl").read_text()
    shell([*split(train), *tiny])
    assert trained("runs/granite-dpo").data.train == str(Path("data/pairs/train.jsonl").absolute())
    assert "preference accuracy" in shell(judge)
    assert after("fused model", shell(fuse)) == "models/granite-dpo"


def test_a_base_model_that_was_moved_is_named_in_what_is_printed_next(shell, models, pair_rows):
    shutil.copytree(models("llama"), "base")
    Path("rows.jsonl").write_text(lines(*pair_rows[:420:70]))
    files = ["--data", "rows.jsonl", "--model", "base", *settings(*SHORT)]
    shell(["mlx-dpo", "train", *files, "--output", "run"])
    Path("base").rename("moved base")
    Path("valid.jsonl").write_text(lines(*pair_rows[5:8]))
    out = shell(["mlx-dpo", "eval", "--run", "run", "--data", "valid.jsonl", "--model", "moved base"])
    assert split(after("ask it", out))[5] == "moved base"
    assert after("fused model", shell(after("next", out))) == "run-fused"


def test_the_copy_that_is_faster_on_a_slow_device_is_made(shell, models, monkeypatch):
    half_precision(models("llama"), Path("half a model"))
    monkeypatch.setattr(speed, "is_slow", lambda *seconds: True)
    told = speed.slow_products(load_model(Path("half a model"))[0], "half a model")
    shell(told.partition("faster here: ")[2])
    assert weight_dtypes(Path("half a model-float32")) == {"F32"}


def weight_dtypes(folder):
    header = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    tensors = json.loads(header[8 : 8 + size])
    return {tensor["dtype"] for name, tensor in tensors.items() if name != "__metadata__"}
