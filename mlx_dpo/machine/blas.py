"""A fast BLAS for MLX on Linux CPUs, loaded before `mlx.core`.

`import mlx_dpo` runs this, so it imports little: no pathlib and no typing.
"""

import _ctypes
import ctypes
import os
import sys

LIBRARIES = ("libopenblas.so.0", "libopenblas.so")
CORE_TYPE = "OPENBLAS_CORETYPE"
_UNKNOWN = b"Prescott"
"""The kernels that OpenBLAS uses on an x86 processor that it does not know: SSE3, about 10 times slower."""
_REMEDY = "apt-get install libopenblas0-pthread, or: pip install mkl"


def preload() -> str | None:
    """Load OpenBLAS or MKL if MLX would otherwise use the reference BLAS of its Linux wheel.

    Symbols of a library that is loaded globally are found first, so this must run before `mlx.core` is
    imported; float32 products are then about 40 times faster.

    Returns:
        What a user should know and do, or None if nothing is wrong (always on macOS).
    """
    if sys.platform != "linux":
        return None
    if "mlx.core" in sys.modules:
        return "mlx.core was imported before mlx_dpo, so no fast BLAS could be loaded (import mlx_dpo first)"
    for name in (*LIBRARIES, *_mkl()):
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        unknown = _core_name(library) == _UNKNOWN and CORE_TYPE not in os.environ
        if unknown and (core := core_type(_cpu_flags())):
            # OpenBLAS reads the variable when it is loaded. Programs that this one starts inherit it.
            os.environ[CORE_TYPE] = core
            _ctypes.dlclose(library._handle)
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        return None
    return f"no OpenBLAS or MKL found: float32 on this CPU is about 40 times slower ({_REMEDY})"


def core_type(flags: set[str]) -> str | None:
    """The OpenBLAS kernels for an x86 processor with these flags; None for one without AVX2."""
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= flags else None


def _core_name(library: ctypes.CDLL) -> bytes | None:
    """The kernels that OpenBLAS chose; None for another library."""
    name = getattr(library, "openblas_get_corename", None)
    if name is None:
        return None
    name.restype = ctypes.c_char_p
    return name()


def _cpu_flags() -> set[str]:
    """What the first processor can do, as the kernel lists it."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = file.read().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def _mkl() -> list[str]:
    """The `mkl` wheel's single library in this environment, if it is there."""
    folder = os.path.join(sys.prefix, "lib")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = sorted(os.path.join(folder, name) for name in names if name.startswith("libmkl_rt.so"))
    if found:
        # Intel's own OpenMP comes with the wheel; the layer must be named before the load.
        os.environ.setdefault("MKL_THREADING_LAYER", "INTEL")
    return found
