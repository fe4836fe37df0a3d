"""Rehearsal: an update also holds the policy to what the model gave on texts of its own."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_dpo.jobs import rehearsal_texts as rehearse
from mlx_dpo.jobs.run_inputs import amounts_of
from mlx_dpo.jobs.train import train_run
from mlx_dpo.machine.interrupt import Stop
from mlx_dpo.models import unprompted_texts as own_text
from mlx_dpo.models.adapters import attach, load_adapter
from mlx_dpo.models.generate import Answer
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.models.unprompted_texts import around_question, longest_text, own_texts
from mlx_dpo.training.rehearsal import Rehearsal, divergence, divergence_gradient, rehearsed

from ..support.runs import rows_of, weights_of

SFT = ("loss.name=sft", "training.rehearsal=null")


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    """One part of the cache, so that a run's start is quick."""
    monkeypatch.setattr(rehearse, "TEXTS", 16)


def kept_of(logits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest tokens of a place and their log-probabilities."""
    logps = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    ids = np.argsort(-logps, axis=1)[:, :count]
    return ids.astype(np.int32), np.take_along_axis(logps, ids, axis=1)


def divergence_of(logits: np.ndarray, ids: np.ndarray, logps: np.ndarray) -> np.ndarray:
    return np.array(divergence(mx.array(logits, mx.float32), mx.array(ids), mx.array(logps, mx.float32)))


def test_tokens_that_were_not_kept_count_as_one_event():
    """Then 1/2, 1/4 and 1/8 twice, of which two were kept; now 1/4 each.

    1/2 ln 2 + 1/4 ln 1 + 1/4 ln(1/4 : 1/2) = 1/4 ln 2.
    """
    ids, logps = np.array([[0, 1]], np.int32), np.log([[0.5, 0.25]])
    assert divergence_of(np.zeros((1, 4)), ids, logps) == pytest.approx(0.25 * np.log(2), rel=1e-6)


def test_it_is_the_whole_divergence_where_all_tokens_but_one_are_kept_and_never_above_it():
    rng = np.random.default_rng(0)
    then, now = rng.normal(size=(2, 20, 9)) * 2
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (then, now))
    whole = (p * np.log(p / q)).sum(axis=1)
    np.testing.assert_allclose(divergence_of(now, *kept_of(then, 8)), whole, rtol=1e-4)
    for count in (1, 3, 6):
        found = divergence_of(now, *kept_of(then, count))
        assert (found <= whole + 1e-5).all()
        assert (found >= -1e-6).all()


def test_its_gradient_agrees_with_finite_differences_in_float64():
    rng = np.random.default_rng(1)
    then, now = rng.normal(size=(2, 1, 7))
    ids, logps = kept_of(then, 3)

    def exact(logits):
        own = (logits - np.log(np.exp(logits).sum()))[0, ids[0]]
        rest, own_rest = 1 - np.exp(logps[0]).sum(), 1 - np.exp(own).sum()
        return (np.exp(logps[0]) * (logps[0] - own)).sum() + rest * np.log(rest / own_rest)

    slopes = [(exact(now + step) - exact(now - step)) / 2e-6 for step in 1e-6 * np.eye(7)[:, None]]
    gradient = mx.grad(lambda x: divergence(x, mx.array(ids), mx.array(logps, mx.float32)).sum())
    np.testing.assert_allclose(gradient(mx.array(now, mx.float32))[0], slopes, atol=1e-5)


@pytest.mark.parametrize("name", ["granite", "llama", "qwen3", "granite-4bit"])
def test_a_policy_that_has_not_moved_has_no_divergence_and_no_gradient(name, models, configure):
    model, _ = load_model(models(name))
    attach(model, configure(name).adapter)
    text = rehearsed(model, own_texts(model, load_tokenizer(models(name)), 1, seed=0)[0])
    gradient, value = divergence_gradient(model, text)
    assert abs(value.item()) < 1e-5
    assert max(np.abs(np.array(g, np.float32)).max() for _, g in tree_flatten(gradient)) < 1e-4


def test_a_chat_models_text_begins_with_its_template_and_is_a_whole_conversation(smollm2, monkeypatch):
    monkeypatch.setattr(own_text, "_QUESTION", 24)
    monkeypatch.setattr(own_text, "_ANSWER", 24)
    tokenizer = load_tokenizer(smollm2)
    model, _ = load_model(smollm2)
    begin, between = around_question(tokenizer)
    assert tokenizer.decode(begin).endswith("<|im_start|>user\n")
    assert tokenizer.decode(between) == "<|im_end|>\n<|im_start|>assistant\n"
    for text in own_texts(model, tokenizer, 1, seed=0):
        assert text.tokens[: text.start].tolist() == begin
        question, mark, answer = tokenizer.decode(text.tokens[text.start :]).partition(
            tokenizer.decode(between)
        )
        assert mark and question.strip() and answer.strip()
        assert "<|im_" not in question and "<|im_" not in answer.removesuffix("<|im_end|>")
        assert len(text.tokens) <= len(longest_text(tokenizer).tokens)


def test_a_question_ends_at_the_first_mark_of_the_template(models, monkeypatch):
    """Some templates end a user's turn with another mark than the model's answers (Mistral's [/INST])."""
    tokenizer, model = load_tokenizer(models("llama")), load_model(models("llama"))[0]
    mark = tokenizer.all_special_ids[0]
    drawn = [Answer(0, "", [300, 301, mark, 302], True), Answer(1, "", [mark, 303], True)]
    answers = [Answer(0, "", [304], True)]
    given = []

    def generate(model, tokenizer, prompts, config):
        given.append(prompts)
        return iter(drawn if len(given) == 1 else answers)

    monkeypatch.setattr(own_text, "generate_answers", generate)
    (text,) = own_texts(model, tokenizer, 2, seed=0)
    begin, between = around_question(tokenizer)
    assert given == [[begin, begin], [[*begin, 300, 301, *between]]]
    assert text.tokens.tolist() == [*begin, 300, 301, *between, 304]


def test_an_update_of_eight_pairs_adds_the_weighted_mean_over_two_texts_and_goes_on_with_the_next(
    models, configure
):
    model, _ = load_model(models("llama"))
    texts = [rehearsed(model, t) for t in own_texts(model, load_tokenizer(models("llama")), 5, seed=0)]
    attach(model, configure("llama").adapter)
    for module in model.modules():
        if hasattr(module, "lora_b"):
            module.lora_b = mx.random.normal(module.lora_b.shape, key=mx.random.key(0)) * 0.3
    zero = tree_map(mx.zeros_like, model.trainable_parameters())
    total, found = Rehearsal(texts, 3.0).added(model, [tree_map(lambda a: a + 1, zero)], 2, 8)
    parts = [divergence_gradient(model, texts[number]) for number in (4, 0)]
    assert found == pytest.approx([value.item() for _, value in parts], rel=1e-5)
    assert min(found) > 1e-3
    for (_, own), (_, one), (_, other) in zip(
        *map(tree_flatten, (total, parts[0][0], parts[1][0])), strict=True
    ):
        np.testing.assert_allclose(own, 1 + 1.5 * (np.array(one) + np.array(other)), rtol=1e-4, atol=1e-6)


def test_a_model_without_a_template_goes_on_from_the_beginning_of_a_text(models, monkeypatch):
    tokenizer = load_tokenizer(models("llama"))
    model, _ = load_model(models("llama"))
    monkeypatch.setattr(type(tokenizer), "has_chat_template", False, raising=False)
    texts = own_texts(model, tokenizer, 3, seed=0)
    again = own_texts(model, tokenizer, 3, seed=0)
    assert [text.tokens.tolist() for text in again] == [text.tokens.tolist() for text in texts]
    for text in texts:
        assert text.start == 1
        assert 1 < len(text.tokens) <= len(longest_text(tokenizer).tokens)


@pytest.fixture
def drift_of(models):
    """Mean divergence of a run's adapter from the model it began as, on other texts than the run's."""
    model, _ = load_model(models("llama"))
    texts = own_texts(model, load_tokenizer(models("llama")), 4, seed=999)
    texts = [rehearsed(model, text) for text in texts]

    def drift(folder) -> float:
        policy, _ = load_model(models("llama"))
        load_adapter(policy, folder)
        return float(np.mean([divergence_gradient(policy, text)[1].item() for text in texts]))

    return drift


def test_the_more_a_run_rehearses_the_less_it_drifts(configure, drift_of):
    given = ("llama", *SFT, "training.epochs=3", "training.accumulation=2", "optimizer.learning_rate=5e-3")
    given += ("training.eval_steps=99",)
    folders = [
        train_run(configure(*given, f"training.rehearsal={weight}", train=12, output=f"run-{weight}")).folder
        for weight in (0, 1, 30)
    ]
    none, some, much = (drift_of(folder) for folder in folders)
    assert much < 0.2 * none
    assert much < some < none
    reports = rows_of(folders[1])[0]
    assert reports[0]["rehearsal/divergence"] < 1e-5  # before the first update
    assert reports[-1]["rehearsal/divergence"] > 1e-4
    assert "rehearsal/divergence" not in rows_of(folders[0])[0][0]


def test_sft_rehearses_unless_told_otherwise_and_pairs_do_not(configure):
    assert amounts_of(configure("llama", *SFT), 20).rehearsal == 1.0
    assert amounts_of(configure("llama", *SFT, "training.rehearsal=0"), 20).rehearsal == 0.0
    assert amounts_of(configure("llama", "training.rehearsal=null"), 20).rehearsal == 0.0


def test_pairs_rehearse_where_they_are_told_to_and_are_held_closer(configure, drift_of):
    given = ("llama", "training.epochs=3", "training.accumulation=2", "optimizer.learning_rate=5e-3")
    drifts = []
    for weight in (0, 30):
        settings = (*given, f"training.rehearsal={weight}", "training.guard=off", "training.patience=null")
        folder = train_run(configure(*settings, "training.select=last", output=f"run-{weight}")).folder
        drifts.append(drift_of(folder))
    assert drifts[1] < 0.5 * drifts[0]


def test_texts_are_written_once_and_a_second_run_finds_them(configure, monkeypatch, capsys, cache):
    monkeypatch.setattr(rehearse, "TEXTS", 32)
    train_run(configure("llama", *SFT, train=8))
    assert "rehearsal: " in capsys.readouterr().err
    parts = [np.load(path) for path in cache.glob("rehearsal/*/texts.npz")]
    found = {part[name].tobytes() for part in parts for name in part if name.endswith(".tokens")}
    assert len(parts) == 2
    assert len(found) == sum(len(part.files) for part in parts) // 4  # no text twice

    def again(*arguments, **named):
        raise AssertionError("sampled twice")

    monkeypatch.setattr(rehearse, "own_texts", again)
    other = train_run(configure("llama", *SFT, "training.seed=1", train=8, output="other"))
    assert rows_of(other.folder)[0][0]["rehearsal/divergence"] < 1e-5


def test_a_run_interrupted_among_its_texts_ends_as_one_that_was_not(configure, monkeypatch):
    given = ("llama", *SFT, "training.accumulation=8", "training.epochs=2")
    whole = train_run(configure(*given, train=16, output="whole")).folder
    config, calls, added = configure(*given, train=16, output="cut"), [0], Rehearsal.added

    def interrupted(self, policy, gradient, step, pairs, check_interrupt):
        def check():
            calls[0] += 1
            if calls[0] == 6:  # before the second text of the third update
                raise Stop
            check_interrupt()

        return added(self, policy, gradient, step, pairs, check)

    monkeypatch.setattr(Rehearsal, "added", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_run(config)
    monkeypatch.setattr(Rehearsal, "added", added)
    folder = train_run(config).folder
    assert all(np.array_equal(w, weights_of(folder)[n]) for n, w in weights_of(whole).items())
    rows = [
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (whole, folder)
    ]
    drifts = [[row["rehearsal/divergence"] for row in part if "loss" in row] for part in rows]
    assert drifts[0] == drifts[1]


def test_a_model_that_writes_nothing_is_told_what_to_set(configure, monkeypatch):
    monkeypatch.setattr(own_text, "generate_answers", lambda *arguments: iter(()))
    with pytest.raises(Exception, match="wrote no text") as error:
        train_run(configure("llama", *SFT, train=8))
    assert "training.rehearsal=0" in error.value.hint
