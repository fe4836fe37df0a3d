"""Errors of MLX and macOS when memory or the GPU's time runs out, and what to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import DpoError, first_line

_MEMORY = ("malloc", "Unable to allocate", "Insufficient Memory", "OutOfMemory", "out of memory")
_WATCHDOG = ("GPU Timeout", "ErrorTimeout", "Interactivity", "GPU Hang", "0000000e:Internal Error")
SHORTER = (
    "macOS stopped GPU work that blocked the display for too long: set run.short_gpu_work=true, close other "
    "programs that use the GPU, or let the display sleep; then run the same command again, without "
    "--overwrite, to continue from the last checkpoint"
)


def refused_by_the_system(error: Exception) -> bool:
    """Whether memory or the GPU's time ran out; otherwise the code is at fault."""
    return _memory_ran_out(error) or _time_ran_out(error)


def _memory_ran_out(error: Exception) -> bool:
    return isinstance(error, MemoryError) or _says(error, _MEMORY)


def _time_ran_out(error: Exception) -> bool:
    return _says(error, _WATCHDOG)


def _says(error: Exception, signs: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


@contextmanager
def explained(remedy: Callable[[], str]) -> Iterator[None]:
    """Turn errors about memory or GPU time into a DpoError with a remedy; other errors pass.

    Args:
        remedy: gives settings that need less memory; called only if memory ran out.

    Raises:
        DpoError: in place of MLX's RuntimeError, or of MemoryError.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if _time_ran_out(error):
            raise DpoError(
                f"the GPU watchdog stopped the run: {first_line(error)}", where="training", hint=SHORTER
            ) from None
        if _memory_ran_out(error):
            what = f"out of memory: {first_line(error)}"
            raise DpoError(what, where="training", hint=remedy()) from None
        raise
