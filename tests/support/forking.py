"""Runs commands of mlx-dpo in forks of one process, which has imported everything: for tests that kill many.

    python -m tests.support.forking

Reads a command per line, as a JSON list; prints the process number of its fork, and its exit code at the end.
"""

import json
import os
import sys

import openai
import openai.resources.chat  # noqa: F401

from mlx_dpo.cli import main
from mlx_dpo.jobs import judge  # noqa: F401

for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.stdin.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            main(json.loads(line))
        except SystemExit as stop:
            os._exit(int(stop.code or 0))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
