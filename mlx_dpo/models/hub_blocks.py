"""The linear layers of a model's blocks, by their names in mlx_lm and on the Hub."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.nn as nn

from ..errors import DpoError, quoted
from ..upstream import model_classes

SAME_NAMES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "granite", "granitemoehybrid")
"""Model types whose layers have the same names in mlx_lm and on the Hub, apart from `RENAMED`."""
RENAMED = {
    "mlp.gate_proj": ("shared_mlp.input_linear", 0),
    "mlp.up_proj": ("shared_mlp.input_linear", 1),
    "mlp.down_proj": ("shared_mlp.output_linear", None),
}
"""Granite hybrid without experts: the Hub's name, and which half of that layer's outputs it is."""

_ROUTER = "router.layer"
"""In transformers the router of experts is no linear layer."""


class HubLayer(NamedTuple):
    """A linear layer on the Hub, or the first (0) or second (1) half of its outputs."""

    name: str
    half: int | None = None


class Blocks(NamedTuple):
    """The linear layers of every block: {name in mlx_lm: (outputs, inputs)}, and the type of the model."""

    model_type: str
    layers: list[dict[str, tuple[int, int]]]

    def on_hub(self, name: str) -> HubLayer:
        """The layer on the Hub that a layer of mlx_lm is, or is a half of."""
        if self.model_type == "granitemoehybrid" and name in RENAMED:
            return HubLayer(*RENAMED[name])
        return HubLayer(name)

    def from_hub(self, block: int) -> dict[str, list[str]]:
        """{name on the Hub: its layers in mlx_lm, the first half first} of a block."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.layers[block], key=lambda name: self.on_hub(name).half or 0):
            found.setdefault(self.on_hub(name).name, []).append(name)
        return found


def blocks_of(config: Mapping[str, Any]) -> Blocks:
    """The linear layers of the model with this config.json; no weight is loaded.

    Raises:
        DpoError: it is not known how the architecture's layers are called on the Hub.
    """
    kind = config.get("model_type")
    if kind not in SAME_NAMES:
        raise DpoError(
            f"PEFT adapters for the architecture {quoted(kind)} are not supported",
            where="model.path",
            hint=f"supported are {', '.join(SAME_NAMES)}; for others, use base and adapter merged",
        )
    model_class, arguments = model_classes(config)
    model = model_class(arguments.from_dict(dict(config)))
    return Blocks(
        kind,
        [
            {
                name: (layer.weight.shape[0], layer.weight.shape[1])
                for name, layer in block.named_modules()
                if isinstance(layer, nn.Linear) and not name.endswith(_ROUTER)
            }
            for block in model.layers
        ],
    )
