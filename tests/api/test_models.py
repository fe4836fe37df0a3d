"""A loaded model: its scores are those of a run, its answers those of the tokens it prefers."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import generate as mlx_lm_generate
from mlx_lm import load as mlx_lm_load

import mlx_dpo
from mlx_dpo import DpoError
from mlx_dpo.jobs.train import train_run

from ..support.runs import rows_of


@pytest.fixture(scope="module")
def loaded(models):
    """A tiny model in memory, by name."""
    found = {}
    return lambda name: found.setdefault(name, mlx_dpo.load(models(name)))


@pytest.mark.parametrize("name", ["granite", "llama-4bit"])
def test_scores_are_exactly_the_reference_of_a_run(name, loaded, configure, cache, pair_rows):
    config = configure(name, train=8, valid=3)
    train_run(config)
    references = {
        path.stat().st_size // 8: np.fromfile(path, "<f4").reshape(-1, 2)
        for path in (cache / "reference").glob("*/scores")
    }
    assert sorted(references) == [3, 8]
    for file, count in ((config.data.train, 8), (config.data.valid, 3)):
        scores = mlx_dpo.score(loaded(name), file, max_length=config.data.max_length)
        assert (scores.dtype, scores.shape) == (np.float32, (count, 2))
        np.testing.assert_array_equal(scores, references[count])


def test_a_score_is_the_sum_of_the_logps_of_the_answer_and_its_end(loaded):
    model = loaded("llama")
    pair = {"prompt": "How do I dry herbs?", "chosen": "Hang them in the dark.", "rejected": "No."}
    (scored,) = mlx_dpo.score(model, [pair])
    for answer, score in zip((pair["chosen"], pair["rejected"]), scored, strict=True):
        turns = [{"role": "user", "content": pair["prompt"]}]
        prompt = model.tokenizer.apply_chat_template(turns, add_generation_prompt=True)
        completion = [*model.tokenizer.encode(answer, add_special_tokens=False)]
        completion += model.tokenizer.encode("<|eot_id|>", add_special_tokens=False)
        logits = model.module(mx.array([[*prompt, *completion]]))[0, len(prompt) - 1 : -1]
        logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        expected = sum(logps[place, token].item() for place, token in enumerate(completion))
        assert score == pytest.approx(expected, rel=1e-5)


def test_a_score_does_not_depend_on_the_other_pairs_or_on_how_they_are_given(loaded, pair_rows, write_rows):
    model, rows = loaded("granite"), pair_rows[:6]
    scores = mlx_dpo.score(model, rows)
    np.testing.assert_array_equal(mlx_dpo.score(model, rows[::-1]), scores[::-1])
    np.testing.assert_array_equal(mlx_dpo.score(model, [rows[4]]), scores[4:5])
    np.testing.assert_array_equal(mlx_dpo.score(model, write_rows("rows.jsonl", rows)), scores)
    np.testing.assert_array_equal(mlx_dpo.score(model, mlx_dpo.read_pairs(rows)), scores)


def test_pairs_of_the_same_answers_are_scored_too(loaded, pair_rows):
    rows = [pair_rows[0], {**pair_rows[1], "rejected": pair_rows[1]["chosen"]}]
    scores = mlx_dpo.score(loaded("granite"), rows)
    assert scores[1, 0] == scores[1, 1]
    assert scores[0, 0] != scores[0, 1]


def test_prompts_that_are_too_long_are_named_by_their_places(loaded):
    short, long = ({"prompt": "so " * n, "chosen": "yes", "rejected": "no"} for n in (1, 60))
    with pytest.raises(DpoError, match="tokens, but data") as caught:
        mlx_dpo.score(loaded("granite"), [short, long, short, long, long], max_length=40)
    assert caught.value.where == "pairs[1]"
    assert caught.value.what.endswith("also too long: pairs[3], pairs[4]")


def test_with_the_adapter_of_a_run_scores_are_those_of_its_last_evaluation(configure):
    config = configure("granite", train=8, valid=3)
    run, _ = train_run(config)
    tuned = mlx_dpo.load(config.model.path, adapter=run)
    scores = mlx_dpo.score(tuned, config.data.valid, max_length=config.data.max_length)
    last = rows_of(run)[1][-1]
    assert scores.mean(axis=0).tolist() == pytest.approx(
        [last["eval/logps/chosen"], last["eval/logps/rejected"]], rel=1e-6
    )


def test_a_model_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(DpoError, match="no such folder, and not a Hub name"):
        mlx_dpo.load(tmp_path / "nothing")


def test_an_adapter_of_another_model_is_refused(models, trained):
    with pytest.raises(DpoError, match="is not the model that"):
        mlx_dpo.load(models("llama"), adapter=trained("granite"))


def test_greedy_answers_are_those_of_mlx_lm(models, loaded):
    questions = ["How do I dry herbs?", "How do I keep bread fresh?"]
    model, tokenizer = mlx_lm_load(str(models("llama")))
    expected = []
    for question in questions:
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
        expected.append(mlx_lm_generate(model, tokenizer, prompt, max_tokens=12).strip())
    answers = mlx_dpo.generate(loaded("llama"), questions, max_tokens=12, temperature=0)
    assert answers == expected


def test_one_question_has_one_answer_and_may_be_a_conversation(loaded):
    model, question, greedy = loaded("llama"), "How?", {"max_tokens": 8, "temperature": 0}
    answer = mlx_dpo.generate(model, question, **greedy)
    assert isinstance(answer, str)
    assert mlx_dpo.generate(model, [[{"role": "user", "content": question}]], **greedy) == [answer]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["How?", " "], "prompts[1]: 'prompt' is empty"),
        ([[{"role": "assistant", "content": "So."}]], "prompts[0]: the prompt must end with a user turn"),
        ([[{"content": "So."}]], "prompts[0]: 'prompt' has a turn that lacks a role or content"),
    ],
)
def test_a_prompt_that_is_none_is_named_by_its_place(prompts, message, loaded):
    with pytest.raises(DpoError) as caught:
        mlx_dpo.generate(loaded("llama"), prompts)
    assert str(caught.value).splitlines()[0] == message


def test_a_sampling_setting_that_there_is_not_is_refused_with_what_was_meant(loaded):
    with pytest.raises(DpoError, match="unknown setting 'max_token'") as caught:
        mlx_dpo.generate(loaded("llama"), "How?", max_token=5)
    assert "max_tokens" in caught.value.hint
