"""What a plan looks at: a few blocks, traced without weights, and the worst batch; what the command tells."""

import json
import shutil
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import pytest

from benchmarks import bench_plan as bench
from mlx_dpo.errors import DpoError
from mlx_dpo.forward.custom_gradients import custom_function
from mlx_dpo.jobs.plan import plan_run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.losses import LossConfig, build_loss
from mlx_dpo.models.adapters import AdapterConfig
from mlx_dpo.optimizers import OptimizerConfig
from mlx_dpo.planning.graph_operations import trace
from mlx_dpo.planning.liveness import order
from mlx_dpo.planning.model_without_weights import skeleton
from mlx_dpo.planning.step_memory import LAYOUTS, forward_of, largest, need
from mlx_dpo.training.checked_rows import shortened
from mlx_dpo.training.layout import Layout

from ..support import tiny_architectures as architectures
from ..support.policies import pair


@pytest.mark.parametrize("forward", ["shared", "completion", "plain"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_loss_whose_gradient_needs_no_score_is_planned_like_one_whose_gradient_does(
    folder, forward, layout
):
    """sft is minus the score: no backward pass waits for a score, and yet each has its forward pass."""
    pairs = bench.build_pairs(bench.Case("llama", bench.SHORT, loss="sft"))
    model = skeleton(folder("llama"), AdapterConfig(rank=8))
    linear, curved = (
        need(model, pairs, 1, layout, forward, build_loss(LossConfig(name=name)), OptimizerConfig()).peak
        for name in ("sft", "sigmoid")
    )
    assert linear == pytest.approx(curved, rel=0.1)


@pytest.mark.real
def test_sft_on_a_real_model_is_planned(smollm2):
    """30 blocks; to leave logits for the backward pass would take 40 % more than the weights."""
    pairs = bench.build_pairs(bench.Case("smollm2", (40, 35, 250), loss="sft"))
    model = skeleton(smollm2, AdapterConfig(rank=8))
    checkpointed = Layout(True, False)
    found = need(
        model, pairs, 1, checkpointed, "shared", build_loss(LossConfig(name="sft")), OptimizerConfig()
    )
    assert found.weights == 538_060_032
    assert found.weights < found.peak < 1.2 * found.weights


@pytest.mark.real
def test_a_plan_for_pairs_of_many_shapes_is_that_of_the_one_that_needs_the_most(smollm2):
    """The logits of a large vocabulary: the pair with the most answer tokens, neither the longest row nor the
    pair with the most tokens, had the peak of a run, 0.5 % above its plan.
    """
    model = skeleton(smollm2, AdapterConfig())
    pairs = [pair(*sizes, 0) for sizes in ((105, 12, 15), (194, 42, 32), (179, 16, 64), (63, 101, 97))]

    def peak(*some):
        return need(
            model, some, 1, Layout(False, False), "auto", build_loss(LossConfig()), OptimizerConfig()
        ).peak

    assert peak(*pairs) == max(peak(one) for one in pairs) == peak(pairs[-1])


def test_a_gradient_alone_is_traced_with_the_forward_pass_that_it_needs():
    """Nothing else needs what the function gives, nor does its cotangent of ones."""

    @custom_function
    def root(x):
        return mx.sqrt(x)

    @root.vjp
    def root_vjp(primals, cotangents, outputs):
        return cotangents / (2 * outputs)

    graph = trace(mx.grad(lambda x: root(3 * x).sum()), [mx.ones((5,))])
    names = [operation.name for operation in order(graph)]
    assert names.count("Sqrt") == names.count("Divide") == 1
    assert names.index("Sqrt") < names.index("Divide")


def test_a_plan_of_alike_blocks_looks_at_a_few(folder):
    found = skeleton(folder("llama", 8), AdapterConfig(rank=4))
    assert len(found.model.layers) < 8
    assert sum(number for _, number in found.alike) == 8
    assert found.trained == 2 * skeleton(folder("llama", 4), AdapterConfig(rank=4)).trained


def test_blocks_without_adapter_are_planned_as_such(folder):
    found = skeleton(folder("llama", 8), AdapterConfig(rank=4, layers=2))
    assert sorted(number for _, number in found.alike) == [1, 1, 6]  # the last is of a kind of its own


def test_a_plan_without_weights_is_that_with_them(configure, tmp_path, models):
    """From the Hub, `plan` fetches the config and the tokenizer alone."""
    bare = tmp_path / "bare"
    shutil.copytree(models("granite-4bit"), bare, ignore=shutil.ignore_patterns("*.safetensors"))
    joint = "training.branches=joint"
    plans = [plan_run(configure(f"model.path={path}", joint)) for path in (models("granite-4bit"), bare)]
    assert plans[0].needs == plans[1].needs
    assert plans[0].flops == plans[1].flops
    with pytest.raises(DpoError, match=r"no model\*.safetensors"):
        train_run(configure(f"model.path={bare}"))


def test_held_out_pairs_longer_than_all_others_are_planned(configure, usual_needs, pair_rows, write_rows):
    joined = {k: " ".join([row[k] for row in pair_rows[20:60]]) for k in ("prompt", "chosen", "rejected")}
    valid = write_rows("valid.jsonl", [joined])
    alone = usual_needs[LAYOUTS[3]].peak
    both = dict(plan_run(configure(f"data.valid={valid}")).needs)[LAYOUTS[3]].peak
    assert both > 1.2 * alone


def test_a_trace_draws_no_random_number():
    """Else each trace of dropout would hold all traces before it."""
    mx.random.seed(3)
    trace(nn.Dropout(0.5), [mx.zeros((4,))])
    assert mx.random.state[0].tolist() == [0, 3]


@pytest.mark.parametrize("name", ["plamo2", "baichuan_m1", "youtu_llm"])
def test_models_that_keep_their_settings_elsewhere_are_planned(name):
    assert skeleton(architectures.tiny_config(name), AdapterConfig(rank=4)).weights > 0


def test_the_command_tells_parts_and_choice(forked, outcome, models, pair_rows, write_rows):
    train = write_rows("train.jsonl", pair_rows[:2])
    words = ["--model", str(models("granite")), "--set", f"data.train={train}", "--set", "data.valid=null"]
    done = forked("plan", "--memory", "16", "--json", *words)
    assert done.wait() == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fits"] and found["chosen"] == {"checkpointing": False, "separate": False}
    parts = ("weights", "adapter", "optimizer", "activations", "head", "state")
    for row in found["layouts"]:
        assert row["peak"] == sum(row[part] for part in parts)
    _, named, _ = outcome("plan", "--model", models("granite"), "--data", train)
    _, text, _ = outcome("plan", *words)
    assert named == text
    for word in (*parts, "limit", "disk", "shapes", "TFLOP"):
        assert word in text


def test_a_long_row_proves_its_gradient_on_a_short_part():
    """What is proved without checkpointing must fit wherever training does."""
    pair = bench.build_pairs(bench.Case("llama", (500, 300, 20)))[0]
    short = shortened(pair)
    assert [len(short.prompt), len(short.chosen), len(short.rejected)] == [76, 16, 16]
    assert short.prompt.tolist() == pair.prompt[-76:].tolist()
    assert short.chosen.tolist() == pair.chosen[:16].tolist()


def test_pairs_under_one_prompt_do_not_hide_what_several_prompts_need():
    """A batch of a shared prompt computes it once; the worst batch has prompts of its own."""
    one, other = (bench.build_pairs(bench.Case("llama", (n, 40, 40), micro_batch=2)) for n in (300, 280))
    one[1] = replace(one[1], prompt=one[0].prompt)
    prompts = [{len(pair.prompt) for pair in batch} for batch in largest([*one, *other], 2)]
    assert prompts == [{300, 280}]


def test_lengths_that_tracing_fills_up_are_planned_as_such():
    pairs = bench.build_pairs(bench.Case("llama", (100, 120, 120)))
    (exact,) = (f.build(pairs).families for f in forward_of("shared", LAYOUTS[0]))
    (filled,) = (f.build(pairs).families for f in forward_of("shared", LAYOUTS[0], bucket=64))
    assert [exact[0].prompts.shape, exact[0].segments[0].inputs.shape] == [(1, 99), (2, 120)]
    assert [filled[0].prompts.shape, filled[0].segments[0].inputs.shape] == [(1, 64), (2, 192)]
