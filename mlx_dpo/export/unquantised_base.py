"""Whether a model is the unquantised original of a quantised base."""

from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..errors import DpoError
from ..models.load import load_model
from .grids import grids_of, layer_at, values

_LEAST_COSINE = 0.8
"""Between the weights of a layer before and after quantisation: above 0.99 at 4 bits, about 0.9 at 2 bits."""


def check_original(original: Path, base: Path) -> None:
    """Check that `original` has the weights from which the quantised `base` was made, by one of its layers.

    Only that layer is read. Two fine-tuned versions of one model cannot be told apart in this way; comparing
    with the adapter can.

    Raises:
        DpoError: it is quantised too, has other layers or other weights, or the base is not quantised.
    """
    hint = f"name with --base the unquantised model from which {base} was made, or leave --base out"
    model = load_model(base, lazy=True)[0]
    grids = grids_of(model)
    if not grids:
        raise DpoError("is not quantised, so it has no original", where=base, hint="leave --base out")
    whole = load_model(original, lazy=True)[0]
    if grids_of(whole):
        raise DpoError("is quantised itself", where=original, hint=hint)
    weights = dict(tree_flatten(whole.parameters()))
    for path, grid in grids.items():
        layer = layer_at(model, path)
        shape = (*layer.weight.shape[:-1], layer.weight.shape[-1] * 32 // grid.bits)
        if (own := weights.get(f"{path}.weight")) is None or own.shape != shape:
            found = "missing" if own is None else f"of the shape {own.shape}, not {shape}"
            raise DpoError(f"is not the original of {base}: {path} is {found}", where=original, hint=hint)
    path = min(grids, key=lambda name: weights[f"{name}.weight"].size)
    layer, own = layer_at(model, path), weights[f"{path}.weight"].astype(mx.float32)
    stored = tuple(layer[name] for name in ("weight", "scales", "biases") if name in layer)
    dense = values(stored, grids[path])
    cosine = ((own * dense).sum() / (mx.linalg.norm(own) * mx.linalg.norm(dense))).item()
    if not cosine >= _LEAST_COSINE:
        raise DpoError(
            f"is not the original of {base}: the weights of {path} have a cosine of {cosine:.2f}",
            where=original,
            hint=hint,
        )
