"""macOS ends programs whose GPU work holds up the display; long training steps do."""

import os
import sys

VARIABLE = "AGX_RELAX_CDM_CTXSTORE_TIMEOUT"


def relax() -> None:
    """Ask Apple's GPU driver to be patient with this process; it looks at this before its first work.

    What MLX's maintainers advise (ml-explore/mlx, issue 3267). A value that is set stays.
    """
    if sys.platform == "darwin":
        os.environ.setdefault(VARIABLE, "1")
