"""Commands of mlx-dpo in forks of one process that has imported everything: each starts in a moment.

    python -m tests.support.forking

Reads jobs, one per line as JSON: Python `code`, the `folder` and the `environment` it runs in, and the files
for its `output` and `errors`. Prints the process number of a fork, and its exit code when it has ended.
"""

import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Forked:
    """Code that runs in a fork. `pid`: its process number. Otherwise as subprocess.Popen."""

    def __init__(self, parent: subprocess.Popen, files: Sequence[Path]):
        self._parent, self._files = parent, files
        self.pid, self.returncode = int(parent.stdout.readline()), None

    def poll(self) -> int | None:
        """The exit code if it has ended."""
        return self.wait() if select.select([self._parent.stdout], [], [], 0)[0] else self.returncode

    def wait(self, timeout: float = 120) -> int:
        """The exit code, as soon as it has ended."""
        if self.returncode is None:
            if not select.select([self._parent.stdout], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a fork", timeout)
            self.returncode = int(self._parent.stdout.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._files[0].read_text()

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self._files[1].read_text()


class Forks:
    """Starts forks, one at a time; their output goes to files in `folder`."""

    def __init__(self, folder: Path):
        self._folder, self._count = folder, 0
        self._parent: subprocess.Popen | None = None
        self._last: Forked | None = None

    def start(self, code: str, folder: Path | str | None, environment: dict[str, str]) -> Forked:
        """Run Python code in a fork."""
        if self._parent is None:
            self._parent = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forking"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,  # select sees what a buffer would hold already
            )
        assert self._last is None or self._last.poll() is not None, "the last fork still runs"
        self._count += 1
        files = [self._folder / f"{self._count}.{kind}" for kind in ("output", "errors")]
        for file in files:
            file.touch()
        job = {"code": code, "folder": str(folder or os.getcwd()), "environment": environment}
        job |= {"output": str(files[0]), "errors": str(files[1])}
        self._parent.stdin.write(json.dumps(job).encode() + b"\n")
        self._last = Forked(self._parent, files)
        return self._last

    def kill_last(self) -> None:
        """End the last fork if it still runs."""
        if self._last and self._last.poll() is None:
            self._last.send_signal(signal.SIGKILL)
            self._last.wait()

    def close(self) -> None:
        """End the process that all forks come from."""
        if self._parent:
            self.kill_last()
            self._parent.stdin.close()
            self._parent.wait()


def command_code(words: Sequence[Any]) -> str:
    """Code that runs a command of mlx-dpo."""
    return f"from mlx_dpo.cli import main\nmain({[*map(str, words)]!r})"


def module_code(words: Sequence[Any]) -> str:
    """Code that runs `python -m` with these words."""
    return (
        f"import runpy, sys\nsys.argv = {[*map(str, words)]!r}\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    )


def _serve() -> None:
    import openai
    import openai.resources.chat  # noqa: F401

    from mlx_dpo.jobs import evaluate, gen_pairs, inspect, judge, plan, report, train  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(job: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    for number, name in enumerate((os.devnull, job["output"], job["errors"])):
        os.dup2(os.open(name, os.O_RDWR), number)
    code = 0
    try:
        exec(job["code"], {"__name__": "__main__"})
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
