"""The run script, on the tiny Granite hybrid: everything but the download."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from ..conftest import ROOT
from ..support.judge_server import judging, smaller
from ..support.openai_server import OpenAIServer


@pytest.fixture
def command(tmp_path):
    """An mlx-dpo command that runs the package under test, as an installed console script would."""
    path = tmp_path / "mlx-dpo"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mlx_dpo "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def noting(tmp_path):
    """An mlx-dpo command that only writes down what it is called with; and what it was called with since."""
    path, calls = tmp_path / "noting", tmp_path / "calls"
    path.write_text(f"""#!/bin/sh\nprintf '%s\\0' "$@" >> '{calls}'\nprintf '\\n\\0' >> '{calls}'\n""")
    path.chmod(0o755)

    def called():
        words = calls.read_text().removesuffix("\0\n\0").split("\0\n\0") if calls.exists() else []
        calls.unlink(missing_ok=True)
        return [command.split("\0") for command in words]

    return path, called


QUICK = ("--set", "generate.max_tokens=24", "--set", "training.epochs=1", "--set", "training.samples=0")


def run_script(command, *more, **environment):
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "run_granite_dpo.sh"), *QUICK, *more],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "MLX_DPO": str(command), **environment},
    )


def test_the_granite_script_goes_from_curated_answers_to_a_fused_model(
    tmp_path, models, command, noting, outcome
):
    out = tmp_path / "out"
    environment = {"MODEL": str(models("granite")), "OUT": str(out), "LIMIT": "10"}
    done = run_script(command, **environment)
    assert done.returncode == 0, done.stderr
    pairs = [len((out / "pairs" / f"{n}.jsonl").read_text().splitlines()) for n in ("train", "valid")]
    assert pairs == [9, 1]
    assert "preference accuracy" in done.stdout
    rows = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == [1, 2]
    from mlx_lm import load

    load(str(out / "fused"))
    likeness = json.loads((out / "fused" / "likeness.json").read_text())
    assert likeness["kl_ratio"] <= likeness["max_kl_ratio"] == 0.1
    figures = f"KL ratio {likeness['kl_ratio']} (at most 0.1), top-1 {likeness['top_1']}"
    proof = f"proof: {out}/fused/likeness.json    {figures}\n"
    assert proof in done.stdout
    assert done.stdout.endswith(f"mlx-dpo export hf (or gguf, peft) --run {out}/run --output FOLDER\n")
    # A second run finds everything done, changes nothing and evaluates again.
    before = {f: f.stat().st_mtime_ns for f in (out / "run").iterdir()}
    noted, called = noting
    second = run_script(noted, **environment)
    assert second.returncode == 0 and proof in second.stdout
    again = called()
    assert [words[0] for words in again] == ["gen-pairs", "train", "eval"]
    for words in again:
        assert outcome(*words)[0] == 0
    assert {f: f.stat().st_mtime_ns for f in (out / "run").iterdir()} == before
    # Other settings in the same folder are refused, not passed off as trained.
    run_script(noted, "--set", "beta.value=0.5", **environment)
    _, train, _ = called()
    code, _, errors = outcome(*train)
    assert code == 1
    assert f"Error: {out}/run: " in errors and "beta.value is 0.5, was 0.1" in errors


@pytest.fixture
def fusing(tmp_path):
    """An mlx-dpo command that does nothing, except that fuse writes a folder."""
    path = tmp_path / "fusing"
    path.write_text('#!/bin/sh\n[ "$1" != fuse ] || { mkdir "$5" && echo "$3" > "$5/fused_from"; }\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("fused", "again"), [('"aa1"', False), ('"bb2"', True), (None, True)])
def test_a_fused_model_of_an_earlier_adapter_is_made_again(tmp_path, fusing, fused, again):
    """None: a fused folder that does not say from which adapter it was made."""
    out = tmp_path / "out"
    for name in ("run", "fused"):
        (out / name).mkdir(parents=True)
    (out / "method").write_text("dpo")
    (out / "run" / "evaluation.json").write_text('{\n "adapter_sha256": "aa1",\n "preferred_base": 0.5\n}\n')
    if fused:
        (out / "fused" / "made_from.json").write_text(
            f'{{\n "kind": "fused",\n "adapter_sha256": {fused}\n}}\n'
        )
    done = run_script(fusing, OUT=str(out))
    assert done.returncode == 0, done.stderr
    assert (out / "fused" / "fused_from").exists() == again
    assert ("it is made again" in done.stdout) == again
    assert "proof: none; the fused model was not compared with the adapter\n" in done.stdout
    assert sorted(p.name for p in out.iterdir()) == ["fused", "method", "run"]


def test_the_granite_script_fine_tunes_where_that_is_the_method(tmp_path, models, noting, outcome):
    """Its commands, run one after another as the script gives them."""
    noted, called = noting
    out = tmp_path / "out"
    environment = {"MODEL": str(models("granite")), "OUT": str(out), "LIMIT": "10"}
    quick = ("--set", "optimizer.learning_rate=1e-3", "--set", "training.rehearsal=0")
    out.mkdir()
    wrong = run_script(noted, *quick, METHOD="spo", **environment)
    assert (wrong.returncode, (out / "method").exists()) == (1, False)
    assert "METHOD is spo; it must be dpo or sft" in wrong.stderr
    called()
    done = run_script(noted, *quick, METHOD="sft", **environment)
    assert done.returncode == 0, done.stderr
    commands = called()
    assert [words[0] for words in commands] == ["gen-pairs", "sft", "eval", "fuse"]
    for words in commands:
        code, _, errors = outcome(*words)
        assert code == 0, errors
    assert "name: sft" in (out / "run" / "config.yaml").read_text()
    assert (out / "fused" / "config.json").exists()
    other = run_script(noted, *quick, METHOD="dpo", **environment)
    assert other.returncode == 1
    assert f"{out} was started with METHOD=sft" in other.stderr and "OUT" in other.stderr
    (out / "method").unlink()  # as in a folder of an earlier version: the run itself tells
    called()
    again = run_script(noted, *quick, **environment)
    assert (again.returncode, "method: sft" in again.stdout) == (0, True), again.stderr
    assert [words[0] for words in called()] == ["gen-pairs", "sft", "eval"]


def test_the_granite_script_asks_inspect_for_the_method(tmp_path, models):
    """An mlx-dpo that only says what it is called with, and advises to fine-tune first."""
    path, out = tmp_path / "mlx-dpo", tmp_path / "out"
    lines = [
        "#!/bin/sh",
        'echo "called $1" >&2',
        """[ "$1" = inspect ] && echo '{"advice": [{"code": "sft_first"}]}'""",
        "exit 0",
    ]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    out.mkdir()
    done = run_script(path, OUT=str(out))
    called = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("called ")]
    assert called == ["gen-pairs", "inspect", "sft", "eval", "fuse"]


def test_the_script_stops_at_the_first_failure(tmp_path, command):
    done = run_script(command, MODEL=str(tmp_path / "nope"), OUT=str(tmp_path / "out"), LIMIT="20")
    assert done.returncode == 1
    assert "no such folder" in done.stderr
    assert "evaluat" not in done.stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_pass_shellcheck():
    scripts = sorted(map(str, (ROOT / "scripts").glob("*.sh")))
    subprocess.run(["shellcheck", *scripts], check=True)


def test_the_judge_script_goes_from_prompts_to_an_adapter_trained_on_judged_pairs(
    tmp_path, models, noting, outcome
):
    """Its commands, run one after another as the script gives them."""
    noted, called = noting
    out, said = tmp_path / "out", ""
    quick = ["generate.max_tokens=12", "training.epochs=1", "training.samples=0", "training.rehearsal=0"]
    quick += ["adapter.rank=2", "optimizer.learning_rate=1e-4"]
    with OpenAIServer(judging(smaller)) as server:
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / "run_judge_dpo.sh"), *(w for a in quick for w in ("--set", a))],
            capture_output=True,
            text=True,
            timeout=300,
            env={
                **os.environ,
                **{"HF_HUB_OFFLINE": "1", "MLX_DPO": str(noted), "MODEL": str(models("llama"))},
                **{"JUDGE_URL": server.url, "OUT": str(out), "LIMIT": "10"},
            },
        )
        assert done.returncode == 0, done.stderr
        commands = called()
        assert [words[0] for words in commands] == ["sft", "gen-pairs", "judge", "train", "eval"]
        for words in commands:
            code, said, errors = outcome(*words)
            assert code == 0, errors
    pairs = [len((out / "judged" / f"{n}.jsonl").read_text().splitlines()) for n in ("train", "valid")]
    assert pairs == [9, 1]
    learnt, held = (
        {json.loads(line)["prompt"] for line in (out / name).read_text().splitlines()}
        for name in ("sft.jsonl", "judged/valid.jsonl")
    )
    assert len(learnt) == 9 and not learnt & held
    assert "preference accuracy" in said
    assert (out / "dpo" / "adapters.safetensors").exists()
