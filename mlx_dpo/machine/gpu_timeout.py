"""macOS stops programs whose GPU work blocks the display, as long training steps do."""

import os
import sys

VARIABLE = "AGX_RELAX_CDM_CTXSTORE_TIMEOUT"


def relax() -> None:
    """Ask Apple's GPU driver for longer timeouts; it reads the variable before the first GPU work.

    As MLX's maintainers advise (ml-explore/mlx, issue 3267). A value that the user has set stays.
    """
    if sys.platform == "darwin":
        os.environ.setdefault(VARIABLE, "1")
