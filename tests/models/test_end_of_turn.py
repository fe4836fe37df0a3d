"""An answer ends where the chat template ends a turn, in mlx_lm too, whatever end tokens the files list.

Two models here are taught a few answers, so that they give their end of turn; their files list another token,
as the files of base models with a chat template do.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from mlx_dpo.cli import main
from mlx_dpo.config import load_config
from mlx_dpo.data.conversation_tokens import prompt_tokens
from mlx_dpo.demo.base_model import teach
from mlx_dpo.demo.tiny_models import make_model
from mlx_dpo.errors import DpoError
from mlx_dpo.export.end_of_turn_files import list_end
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.models.adapters import attach, save_adapter_config, save_adapter_weights
from mlx_dpo.models.config_files import read_model_config
from mlx_dpo.models.end_of_turn import end_note, mlx_lm_stops, stop_flags
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.models.mlx_lm_command import generate_command
from mlx_dpo.records import Curated

from ..conftest import ROOT, curated_rows
from ..support.forking import module_code
from ..support.mistakes import lines

END = {"granite": "<|end_of_text|>", "qwen3": "<|im_end|>"}
LISTED = {"granite": "<|pad|>", "qwen3": "<|endoftext|>"}
"""The first token of each vocabulary: id 0."""
THINKING = "--chat-template-config '{\"enable_thinking\": false}' "


def listing(folder, eos, token, sampling=None):
    """The folder, with this eos_token_id in its config (absent where it is ...) and this eos_token."""
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": eos}
    config = {name: value for name, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"eos_token": token}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if sampling is not None:
        (folder / "generation_config.json").write_text(json.dumps(sampling))
    return folder


class Told(NamedTuple):
    """A run by the commands: base, run and fused folders, and what train, eval and fuse printed."""

    base: Path
    run: Path
    fused: Path
    said: dict[str, str]
    errors: dict[str, str]


QUESTIONS = 6


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The whole way on a model whose files list another end token, gone when first asked for."""
    folder = tmp_path_factory.mktemp("stops")
    rows = curated_rows("base.jsonl")[::96][:QUESTIONS]
    pairs = [{"prompt": r["prompt"], "chosen": r["answer"], "rejected": "No."} for r in rows]
    (folder / "train.jsonl").write_text(lines(*pairs[:4]))
    (folder / "valid.jsonl").write_text(lines(*pairs[4:]))
    done = {}

    def get(kind):
        if kind in done:
            return done[kind]
        base = make_model(folder / kind, kind, [f"{r['prompt']} {r['answer']}" for r in rows], vocab=400)
        sampling = {"eos_token_id": 0, "temperature": 0.7} if kind == "qwen3" else None
        listing(base, 0, LISTED[kind], sampling)
        asked = [({"role": "user", "content": r["prompt"]},) for r in rows]
        teach(base, [Curated(q, r["answer"], r["id"]) for q, r in zip(asked, rows, strict=True)], epochs=70)
        run, fused = folder / f"{kind}-run", folder / f"{kind}-fused"
        data = [f"data.train={folder}/train.jsonl", f"data.valid={folder}/valid.jsonl"]
        data += ["training.samples=0", "training.epochs=1"]
        sets = [word for setting in data for word in ("--set", setting)]
        commands = {
            "train": [*sets, "--model", str(base), "--output", str(run)],
            "eval": ["--run", str(run), "--samples", "2"],
            "fuse": ["--run", str(run), "--output", str(fused)],
        }
        said, errors = {}, {}
        for name, words in commands.items():
            out, err = io.StringIO(), io.StringIO()
            streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
            with streams[0], streams[1], pytest.raises(SystemExit) as stop:
                main([name, *words])
            assert stop.value.code == 0, err.getvalue()
            said[name], errors[name] = out.getvalue(), err.getvalue()
        done[kind] = Told(base, run, fused, said, errors)
        return done[kind]

    return get


def told_command(text):
    """The mlx_lm command among printed lines."""
    return re.search(r"^(?:ask it|next): (python -m mlx_lm .*)$", text, re.M).group(1)


@pytest.fixture
def answered(forked):
    """What a command answers, run as a person would, and how many tokens it took."""

    def run(command, question):
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "mlx_lm"] and words[-2:] == ["--prompt", "..."]
        done = forked(code=module_code([*words[2:-1], question]))
        assert done.wait() == 0, done.stderr
        _, answer, figures = done.stdout.split("=" * 10)
        return answer.strip("\n"), int(re.search(r"Generation: (\d+) tokens", figures).group(1))

    return run


def rows_asked():
    return curated_rows("base.jsonl")[::96][4:QUESTIONS]


@pytest.mark.parametrize("kind", END)
def test_the_printed_mlx_lm_commands_stop_at_the_end_of_the_answer(told, kind, answered):
    """Base with adapter, and fused: the answer that eval shows, and nothing after it."""
    way, row = told(kind), rows_asked()[0]
    assert f"\nQ      {row['prompt']}\nbase   {row['answer']}\ntuned  {row['answer']}\n" in way.said["eval"]
    adapter, fused = told_command(way.said["train"]), told_command(way.said["fuse"])
    assert told_command(way.said["eval"]) == adapter
    for command in (adapter, fused):
        answer, tokens = answered(command, row["prompt"])
        assert answer == row["answer"]
        assert tokens < 100


@pytest.mark.parametrize("kind", END)
def test_the_commands_have_the_flags_that_the_model_needs_and_no_others(told, kind):
    way = told(kind)
    options = THINKING if kind == "qwen3" else ""
    where = f"--model {way.base} --adapter-path {way.run} --max-tokens 512"
    stop = f"--extra-eos-token '{END[kind]}'"
    assert told_command(way.said["train"]) == (
        f'python -m mlx_lm generate {where} {stop} {options}--prompt "..."'
    )
    assert told_command(way.said["fuse"]) == (
        f'python -m mlx_lm generate --model {way.fused} --max-tokens 512 {options}--prompt "..."'
    )


@pytest.mark.parametrize("kind", END)
def test_without_the_printed_flag_mlx_lm_writes_on_after_the_answer(told, kind, answered):
    """So the flag is needed: nothing in an adapter folder changes where mlx_lm stops."""
    way, row = told(kind), rows_asked()[0]
    command = told_command(way.said["train"]).replace(f"--extra-eos-token '{END[kind]}' ", "")
    answer, _ = answered(command.replace("--max-tokens 512", "--max-tokens 60"), row["prompt"])
    assert answer.startswith(row["answer"] + END[kind])


@pytest.mark.parametrize("kind", END)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_train_and_eval_say_once_which_end_of_turn_the_files_do_not_list(told, kind, command):
    end, said = END[kind], told(kind).errors[command]
    note = said.splitlines()[0]
    assert note.startswith(f"note: the chat template ends a turn with {end}, but")
    assert f"--extra-eos-token '{end}'" in note and "mlx-dpo fuse" in note
    assert said.count("end token") == 1


def test_sft_says_it_too(told, tmp_path, capsys):
    base = told("granite").base
    data = f"--set data.train={base.parent}/train.jsonl --set data.valid=null --output {tmp_path / 'sft'}"
    data += " --set optimizer.learning_rate=1e-5 --set training.epochs=1 --set training.rehearsal=0"
    with pytest.raises(SystemExit) as stop:
        main(["sft", *data.split(), "--model", str(base)])
    out, err = capsys.readouterr()
    assert stop.value.code == 0
    assert err.startswith("note: the chat template ends a turn with <|end_of_text|>, but")
    assert "--extra-eos-token '<|end_of_text|>'" in told_command(out)


@pytest.mark.parametrize("kind", END)
def test_fuse_lists_the_end_of_turn_beside_the_end_tokens_that_were_there(told, kind):
    way = told(kind)
    tokenizer = load_tokenizer(way.base)
    end = tokenizer.convert_tokens_to_ids(END[kind])
    config, sampling = (
        json.loads((way.fused / name).read_text()) for name in ("config.json", "generation_config.json")
    )
    before = json.loads((way.base / "config.json").read_text())
    assert config == before | {"eos_token_id": [0, end]}
    kept = {"temperature": 0.7} if kind == "qwen3" else {"pad_token_id": 0}
    assert sampling == kept | {"eos_token_id": [0, end]}
    (said,) = [line for line in way.errors["fuse"].splitlines() if "end of turn" in line]
    for word in (END[kind], "config.json", "generation_config.json"):
        assert word in said


def test_a_model_whose_files_list_its_end_of_turn_is_not_spoken_of(models):
    for name in ("granite", "llama", "qwen3"):
        tokenizer = load_tokenizer(models(name))
        assert end_note(models(name), tokenizer) is None
        assert stop_flags(models(name), tokenizer) == []


WHERE_LISTED = {
    "an int": (0, None, [0, 2]),
    "a list": ([1, 0], None, [1, 0, 2]),
    "null": (None, None, [0, 2]),
    "missing": (..., None, [0, 2]),
    "an empty list": ([], None, [0, 2]),
    "generation_config.json with an int": (1, {"eos_token_id": 3}, [3, 2]),
    "generation_config.json with a list": (0, {"eos_token_id": [3, 1]}, [3, 1, 2]),
    "generation_config.json with null": (1, {"eos_token_id": None}, [1, 2]),
    "generation_config.json without": (1, {"top_k": 20}, [1, 2]),
    "generation_config.json alone": (..., {"eos_token_id": [0, 1]}, [0, 1, 2]),
    "generation_config.json with 0, which mlx_lm ignores": (1, {"eos_token_id": 0}, [1, 2]),
}
"""eos_token_id of config.json, generation_config.json, and what is listed after fusing: <|im_end|> is 2."""


@pytest.mark.parametrize("case", WHERE_LISTED)
def test_wherever_the_end_tokens_are_listed_the_fused_model_has_them_and_the_end_of_turn(
    case, tmp_path, models
):
    """What is known of mlx_lm's end tokens is what its own loader finds, before and after."""
    import mlx_lm

    eos, sampling, wanted = WHERE_LISTED[case]
    base = listing(shutil.copytree(models("qwen3"), tmp_path / "base"), eos, "<|endoftext|>", sampling)
    theirs, tokenizer = mlx_lm.load(str(base))[1], load_tokenizer(base)
    assert set(mlx_lm_stops(base, tokenizer)) == theirs.eos_token_ids
    assert 2 not in theirs.eos_token_ids
    assert stop_flags(base, tokenizer) == ["--extra-eos-token", "<|im_end|>"]

    fused = fuse_run(str(base), adapter_of(base, tmp_path / "run"), tmp_path / "fused")
    assert mlx_lm.load(str(fused))[1].eos_token_ids == theirs.eos_token_ids | {2}
    own = load_tokenizer(fused)
    assert stop_flags(fused, own) == [] and end_note(fused, own) is None
    assert json.loads((fused / "config.json").read_text())["eos_token_id"] == wanted
    after = json.loads((fused / "generation_config.json").read_text())
    expected = [0, *wanted] if "with 0" in case else wanted
    assert after == (sampling or {"pad_token_id": 0}) | {"eos_token_id": expected}


def adapter_of(base, folder):
    """A fresh adapter for this base, saved as a run saves it."""
    config, (model, _) = load_config(None).adapter, load_model(base)
    attach(model, config)
    folder.mkdir()
    save_adapter_config(model, config, str(base), folder)
    save_adapter_weights(model, folder)
    return folder


def test_where_the_tokenizer_alone_names_the_end_of_turn_mlx_lm_stops_and_fuse_lists_it(tmp_path, models):
    """For programs that read the config only."""
    base = listing(shutil.copytree(models("qwen3"), tmp_path / "base"), [0], "<|im_end|>", {"top_k": 20})
    assert end_note(base, load_tokenizer(base)) is None
    fused = fuse_run(str(base), adapter_of(base, tmp_path / "run"), tmp_path / "fused")
    assert json.loads((fused / "config.json").read_text())["eos_token_id"] == [0, 2]
    assert json.loads((fused / "generation_config.json").read_text()) == {"top_k": 20, "eos_token_id": [0, 2]}


def test_a_quantised_base_that_is_fused_to_plain_precision_lists_the_end_of_turn(tmp_path, models):
    base = listing(shutil.copytree(models("granite-4bit"), tmp_path / "base"), 0, "<|pad|>")
    fused = fuse_run(str(base), adapter_of(base, tmp_path / "run"), tmp_path / "fused")
    config = json.loads((fused / "config.json").read_text())
    assert "quantization" not in config
    assert config["eos_token_id"] == [0, 1]


def test_a_nested_text_config_lists_the_end_of_turn_where_it_lists_end_tokens(tmp_path):
    def after(text):
        content = {"eos_token_id": 5, "text_config": text}
        (tmp_path / "config.json").write_text(json.dumps(content))
        list_end(tmp_path, 7, [5])
        return json.loads((tmp_path / "config.json").read_text())

    assert after({"eos_token_id": 6}) == {"eos_token_id": [5, 7], "text_config": {"eos_token_id": [6, 7]}}
    assert after({"hidden_size": 8}) == {"eos_token_id": [5, 7], "text_config": {"hidden_size": 8}}


def test_files_that_list_the_end_of_turn_are_left_as_they_are(tmp_path):
    (tmp_path / "config.json").write_text('{"eos_token_id":7}')
    (tmp_path / "generation_config.json").write_text('{"top_k":20}')
    assert not list_end(tmp_path, 7, [7])
    assert (tmp_path / "config.json").read_text() == '{"eos_token_id":7}'
    assert (tmp_path / "generation_config.json").read_text() == '{"top_k":20}'


def test_a_broken_generation_config_whose_end_tokens_mlx_lm_would_lose_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"eos_token_id": 5, "bos_token_id": 1}')
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(DpoError, match=r"generation_config.json:1: not JSON") as caught:
        read_model_config(tmp_path)
    assert "or remove the file" in caught.value.hint


@pytest.mark.parametrize("token", ["42", "-end-", "+1"])
def test_a_token_that_mlx_lm_would_misread_is_given_by_its_id(token, tmp_path, models):
    from mlx_lm.generate import setup_arg_parser

    base = shutil.copytree(models("qwen3"), tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_text((base / name).read_text().replace("<|im_end|>", token))
    listing(base, 0, "<|endoftext|>")
    tokenizer = load_tokenizer(base)
    words = shlex.split(generate_command(str(base), base, tokenizer, 9))
    theirs = load_tokenizer(base)
    for extra in setup_arg_parser().parse_args(words[4:]).extra_eos_token:
        theirs.add_eos_token(extra)
    assert tokenizer.decode([2]) == token
    assert 2 in theirs.eos_token_ids


@pytest.mark.parametrize("template", [True, False])
def test_the_command_gives_mlx_lm_the_prompt_that_eval_gives_the_model(template, tmp_path, models):
    """Without a template a prompt ends with a blank line, which mlx_lm does not add by itself."""
    from mlx_lm.generate import setup_arg_parser

    base = shutil.copytree(models("qwen3"), tmp_path / "base")
    if not template:
        settings = json.loads((base / "tokenizer_config.json").read_text())
        del settings["chat_template"]
        (base / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(base)
    words = shlex.split(generate_command(str(base), base, tokenizer, 9).replace("...", "How?"))
    given = setup_arg_parser().parse_args(words[4:])
    prompt = given.prompt.replace("\\n", "\n")  # from here on as in mlx_lm.generate.main
    if tokenizer.has_chat_template:
        options = json.loads(given.chat_template_config)
        asked = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **options)
    tokens = tokenizer.encode(prompt, add_special_tokens=not tokenizer.has_chat_template)
    assert tokens == prompt_tokens(tokenizer, [{"role": "user", "content": "How?"}])


def test_the_readme_shows_both_mlx_lm_commands_as_they_are_printed(models):
    """For the flagship model, whose files list its end of turn, as the tiny Granite's do."""
    shown = re.findall(r"^python -m mlx_lm generate .*$", (ROOT / "README.md").read_text(), re.M)
    base, tokenizer = models("granite"), load_tokenizer(models("granite"))
    limit = load_config(ROOT / "config" / "granite_dpo.yaml").generate.max_tokens
    model, run, fused = "ibm-granite/granite-4.0-h-micro", "runs/granite-dpo", "models/granite-dpo"
    assert shown == [
        generate_command(model, base, tokenizer, limit, run),
        generate_command(fused, base, tokenizer, limit),
    ]
