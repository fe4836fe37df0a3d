"""The fast BLAS: used where it is, named where it is not."""

import os
import subprocess
import sys

import pytest

from mlx_dpo import blas

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
