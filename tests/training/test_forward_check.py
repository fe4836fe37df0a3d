"""Which forward the proof before the first update chooses, and what it finds out."""

from importlib.metadata import version

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map
from mlx_lm.models import cache as cache_module
from mlx_lm.models import llama

from mlx_dpo.errors import DpoError
from mlx_dpo.forward import checkpointing
from mlx_dpo.forward import pair_logps as forward_module
from mlx_dpo.forward.pair_logps import COMPLETION, PLAIN, SEPARATE, SHARED
from mlx_dpo.forward.prompt_cache import Arrays, Keys
from mlx_dpo.randomness import random_key
from mlx_dpo.training import forward_check

from ..support.policies import CONFIGS, PAIRS, checkpointed, policy


def test_a_prompt_that_gets_no_gradient_from_its_answers_is_found_out(monkeypatch):
    """Right scores, wrong gradients: what a state that leaves a checkpointed block by mutation would give."""
    model = policy("llama")
    assert forward_check.disagreement(model, PAIRS, SHARED) is None
    own = Keys.forked

    def cut(self, branches):
        fork = own(self, branches)
        fork.prompt = tuple(map(mx.stop_gradient, fork.prompt))
        return fork

    monkeypatch.setattr(Keys, "forked", cut)
    assert forward_check.disagreement(model, PAIRS, SHARED).startswith("gradients ")
    for separate in (False, True):
        assert forward_check.choose_forward(model, PAIRS, "auto", separate=separate) is COMPLETION
    with pytest.raises(DpoError, match=r"the shared forward .* not only on this model: gradients "):
        forward_check.choose_forward(model, PAIRS, "shared")


def test_the_layout_that_trains_is_the_one_that_is_proved(monkeypatch):
    """Right joint, wrong branch by branch: gradients of the first branch only."""
    model = policy("llama")
    assert forward_check.choose_forward(model, PAIRS, "auto", separate=True) is SEPARATE
    own = forward_module._with_gradient

    def first_only(model, segment, state, after):
        score = own(model, segment, state, after)
        return mx.stop_gradient(score) if after else score

    monkeypatch.setattr(forward_module, "_with_gradient", first_only)
    assert forward_check.choose_forward(model, PAIRS, "auto") is SHARED
    assert forward_check.choose_forward(model, PAIRS, "auto", separate=True) is COMPLETION


def test_a_branch_that_starts_where_the_other_ended_is_found_out(monkeypatch):
    """Branches that write into one list of states: the second then continues the first."""
    model = policy("granite")
    monkeypatch.setattr(Arrays, "forked", lambda self, branches: self)
    monkeypatch.setattr(forward_check, "SHARED", SEPARATE)
    assert forward_check.disagreement(model, PAIRS, SEPARATE).startswith("scores differ by")
    assert forward_check.choose_forward(model, PAIRS, "auto") is COMPLETION


# MLX on a CPU multiplies experts in float32 only.
WITHOUT_EXPERTS = [name for name in CONFIGS if name not in ("qwen3_next", "qwen3_moe")]


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(
    ("architecture", "bits", "made"),
    [
        *((name, None, policy) for name in WITHOUT_EXPERTS),
        *((name, 4, checkpointed) for name in ("llama", "granite")),
    ],
)
def test_half_precision_bases_share_their_prompts_in_every_layout(architecture, bits, made, separate):
    """Adapters are float32 and all else is not: gradients change their type on the way between them."""
    model = made(architecture, "lora", bits, mx.bfloat16)
    forward = SEPARATE if separate else SHARED
    assert forward_check.choose_forward(model, PAIRS, "auto", separate=separate) is forward


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, AssertionError, KeyError])
def test_a_model_that_cannot_be_continued_is_not_shared_whatever_it_raises(error, monkeypatch, capsys):
    """The model's own code is at fault, so nothing else is named."""
    model = policy("llama")
    own = type(model.layers[0]).__call__

    def refuse(self, x, mask=None, cache=None):
        if cache is not None and cache.prompt:
            raise error("no continuation")
        return own(self, x, mask, cache)

    monkeypatch.setattr(type(model.layers[0]), "__call__", refuse)
    assert forward_check.choose_forward(model, PAIRS, "auto") is COMPLETION
    told = capsys.readouterr().err
    assert "forward: shared is not used: the architecture" in told
    assert "WARNING" not in told
    with pytest.raises(DpoError, match="the shared forward is not exact on this model: the architecture"):
        forward_check.choose_forward(model, PAIRS, "shared")


FAULTS = {
    "a check raises what nobody expects": lambda patch: patch.setattr(
        Keys, "forked", lambda self, branches: 1 // 0
    ),
    "scores are wrong everywhere": lambda patch: patch.setattr(
        Arrays, "forked", lambda self, branches: self.rebuilt([a * 1.1 for a in self.cache])
    ),
    "mlx_lm has another cache": lambda patch: patch.setattr(
        cache_module.ConcatenateKVCache, "update_and_fetch", lambda self, keys, values: (keys, values)
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fast_forward_that_is_lost_for_another_reason_than_the_model_is_told_loudly(
    fault, monkeypatch, capsys, names_checked_anew
):
    FAULTS[fault](monkeypatch)
    model = policy("granite")
    assert forward_check.choose_forward(model, PAIRS, "auto") is COMPLETION
    told = capsys.readouterr().err
    assert told.count("WARNING") == 1
    assert "the fast forward (shared) cannot be used" in told and "The completion forward is used" in told
    assert "the model is not the reason" in told and "scripts/check_upstream.sh" in told
    assert f"Installed: mlx {version('mlx')} and mlx-lm {version('mlx-lm')}; tested: mlx>=" in told
    with pytest.raises(DpoError, match=r"the shared forward .* not only on this model: ") as caught:
        forward_check.choose_forward(model, PAIRS, "shared")
    assert "scripts/check_upstream.sh" in caught.value.hint


def test_functions_of_ours_that_no_longer_reach_the_models_are_told_loudly(
    monkeypatch, capsys, names_checked_anew
):
    """Both fast forwards are lost to it; the model's own call is still right, and is taken."""
    monkeypatch.setattr(llama, "swiglu", lambda gate, x: nn.silu(gate) * x)
    assert forward_check.choose_forward(policy("llama"), PAIRS, "auto") is PLAIN
    told = capsys.readouterr().err
    assert (
        f"shared is not used: mlx-lm {version('mlx-lm')} has a changed swiglu in mlx_lm.models.llama" in told
    )
    assert told.count("WARNING") == 1
    assert "the fast forward (shared, completion) cannot be used, and the model is not the reason" in told


def test_every_forward_is_exact_on_the_known_model_and_random_numbers_stay_as_they_were():
    before = random_key().tolist()
    assert all(map(forward_check.exact_on_known_model, (SHARED, SEPARATE, COMPLETION)))
    assert random_key().tolist() == before


def test_memory_that_runs_out_in_the_proof_says_nothing_about_the_model(monkeypatch):
    def full(self, branches):
        raise RuntimeError("[malloc] Unable to allocate 9 bytes.")

    monkeypatch.setattr(Keys, "forked", full)
    with pytest.raises(RuntimeError, match="Unable to allocate"):
        forward_check.choose_forward(policy("llama"), PAIRS, "auto")


def test_the_models_own_call_is_proved_too_where_its_blocks_are_checkpointed(monkeypatch):
    """A block that is computed again, and gives its parameters no gradient."""
    model = checkpointed("llama", "lora")
    assert forward_check.choose_forward(model, PAIRS, "plain") is PLAIN

    def cut(fun, owner=None):
        return lambda parameters, *rest: fun(tree_map(mx.stop_gradient, parameters), *rest)

    monkeypatch.setattr(checkpointing, "checkpoint", cut)
    with pytest.raises(DpoError, match="this model cannot be trained: gradients "):
        forward_check.choose_forward(model, PAIRS, "plain")
