"""Answers that max_tokens cut off: kept, scored as far as they go, and continued when it is raised."""

import json
import math
import signal
import time

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.data.batches import build_batch
from mlx_dpo.data.conversation_tokens import end_of_turn, prompt_tokens
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.data.tokenize import tokenize_pairs
from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.evaluate import evaluate_run
from mlx_dpo.jobs.gen_pairs import generate_pairs
from mlx_dpo.jobs.inspect import inspect_pairs
from mlx_dpo.jobs.train import train_run
from mlx_dpo.models.generate import GenerateConfig, generate_answers
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.pairs.completions import COMPLETIONS, request_key
from mlx_dpo.pairs.sampled_answers import cut_text
from mlx_dpo.records import Curated, Preference
from mlx_dpo.training.mask_check import check_masks

from ..conftest import curated_rows
from ..support.mistakes import assert_told
from .test_gen_pairs import answers_in, lines_of, rows_of

SAMPLED = {"model": "llama", "generate__temperature": 1, "generate__top_p": 1}
"""Random weights end an answer after some 512 tokens, so that of 48 with at most 64 tokens a few end."""


def files_of(folder):
    return {name: rows_of(folder / f"{name}.jsonl") for name in ("train", "valid")}


def test_no_row_is_lost_to_max_tokens_and_each_cut_off_answer_is_marked(pairs_settings, tmp_path, capsys):
    counts = generate_pairs(load_config(None, pairs_settings(**SAMPLED, generate__max_tokens=64)))
    pairs = [row for rows in files_of(tmp_path / "pairs").values() for row in rows]
    ended = sum(row["ended"] for row in answers_in(tmp_path / "pairs"))
    assert (len(pairs), counts.dropped, counts.cut_off) == (48, {}, 48 - ended)
    assert 3 <= ended <= 20
    assert [row["rejected_cut"] for row in pairs if "rejected_cut" in row] == [True] * (48 - ended)
    assert str(counts) == (
        f"48 rows: {counts.train} train and {counts.valid} valid pairs, {48 - ended} of them with an answer "
        f"cut off by max_tokens; none dropped; {counts.tokens:,} tokens sampled"
    )
    said = f"{48 - ended} answers were cut off at 64 tokens and will be scored without an end token"
    assert said in capsys.readouterr().err


def test_the_marked_pairs_score_the_start_of_what_was_said_and_no_end(pairs_settings, tmp_path, models):
    generate_pairs(load_config(None, pairs_settings(**SAMPLED, generate__max_tokens=64)))
    tokenizer = load_tokenizer(models("llama"))
    ids = {row["key"]: row["ids"] for row in answers_in(tmp_path / "pairs")}
    rows = read_pairs(tmp_path / "pairs" / "train.jsonl")
    pairs, counts = tokenize_pairs(rows, tokenizer, 1024)
    check_masks(rows, pairs, tokenizer, 1024)
    assert 0 < counts.cut_off < len(rows)
    for row, pair in zip(rows, pairs, strict=True):
        scored = pair.rejected.tolist()
        assert (scored[-1] in tokenizer.eos_token_ids) != row.rejected_cut
        assert tokenizer.decode(scored if row.rejected_cut else scored[:-1]) == row.rejected
        assert tokenizer.decode(ids[request_key(row)]).strip().startswith(row.rejected)


@pytest.mark.parametrize("architecture", ["llama", "granite", "qwen3"])
@pytest.mark.parametrize("temperature", [0, 1])
def test_continued_answers_are_those_of_the_larger_max_tokens_in_one_go(
    architecture, temperature, pairs_settings, tmp_path
):
    """Token for token, and only what was cut off is sampled further."""
    ask = SAMPLED | {"model": architecture, "generate__temperature": temperature, "pairs__limit": 24}
    whole = generate_pairs(load_config(None, pairs_settings(output="whole", **ask, generate__max_tokens=48)))
    first = generate_pairs(load_config(None, pairs_settings(**ask, generate__max_tokens=20)))
    before = answers_in(tmp_path / "pairs")
    second = generate_pairs(load_config(None, pairs_settings(**ask, generate__max_tokens=48)))
    ids = [{row["key"]: row["ids"] for row in answers_in(tmp_path / f)} for f in ("pairs", "whole")]
    assert ids[0] == ids[1]
    assert files_of(tmp_path / "pairs") == files_of(tmp_path / "whole")
    cut = [row for row in before if not row["ended"]]
    assert len(before) == len(answers_in(tmp_path / "pairs")) == 24
    assert (first.cut_off, second.cut_off, second.dropped) == (len(cut), whole.cut_off, whole.dropped)
    assert first.tokens + second.tokens == whole.tokens == sum(len(tokens) for tokens in ids[0].values())
    assert second.tokens == sum(len(ids[0][row["key"]]) - 20 for row in cut)
    third = generate_pairs(load_config(None, pairs_settings(**ask, generate__max_tokens=48)))
    assert third.tokens == 0


def test_a_smaller_max_tokens_gives_the_pairs_of_one_go_and_samples_nothing(pairs_settings, tmp_path):
    """Longer answers, those too that ended later, are cut off at the smaller one; none is lost."""
    few = generate_pairs(load_config(None, pairs_settings(output="few", **SAMPLED, generate__max_tokens=20)))
    generate_pairs(load_config(None, pairs_settings(**SAMPLED, generate__max_tokens=64)))
    answers = (tmp_path / "pairs" / COMPLETIONS).read_bytes()
    back = generate_pairs(load_config(None, pairs_settings(**SAMPLED, generate__max_tokens=20)))
    assert (back.tokens, back.cut_off) == (0, few.cut_off)
    assert files_of(tmp_path / "pairs") == files_of(tmp_path / "few")
    assert (tmp_path / "pairs" / COMPLETIONS).read_bytes() == answers


def test_an_answer_that_is_complete_at_max_tokens_is_continued_by_its_end_alone(pairs_settings, tmp_path):
    """The end takes the place of a token, whether it is sampled in one go or later."""
    generate_pairs(load_config(None, pairs_settings(**SAMPLED, generate__max_tokens=64)))
    ended = {r["key"]: len(r["ids"]) for r in answers_in(tmp_path / "pairs") if r["ended"]}
    key, length = max(ended.items(), key=lambda item: item[1])
    for most in (length, length + 1):
        ask = pairs_settings(output="again", **SAMPLED, generate__max_tokens=most)
        counts = generate_pairs(load_config(None, ask))
        rows = {row["key"]: row for row in answers_in(tmp_path / "again")}
        assert (len(rows[key]["ids"]), rows[key]["ended"]) == (length, most == length + 1)
        back = generate_pairs(load_config(None, pairs_settings(**SAMPLED, generate__max_tokens=most)))
        assert back.cut_off == counts.cut_off
        assert files_of(tmp_path / "pairs") == files_of(tmp_path / "again")


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_stopped_while_answers_are_continued_it_loses_none_and_ends_as_if_never_stopped(
    stop, pairs_settings, tmp_path, write_rows, forked
):
    source = write_rows("many.jsonl", curated_rows("curated.jsonl")[::16])
    ask = SAMPLED | {"generate__batch_size": 3, "pairs__source": source}
    generate_pairs(load_config(None, pairs_settings(output="whole", **ask, generate__max_tokens=48)))
    first = generate_pairs(load_config(None, pairs_settings(**ask, generate__max_tokens=20)))
    command = ["gen-pairs"]
    for assignment in pairs_settings(**ask, generate__max_tokens=48):
        command += ["--set", assignment]
    path = tmp_path / "pairs" / COMPLETIONS
    for more in (2, 3) if stop == signal.SIGKILL else (2,):
        process = forked(*command)
        target = len(lines_of(path)) + more
        while process.poll() is None and len(lines_of(path)) < target:
            time.sleep(0.001)
        process.send_signal(stop)
        assert process.wait() == (-signal.SIGKILL if stop == signal.SIGKILL else 130)
        assert len({json.loads(line)["key"] for line in lines_of(path)}) == 30
    continued = len(lines_of(path)) - 30
    assert 0 < continued < first.cut_off
    done = forked(*command)
    assert done.wait() == 0
    assert f"0 new answers, {first.cut_off - continued} continued" in done.stderr, "each was continued once"
    assert len(lines_of(path)) == 30, "one line a prompt"
    assert files_of(tmp_path / "pairs") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    "change", [{"ids": "12"}, {"ids": [1, 2.0]}, {"ids": [True]}, {"ended": 1}, {"key": 3}, {"ids": None}]
)
def test_a_line_of_another_version_or_hand_is_named(change, pairs_settings, tmp_path):
    generate_pairs(load_config(None, pairs_settings(pairs__limit=4)))
    path = tmp_path / "pairs" / COMPLETIONS
    rows = rows_of(path)
    rows[1] |= change
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DpoError) as caught:
        generate_pairs(load_config(None, pairs_settings(pairs__limit=4)))
    assert_told(caught.value, f"{path}:2", "not a line of this version", "remove the line")


def own_scores(model, tokenizer, row):
    """Log-probabilities of a row's answers, worked out from its text by the model's own call."""
    prompt, scores = prompt_tokens(tokenizer, row.prompt), []
    for text, cut in ((row.chosen, row.chosen_cut), (row.rejected, row.rejected_cut)):
        said = tokenizer.encode(text, add_special_tokens=False)
        tokens = mx.array([*prompt, *said, *([] if cut else [tokenizer.eos_token_id])])
        logits = model(tokens[None, :-1])[0, len(prompt) - 1 :].astype(mx.float32)
        logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        scores.append(mx.take_along_axis(logps, tokens[len(prompt) :, None], 1).sum().item())
    return scores


def test_pairs_with_cut_off_answers_are_trained_on_judged_and_inspected(pairs_settings, tmp_path, models):
    """From gen-pairs through train and eval; scores are those of the answers without an end."""
    fraction = {"pairs__limit": 24, "pairs__valid_fraction": 0.25}
    ask = pairs_settings(**SAMPLED, generate__max_tokens=20, **fraction)
    generate_pairs(load_config(None, ask))
    own = [f"data.{name}={tmp_path / 'pairs' / name}.jsonl" for name in ("train", "valid")]
    run = [f"model.path={models('llama')}", *own, f"run.output={tmp_path / 'run'}"]
    run += ["training.samples=0", "training.epochs=1", "training.eval_steps=99"]
    folder = train_run(load_config(None, run)).folder
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first.get("loss", first.get("eval/loss")) == pytest.approx(math.log(2), abs=1e-5)
    result = evaluate_run(folder, samples=0)
    model, _ = load_model(models("llama"))
    tokenizer = load_tokenizer(models("llama"))
    held = read_pairs(tmp_path / "pairs" / "valid.jsonl")
    scores = [own_scores(model, tokenizer, row) for row in held]
    assert result.pairs == len(held) == 6 and any(row.rejected_cut for row in held)
    assert result.preferred_base == sum(chosen > rejected for chosen, rejected in scores) / 6
    found = inspect_pairs(load_config(None, run))
    trained = read_pairs(tmp_path / "pairs" / "train.jsonl")
    assert [file.cut_off for file in found.files] == [
        sum(row.rejected_cut for row in rows) for rows in (trained, held)
    ]
    assert not {d.code for d in found.defects} & {"ends-mid-sentence", "open-code-block", "cut"}


def test_sft_counts_no_end_of_a_cut_off_answer(configure, write_rows, pair_rows, models):
    rows = [row | {"chosen_cut": i % 2 == 0} for i, row in enumerate(pair_rows[:8])]
    path = write_rows("cut.jsonl", rows)
    config = configure("llama", "loss.name=sft", f"data.train={path}", "data.valid=null")
    folder = train_run(config).folder
    reports = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tokenizer = load_tokenizer(models("llama"))
    assert reports[-1]["tokens"] == sum(
        len(prompt_tokens(tokenizer, row.prompt))
        + len(tokenizer.encode(row.chosen, add_special_tokens=False))
        + (not row.chosen_cut)
        for row in read_pairs(path)
    )


@pytest.mark.real
def test_the_real_models_cut_off_answers_are_scored_token_by_token_and_continued(smollm2):
    """Cut off at 8 tokens, continued to 12: what is scored is the start of what was sampled in one go."""
    model, _ = load_model(smollm2)
    tokenizer = load_tokenizer(smollm2)
    end = end_of_turn(tokenizer)
    rows = [({"role": "user", "content": row["prompt"]},) for row in curated_rows("curated.jsonl")[:3]]
    prompts = [prompt_tokens(tokenizer, prompt) for prompt in rows]
    few, more = (GenerateConfig(max_tokens=most) for most in (8, 12))
    whole = sorted(generate_answers(model, tokenizer, prompts, more))
    first = sorted(generate_answers(model, tokenizer, prompts, few))
    begun = [answer.ids for answer in first]
    assert sorted(generate_answers(model, tokenizer, prompts, more, begun=begun)) == whole
    pairs = [
        Preference(
            prompt,
            "Gladly!",
            cut_text(tokenizer, Curated(prompt, "", "1"), answer.ids, end),
            "",
            "f:1",
            rejected_cut=True,
        )
        for answers in (first, whole)
        for prompt, answer in zip(rows, answers, strict=True)
    ]
    tokens, counts = tokenize_pairs(pairs, tokenizer, 1024)
    check_masks(pairs, tokens, tokenizer, 1024)
    assert counts.cut_off == 6
    for pair, scored, answer in zip(pairs, tokens, [*first, *whole], strict=True):
        batch = build_batch([scored])
        read = np.array(batch.targets)[1][np.array(batch.mask)[1]].tolist()
        assert read == answer.ids[: len(read)] and len(read) >= len(answer.ids) - 2
        assert tokenizer.decode(read, skip_special_tokens=False) == pair.rejected
