"""gen-pairs: the same answers whatever the batch, the sampling order or a kill."""

import json
import os
import random
import shlex
import shutil
import signal
import time

import mlx.core as mx
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.data.conversation_tokens import prompt_tokens
from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.gen_pairs import generate_pairs
from mlx_dpo.models.generate import GenerateConfig, generate_answers
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.pairs.completions import COMPLETIONS, request_key
from mlx_dpo.pairs.config import PairsConfig
from mlx_dpo.pairs.from_curated import PairCounts, count_pairs, drop_reason, make_pairs
from mlx_dpo.pairs.sampled_answers import Said
from mlx_dpo.records import Curated
from mlx_dpo.storage.jsonl import read_jsonl

from ..conftest import curated_rows


def rows_of(path):
    return [row for _, row in read_jsonl(path)]


def answers_in(folder):
    """The one answer of each prompt: its ids, and whether it has ended, beside the key."""
    rows = rows_of(folder / COMPLETIONS)
    return [{**row, "ids": row["ids"][0], "ended": row["ended"][0]} for row in rows if len(row["ids"]) == 1]


def prompts_of(folder, count=12):
    """Prompts of very different lengths."""
    tokenizer = load_tokenizer(folder)
    texts = [r["prompt"] + " Please." * (i % 5) for i, r in enumerate(curated_rows("curated.jsonl")[::40])]
    return tokenizer, [prompt_tokens(tokenizer, [{"role": "user", "content": t}]) for t in texts[:count]]


@pytest.mark.parametrize("architecture", ["granite", "llama", "qwen3", "granite-4bit"])
def test_a_greedy_answer_is_the_same_in_a_batch_and_alone(models, architecture):
    """Alone means mlx_lm's own generation, one prompt at a time."""
    from mlx_lm.generate import generate_step

    model, _ = load_model(models(architecture))
    tokenizer, prompts = prompts_of(models(architecture))
    config = GenerateConfig(max_tokens=32, temperature=0.0, batch_size=5)
    batched = sorted(generate_answers(model, tokenizer, prompts, config))
    assert [a.index for a in batched] == list(range(len(prompts)))
    for answer in batched:
        alone = []
        for token, _ in generate_step(mx.array(prompts[answer.index]), model, max_tokens=32):
            if token in tokenizer.eos_token_ids:
                break
            alone.append(token)
        assert answer.text == tokenizer.decode(alone).strip()
        assert answer.tokens == len(alone)
        assert answer.capped == (len(alone) == 32)


def test_a_sampled_answer_does_not_depend_on_its_company(models):
    model, _ = load_model(models("llama"))
    tokenizer, prompts = prompts_of(models("llama"), 8)
    config = GenerateConfig(max_tokens=16, temperature=0.8, top_p=0.9, batch_size=8)
    streams = [100 + i for i in range(8)]
    together = sorted(generate_answers(model, tokenizer, prompts, config, streams))
    alone = [
        next(generate_answers(model, tokenizer, [p], config, [s]))
        for p, s in zip(prompts, streams, strict=True)
    ]
    assert [a.text for a in together] == [a.text for a in alone]
    other = sorted(generate_answers(model, tokenizer, prompts, config, [s + 1 for s in streams]))
    assert sum(a.text == b.text for a, b in zip(together, other, strict=True)) <= 1


def test_killed_at_random_moments_it_ends_as_if_never_stopped(pairs_settings, tmp_path, write_rows, forked):
    source = write_rows("many.jsonl", curated_rows("curated.jsonl")[::8])
    few = {"pairs__source": source, "generate__batch_size": 3}
    whole = generate_pairs(load_config(None, pairs_settings(output="whole", **few)))
    rng, killed_at = random.Random(1), []
    command = ["gen-pairs"]
    for assignment in pairs_settings(output="killed", **few):
        command += ["--set", assignment]
    completions = tmp_path / "killed" / COMPLETIONS
    for kill in range(10 if os.environ.get("MLX_DPO_EVERY_COMBINATION") else 3):
        process = forked(*command)
        # Until the next few answers are written, then a random moment more: inside answering or writing.
        target = len(lines_of(completions)) + rng.randint(1, 2)
        while process.poll() is None and len(lines_of(completions)) < target:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at.append(len(lines_of(completions)))
        assert killed_at[-1] < 60, f"the run was over before kill {kill}"
    assert killed_at == sorted(killed_at) and killed_at[0] < killed_at[-1]
    assert forked(*command).wait() == 0

    assert whole.train + whole.valid == 60
    for name in ("train.jsonl", "valid.jsonl"):
        one, other = (without_folder(rows_of(tmp_path / f / name)) for f in ("whole", "killed"))
        assert one == other
    answers = rows_of(completions)
    assert len({a["key"] for a in answers}) == len(answers) == 60
    assert by_key(answers) == by_key(rows_of(tmp_path / "whole" / COMPLETIONS))


def lines_of(path):
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def without_folder(rows):
    return [{k: v for k, v in row.items() if k != "where"} for row in rows]


def by_key(rows):
    return sorted(rows, key=lambda row: row["key"])


@pytest.mark.parametrize("cut", [1, 20, 60], ids=lambda n: f"{n} bytes missing")
def test_a_half_written_last_line_is_answered_again(pairs_settings, tmp_path, cut):
    config = load_config(None, pairs_settings(pairs__limit=8))
    generate_pairs(config)
    path = tmp_path / "pairs" / COMPLETIONS
    before, train = by_key(rows_of(path)), rows_of(tmp_path / "pairs" / "train.jsonl")
    os.truncate(path, path.stat().st_size - cut)
    generate_pairs(config)
    assert by_key(rows_of(path)) == before
    assert rows_of(tmp_path / "pairs" / "train.jsonl") == train


def test_a_larger_limit_keeps_the_answers_there_are(pairs_settings, tmp_path, capsys):
    generate_pairs(load_config(None, pairs_settings(pairs__limit=8)))
    path = tmp_path / "pairs" / COMPLETIONS
    first = path.read_bytes()
    counts = generate_pairs(load_config(None, pairs_settings(pairs__limit=20)))
    assert path.read_bytes().startswith(first)
    assert counts.rows == 20 and len(rows_of(path)) == 20


def test_answers_of_other_settings_are_not_mixed_in(pairs_settings, tmp_path):
    generate_pairs(load_config(None, pairs_settings(pairs__limit=4)))
    for change, name in (
        ({"generate__seed": 25}, r"generate.seed \(was 0\)"),
        ({"generate__top_p": 0.5, "generate__max_tokens": 25}, r"generate.top_p \(was 0.95\)\n"),
        ({"model": "llama", "generate__seed": 1}, r"model, template, generate.seed \(was 0\)"),
    ):
        config = load_config(None, pairs_settings(pairs__limit=4, **change))
        with pytest.raises(DpoError, match=f"answers made with another {name}"):
            generate_pairs(config)
    # How many are answered at a time does not change an answer.
    generate_pairs(load_config(None, pairs_settings(pairs__limit=4, generate__batch_size=2)))


def test_pairs_carry_their_origin_and_keep_the_sources_order(pairs_settings, tmp_path, models):
    generate_pairs(load_config(None, pairs_settings()))
    source = [r["id"] for r in curated_rows("curated.jsonl")[::10]]
    files = {n: rows_of(tmp_path / "pairs" / f"{n}.jsonl") for n in ("train", "valid")}
    assert sorted(source) == sorted(r["id"] for rows in files.values() for r in rows)
    for rows in files.values():
        places = [source.index(r["id"]) for r in rows]
        assert places == sorted(places)
    meta = files["train"][0]["meta"]
    assert meta["model"] == str(models("granite"))
    assert len(meta["template"]) == 16
    assert meta["generate"] == {"max_tokens": 24, "temperature": 0.0, "top_p": 0.95, "seed": 0}


def test_rows_that_come_later_hold_out_no_prompt_that_was_trained_on(pairs_settings, tmp_path, write_rows):
    rows, train = curated_rows("curated.jsonl")[::16], []
    for count in (20, 22, 30):
        source = write_rows("some.jsonl", rows[:count])
        generate_pairs(load_config(None, pairs_settings(pairs__source=source)))
        files = {n: (tmp_path / "pairs" / f"{n}.jsonl").read_text() for n in ("train", "valid")}
        held = {json.loads(line)["prompt"] for line in files["valid"].splitlines()}
        assert held and not held & {*train}
        train = [json.loads(line)["prompt"] for line in files["train"].splitlines()]


def test_no_prompt_stands_in_both_files(pairs_settings, tmp_path, write_rows):
    rows = curated_rows("curated.jsonl")[:30]
    again = [{**r, "id": r["id"] + "-again", "prompt": r["prompt"].upper()} for r in rows]
    source = write_rows("twice.jsonl", rows + again)
    counts = generate_pairs(
        load_config(None, pairs_settings(pairs__source=source, pairs__valid_fraction=0.3))
    )
    train, valid = (
        {r["prompt"].casefold() for r in rows_of(tmp_path / "pairs" / f"{n}.jsonl")}
        for n in ("train", "valid")
    )
    assert (counts.train, counts.valid) == (42, 18)
    assert not train & valid


@pytest.mark.parametrize(
    ("chosen", "rejected", "cut", "reason"),
    [
        ("Rub it.", "Wash it well.", False, None),
        ("Rub it.", "  ", False, "empty"),
        ("Rub it.", "", True, "empty"),
        ("Rub it.", "Wash it well and", True, None),
        ("Rub it.", " rub  IT.", False, "identical"),
        ("Rub it with salt.", "rub IT with", True, "equal to the start of the chosen answer"),
        ("Rub it with salt.", "Rub it with", False, None),
        ("Rub it.", "Rub it. Then rinse it", True, None),
        ("Rub the copper pan with salt", "Rub the copper pan with salt.", False, "near-identical"),
        ("Rub the copper pan with salt, and rinse", "Rub the copper pan with Salt.", True, "near-identical"),
        ("abcdefghij", "abcdefghiX", False, None),  # alike to 0.9, below 0.95
    ],
)
def test_a_pair_is_dropped_for_a_stated_reason(chosen, rejected, cut, reason):
    assert drop_reason(chosen, Said(rejected, cut), PairsConfig()) == reason


def test_only_whole_answers_are_kept_where_that_is_asked_for():
    config = PairsConfig(keep_capped=False)
    assert drop_reason("Rub it.", Said("Wash it well and", cut=True), config) == "cut off by max_tokens"
    assert drop_reason("Rub it.", Said("Wash it well.", cut=False), config) is None


def test_answers_that_never_end_leave_nothing_where_whole_ones_are_asked_for(pairs_settings, tmp_path):
    config = load_config(None, pairs_settings(pairs__keep_capped="false", generate__max_tokens=24))
    with pytest.raises(DpoError, match="no pair is left to train on") as caught:
        generate_pairs(config)  # random weights never end an answer
    for word in ("cut off by max_tokens: ", "generate.max_tokens", "pairs.keep_capped=true"):
        assert word in caught.value.hint
    assert not (tmp_path / "pairs" / "train.jsonl").exists()


def test_each_reason_for_which_rows_are_dropped_is_named_with_its_rows_and_a_remedy(
    pairs_settings, write_rows, capsys
):
    rows = [{"prompt": f"{i}?", "answer": "So it is."} for i in range(8)]
    source = write_rows("rows.jsonl", rows)
    generate_pairs(load_config(None, pairs_settings(pairs__source=source)))
    pairs = rows_of(source.parent / "pairs" / "train.jsonl")
    (number,) = (i for i, row in enumerate(rows) if row["prompt"] == pairs[2]["prompt"])
    rows[number]["answer"] = pairs[2]["rejected"]
    write_rows("rows.jsonl", rows)
    capsys.readouterr()
    counts = generate_pairs(load_config(None, pairs_settings(pairs__source=source)))
    assert counts.dropped == {"equal to the start of the chosen answer": 1}
    said = f"dropped 1, equal to the start of the chosen answer ({source}:{number + 1}): "
    assert f"{said}raise generate.max_tokens" in capsys.readouterr().err


def test_a_row_that_comes_twice_is_one_pair(pairs_settings, write_rows):
    rows = [{"prompt": f"{i % 6}?", "answer": "So it is."} for i in range(7)]
    source = write_rows("rows.jsonl", rows)
    counts = generate_pairs(load_config(None, pairs_settings(pairs__source=source)))
    assert counts.dropped == {"repeated rows": 1}
    assert counts.train + counts.valid == 6


def test_a_second_process_in_the_same_folder_is_refused(pairs_settings, tmp_path, forked):
    """And nothing is written; that process answers all prompts, as if nobody had come in between."""
    arguments = pairs_settings(generate__batch_size=1, generate__max_tokens=50, pairs__limit=6)
    first = forked("gen-pairs", *(word for one in arguments for word in ("--set", one)))
    completions = tmp_path / "pairs" / COMPLETIONS
    while first.poll() is None and not lines_of(completions):
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # it stays in the middle
    before = completions.read_bytes()
    with pytest.raises(DpoError, match="another gen-pairs is running"):
        generate_pairs(load_config(None, arguments))
    assert completions.read_bytes() == before
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    assert len(lines_of(completions)) == 6
    assert not list(completions.parent.glob(".*"))


def test_json_output_is_json(pairs_settings, forked):
    arguments = [part for s in pairs_settings(pairs__limit=6) for part in ("--set", s)]
    done = forked("gen-pairs", "--json", *arguments)
    assert done.wait() == 0, done.stderr
    expected = {"rows": 6, "train": 5, "valid": 1, "dropped": {}, "cut_off": 6, "tokens": 6 * 24}
    assert json.loads(done.stdout) == {**expected, "answers": None}


def test_another_model_at_the_same_place_is_noticed_and_the_same_at_another_is_not(
    pairs_settings, tmp_path, models
):
    place = shutil.copytree(models("granite"), tmp_path / "place")
    generate_pairs(load_config(None, pairs_settings(pairs__limit=4, **{"model.path": place})))
    moved = shutil.copytree(place, tmp_path / "moved")
    generate_pairs(load_config(None, pairs_settings(pairs__limit=4, **{"model.path": f"{moved}/"})))
    weights = mx.load(str(place / "model.safetensors"))
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name] + 0.5
    mx.save_safetensors(str(place / "model.safetensors"), weights, metadata={"format": "mlx"})
    with pytest.raises(DpoError, match="answers made with another model"):
        generate_pairs(load_config(None, pairs_settings(pairs__limit=4, **{"model.path": place})))


def test_answers_are_kept_over_midnight(pairs_settings, tmp_path, models):
    """A template that prints a date renders other tokens tomorrow."""
    place = shutil.copytree(models("granite"), tmp_path / "dated")
    path = place / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = "{{ strftime_now('%H %M %S %f') }}" + config["chat_template"]
    path.write_text(json.dumps(config))
    assignments = pairs_settings(pairs__limit=4, **{"model.path": place})
    generate_pairs(load_config(None, assignments))
    before = (tmp_path / "pairs" / COMPLETIONS).read_bytes()
    time.sleep(1.1)
    generate_pairs(load_config(None, assignments))
    assert (tmp_path / "pairs" / COMPLETIONS).read_bytes() == before


def test_the_share_held_out_is_of_the_pairs_that_are_left(tmp_path):
    """Ten rows, of which six are dropped: of the four left one is held out, whichever rows they are."""
    rows = [Curated(({"role": "user", "content": f"q{i}"},), "yes", str(i), f"f:{i}") for i in range(10)]
    for left in ([0, 1, 2, 3], [2, 5, 7, 9], [6, 7, 8, 9]):
        answers = {request_key(r): [Said("no" if i in left else "", cut=False)] for i, r in enumerate(rows)}
        files, dropped = make_pairs(rows, None, answers, PairsConfig(valid_fraction=0.25), {}, 0)
        assert dropped == {"empty": [f"f:{i}" for i in range(10) if i not in left]}
        counts = count_pairs(files, dropped, tokens=7)
        assert counts == PairCounts(rows=10, train=3, valid=1, dropped={"empty": 6}, cut_off=0, tokens=7)
        assert sorted(int(r["id"]) for rows_ in files.values() for r in rows_) == left


def test_the_next_command_can_be_pasted(pairs_settings, tmp_path, outcome, monkeypatch):
    folder = tmp_path / "with space"
    arguments = [p for s in pairs_settings(pairs__limit=6, pairs__output=folder) for p in ("--set", s)]
    _, out, _ = outcome("gen-pairs", *arguments, "--seed", 0)
    words = shlex.split(out.splitlines()[-1].removeprefix("next: "))
    assert words[:2] == ["mlx-dpo", "inspect"]
    assert outcome(*words[1:], "--no-model")[0] == 0
    short = ("training.epochs=1", "training.samples=0", f"run.output={tmp_path / 'my run'}")
    code, out, err = outcome("train", *words[2:], *(p for s in short for p in ("--set", s)))
    assert code == 0, err
    words = shlex.split(out.splitlines()[-1].removeprefix("next: "))
    monkeypatch.chdir("/")  # from another folder, too: a run knows its files by their full names
    code, _, err = outcome(*words[1:], "--samples", 1)
    assert code == 0, err
