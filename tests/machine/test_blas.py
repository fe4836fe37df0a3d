"""The fast BLAS: used where it is, named where it is not."""

import os
import subprocess
import sys

import pytest

from mlx_dpo.machine import blas

linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate and Metal")


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@linux
def test_a_fast_blas_is_in_the_process_before_mlx():
    code = "import mlx_dpo; print(mlx_dpo.blas_note); import mlx.core; print(open('/proc/self/maps').read())"
    out = python(code)
    note, maps = out.split("\n", 1)
    assert (note == "None") == ("libopenblas" in maps or "libmkl_rt" in maps)


@linux
def test_without_one_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(blas, "LIBRARIES", ("libno-such-blas.so.0",))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    assert blas.preload() == (
        "no OpenBLAS or MKL found: float32 on this CPU is about 40 times slower "
        "(apt-get install libopenblas0-pthread, or: pip install mkl)"
    )


@linux
def test_mlx_imported_first_is_said():
    assert "import mlx_dpo first" in python("import mlx.core, mlx_dpo; print(mlx_dpo.blas_note)")


@pytest.mark.parametrize(
    ("flags", "core"),
    [
        ("sse2 avx avx2 fma avx512f avx512bw avx512dq avx512vl", "SkylakeX"),
        ("sse2 avx avx2 fma avx512f", "Haswell"),
        ("sse2 avx avx2 fma", "Haswell"),
        ("sse2 avx", None),
    ],
)
def test_the_kernels_follow_from_what_the_processor_can_do(flags, core):
    assert blas.core_type(set(flags.split())) == core


_CORE = """
import ctypes, mlx_dpo
from mlx_dpo.machine import blas
library = ctypes.CDLL("libopenblas.so.0")
print(blas._core_name(library).decode(), blas.core_type(blas._cpu_flags()))
"""


@linux
def test_a_processor_that_openblas_does_not_know_gets_its_fast_kernels(monkeypatch):
    monkeypatch.delenv(blas.CORE_TYPE, raising=False)
    try:
        used, best = python(_CORE).split()
    except AssertionError:
        pytest.skip("no OpenBLAS here")
    assert used != "Prescott" or best == "None"


@linux
def test_kernels_that_the_user_names_are_kept(monkeypatch):
    """Prescott is what OpenBLAS takes for a processor that it does not know."""
    try:
        used, _ = python(_CORE, OPENBLAS_CORETYPE="Prescott").split()
    except AssertionError:
        pytest.skip("no OpenBLAS here")
    assert used == "Prescott"
