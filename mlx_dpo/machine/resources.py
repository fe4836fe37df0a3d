"""What a long run asks of the machine: to stay awake, GPU work in short pieces, how much memory there is."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlx.core as mx

_GIB = 2**30
_OPERATIONS = "8"
"""Operations in one piece of GPU work where it is to be short; MLX puts some tens into one."""
_FOOTPRINT = 72
"""Place of ri_phys_footprint in macOS's struct rusage_info_v0 (sys/resource.h), bytes."""


@contextmanager
def awake(wanted: bool) -> Iterator[None]:
    """Keep a Mac from sleeping while this process lives; its display may."""
    helper = None
    if wanted and sys.platform == "darwin":
        with suppress(OSError):
            helper = subprocess.Popen(["caffeinate", "-ims", "-w", str(os.getpid())])
    try:
        yield
    finally:
        if helper:
            helper.terminate()


def shorten_gpu_work() -> None:
    """Have MLX hand work to the GPU in short pieces; it looks at this before its first one only.

    The watchdog of macOS ends a process whose pieces keep the display waiting.
    """
    os.environ.setdefault("MLX_MAX_OPS_PER_BUFFER", _OPERATIONS)


def process_memory() -> int:
    """Bytes that the system counts as this process's own: its footprint on macOS, else what is resident."""
    if sys.platform == "darwin":
        with suppress(OSError, AttributeError):
            facts = ctypes.create_string_buffer(512)
            if ctypes.CDLL(None).proc_pid_rusage(os.getpid(), 0, facts) == 0:
                return ctypes.c_uint64.from_buffer(facts, _FOOTPRINT).value
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def memory_limit(memory: float | None = None) -> int:
    """Bytes a run may use: of a Mac with `memory` GiB, or of this machine.

    macOS lets the GPU use two thirds of 36 GiB or less, and three quarters of more.
    """
    if memory:
        return int(memory * _GIB * (2 / 3 if memory <= 36 else 0.75))
    if mx.default_device().type == mx.gpu:
        facts: dict[str, Any] = mx.device_info()
        for name in ("max_recommended_working_set_size", "total_memory", "memory_size"):
            if facts.get(name):
                return int(facts[name])
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_group_limits()])


def _group_limits() -> list[int]:
    """What a container or a batch system lets this process use (Linux)."""
    found = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    return found
