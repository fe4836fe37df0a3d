"""What a run finds out about its own rows and model before the first update."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.forward.scoring import score_pairs, singles
from mlx_dpo.jobs import prepare
from mlx_dpo.jobs.train import train_run
from mlx_dpo.models.adapters import trainable
from mlx_dpo.models.load import load_model
from mlx_dpo.training import forward_check, reference_check

from ..support.runs import train_pairs


def test_a_policy_that_moved_is_refused_as_its_own_reference(configure):
    config = configure()
    pairs = train_pairs(config)
    policy, before = prepare._load_policy(config, Path(config.model.path), pairs)
    forward = forward_check.choose_forward(policy, pairs, "auto")
    reference = score_pairs(policy, pairs, forward, singles(pairs))
    policy.load_weights([(n, v + 0.02) for n, v in trainable(policy).items()], strict=False)
    with pytest.raises(DpoError, match="policy and reference differ at the start: margins up to"):
        reference_check.check_unmoved(policy, pairs, forward, reference)
    with pytest.raises(DpoError, match="policy and reference differ at the start: margins up to"):
        reference_check.check_as_before(policy, pairs, forward, before)


def test_a_fast_forward_that_disagrees_is_not_used(configure, capsys):
    """A model whose outer call changes the hidden states in a way that depends on the position."""
    config = configure("llama")
    model, _ = load_model(Path(config.model.path))
    pairs = train_pairs(config)
    kind = type(model)

    class ByPosition(kind):
        def __call__(self, inputs, cache=None):
            logits = super().__call__(inputs, cache)
            return logits * (1 + mx.arange(logits.shape[1]))[None, :, None]

    assert forward_check.choose_forward(model, pairs, "auto").name == "shared"
    model.__class__ = ByPosition
    assert forward_check.choose_forward(model, pairs, "auto").name == "plain"


def test_a_batch_that_leaks_between_rows_is_refused(configure):
    config = configure("llama")
    model, _ = load_model(Path(config.model.path))
    pairs = train_pairs(config)
    kind = type(model.model)

    class Leaky(kind):
        def __call__(self, *args, **kwargs):
            hidden = super().__call__(*args, **kwargs)
            return hidden + 0.1 * hidden.mean(axis=0, keepdims=True)

    forward = forward_check.choose_forward(model, pairs, "auto")
    forward_check.check_batching(model, pairs, forward)
    model.model.__class__ = Leaky
    with pytest.raises(DpoError, match="a pair scores differently in a batch than alone"):
        forward_check.check_batching(model, pairs, forward)


def test_a_template_that_adds_to_answers_is_refused(configure, models, tmp_path):
    folder = shutil.copytree(models("llama"), tmp_path / "talkative")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = settings["chat_template"].replace(
        "+ m['content']", "+ m['content'] + ' Amen.'"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(DpoError, match="not the answer and one end-of-turn"):
        train_run(configure("llama", f"model.path={folder}"))
