"""What is wrong with how reading an input ends."""

import time
from collections.abc import Callable

from mlx_dpo.errors import DpoError

SECONDS = 5.0
LETTERS = 600


def fault(read: Callable[[], object]) -> str | None:
    """None where `read` ends, or refuses soon with a short message and a remedy; else what is wrong."""
    start = time.process_time()
    try:
        read()
    except DpoError as error:
        if not error.hint or len(str(error)) > LETTERS:
            return f"message: {str(error)[:300]!r}"
    except Exception as error:  # what nobody has thought of
        return f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - start
    return f"{seconds:.1f} s" if seconds > SECONDS else None
