"""Of blocks that do the same one is traced, and the plan is as if each had been."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.forward.pair_logps import PLAIN, SHARED
from mlx_dpo.losses import LossConfig, build_loss
from mlx_dpo.models.adapters import AdapterConfig
from mlx_dpo.planning.graph_operations import trace
from mlx_dpo.planning.liveness import moments
from mlx_dpo.planning.model_without_weights import skeleton
from mlx_dpo.training.step import pair_gradient

from ..support import tiny_architectures as architectures

PAIR = TokenizedPair(*(np.arange(3, 3 + n, dtype=np.int32) for n in (12, 9, 7)), where="pairs.jsonl:1")


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("forward", [SHARED, PLAIN], ids=["shared", "plain"])
@pytest.mark.parametrize("name", ["llama", "mistral3", "lfm2"])  # mistral3: every other block has a window
def test_alike_blocks_are_planned_as_if_each_were_traced(name, forward, recomputed):
    planned = skeleton(architectures.tiny_config(name), AdapterConfig(rank=4))
    gradient = pair_gradient(planned.model, build_loss(LossConfig()), forward)
    planned.model.train()
    batch = gradient.build([PAIR])

    def peaks(alike):
        graph = trace(
            lambda: gradient.compute(batch, mx.zeros((1, 2)), mx.array(0.1), mx.array(1.0)),
            blocks=planned.model.layers,
            alike=alike,
            recomputed=recomputed,
            forget=lambda: planned.model.update(planned.parameters),
        )
        return [moment.blocks for moment in moments(graph, gpu=False)]

    assert peaks(planned.places) == peaks(())
