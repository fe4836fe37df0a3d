"""mlx_dpo: preference fine-tuning on Apple silicon, from curated answers to a fused model.

    import mlx_dpo

    model = mlx_dpo.load("models/base")
    pairs = mlx_dpo.read_pairs([{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}, ...])
    mlx_dpo.score(model, pairs)  # float32 (n, 2), nats
    run = mlx_dpo.train("models/base", pairs, loss="sigmoid", beta=0.1, output="runs/first")

`examples/notebook.py` shows the rest. Names are imported on first use; only the BLAS is loaded at once,
because MLX chooses its BLAS on import.
"""

import sys as _sys

from .machine.blas import preload as _preload
from .machine.gpu_timeout import relax as _relax

TYPE_CHECKING = False  # importing it from typing takes as long as all of this file
if TYPE_CHECKING:
    from . import losses as losses
    from .api.exports import export as export
    from .api.models import generate as generate
    from .api.models import load as load
    from .api.models import score as score
    from .api.pairs import read_pairs as read_pairs
    from .api.runs import evaluate as evaluate
    from .api.runs import fuse as fuse
    from .api.runs import train as train
    from .config import RunConfig as RunConfig
    from .config import load_config as load_config
    from .errors import DpoError as DpoError
    from .losses.registry import PairLogps as PairLogps
    from .losses.registry import register_loss as register_loss

__version__ = "0.1.0"

_relax()
blas_note: str | None = _preload()
"""A note about this machine's float32 speed, or None if nothing is wrong."""

_PLACES = {
    "load": "api.models",
    "read_pairs": "api.pairs",
    "score": "api.models",
    "train": "api.runs",
    "evaluate": "api.runs",
    "generate": "api.models",
    "fuse": "api.runs",
    "export": "api.exports",
    "losses": "losses",
    "register_loss": "losses.registry",
    "PairLogps": "losses.registry",
    "RunConfig": "config",
    "load_config": "config",
    "DpoError": "errors",
}
"""The module that each public name comes from."""

__all__ = [*_PLACES, "__version__", "blas_note"]


class _Package(type(_sys)):
    """`mlx_dpo.export` is the function, also after an import of the room export/, which would replace it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "export" or callable(value):
            super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f".{_PLACES[name]}", __name__)
    globals()[name] = value = module if name == "losses" else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
