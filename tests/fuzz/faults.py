"""What is wrong with how reading an input ends."""

import resource
import sys
import time
from collections.abc import Callable

from mlx_dpo.errors import DpoError

SECONDS = 5.0
LETTERS = 600
GIGABYTES = 1.0


def fault(read: Callable[[], object]) -> str | None:
    """None where `read` ends, or refuses soon, in little memory, with a short message and a remedy."""
    start, before = time.process_time(), _peak()
    try:
        read()
    except DpoError as error:
        if not error.hint or len(str(error)) > LETTERS:
            return f"message: {str(error)[:300]!r}"
    except Exception as error:  # what nobody has thought of
        return f"{type(error).__name__}: {str(error)[:200]}"
    seconds, more = time.process_time() - start, _peak() - before
    if more > GIGABYTES:
        return f"{more:.1f} GB more"
    return f"{seconds:.1f} s" if seconds > SECONDS else None


def _peak() -> float:
    """GB that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e9 if sys.platform == "darwin" else 1e9 / 1024
    )
