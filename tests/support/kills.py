"""Kill a command with -9 at the moments at which it touches the disk, in processes forked from one.

    python -m tests.support.kills START WORK STATES POINTS COMMAND...

START is copied to WORK, the command runs there and dies at one of so many moments: at most three of them are
before and after the writing of files that have a temporary name, the others are spread over it. What it was
writing is cut in half; WORK is copied to STATES/<moment>/killed. Then the command runs again,
undisturbed, and WORK is moved to STATES/<moment>/again. STATES/whole is what it leaves where nothing disturbs
it. Prints exit codes by moment. The cache and the folder for temporary files are WORK/cache and WORK/tmp.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import mlx_lm.utils  # noqa: F401  (before the forks: it takes longer than a command)

from mlx_dpo.cli import main

_EVENTS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove")


def forked(command: list[str], work: Path, die_at: int | None = None) -> tuple[int, list[bool]]:
    """Run a command in a child; its exit code or minus the signal; and each time that it touched `work`,
    whether the file has a temporary name.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader) as pipe:
            touched = pipe.read()
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), json.loads(touched or "[]")
    touched: list[bool] = []

    def watch(event: str, arguments: tuple) -> None:
        if event not in _EVENTS or not str(arguments[0]).startswith(str(work)):
            return
        if len(touched) == die_at:
            if newest := max(hidden_files(work), key=lambda path: path.stat().st_mtime_ns, default=None):
                os.truncate(newest, newest.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        touched.append("/." in str(arguments[0])[len(str(work)) :])

    os.environ["MLX_DPO_CACHE"] = str(work / "cache")
    tempfile.tempdir = os.environ["TMPDIR"] = str(work / "tmp")
    sys.addaudithook(watch)
    os.chdir(work)
    try:
        main(command)
    except SystemExit as stop:
        os.write(writer, json.dumps(touched).encode())
        os._exit(int(stop.code or 0))


def moments(touched: list[bool], points: int) -> list[int]:
    """Which of these times a command dies at."""
    writing = [place for place, temporary in enumerate(touched) if temporary]
    other = [place for place, temporary in enumerate(touched) if not temporary]
    chosen = spread(writing, points - min(3, len(other)))
    return sorted([*chosen, *spread(other, points - len(chosen))])


def spread(places: list[int], count: int) -> list[int]:
    """At most `count` of them, the first and the last included."""
    count = min(count, len(places))
    chosen = {round(k * (len(places) - 1) / max(1, count - 1)) for k in range(count)}
    return [places[k] for k in sorted(chosen)]


def hidden_files(folder: Path) -> list[Path]:
    """Files that are being written: their name, or that of a folder that they are in, begins with a dot."""
    parts = ((path, path.relative_to(folder).parts) for path in folder.rglob("*") if path.is_file())
    return [path for path, names in parts if any(name.startswith(".") for name in names)]


def kill_everywhere(start: Path, work: Path, states: Path, points: int, command: list[str]) -> dict:
    """Exit codes of the command that was to die and of the one after it, by moment."""
    shutil.copytree(start, work)
    code, touched = forked(command, work)
    shutil.move(work, states / "whole")
    codes = {"whole": code}
    for moment in moments(touched, points):
        shutil.copytree(start, work)
        killed, _ = forked(command, work, moment)
        shutil.copytree(work, states / str(moment) / "killed")
        again, _ = forked(command, work)
        shutil.move(work, states / str(moment) / "again")
        codes[moment] = [killed, again]
    return codes


if __name__ == "__main__":
    start, work, states = (Path(name).absolute() for name in sys.argv[1:4])
    (start / "tmp").mkdir(parents=True, exist_ok=True)
    print(json.dumps(kill_everywhere(start, work, states, int(sys.argv[4]), sys.argv[5:])))
