"""A fast BLAS for MLX on Linux CPUs, loaded before `mlx.core` is."""

import ctypes
import os
import sys
from pathlib import Path

LIBRARIES = ("libopenblas.so.0", "libopenblas.so")
_REMEDY = "apt-get install libopenblas0-pthread, or: pip install mkl"


def preload() -> str | None:
    """Load OpenBLAS or MKL where MLX would otherwise use the reference BLAS of its Linux wheel.

    Symbols of a library loaded globally answer first, so this must run before `mlx.core` is
    imported; float32 products are then about 40 times faster.

    Returns:
        What a user should know and do, or None when all is well (always on macOS).
    """
    if sys.platform != "linux":
        return None
    if "mlx.core" in sys.modules:
        return "mlx.core was imported before mlx_dpo, so no fast BLAS could be loaded (import mlx_dpo first)"
    for name in (*LIBRARIES, *_mkl()):
        try:
            ctypes.CDLL(str(name), mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return None
    return f"no OpenBLAS or MKL found: float32 on this CPU is about 40 times slower ({_REMEDY})"


def _mkl() -> list[Path]:
    """The `mkl` wheel's single library in this environment, if it is there."""
    found = sorted((Path(sys.prefix) / "lib").glob("libmkl_rt.so*"))
    if found:
        # Intel's own OpenMP comes with the wheel; the layer must be named before the load.
        os.environ.setdefault("MKL_THREADING_LAYER", "INTEL")
    return found
