"""A lock is one process's, waited for or refused, and free when its owner ends, however it ends."""

import errno
import fcntl
import subprocess
import sys
import threading
import time

import pytest

from mlx_dpo.storage.locks import BusyError, locked

OWNER = """
import sys, time
from pathlib import Path
from mlx_dpo.storage.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that holds tmp_path/a.lock."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path / "a.lock"], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_is_refused_while_another_process_has_it_and_free_when_that_was_killed(owner, tmp_path):
    with pytest.raises(BusyError), locked(tmp_path / "a.lock"):
        pass
    owner.kill()
    owner.wait()
    with locked(tmp_path / "a.lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_whoever_waits_says_so_and_gets_it_when_the_owner_was_killed(owner, tmp_path):
    told = []
    threading.Timer(0.3, owner.kill).start()
    start = time.monotonic()
    with locked(tmp_path / "a.lock", lambda: told.append("waiting")):
        assert time.monotonic() - start >= 0.2
    assert told == ["waiting"]


def test_ten_that_wait_come_one_after_the_other(tmp_path):
    """Each removes the file when it is done: nobody then holds a lock on what is no longer there."""
    at_work, most, turns = 0, 0, []

    def work(number):
        nonlocal at_work, most
        with locked(tmp_path / "a.lock", lambda: None):
            at_work += 1
            most = max(most, at_work)
            time.sleep(0.01)
            at_work -= 1
            turns.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, sorted(turns), list(tmp_path.iterdir())) == (1, list(range(10)), [])


def test_what_fails_under_a_lock_leaves_none(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a.lock"):
        _ = 1 // 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_where_the_file_system_has_no_locks_work_goes_on_without_one(tmp_path, monkeypatch, number):
    def flock(file, operation):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / "a.lock"), locked(tmp_path / "a.lock"):
        pass


def test_a_lock_that_cannot_be_made_is_the_systems_own_error(tmp_path):
    (tmp_path / "a.lock").mkdir()
    with pytest.raises(IsADirectoryError), locked(tmp_path / "a.lock"):
        pass
