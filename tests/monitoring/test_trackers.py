"""What a tracker's own reader finds is what metrics.jsonl holds, and a tracker never disturbs a run."""

import json
import os
import struct
import subprocess
import sys
import time
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.monitoring import trackers
from mlx_dpo.monitoring.trackers import TRACKERS, Sink, check_trackers, is_installed, open_trackers

from ..conftest import ROOT
from ..support.mistakes import assert_told

CONFIG = {"beta": {"rule": "fixed", "value": 0.1}, "loss": {"name": ["sigmoid", "sft"]}, "valid": None}


def rows(first, last):
    """Lines of metrics.jsonl: one of its own at every step above 0, a held-out one at every second step."""
    found = []
    for step in range(first, last + 1):
        if step:
            update = {
                "epoch": step / 9,
                "loss": 0.7 / step,
                "learning_rate": 1e-7 * step,
                "tokens": 10**9 + step,
            }
            found.append({"step": step, **update, "rewards/margins": -0.1 * step})
        if step % 2 == 0:
            found.append({"step": step, "eval/loss": 0.6 / (step + 1), "eval/pairs": 96})
    return found


def series(found):
    """{metric: [(step, value), ...]} of rows in their order."""
    metrics = {}
    for row in found:
        for name, value in row.items():
            if name != "step":
                metrics.setdefault(name, []).append((row["step"], value))
    return metrics


def wandb_records(folder):
    """Records by kind of the folder's only run, once wandb's own process has written its last."""
    (path,) = (folder / "wandb").glob("*run-*/*.wandb")
    deadline = time.monotonic() + 20
    while True:
        found = [(record.WhichOneof("record_type"), record) for record in leveldb_records(path.read_bytes())]
        if any(kind == "exit" for kind, _ in found):
            return [(kind, getattr(record, kind)) for kind, record in found]
        assert time.monotonic() < deadline, "the run was not ended"
        time.sleep(0.01)


def leveldb_records(data):
    """wandb's records: behind seven bytes LevelDB's log format, parts with headers in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, whole = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no header fits: the block is padded
            place += 32768 - place % 32768
        _, length, part = struct.unpack("<IHB", data[place : place + 7])
        place += 7 + length
        if place > len(data):
            return  # not all is written yet
        whole += data[place - length : place]
        if part in (1, 4):  # the whole record, or its last part
            yield Record.FromString(whole)
            whole = b""


def read_wandb(folder):
    found = []
    for kind, record in wandb_records(folder):
        if kind == "history":
            row = {item.nested_key[0]: json.loads(item.value_json) for item in record.item}
            found.append({name: value for name, value in row.items() if name[0] != "_"})
    return series(found)


def trackio_run(folder):
    """trackio's storage of a folder, and the only run in it."""
    assert str(folder / "trackio") == os.environ["TRACKIO_DIR"]
    storage = import_module("trackio.sqlite_storage").SQLiteStorage
    (record,) = storage.get_run_records("mlx-dpo")
    return storage, record


def read_trackio(folder):
    storage, record = trackio_run(folder)
    logs = storage.get_logs("mlx-dpo", record["name"], run_id=record["id"])
    return series([{name: value for name, value in log.items() if name != "timestamp"} for log in logs])


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


READERS = {"wandb": read_wandb, "trackio": read_trackio, "tensorboard": read_tensorboard}


def assert_holds(name, folder, expected):
    """The tracker's files have these rows' series: to the bit, in tensorboard to float32."""
    kind = np.float32 if name == "tensorboard" else float
    assert READERS[name](folder) == {
        metric: [(step, kind(value)) for step, value in points] for metric, points in series(expected).items()
    }


@pytest.fixture(params=sorted(TRACKERS))
def name(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture(autouse=True, scope="module")
def nobody(tmp_path_factory):
    """Neither this machine's accounts nor its network."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("WANDB_API_KEY", "WANDB_PROJECT", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
            patch.delenv(variable, raising=False)
        for variable in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(variable, str(tmp_path_factory.mktemp("wandb")))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("TRACKIO_DIR", "")  # so that it is as before afterwards
        yield


def in_a_process(text, folder):
    """Run Python that has `folder`, `names`, `rows` and `open_trackers` in a process of its own."""
    found = [name for name in TRACKERS if is_installed(name)]
    start = f"""
import os, signal, sys
from pathlib import Path
from mlx_dpo.monitoring.trackers import open_trackers
from tests.monitoring.test_trackers import rows
folder, names = Path({str(folder)!r}), {found!r}
"""
    return subprocess.run(
        [sys.executable, "-c", start + text], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_a_tracker_holds_every_metric_of_every_row(name, tmp_path):
    with open_trackers(["jsonl", name], tmp_path / "run", CONFIG, []) as opened:
        for row in rows(0, 150):
            opened.row(row)
    assert_holds(name, tmp_path / "run", rows(0, 150))


def test_rows_are_in_tensorboards_file_as_soon_as_they_are_given(tmp_path):
    pytest.importorskip("tensorboard")
    with open_trackers(["tensorboard"], tmp_path / "run", CONFIG, rows(0, 2)) as opened:
        opened.row(rows(3, 3)[0])
        assert_holds("tensorboard", tmp_path / "run", rows(0, 3))


def test_rows_that_metrics_jsonl_holds_already_come_first(name, tmp_path):
    with open_trackers([name], tmp_path / "run", CONFIG, rows(0, 5)) as opened:
        for row in rows(6, 9):
            opened.row(row)
    assert_holds(name, tmp_path / "run", rows(0, 9))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed at step 7, behind its last checkpoint."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    done = in_a_process(
        """
opened = open_trackers(names, folder, {}, [])
for row in rows(0, 7):
    opened.row({**row, "gone": 1.0})
os.kill(os.getpid(), signal.SIGKILL)
""",
        folder,
    )
    assert done.returncode == -9, done.stderr
    return folder


def test_a_killed_run_that_goes_on_has_no_trace_of_what_was_lost(name, killed):
    with open_trackers([name], killed, CONFIG, rows(0, 4)) as opened:
        for row in rows(5, 9):
            opened.row(row)
    assert_holds(name, killed, rows(0, 9))


def test_two_runs_of_one_process_keep_apart(name, tmp_path):
    for folder, last in ((tmp_path / "a", 3), (tmp_path / "b", 5)):
        with open_trackers([name], folder, CONFIG, rows(0, last)):
            pass
        assert_holds(name, folder, rows(0, last))


def test_a_run_that_was_not_ended_is_not_gone_on_with(name, tmp_path):
    left = open_trackers([name], tmp_path / "a", CONFIG, rows(0, 3))
    with open_trackers([name], tmp_path / "b", CONFIG, rows(0, 5)):
        pass
    left.close(exit_ok=False)
    assert_holds(name, tmp_path / "b", rows(0, 5))


def test_wandb_and_trackio_hold_the_settings(tmp_path):
    pytest.importorskip("wandb")
    pytest.importorskip("trackio")
    with open_trackers(["wandb", "trackio"], tmp_path / "run", CONFIG, rows(0, 1)):
        pass
    run = dict(wandb_records(tmp_path / "run"))["run"]
    assert (run.display_name, run.project) == ("run", "mlx-dpo")
    told = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert {key: told.get(key) for key in CONFIG} == CONFIG
    storage, record = trackio_run(tmp_path / "run")
    told = storage.get_run_config("mlx-dpo", record["name"], run_id=record["id"])
    assert record["name"] == "run" and {key: told.get(key) for key in CONFIG} == CONFIG


def test_wandb_knows_how_the_run_ended(tmp_path):
    pytest.importorskip("wandb")
    for folder, error, code in ((tmp_path / "a", None, 0), (tmp_path / "b", ValueError("diverged"), 1)):
        try:
            with open_trackers(["wandb"], folder, CONFIG, []):
                if error:
                    raise error
        except ValueError:
            pass
        assert dict(wandb_records(folder))["exit"].exit_code == code


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(3)", 3), ("raise KeyboardInterrupt", 130)])
def test_exit_code_and_stdout_stay_the_runs_own(tmp_path, ending, code):
    done = in_a_process(
        f"""
try:
    with open_trackers(names, folder, {{}}, rows(0, 2)):
        print("result")
        {ending}
except KeyboardInterrupt:
    sys.exit(130)
""",
        tmp_path / "run",
    )
    assert (done.returncode, done.stdout) == (code, "result\n")
    assert "Traceback" not in done.stderr


def test_trackers_write_nowhere_but_in_their_own_folders_of_the_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_trackers([name], tmp_path / "run", CONFIG, rows(0, 2)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]


def failing_at(row):
    """A tracker that takes rows up to this one."""
    taken = []

    def take(metrics):
        if len(taken) == row:
            raise OSError(28, "No space left on device")
        taken.append(metrics)

    return taken, lambda folder, config: Sink(take, lambda exit_ok: taken.append(exit_ok))


@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_tracker_that_fails_is_said_once_and_the_others_go_on(tmp_path, monkeypatch, capsys, at):
    """While earlier rows are written again, at the first new one, later."""
    bad, good = failing_at(at), failing_at(99)
    monkeypatch.setattr(trackers, "TRACKERS", {"bad": bad[1], "good": good[1]})
    with open_trackers(["bad", "good"], tmp_path, CONFIG, rows(1, 1)) as opened:
        for row in rows(2, 6):
            opened.row(row)
    assert good[0] == [*rows(1, 6), True]
    assert bad[0] == rows(1, 6)[:at]
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("bad failed and is switched off") and "[Errno 28] No space left" in told


def test_a_tracker_that_cannot_be_opened_or_closed_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no network")

    monkeypatch.setattr(
        trackers, "TRACKERS", {"a": broken, "b": lambda folder, config: Sink(lambda row: None, broken)}
    )
    with open_trackers(["a", "b"], tmp_path, CONFIG, rows(0, 2)):
        pass
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == ["a", "b"]


def test_ctrl_c_is_the_runs_and_not_a_trackers_failure(tmp_path, monkeypatch):
    def interrupted(row):
        raise KeyboardInterrupt

    monkeypatch.setattr(trackers, "TRACKERS", {"a": lambda *_: Sink(interrupted, lambda exit_ok: None)})
    with pytest.raises(KeyboardInterrupt), open_trackers(["a"], tmp_path, CONFIG, []) as opened:
        opened.row(rows(1, 1)[0])


def test_a_missing_library_is_said_before_slow_work(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    check_trackers(["jsonl"])
    with pytest.raises(DpoError) as caught:
        check_trackers(["jsonl", "tensorboard"])
    assert_told(caught.value, "run.report_to", "tensorboard", "pip install 'mlx-dpo[track]'")


def test_a_folder_named_as_a_library_is_no_library(tmp_path, monkeypatch):
    (tmp_path / "wandb_that_ran_here").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert trackers.find_spec("wandb_that_ran_here")
    assert not is_installed("wandb_that_ran_here")


def test_wandb_without_a_key_is_said_before_slow_work(monkeypatch):
    wandb = pytest.importorskip("wandb")
    check_trackers(["wandb"])  # offline

    def refuse():
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login`.")

    monkeypatch.setattr(wandb, "setup", lambda: SimpleNamespace(settings=SimpleNamespace(mode="online")))
    monkeypatch.setattr(wandb, "login", refuse)
    with pytest.raises(DpoError) as caught:
        check_trackers(["wandb"])
    assert_told(caught.value, "run.report_to", "No API key configured.", "WANDB_MODE=offline")
