"""A topic model's checkpoint: weights, optimiser and state, in the form of every run's checkpoints."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mlx.optimizers as optimizers

from ..storage.checksummed_folder import Sealed
from ..training.checkpoint_folder import flattened, read_arrays, refilled, save_checkpoint, told_damaged
from .ecrtm import ECRTM
from .model_files import load_weights, save_weights
from .state import TopicState

KIND = "topics"


def save_state(
    run: Path,
    model: ECRTM,
    optimizer: optimizers.Optimizer,
    state: TopicState,
    about: Mapping[str, Any],
) -> None:
    """Write the checkpoint of the state's step.

    Args:
        about: further facts, for JSON.
    """
    facts = {**about, "kind": KIND, "state": state.facts()}
    arrays = flattened({"optimizer": optimizer.state})
    save_checkpoint(run, state.step, arrays, facts, partial(save_weights, model))


def restore(checkpoint: Sealed, model: ECRTM, optimizer: optimizers.Optimizer) -> TopicState:
    """The saved state; also sets model and optimiser, which must have been built from the same settings.

    Raises:
        DpoError: the checkpoint has the right checksums but other content.
    """
    with told_damaged(checkpoint.folder):
        load_weights(model, checkpoint.folder)
        optimizer.init(model.trainable_parameters())
        optimizer.state = refilled(optimizer.state, read_arrays(checkpoint), "optimizer")
        return TopicState(**checkpoint.facts["state"])
