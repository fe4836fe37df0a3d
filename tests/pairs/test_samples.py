"""Several answers a prompt: the prompt is processed once, and only what is missing is sampled."""

import json
import signal
import time

import pytest

from mlx_dpo.config import load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.gen_pairs import generate_pairs
from mlx_dpo.judges.completions import read_completions
from mlx_dpo.models.adapters import load_adapter
from mlx_dpo.models.generate import GenerateConfig, generate_answers
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.pairs.completions import (
    COMPLETIONS,
    Completion,
    SampleCounts,
    Sampled,
    Work,
    _answers_of,
    _row,
    completions_log,
    count_samples,
    request_key,
    stream_of,
)
from mlx_dpo.pairs.config import PairsConfig
from mlx_dpo.pairs.from_curated import make_pairs
from mlx_dpo.pairs.sampled_answers import Said, tokenize_prompts
from mlx_dpo.records import Curated, Prompt

from ..conftest import curated_rows
from ..support.mistakes import assert_told
from .test_gen_pairs import by_key, lines_of, rows_of

SAMPLED = {"model": "llama", "generate__temperature": 1, "generate__max_tokens": 12}


@pytest.fixture
def prompts_file(write_rows):
    """Ten prompts without answers."""
    return write_rows("prompts.jsonl", [{"prompt": r["prompt"]} for r in curated_rows("curated.jsonl")[:10]])


@pytest.mark.parametrize("architecture", ["llama", "granite", "qwen3"])
def test_a_prompt_is_processed_once_for_all_its_answers(models, monkeypatch, architecture):
    """Counted at the model's own door: what it is given more than one token of at a time is prompt."""
    model, _ = load_model(models(architecture))
    tokenizer = load_tokenizer(models(architecture))
    prompts = [[5 + i + j for j in range(40)] for i in range(6)]
    given, call = [], type(model).__call__

    def counting(self, tokens, *arguments, **more):
        given.append(tokens.shape)
        return call(self, tokens, *arguments, **more)

    monkeypatch.setattr(type(model), "__call__", counting)
    config = GenerateConfig(max_tokens=4, temperature=1.0, batch_size=8)
    rows, processed = [prompt for prompt in prompts for _ in range(4)], []
    together = sorted(generate_answers(model, tokenizer, rows, config, processed=processed.append))
    assert sum(batch * length for batch, length in given if length > 1) == 6 * 39
    assert processed == [6 * 39]
    alone = [next(generate_answers(model, tokenizer, [row], config, [i])) for i, row in enumerate(rows)]
    assert [a.ids for a in together] == [a.ids for a in alone]


@pytest.mark.parametrize("architecture", ["llama", "granite"])
def test_more_samples_are_added_to_those_there_are(pairs_settings, tmp_path, architecture):
    """One sample, then three: the first stays, and all are those of three in one go."""
    ask = SAMPLED | {"model": architecture, "pairs__limit": 6}
    one = generate_pairs(load_config(None, pairs_settings(**ask)))
    first = rows_of(tmp_path / "pairs" / COMPLETIONS)
    more = generate_pairs(load_config(None, pairs_settings(**ask, pairs__samples=3)))
    whole = generate_pairs(load_config(None, pairs_settings(output="whole", **ask, pairs__samples=3)))
    rows = rows_of(tmp_path / "pairs" / COMPLETIONS)
    assert by_key(rows) == by_key(rows_of(tmp_path / "whole" / COMPLETIONS))
    assert {r["key"]: r["completions"][:1] for r in rows} == {r["key"]: r["completions"] for r in first}
    assert one.tokens + more.tokens == whole.tokens == sum(len(ids) for r in rows for ids in r["ids"])
    assert all(len(set(map(tuple, r["ids"]))) == 3 for r in rows)
    back = generate_pairs(load_config(None, pairs_settings(**ask)))
    assert back.tokens == 0 and rows_of(tmp_path / "pairs" / COMPLETIONS) == rows


def test_the_first_sample_has_the_random_numbers_of_earlier_versions():
    key = request_key(Curated(({"role": "user", "content": "Why?"},), "So.", "1"))
    streams = [stream_of(key, sample) for sample in range(50)]
    assert streams[0] == int(key, 16)
    assert len(set(streams)) == 50 and all(0 <= stream < 2**64 for stream in streams)


def test_prompts_without_answers_are_only_answered(outcome, pairs_settings, tmp_path, prompts_file, models):
    ask = pairs_settings(**SAMPLED, pairs__samples=3, pairs__source=prompts_file)
    command = ["gen-pairs", *(word for one in ask for word in ("--set", one))]
    code, out, err = outcome(*command)
    assert code == 0
    assert "the rows are prompts without answers: they are answered, and no pairs are made" in err
    assert out.startswith("10 prompts, 3 answers each: 3.0 different ones on average, never all equal; ")
    following = out.splitlines()[-1].removeprefix("next: ")
    assert following == (
        f"mlx-dpo judge --completions {tmp_path}/pairs/{COMPLETIONS} --output {tmp_path}/judged "
        f"--model {models('llama')}"
    )
    assert "the model judges its own answers; a larger model of another family judges better" in err
    code, _, err = outcome(*following.split()[1:])
    assert (code, "fails a question with a known answer" in err) == (1, True)  # asked, and no judge
    rows = rows_of(tmp_path / "pairs" / COMPLETIONS)
    assert sorted(row["prompt"] for row in rows) == sorted(r["prompt"] for r in rows_of(prompts_file))
    assert [len(row["completions"]) for row in rows] == [3] * 10
    assert sorted(p.name for p in (tmp_path / "pairs").iterdir()) == ["completions.json", COMPLETIONS]
    code, out, _ = outcome(*command, "--json")
    counts = json.loads(out)
    assert (code, counts["prompts"], counts["samples"], counts["tokens"]) == (0, 10, 3, 0)


@pytest.mark.parametrize("curated", [False, True])
def test_a_judge_in_the_settings_is_the_judge_of_the_next_command(
    outcome, pairs_settings, tmp_path, prompts_file, write_rows, curated
):
    rows = curated_rows("curated.jsonl")[:10]
    source = write_rows("curated.jsonl", rows) if curated else prompts_file
    ask = pairs_settings(**SAMPLED, pairs__samples=2, pairs__source=source)
    given = [word for one in [*ask, "judge.url=http://127.0.0.1:9/v1"] for word in ("--set", one)]
    code, out, err = outcome("gen-pairs", *given)
    assert (code, "judges its own answers" in err) == (0, False)
    following = out.splitlines()[-1].removeprefix("next: mlx-dpo ").split()
    assert following[:1] == ["judge"] and following[-1] == f"judge.completions={tmp_path}/pairs/{COMPLETIONS}"
    code, _, err = outcome(*following)
    assert "judge.url: no server answers at http://127.0.0.1:9/v1" in err


def test_after_one_answer_a_prompt_more_of_them_come_next(outcome, pairs_settings, prompts_file):
    """A judge cannot rank one answer."""
    ask = pairs_settings(**SAMPLED, pairs__source=prompts_file)
    code, out, err = outcome("gen-pairs", *(word for one in ask for word in ("--set", one)))
    assert code == 0, err
    following = out.splitlines()[-1].removeprefix("next: mlx-dpo ").split()
    assert following[0] == "gen-pairs" and following[-1] == "pairs.samples=3"
    code, out, _ = outcome(*following)
    assert code == 0 and "next: mlx-dpo judge" in out


def test_the_command_counts_each_prompt_token_once(pairs_settings, models, prompts_file):
    ask = {**SAMPLED, "pairs__source": prompts_file}
    counts = generate_pairs(load_config(None, pairs_settings(**ask, pairs__samples=4)))
    from mlx_dpo.data.sources import read_questions

    prompts = tokenize_prompts(read_questions(prompts_file), load_tokenizer(models("llama")), 1024)
    assert counts.prompt_tokens == sum(len(tokens) - 1 for tokens in prompts.values())


def test_killed_while_several_answers_are_sampled_it_ends_as_if_never_stopped(
    pairs_settings, tmp_path, prompts_file, forked
):
    ask = {**SAMPLED, "pairs__source": prompts_file, "pairs__samples": 4, "generate__batch_size": 5}
    generate_pairs(load_config(None, pairs_settings(output="whole", **ask)))
    command = ["gen-pairs", *(word for one in pairs_settings(**ask) for word in ("--set", one))]
    path, answers = tmp_path / "pairs" / COMPLETIONS, 0
    for _ in range(2):
        process = forked(*command)
        while process.poll() is None and len(lines_of(path)) < answers + 5:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        last = {json.loads(line)["key"]: json.loads(line) for line in lines_of(path)}
        assert sum(len(row["ids"]) for row in last.values()) == len(lines_of(path)) >= answers + 5
        answers = len(lines_of(path))
    done = forked(*command)
    assert done.wait() == 0, done.stderr
    assert f"{answers} of 40 answers are there already; continuing" in done.stderr
    assert by_key(rows_of(path)) == by_key(rows_of(tmp_path / "whole" / COMPLETIONS))


def test_only_the_cut_off_answers_of_a_prompt_are_continued(pairs_settings, tmp_path, prompts_file):
    ask = {**SAMPLED, "pairs__source": prompts_file, "pairs__samples": 3, "generate__top_p": 1}
    few, more = ({**ask, "generate__max_tokens": most} for most in (20, 48))
    generate_pairs(load_config(None, pairs_settings(output="whole", **more)))
    first = generate_pairs(load_config(None, pairs_settings(**few)))
    second = generate_pairs(load_config(None, pairs_settings(**more)))
    rows = rows_of(tmp_path / "pairs" / COMPLETIONS)
    assert by_key(rows) == by_key(rows_of(tmp_path / "whole" / COMPLETIONS))
    assert first.tokens + second.tokens == sum(len(ids) for row in rows for ids in row["ids"])


def test_one_line_an_answer_as_an_earlier_version_wrote_it_is_gone_on_with(pairs_settings, tmp_path):
    ask = {**SAMPLED, "pairs__limit": 4}
    generate_pairs(load_config(None, pairs_settings(**ask)))
    path = tmp_path / "pairs" / COMPLETIONS
    rows = rows_of(path)
    earlier = [
        {"key": r["key"], "text": r["completions"][0], "ids": r["ids"][0], "ended": r["ended"][0]}
        for r in rows
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in earlier))
    assert generate_pairs(load_config(None, pairs_settings(**ask))).tokens == 0
    assert rows_of(path) == earlier
    generate_pairs(load_config(None, pairs_settings(**ask, pairs__samples=2)))
    again = {row["key"]: row for row in rows_of(path)}
    for row in rows:
        kept = {name: again[row["key"]][name][:1] for name in ("completions", "ids", "ended")}
        assert {**row, **kept} == row and len(again[row["key"]]["ids"]) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"completions": "text"},
        {"completions": []},
        {"ended": []},
        {"ids": [[1], [2], [3]]},
        {"samples": ["0", "1"]},
    ],
)
def test_a_line_whose_answers_do_not_fit_together_is_named(change, pairs_settings, tmp_path):
    ask = pairs_settings(**SAMPLED, pairs__limit=2, pairs__samples=2)
    generate_pairs(load_config(None, ask))
    path = tmp_path / "pairs" / COMPLETIONS
    rows = rows_of(path)
    rows[1] |= change
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DpoError) as caught:
        generate_pairs(load_config(None, ask))
    assert_told(caught.value, f"{path}:2", "not a line of this version", "remove the line")


def test_the_first_sample_that_can_be_used_is_rejected():
    row = Curated(({"role": "user", "content": "q"},), "Yes, that is it.", "1", "f:1")
    said = [Said("", False), Said("Yes, that is it.", False), Said("No.", False), Said("Never.", False)]
    config = PairsConfig(valid_fraction=0)
    files, dropped = make_pairs([row], None, {request_key(row): said}, config, {}, 0)
    assert [pair["rejected"] for pair in files["train"]] == ["No."] and dropped == {}
    files, dropped = make_pairs([row], None, {request_key(row): said[:2]}, config, {}, 0)
    assert (files["train"], dropped) == ([], {"empty": ["f:1"]})


def test_several_samples_at_temperature_0_are_refused_before_any_work(refused_at, write_rows):
    rows = write_rows("rows.jsonl", [{"prompt": "Why?"}])
    command = f"gen-pairs --source {rows} --samples 4 --model ./no-model --set generate.temperature=0"
    refused_at(
        command, "pairs.samples", "all 4 answers to a prompt would be the same", "generate.temperature"
    )


def test_a_file_of_held_out_answers_is_refused_beside_prompts_alone(refused_at, write_rows):
    rows = write_rows("rows.jsonl", [{"prompt": "Why?"}])
    held = write_rows("held.jsonl", [{"prompt": "Why?", "answer": "So."}])
    command = f"gen-pairs --source {rows} --set pairs.valid_source={held} --model ./no-model"
    refused_at(command, "pairs.valid_source", "prompts without answers", "pairs.valid_source=null")


def test_distinct_answers_are_counted_by_hand():
    done = {
        "a": {0: Completion("x", True, [1]), 1: Completion("x", True, [1]), 2: Completion("y", True, [2])},
        "b": {0: Completion("x", True, [1]), 1: Completion("x", False, [1, 1])},
    }
    counts = count_samples(done, ["a", "b"], 2, Sampled(4, 0, 1200, Work(30)))
    assert counts == SampleCounts(2, 2, distinct=1.0, equal=2, cut_off=1, tokens=1200, prompt_tokens=30)
    assert str(counts) == (
        "2 prompts, 2 answers each: 1.0 different ones on average, all equal for 2 prompts; 1 answer cut off "
        "by max_tokens; 1,200 tokens sampled, 30 prompt tokens processed"
    )
    counts = count_samples({"a": done["a"]}, ["a"], 3, Sampled(3, 0, 3, Work(1)))
    assert (counts.distinct, counts.equal) == (2.0, 0)


def test_pairs_of_several_answers_are_counted_with_their_distinct_answers(pairs_settings, tmp_path):
    """Curated rows: the counts of the pairs have those of the answers, as prompts alone do."""
    ask = pairs_settings(**SAMPLED, pairs__limit=6, pairs__samples=3)
    counts = generate_pairs(load_config(None, ask))
    rows = rows_of(tmp_path / "pairs" / COMPLETIONS)
    distinct = [len(set(row["completions"])) for row in rows]
    assert counts.answers == SampleCounts(
        prompts=6,
        samples=3,
        distinct=sum(distinct) / 6,
        equal=distinct.count(1),
        cut_off=sum(not ended for row in rows for ended in row["ended"]),
        tokens=counts.tokens,
        prompt_tokens=counts.answers.prompt_tokens,
    )


def test_a_row_of_several_answers_may_be_longer_than_a_row_of_pairs(tmp_path):
    """64 answers of 40,000 letters, as gen-pairs writes them, are read by judge; 2.5 MB."""
    row = Prompt(({"role": "user", "content": "Why?"},), "1")
    answers = {n: Completion(f"{n} {'x' * 40_000}", True, [n]) for n in range(64)}
    log = completions_log(tmp_path, {"generate": {}})
    with log.open(_answers_of) as completions:
        completions.append("k", _row(row, answers), answers)
    with log.open(_answers_of) as completions:
        assert completions.results == {"k": answers}
    (found,) = read_completions(tmp_path / COMPLETIONS)
    assert [text.strip() for text in found.answers] == [answer.text for answer in answers.values()]


def test_equal_answers_everywhere_are_warned_of(pairs_settings, prompts_file, capsys):
    """So small a top_p leaves only the likeliest token, as temperature 0 would."""
    ask = {**SAMPLED, "generate__top_p": 1e-6, "pairs__source": prompts_file, "pairs__samples": 2}
    counts = generate_pairs(load_config(None, pairs_settings(**ask)))
    assert (counts.equal, counts.distinct) == (10, 1.0)
    said = capsys.readouterr().err
    assert "all 2 answers to every prompt are the same" in said and "higher generate.temperature" in said


def test_an_adapter_answers_with_its_own_answers(outcome, trained, models, tmp_path, write_rows):
    """A round on the tuned model's own samples: `--adapter RUN`."""
    run, rows = trained("llama"), write_rows("rows.jsonl", curated_rows("curated.jsonl")[:3])
    command = (
        f"gen-pairs --model {models('llama')} --adapter {run} --source {rows} --output pairs --samples 2"
    )
    code, out, err = outcome(*f"{command} --max-tokens 8 --set generate.temperature=1".split())
    assert code == 0, err
    model, _ = load_model(models("llama"))
    load_adapter(model, run)
    tokenizer = load_tokenizer(models("llama"))
    config = GenerateConfig(max_tokens=8, temperature=1.0)
    for row in rows_of(tmp_path / "pairs" / COMPLETIONS):
        tokens = [row for row in tokenize_prompts([as_row(row["prompt"])], tokenizer, 1024).values()]
        streams = [stream_of(row["key"], sample) for sample in range(2)]
        answers = sorted(generate_answers(model, tokenizer, tokens * 2, config, streams))
        assert [a.ids for a in answers] == row["ids"]
    settings = json.loads((tmp_path / "pairs" / "completions.json").read_text())
    assert settings["adapter"] == str(run) and f"model.adapter={run}" in out


def as_row(text):
    return Curated(({"role": "user", "content": text},), "", "1")
