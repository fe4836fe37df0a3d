"""`import mlx_dpo` costs next to nothing and hands out the whole contract."""

import ast
import subprocess
import sys
from importlib import import_module

import pytest

import mlx_dpo
from mlx_dpo.losses import LOSSES

from ..conftest import ROOT

CONTRACT = {
    *("load", "read_pairs", "score", "train", "evaluate", "generate", "fuse", "export"),
    *("losses", "register_loss", "PairLogps", "RunConfig", "load_config", "DpoError"),
}
ABOUT = {"__version__", "blas_note"}


def python(code, *options):
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_the_import_and_a_look_at_its_names_load_none_of_the_slow_libraries():
    code = "import sys, mlx_dpo; dir(mlx_dpo); mlx_dpo.DpoError; print(*sys.modules)"
    loaded = {name.split(".")[0] for name in python(code).stdout.split()}
    assert "mlx_dpo" in loaded
    assert not loaded & {"mlx", "mlx_lm", "transformers", "numpy", "rich", "yaml", "click"}


def test_the_import_takes_less_than_a_tenth_of_a_second():
    """The best of five, by Python's own clock, as other programs run beside."""
    lines = [
        python("import mlx_dpo", "-X", "importtime").stderr.splitlines()[-1].split("|") for _ in range(5)
    ]
    assert {line[2].strip() for line in lines} == {"mlx_dpo"}
    assert min(int(line[1]) for line in lines) < 100_000  # microseconds


def test_the_blas_is_in_the_process_before_a_name_brings_mlx():
    code = """
import sys, mlx_dpo
fast = lambda: any(name in open("/proc/self/maps").read() for name in ("libopenblas", "libmkl_rt"))
print("mlx.core" in sys.modules, fast() or mlx_dpo.blas_note is not None)
mlx_dpo.PairLogps
print("mlx.core" in sys.modules)
"""
    if sys.platform != "linux":
        pytest.skip("macOS has Accelerate and Metal")
    assert python(code).stdout.split() == ["False", "True", "True"]


@pytest.mark.parametrize("room", ["", "import mlx_dpo.export.hf; ", "from mlx_dpo.export import hf; "])
def test_export_is_the_function_whether_its_room_was_imported_or_not(room):
    code = f"{room}import mlx_dpo; print(mlx_dpo.export.__module__); import mlx_dpo.export.gguf; "
    done = python(code + "print(mlx_dpo.export.__module__)")
    assert done.stdout.split() == ["mlx_dpo.api.exports"] * 2


def test_dir_and_all_are_the_contract():
    assert set(dir(mlx_dpo)) == set(mlx_dpo.__all__) == CONTRACT | ABOUT
    assert python("import mlx_dpo; print(*dir(mlx_dpo))").stdout.split() == dir(mlx_dpo)


def test_a_star_import_brings_every_name_of_the_contract():
    code = "from mlx_dpo import *; print(*sorted(set(dir()) - {'__annotations__'}))"
    assert set(python(code).stdout.split()) >= CONTRACT


def test_each_name_is_the_thing_itself():
    for name, place in mlx_dpo._PLACES.items():
        module = import_module(f"mlx_dpo.{place}")
        assert getattr(mlx_dpo, name) is (module if name == "losses" else getattr(module, name))


def test_a_type_checker_is_told_the_places_that_are_imported():
    tree = ast.parse((ROOT / "mlx_dpo" / "__init__.py").read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and n.test.id == "TYPE_CHECKING")
    told = {a.asname: node.module or a.name for node in block.body for a in node.names}
    assert told == mlx_dpo._PLACES
    assert (ROOT / "mlx_dpo" / "py.typed").is_file()


def test_a_name_that_there_is_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mlx_dpo' has no attribute 'lode'"):
        mlx_dpo.lode  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'lode'"):
        from mlx_dpo import lode  # noqa: F401


def test_every_registered_loss_is_an_attribute_of_losses():
    assert set(dir(mlx_dpo.losses)) >= set(LOSSES)
    for name, loss in LOSSES.items():
        assert getattr(mlx_dpo.losses, name) is loss.function


def test_a_loss_that_there_is_not_names_those_there_are():
    with pytest.raises(AttributeError, match=r"no loss is registered as 'sigmod'; .*sigmoid, hinge"):
        mlx_dpo.losses.sigmod  # noqa: B018
