"""What MLX and macOS say when memory or the GPU's time runs out, and what to do then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import DpoError, first_line

_MEMORY = ("malloc", "Unable to allocate", "Insufficient Memory", "OutOfMemory", "out of memory")
_WATCHDOG = ("GPU Timeout", "ErrorTimeout", "Interactivity", "GPU Hang", "0000000e:Internal Error")
SHORTER = (
    "macOS ended a piece of GPU work that held up the display: set run.short_gpu_work=true, close other "
    "programs that draw, or let the display sleep; the same command, without --overwrite, then goes on from "
    "the last checkpoint"
)


def refused_by_the_system(error: Exception) -> bool:
    """Whether memory or the GPU's time ran out; else the code that ran is at fault."""
    return _memory_ran_out(error) or _time_ran_out(error)


def _memory_ran_out(error: Exception) -> bool:
    return isinstance(error, MemoryError) or _says(error, _MEMORY)


def _time_ran_out(error: Exception) -> bool:
    return _says(error, _WATCHDOG)


def _says(error: Exception, signs: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


@contextmanager
def explained(remedy: Callable[[], str]) -> Iterator[None]:
    """Turn the system's refusals of memory or GPU time into what a user can do; other errors pass.

    Args:
        remedy: what needs less memory, asked for only when memory ran out.

    Raises:
        DpoError: in place of MLX's RuntimeError, or of MemoryError.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if _time_ran_out(error):
            raise DpoError(
                f"the GPU's watchdog: {first_line(error)}", where="training", hint=SHORTER
            ) from None
        if _memory_ran_out(error):
            what = f"the memory ran out: {first_line(error)}"
            raise DpoError(what, where="training", hint=remedy()) from None
        raise
