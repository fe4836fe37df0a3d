"""What a long run needs from the machine: staying awake, short pieces of GPU work, and enough memory."""

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
"""Operations in one short piece of GPU work; by default MLX puts several tens into one piece."""
_FOOTPRINT = 72
"""Offset of ri_phys_footprint in macOS's struct rusage_info_v0 (sys/resource.h), bytes."""


@contextmanager
def awake(wanted: bool) -> Iterator[None]:
    """Keep a Mac awake while this process lives; the display may sleep."""
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
    """Make MLX give the GPU short pieces of work; MLX reads the variable only before the first piece.

    The watchdog of macOS ends a process whose pieces block the display.
    """
    os.environ.setdefault("MLX_MAX_OPS_PER_BUFFER", _OPERATIONS)


def process_memory() -> int:
    """Memory of this process in bytes: its footprint on macOS, elsewhere its resident memory."""
    if sys.platform == "darwin":
        with suppress(OSError, AttributeError):
            facts = ctypes.create_string_buffer(512)
            if ctypes.CDLL(None).proc_pid_rusage(os.getpid(), 0, facts) == 0:
                return ctypes.c_uint64.from_buffer(facts, _FOOTPRINT).value
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def memory_limit(memory: float | None = None) -> int:
    """Bytes that a run may use on a Mac with `memory` GiB, or on this machine.

    macOS lets the GPU use two thirds of up to 36 GiB, and three quarters of more.
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
    """Memory limits of a container or a batch system (Linux), bytes."""
    found = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    return found
