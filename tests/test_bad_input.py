"""What a user can get wrong: each mistake is answered with its place, what it is and a remedy.

Every case states the exit code and the exact words; and every file in the folder is afterwards what it was.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

import click
import mlx.core as mx
import pytest

from mlx_dpo.cli import main
from mlx_dpo.data.templates import prompt_tokens
from mlx_dpo.models.load import load_tokenizer

NEEDS_PAIR = 'each line needs "prompt", "chosen" and "rejected"; see data/README.md'
NEEDS_CURATED = 'each line needs "prompt" and "answer"; see data/README.md'
NEEDS_OBJECT = 'each line is one whole object, such as {"prompt": "...", "answer": "..."}'
NEEDS_TURN = 'a message is {"role": "user", "content": "..."}'
NEEDS_TEXT = "texts are JSON strings; conversations are lists of {role, content}"
SEE_CONFIG = "mlx-dpo config prints every setting with its meaning"
SECTIONS = "known here: model, pairs, generate, data, adapter, loss, beta, optimizer, training, run"
DOWNLOAD = "download the model again"
COPY_RUN = "copy the whole run folder again"
OTHER_FOLDER = "choose another output folder"

# No case with this model gets as far as looking for it: settings, files and folders are checked before.
NO_MODEL = "--model ./no-model --output out"
TRAIN = "train --set data.train=rows.jsonl --set data.valid=null"
GEN_PAIRS = "gen-pairs --source rows.jsonl"


def cases(table):
    """Parametrize by promise -> values."""
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def pair(**changes):
    return {"prompt": "How?", "chosen": "So.", "rejected": "Thus."} | changes


def curated(**changes):
    return {"prompt": "How?", "answer": "So."} | changes


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def files_in(folder):
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run a command in the test's folder: it must fail with this message only, and change no file."""
    monkeypatch.chdir(tmp_path)

    def check(command, what, remedy, code=1):
        before = files_in(tmp_path)
        capsys.readouterr()  # what making models and runs has said
        with pytest.raises(SystemExit) as stop:
            main(command.split())
        out, err = capsys.readouterr()
        for pattern in (r"has \d+\.\d\d GB", r"write \d+ bytes"):  # differs from machine to machine
            err = re.sub(pattern, lambda m: re.sub(r"[\d.]+", "{n}", m[0]), err)
        assert err[err.find("Error: ") :] == f"Error: {what}\n  {remedy}\n"
        assert (stop.value.code, out) == (code, "")
        assert "Traceback" not in err
        assert files_in(tmp_path) == before

    return check


# ---- rows


PAIRS = {
    "a missing file": (None, "rows.jsonl: no such file", "check the path, relative to this folder"),
    "an empty file": ("", "rows.jsonl: has no rows", "see data/README.md for what a row looks like"),
    "a file of blank lines": (
        "\n\n",
        "rows.jsonl: has no rows",
        "see data/README.md for what a row looks like",
    ),
    "a line that breaks off": (
        lines(pair(), pair()) + '{"prompt": "How?"\n',
        "rows.jsonl:3: not JSON: Expecting ',' delimiter at column 18",
        NEEDS_OBJECT,
    ),
    "an array for an object": (
        lines(pair(), ["How?", "So.", "Thus."]),
        "rows.jsonl:2: is a JSON array, not an object",
        NEEDS_OBJECT,
    ),
    "a text for an object": (lines("How?"), "rows.jsonl:1: is a JSON string, not an object", NEEDS_OBJECT),
    "lists without end": (
        "[" * 100_000,
        "rows.jsonl:1: not JSON: a number too long or lists too deep",
        NEEDS_OBJECT,
    ),
    "a line that is not UTF-8": (
        lines(*[pair()] * 4).encode() + '{"prompt": "Où?"}\n'.encode("latin-1"),
        "rows.jsonl:5: is not UTF-8 text",
        "save the file as UTF-8",
    ),
    "UTF-16": (lines(pair()).encode("utf-16"), "rows.jsonl:1: is not UTF-8 text", "save the file as UTF-8"),
    "half an emoji": (
        lines(pair(chosen="Good \ud83d")),
        r"rows.jsonl:1: holds half of a character: '\ud83d'",
        "an emoji was cut in two where this file was made; write it whole or remove it",
    ),
    "no prompt": (
        lines({"chosen": "So.", "rejected": "Thus."}),
        "rows.jsonl:1: 'prompt' is missing",
        NEEDS_PAIR,
    ),
    "no chosen answer": (
        lines(pair(), {"prompt": "How?", "rejected": "Thus."}),
        "rows.jsonl:2: 'chosen' is missing",
        NEEDS_PAIR,
    ),
    "no rejected answer": (
        lines({"prompt": "How?", "chosen": "So."}),
        "rows.jsonl:1: 'rejected' is missing",
        NEEDS_PAIR,
    ),
    "an empty answer": (lines(pair(chosen="  ")), "rows.jsonl:1: 'chosen' is empty", NEEDS_PAIR),
    "null for an answer": (lines(pair(rejected=None)), "rows.jsonl:1: 'rejected' is empty", NEEDS_PAIR),
    "an empty prompt": (lines(pair(prompt=[])), "rows.jsonl:1: 'prompt' is empty", NEEDS_PAIR),
    "a number for a prompt": (
        lines(pair(prompt=5)),
        "rows.jsonl:1: 'prompt' must be text, got int",
        NEEDS_TEXT,
    ),
    "an object for an answer": (
        lines(pair(chosen={"text": "So."})),
        "rows.jsonl:1: 'chosen' must be text, got dict",
        NEEDS_TEXT,
    ),
    "a turn without content": (
        lines(pair(prompt=[{"role": "user"}])),
        "rows.jsonl:1: 'prompt' has a turn without role and content",
        NEEDS_TURN,
    ),
    "a turn of parts": (
        lines(pair(prompt=chat(("user", [{"type": "text", "text": "How?"}])))),
        "rows.jsonl:1: 'prompt' must be text, got list",
        NEEDS_TEXT,
    ),
    "an unknown role": (
        lines(pair(prompt=chat(("user", "How?"), ("tool", "42")))),
        "rows.jsonl:1: 'prompt' has the role 'tool'",
        "roles are system, user, assistant",
    ),
    "a prompt that ends in an answer": (
        lines(pair(prompt=chat(("user", "How?"), ("assistant", "So.")))),
        "rows.jsonl:1: the prompt must end with a user turn",
        "the completion is the assistant's turn",
    ),
    "an answer in the user's voice": (
        lines(pair(chosen=chat(("user", "So.")))),
        "rows.jsonl:1: 'chosen' must be one assistant message",
        "earlier turns go to 'prompt'",
    ),
    "conversations that part early": (
        lines(
            {
                "chosen": chat(("user", "How?"), ("assistant", "So.")),
                "rejected": chat(("user", "Why?"), ("assistant", "Thus.")),
            }
        ),
        "rows.jsonl:1: chosen and rejected differ before the last assistant turn",
        "a pair is one prompt with two answers; put the shared turns in 'prompt'",
    ),
    "unpaired rows": (
        lines({"prompt": "How?", "completion": "So.", "label": True}),
        "rows.jsonl:1: is an unpaired row (completion, label); DPO needs pairs",
        NEEDS_PAIR,
    ),
    "one id twice": (
        lines(pair(id="a"), pair(id="b"), pair(id="a")),
        "rows.jsonl:3: the id 'a' stands at rows.jsonl:1 too",
        "ids must differ; rows without one are called line-1, line-2, ...",
    ),
    "a list for an id": (
        lines(pair(id=["a"])),
        "rows.jsonl:1: 'id' must be text or a whole number",
        "or leave it out",
    ),
}


@cases(PAIRS)
def test_pairs_are_refused_before_the_model_is_looked_for(case, refused, tmp_path):
    content, what, remedy = case
    if content is not None:
        write(tmp_path / "rows.jsonl", content)
    refused(f"{TRAIN} {NO_MODEL}", what, remedy)


CURATED = {
    "a missing file": (None, "rows.jsonl: no such file", "check the path, relative to this folder"),
    "no answer": (lines(curated(), {"prompt": "How?"}), "rows.jsonl:2: 'answer' is missing", NEEDS_CURATED),
    "no prompt": (lines({"answer": "So."}), "rows.jsonl:1: 'prompt' is missing", NEEDS_CURATED),
    "an empty answer": (lines(curated(answer=" ")), "rows.jsonl:1: 'answer' is empty", NEEDS_CURATED),
    "a list of texts for an answer": (
        lines(curated(answer=["So."])),
        "rows.jsonl:1: 'answer' has a turn without role and content",
        NEEDS_TURN,
    ),
    "messages without an answer": (
        lines({"messages": chat(("user", "How?"))}),
        "rows.jsonl:1: 'messages' must end with an assistant turn",
        NEEDS_CURATED,
    ),
    "messages with two answers": (
        lines({"messages": chat(("user", "How?"), ("assistant", "So."), ("assistant", "Thus."))}),
        "rows.jsonl:1: the prompt must end with a user turn",
        "the completion is the assistant's turn",
    ),
    "text for messages": (
        lines({"messages": "How?"}),
        "rows.jsonl:1: 'messages' must be a list of messages, got str",
        NEEDS_TURN,
    ),
    "one id twice": (
        lines(curated(id=7), curated(id="7")),
        "rows.jsonl:2: the id '7' stands at rows.jsonl:1 too",
        "ids must differ; rows without one are called line-1, line-2, ...",
    ),
}


@cases(CURATED)
def test_curated_rows_are_refused_before_the_model_is_looked_for(case, refused, tmp_path):
    content, what, remedy = case
    if content is not None:
        write(tmp_path / "rows.jsonl", content)
    refused(f"{GEN_PAIRS} {NO_MODEL}", what, remedy)


def test_a_byte_order_mark_is_no_mistake(refused, tmp_path):
    write(tmp_path / "rows.jsonl", lines(pair()).encode("utf-8-sig"))
    # The rows are read: the next thing looked for is missing.
    refused(
        f"{TRAIN} {NO_MODEL}",
        "./no-model: no such folder, and not a Hub name (organisation/model)",
        "set model.path to a model folder, or to a name like ibm-granite/granite-4.0-h-micro",
    )


@pytest.mark.parametrize("command", [TRAIN, GEN_PAIRS], ids=["train", "gen-pairs"])
def test_a_folder_in_place_of_a_file_is_refused(command, refused, tmp_path):
    (tmp_path / "rows.jsonl").mkdir()
    remedy = "name the .jsonl file inside it"
    refused(f"{command} {NO_MODEL}", "rows.jsonl: is a folder, not a file", remedy)


def test_a_prompt_in_both_files_is_refused(refused, write_rows):
    write_rows("rows.jsonl", [pair(), pair(prompt="Why?")])
    write_rows("valid.jsonl", [pair(prompt="Who?"), pair(prompt=" WHY? ")])
    refused(
        f"{TRAIN} --set data.valid=valid.jsonl {NO_MODEL}",
        "valid.jsonl: has prompts that are in data.train too: valid.jsonl:2",
        "held-out numbers would be too good; remove these rows from one of the files",
    )


LONG = "How? " * 30


@pytest.mark.parametrize(
    ("command", "row"), [(TRAIN, pair), (GEN_PAIRS, curated)], ids=["train", "gen-pairs"]
)
def test_prompts_that_leave_no_room_are_refused_and_ten_of_them_named(
    command, row, refused, write_rows, models
):
    tokens = len(prompt_tokens(load_tokenizer(models("llama")), chat(("user", LONG))))
    command += f" --model {models('llama')} --output out --set data.max_length=64"
    what = f"the prompt has {tokens} tokens, data.max_length is 64"
    remedy = f"set data.max_length to {tokens + 2} or more, or shorten or remove these rows"
    write_rows("rows.jsonl", [row(), row(prompt=LONG)])
    refused(command, f"rows.jsonl:2: {what}", remedy)
    write_rows("rows.jsonl", [row(prompt=LONG), row(), *[row(prompt=LONG)] * 12])
    refused(
        command,
        f"rows.jsonl:1: {what}; so have lines 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 2 more",
        remedy,
    )


def test_pairs_without_a_difference_are_refused(refused, write_rows, models):
    command = f"{TRAIN} --model {models('llama')} --output out --set data.max_length=32"
    what = "rows.jsonl: no pair is left of 2: chosen and rejected are the same in all"
    remedy = "rejected answers must differ from the chosen ones"
    write_rows("rows.jsonl", [pair(rejected="So."), pair(rejected=" So.\n")])
    refused(command, what, remedy)
    write_rows("rows.jsonl", [pair(rejected="So."), pair(chosen=LONG + "So.", rejected=LONG + "Thus.")])
    refused(command, what, f"{remedy} within data.max_length, 32 tokens")


# ---- settings


SETTINGS = {
    "a typo in a section": (
        "modle:\n  path: x\n",
        "run.yaml:1: unknown setting 'modle'",
        "did you mean model?",
    ),
    "a typo in a key": (
        "beta:\n  rule: fixed\n  vlaue: 0.2\n",
        "run.yaml:3: unknown setting 'beta.vlaue'",
        "did you mean beta.value?",
    ),
    "a key like no other": (
        "beta:\n  zzz: 1\n",
        "run.yaml:2: unknown setting 'beta.zzz'",
        "known here: rule, value",
    ),
    "a number for a section": ("3: 1\n", "run.yaml:1: unknown setting '3'", SECTIONS),
    "a typo in a choice": (
        "optimizer:\n  schedule: cosin\n",
        "run.yaml:2: optimizer.schedule cannot be 'cosin'",
        "choose from cosine, linear, constant; did you mean cosine?",
    ),
    "text for a number": (
        "training:\n  epochs: two\n",
        "run.yaml:2: training.epochs must be a whole number, got 'two'",
        "times every pair is seen",
    ),
    "a fraction for a whole number": (
        "training:\n  epochs: 1.5\n",
        "run.yaml:2: training.epochs must be a whole number, got 1.5",
        "times every pair is seen",
    ),
    "a value for a section": (
        "beta: 0.2\n",
        "run.yaml:1: beta must be a section of settings",
        "mlx-dpo config shows it",
    ),
    "a key twice": (
        "beta:\n  value: 0.1\n  value: 0.2\n",
        "run.yaml:3: 'beta.value' is written twice",
        "keep one of the two",
    ),
    "a section twice": (
        "beta:\n  value: 0.1\nloss: {}\nbeta:\n  rule: fixed\n",
        "run.yaml:4: 'beta' is written twice",
        "keep one of the two",
    ),
    "an open bracket": (
        "beta: [1\n",
        "run.yaml:2: not YAML: expected ',' or ']', but got '<stream end>'",
        "check the indentation and the colons around this line",
    ),
    "a tab": (
        "beta:\n\tvalue: 0.1\n",
        r"run.yaml:2: not YAML: found character '\t' that cannot start any token",
        "check the indentation and the colons around this line",
    ),
    "a list": ("- beta\n", "run.yaml: is not a mapping of sections", "mlx-dpo config prints an example"),
    "a setting that holds itself": (
        "model: &m\n  path: *m\n",
        "run.yaml:2: model.path must be text, got {'path': {...}}",
        "a folder in hub layout, or a name on the Hub",
    ),
    "a file that is not UTF-8": (b"\xff\xfe\xff", "run.yaml: is not UTF-8 text", "save the file as UTF-8"),
    "a file of other bytes": (
        "model: \0\n",
        "run.yaml: not YAML: unacceptable character #x0000: special characters are not allowed",
        "check the indentation and the colons around this line",
    ),
    "no file": (None, "run.yaml: no such file", "mlx-dpo config prints one to start from"),
}


@cases(SETTINGS)
@pytest.mark.parametrize("command", ["config", "train"])
def test_a_settings_file_is_refused_with_the_line(command, case, refused, tmp_path):
    content, what, remedy = case
    if content is not None:
        write(tmp_path / "run.yaml", content)
    refused(f"{command} --config run.yaml", what, remedy)


OVERRIDES = {
    "no value": (
        "--set beta.value",
        "--set: 'beta.value' is not section.key=value",
        "for example: --set beta.value=0.2",
    ),
    "no key": (
        "--set beta=0.2",
        "--set: 'beta=0.2' is not section.key=value",
        "for example: --set beta.value=0.2",
    ),
    "an unknown section": (
        "--set bta.value=1",
        "--set bta.value: unknown setting 'bta'",
        "did you mean beta?",
    ),
    "an unknown key": (
        "--set beta.vaule=1",
        "--set beta.vaule: unknown setting 'beta.vaule'",
        "did you mean beta.value?",
    ),
    "a key of a value": (
        "--set beta.value.x=1",
        "--set beta.value.x: beta.value must be a number, got {'x': 1}",
        "beta at the start; larger stays closer to the reference",
    ),
    "a negative learning rate": (
        "--set optimizer.learning_rate=-1e-5",
        "--set optimizer.learning_rate: optimizer.learning_rate must be above 0, got -1e-05",
        SEE_CONFIG,
    ),
    "a learning rate that is no number": (
        "--set optimizer.learning_rate=.nan",
        "--set optimizer.learning_rate: optimizer.learning_rate must be a number, got nan",
        "peak; for adapters 5e-6 to 5e-5 is usual, for full training a tenth of that",
    ),
    "an unknown loss": (
        "--set loss.name=sigmod",
        "--set loss.name: loss.name must be one of sigmoid, got 'sigmod'",
        SEE_CONFIG,
    ),
    "one layer's name where a list is wanted": (
        "--set adapter.targets=q_proj",
        "--set adapter.targets: adapter.targets must be all or a list of layer names, got 'q_proj'",
        SEE_CONFIG,
    ),
    "no layer at all": (
        "--set adapter.targets=[]",
        "--set adapter.targets: adapter.targets must be all or a list of layer names, got []",
        SEE_CONFIG,
    ),
    "dropout with checkpointing": (
        "--set adapter.dropout=0.1 --set training.gradient_checkpointing=on",
        "adapter.dropout: dropout cannot be used with gradient checkpointing",
        "set adapter.dropout=0 or training.gradient_checkpointing=off",
    ),
}


@cases(OVERRIDES)
def test_an_override_is_refused_by_its_name(case, refused):
    arguments, what, remedy = case
    refused(f"train {arguments}", what, remedy)


def test_a_flag_is_checked_as_the_setting_it_stands_for(refused):
    refused(
        "gen-pairs --limit many",
        "--set pairs.limit: pairs.limit must be a whole number or null, got 'many'",
        "use only the first so many rows of each source; null uses all",
    )


# ---- usage


USAGE = {
    "an unknown option": ("train --zzz", click.NoSuchOption("--zzz").format_message()),
    "an argument too many": ("train rows.jsonl", "Got unexpected extra argument (rows.jsonl)"),
    "eval without a run": ("eval", "Missing option '--run'."),
    "fuse without an output": ("fuse --run runs/a", "Missing option '--output'."),
    "a number out of range": (
        "eval --run runs/a --samples -1",
        "Invalid value for '--samples': -1 is not in the range x>=0.",
    ),
}


@cases(USAGE)
def test_wrong_usage_ends_with_2_and_points_to_the_help(case, capsys):
    command, what = case
    name = command.split()[0]
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err == f"Usage: mlx-dpo {name} [OPTIONS]\nTry 'mlx-dpo {name} --help' for help.\n\nError: {what}\n"


def test_a_process_ends_with_these_codes(mlx_dpo_command, tmp_path):
    done = mlx_dpo_command("config", "--config", "run.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: run.yaml: no such file\n  mlx-dpo config prints one to start from\n"
    assert mlx_dpo_command("config", "--zzz").returncode == 2


# ---- models


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def holding(name, content):
    return lambda folder: write(folder / name, content)


def cut(name, size):
    return lambda folder: os.truncate(folder / name, size)


def changed(name, old, new):
    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def not_a_number(folder):
    weights = mx.load(str(folder / "model.safetensors"))
    name = "model.norm.weight"
    mx.save_safetensors(str(folder / "model.safetensors"), weights | {name: weights[name] * mx.nan})


MODELS = {
    "without config.json": (
        without("config.json"),
        "model: is not a model folder: it has no config.json",
        "name a folder in hub layout (config.json, *.safetensors, tokenizer.json) or a Hub name",
    ),
    "without weights": (
        without("model.safetensors"),
        "model: has a config.json but no model*.safetensors",
        "the weights are missing; download the model again",
    ),
    "with half a config.json": (
        holding("config.json", '{"model_type": "llama"'),
        "model/config.json:1: not JSON: Expecting ',' delimiter",
        DOWNLOAD,
    ),
    "with a list for a config": (
        holding("config.json", "[]"),
        "model/config.json: is not a model's config",
        DOWNLOAD,
    ),
    "with bytes for a config": (
        holding("config.json", b"\xff\xfe\xff"),
        "model/config.json: is not a model's config",
        DOWNLOAD,
    ),
    "of an unknown architecture": (
        changed("config.json", '"llama"', '"lama"'),
        "model/config.json: mlx_lm does not know the architecture 'lama'",
        "pip install -U mlx-lm, or choose another model",
    ),
    "with weights that break off": (
        cut("model.safetensors", 200_000),
        "model/model.safetensors: is damaged or not whole",
        DOWNLOAD,
    ),
    "with empty weights": (
        cut("model.safetensors", 0),
        "model/model.safetensors: is damaged or not whole",
        DOWNLOAD,
    ),
    "with other bytes for weights": (
        holding("model.safetensors", b"<!DOCTYPE html>" * 99),
        "model/model.safetensors: is damaged or not whole",
        DOWNLOAD,
    ),
    "with fewer layers than its config says": (
        changed("config.json", '"num_hidden_layers": 3', '"num_hidden_layers": 5'),
        "model: the model cannot be loaded: Missing 18 parameters",
        "mlx_lm must know the architecture (pip install -U mlx-lm) and the files must be whole",
    ),
    "without tokenizer": (
        without("tokenizer.json", "tokenizer_config.json"),
        "model: its tokenizer cannot be loaded: it has no tokenizer.json",
        "the folder needs tokenizer.json and tokenizer_config.json; download the model again",
    ),
    "with a broken chat template": (
        changed("tokenizer_config.json", "{{ bos_token }}", "{% nonsense %}"),
        "model: the chat template refuses this conversation: Encountered unknown tag 'nonsense'.",
        "check the order of roles; some templates know no system turn",
    ),
    "with weights that are no numbers": (
        not_a_number,
        "rows.jsonl:1: the reference gives this pair no finite log-probability",
        "the model's weights hold NaN, or its dtype overflows: try a bfloat16 or float32 copy",
    ),
}


@cases(MODELS)
def test_a_damaged_model_is_refused(case, refused, tmp_path, write_rows, models):
    damage, what, remedy = case
    damage(shutil.copytree(models("llama"), tmp_path / "model"))
    write_rows("rows.jsonl", [pair()])
    refused(f"{TRAIN} --model model --output out", what, remedy)


@pytest.mark.parametrize(
    ("command", "row"), [(TRAIN, pair()), (GEN_PAIRS, curated())], ids=["train", "gen-pairs"]
)
def test_a_model_that_is_nowhere_is_refused(command, row, refused, write_rows):
    write_rows("rows.jsonl", [row])
    refused(
        f"{command} --model ./nope --output out",
        "./nope: no such folder, and not a Hub name (organisation/model)",
        "set model.path to a model folder, or to a name like ibm-granite/granite-4.0-h-micro",
    )


def test_a_conversation_that_the_chat_template_refuses_is_named(refused, tmp_path, write_rows, models):
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    folder = shutil.copytree(models("llama"), tmp_path / "model")
    changed("tokenizer_config.json", "{{ bos_token }}", refusal)(folder)
    write_rows("rows.jsonl", [pair(), pair(system="Be brief.")])
    refused(
        f"{TRAIN} --model model --output out",
        "rows.jsonl:2: the chat template refuses this conversation: no system turn",
        "check the order of roles; some templates know no system turn",
    )


def test_layers_that_the_model_has_not_are_refused_with_those_it_has(refused, write_rows, models):
    write_rows("rows.jsonl", [pair()])
    refused(
        f"{TRAIN} --model {models('llama')} --output out --set adapter.targets=[q_proj,in_proj]",
        "adapter.targets: this model has no layer named in_proj",
        "its blocks have mlp.down_proj, mlp.gate_proj, mlp.up_proj, "
        "self_attn.k_proj, self_attn.o_proj, self_attn.q_proj, self_attn.v_proj",
    )


def test_full_training_of_a_quantised_model_is_refused(refused, write_rows, models):
    write_rows("rows.jsonl", [pair()])
    refused(
        f"{TRAIN} --model {models('granite-4bit')} --output out --set adapter.type=full",
        "adapter.type: full training cannot change quantised weights",
        "set adapter.type=lora, or model.path to the model before quantisation",
    )


# ---- runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory, models, pair_rows):
    """A run's folder by model, trained when first asked for on two pairs, with two held out."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "train.jsonl").write_text(lines(*pair_rows[:2]))
    (folder / "valid.jsonl").write_text(lines(*pair_rows[2:4]))

    def get(name):
        run = folder / name
        if not run.exists():
            command = f"train --set data.train={folder}/train.jsonl --set data.valid={folder}/valid.jsonl"
            with pytest.raises(SystemExit) as stop:
                main([*command.split(), "--model", str(models(name)), "--output", str(run)])
            assert stop.value.code == 0
        return run

    return get


RUNS = {
    "without config.yaml": (
        without("config.yaml"),
        "run: is not a run folder: it has no config.yaml",
        "name the folder that mlx-dpo train wrote (its run.output)",
    ),
    "without adapter": (
        without("adapters.safetensors"),
        "run: is not an adapter folder: it has no adapters.safetensors",
        "name the run folder of a finished training",
    ),
    "with an adapter that breaks off": (
        cut("adapters.safetensors", 100_000),
        "run/adapters.safetensors: is damaged or not whole",
        COPY_RUN,
    ),
    "with an empty adapter": (
        cut("adapters.safetensors", 0),
        "run/adapters.safetensors: is damaged or not whole",
        COPY_RUN,
    ),
    "with a list for an adapter's config": (
        holding("adapter_config.json", "[]"),
        "run/adapter_config.json: is not an adapter that mlx_lm can load: not a JSON object",
        COPY_RUN,
    ),
    "with an adapter's config that says nothing": (
        holding("adapter_config.json", "{}"),
        "run/adapter_config.json: is not an adapter that mlx_lm can load: it has no 'num_layers'",
        COPY_RUN,
    ),
    "with an unknown kind of adapter": (
        changed("adapter_config.json", '"lora"', '"loha"'),
        "run/adapter_config.json: is not an adapter that mlx_lm can load: its fine_tune_type is 'loha'",
        COPY_RUN,
    ),
    "with an unknown setting": (
        changed("config.yaml", "model:\n", "modle:\n"),
        "run/config.yaml:1: unknown setting 'modle'",
        "did you mean model?",
    ),
    "whose model is gone": (
        changed("config.yaml", "path: /", "path: ./gone/"),
        "{model}: no such folder, and not a Hub name (organisation/model)",
        "set model.path to a model folder, or to a name like ibm-granite/granite-4.0-h-micro",
    ),
}


@cases(RUNS)
@pytest.mark.parametrize("command", ["eval --run run", "fuse --run run --output fused"], ids=["eval", "fuse"])
def test_a_damaged_run_is_refused(command, case, refused, tmp_path, trained, models):
    damage, what, remedy = case
    damage(shutil.copytree(trained("llama"), tmp_path / "run"))
    refused(command, what.replace("{model}", f"./gone{models('llama')}"), remedy)


MISFITS = (
    "mlp.down_proj.lora_a mlp.gate_proj.lora_b mlp.up_proj.lora_b self_attn.k_proj.lora_a "
    "self_attn.k_proj.lora_b self_attn.o_proj.lora_a self_attn.o_proj.lora_b self_attn.q_proj.lora_a "
    "self_attn.q_proj.lora_b self_attn.v_proj.lora_a"
)


@pytest.mark.parametrize("command", ["eval --run run", "fuse --run run --output fused"], ids=["eval", "fuse"])
def test_a_run_whose_model_was_exchanged_is_refused(command, refused, tmp_path, trained, models):
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    changed("config.yaml", str(models("llama")), str(models("granite")))(run)
    misfits = ", ".join(f"model.layers.0.{name}" for name in MISFITS.split())
    refused(
        command,
        f"run: this adapter does not fit the model: {misfits} and 17 more",
        "use the model the adapter was trained on",
    )


@pytest.mark.parametrize(
    ("command", "row"), [(TRAIN, pair()), (GEN_PAIRS, curated())], ids=["train", "gen-pairs"]
)
def test_starting_from_what_is_no_adapter_of_this_model_is_refused(
    command, row, refused, write_rows, trained, models
):
    write_rows("rows.jsonl", [row])
    command += f" --model {models('llama')} --output out --set model.adapter="
    refused(
        f"{command}{models('llama')}",
        f"{models('llama')}: is not an adapter folder: it has no adapter_config.json",
        "name the run folder of a finished training",
    )
    refused(
        f"{command}{trained('granite')}",
        f"{trained('granite')}: this adapter does not fit: "
        "this model has no layer named mamba.in_proj, mamba.out_proj",
        "use the model the adapter was trained on",
    )


def test_eval_without_held_out_pairs_is_refused(refused, tmp_path, trained):
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    refused(
        "eval --run run --data pairs.jsonl",
        "pairs.jsonl: no such file",
        "check the path, relative to this folder",
    )
    changed("config.yaml", f"valid: {trained('llama').parent}/valid.jsonl", "valid: null")(run)
    refused("eval --run run", "run: the run has no held-out pairs", "name some: --data pairs/valid.jsonl")


@pytest.mark.parametrize("command", ["eval --run .", "fuse --run . --output fused"], ids=["eval", "fuse"])
def test_a_folder_that_is_no_run_is_refused(command, refused):
    refused(
        command,
        ".: is not a run folder: it has no config.yaml",
        "name the folder that mlx-dpo train wrote (its run.output)",
    )


# ---- outputs

WRITERS = {
    "train": f"{TRAIN} --model ./no-model",
    "gen-pairs": f"{GEN_PAIRS} --model ./no-model",
    "fuse": "fuse --run run",
}
NEEDS = {"train": "0.05", "gen-pairs": "0.01", "fuse": "0.00"}


@pytest.fixture(params=WRITERS)
def writer(request, tmp_path, trained):
    """The name of a command that writes a folder; what it reads is there."""
    shutil.copytree(trained("llama"), tmp_path / "run")
    (tmp_path / "rows.jsonl").write_text(lines(pair() | curated()))
    return request.param


def test_an_output_inside_a_file_is_refused(writer, refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(f"{WRITERS[writer]} --output file/out", f"file/out: {tmp_path}/file is a file", OTHER_FOLDER)


@pytest.mark.parametrize("name", ["train", "gen-pairs"])
def test_an_output_that_is_a_file_is_refused(name, refused, tmp_path):
    write(tmp_path / "rows.jsonl", lines(pair() | curated()))
    refused(f"{WRITERS[name]} --output rows.jsonl", "rows.jsonl: is a file, not a folder", OTHER_FOLDER)


def test_an_output_that_cannot_be_written_is_refused(writer, refused, tmp_path):
    locked, reason = tmp_path / "locked", "Permission denied"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):  # root may write anywhere but where the system itself refuses
        locked, reason = Path("/proc"), "No such file or directory"
        if not locked.exists():
            pytest.skip("this user may write everywhere")
    refused(
        f"{WRITERS[writer]} --output {locked}/out",
        f"{locked}/out: cannot write in {locked}: {reason}",
        OTHER_FOLDER,
    )


def test_a_disk_without_room_is_refused(writer, refused, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        refused(
            f"{WRITERS[writer]} --output disk/out",
            f"disk/out: needs {NEEDS[writer]} GB, the disk has {{n}} GB left",
            "free some space, or choose an output folder on another disk",
        )
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_model_too_large_for_the_disk_is_not_fused(refused, tmp_path, trained, models):
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    model = shutil.copytree(models("llama"), tmp_path / "model")
    changed("config.yaml", str(models("llama")), "model")(run)
    with open(model / "model-2.safetensors", "wb") as file:
        file.write(b"\x02" + bytes(7) + b"{}")
        file.truncate(15 * 10**12)  # a hole: it takes no room here
    refused(
        "fuse --run run --output fused",
        "fused: needs 15000.00 GB, the disk has {n} GB left",
        "free some space, or choose an output folder on another disk",
    )


@contextlib.contextmanager
def files_end_at(size):
    """A disk on which no file grows past `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FULL = "free some space or choose another output folder; what was there before is untouched"


def test_a_disk_that_fills_while_a_run_is_replaced_leaves_the_older_run_whole(
    refused, tmp_path, trained, models
):
    shutil.copytree(trained("llama"), tmp_path / "run")
    write(tmp_path / "rows.jsonl", lines(pair()))
    with files_end_at(100_000):
        refused(
            f"{TRAIN} --model {models('llama')} --output run --overwrite",
            "run/adapters.safetensors: cannot be written: [write] Unable to write {n} bytes to file.",
            FULL,
        )


def test_a_disk_that_fills_leaves_no_half_model(refused, tmp_path, trained):
    shutil.copytree(trained("llama"), tmp_path / "run")
    with files_end_at(100_000):
        refused(
            "fuse --run run --output fused",
            "fused: cannot be written: [write] Unable to write {n} bytes to file.",
            FULL,
        )
    assert not (tmp_path / "fused").exists()


def test_a_disk_that_fills_before_the_first_answer_is_an_error(refused, tmp_path, models):
    write(tmp_path / "rows.jsonl", lines(curated()))
    with files_end_at(50):
        refused(
            f"{GEN_PAIRS} --model {models('llama')} --output out",
            "out/completions.json: cannot be written: File too large",
            FULL,
        )


def test_an_answer_that_finds_no_room_is_an_error(tmp_path, models, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", lines(*[curated(prompt=f"How {n}?") for n in range(9)]))
    with files_end_at(300), pytest.raises(SystemExit) as stop:
        main(f"{GEN_PAIRS} --model {models('llama')} --output out --max-tokens 4".split())
    assert stop.value.code == 1
    assert capsys.readouterr().err.endswith(
        f"Error: out/completions.jsonl: cannot be written: File too large\n  {FULL}\n"
    )


def test_a_run_is_not_replaced_by_accident(refused, tmp_path, trained):
    shutil.copytree(trained("llama"), tmp_path / "run")
    refused(
        f"{WRITERS['train']} --output run",
        "run: holds a run already",
        "choose another folder with --output, or replace it with --overwrite",
    )
    refused(
        f"{WRITERS['train']} --output run --overwrite --set model.adapter=run",
        "run: is the adapter that the run starts from, its reference",
        "choose another folder with --output",
    )
    refused("fuse --run run --output run", "run: exists already", "choose another folder with --output")


def test_rows_that_gen_pairs_did_not_write_are_not_replaced(refused, tmp_path, models):
    (tmp_path / "mine").mkdir()
    write(tmp_path / "rows.jsonl", lines(curated()))
    write(tmp_path / "mine" / "train.jsonl", lines(pair()))
    command = f"{GEN_PAIRS} --model {models('llama')} --output mine"
    refused(
        command,
        "mine: holds train.jsonl, and gen-pairs did not write it",
        "choose another folder with --output, so that nothing of yours is replaced",
    )
    write(tmp_path / "mine" / "completions.json", "[]")
    refused(command, "mine/completions.json: is damaged", "delete the folder mine to start over")
