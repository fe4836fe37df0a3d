"""The state of a run between two updates."""

import json

import pytest

from mlx_dpo.topics.state import TopicState


def test_means_are_over_documents_however_they_were_batched():
    state = TopicState().after_update({"kl": 2.0, "ecr": 1.0}, 30).after_update({"kl": 5.0, "ecr": 1.0}, 10)
    assert state.means() == pytest.approx({"loss": 3.75, "loss/kl": 2.75, "loss/ecr": 1.0})
    assert state.step == 2


def epochs(losses, patience, state=TopicState()):  # noqa: B008
    for loss in losses:
        state = state.after_update({"kl": loss}, 1).after_epoch(patience)
    return state


def test_a_run_ends_when_its_patience_is_over():
    assert epochs([3, 2, 2.5, 2.2], 3).stopped == ""
    assert epochs([3, 2, 2.5, 2.2, 2.0], 3).stopped == "no lower training loss in 3 epochs"
    assert epochs([3, 2, 2.5, 2.2, 1.9], 3).stopped == ""
    assert epochs([3, *[4] * 50], None).stopped == ""


def test_preferences_begin_with_patience_anew():
    guided = epochs([3, 2, 2.5, 2.2], 3).guided_by("digest")
    assert (guided.guided, guided.best, guided.since) == ("digest", None, 0)
    assert epochs([5], 3, guided).guided_by("digest").best == 5


def test_a_state_is_itself_again_after_a_file():
    state = TopicState(7, {"kl": 0.1 + 0.2}, 3, 1 / 3, 2, "digest", "over")
    assert TopicState(**json.loads(json.dumps(state.facts()))) == state
