"""A token that the embedding has no row for is refused where anything uses it."""

import json

import mlx.core as mx
import pytest

from mlx_dpo.models.load import load_tokenizer

from ..support.mistakes import (
    GEN_PAIRS,
    TRAIN,
    curated,
    edit,
    lines,
    pair,
    refused,
)


def with_token(model, token, *, special):
    """Add a token that has the first id beyond the model's embedding; the id."""
    file = model / "tokenizer.json"
    content = json.loads(file.read_text())
    number = json.loads((model / "config.json").read_text())["vocab_size"]
    content["added_tokens"].append(
        {"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": special}
    )
    file.write_text(json.dumps(content))
    return number


def test_a_token_of_the_template_beyond_the_embedding_is_refused_by_every_command(model, write_rows, capsys):
    number = with_token(model, "<|turn|>", special=True)
    settings = model / "tokenizer_config.json"
    template = json.loads(settings.read_text())["chat_template"]
    edit(settings, chat_template=template.replace("{{ bos_token }}", "{{ bos_token }}<|turn|>"))
    what = f"the {number} rows of the model's embedding: {number} '<|turn|>'"
    refused(load_tokenizer, model, str(model), what, f"resize_token_embeddings({number + 1})")


@pytest.mark.parametrize("weights", [True, False], ids=["by its weights", "by its config"])
def test_a_plain_token_beyond_the_embedding_is_refused(weights, model):
    number = with_token(model, "zebra", special=False)
    if not weights:
        (model / "model.safetensors").unlink()
    refused(load_tokenizer, model, str(model), f"{number} 'zebra'")


def test_an_end_token_beyond_the_embedding_is_refused(model):
    edit(model / "config.json", eos_token_id=[5, 100_000])
    refused(load_tokenizer, model, str(model), "100000")


def test_a_special_token_that_nothing_uses_is_told_and_refused_in_the_rows_that_spell_it(
    model, tmp_path, capsys, refused_command
):
    number = with_token(model, "<image_soft_token>", special=True)
    load_tokenizer(model)
    assert f"none for <image_soft_token> ({number})" in " ".join(capsys.readouterr().err.split())
    spelt = "What is <image_soft_token>?"
    (tmp_path / "rows.jsonl").write_text(lines(pair(), pair(prompt=spelt)))
    (tmp_path / "curated.jsonl").write_text(lines(curated(), curated(prompt=spelt)))
    for command, file in ((TRAIN, "rows.jsonl"), (GEN_PAIRS.replace("rows", "curated"), "curated.jsonl")):
        error = refused_command(f"{command} --model model --output out")
        assert f"{file}:2: contains the token '<image_soft_token>' ({number})" in error


def test_an_embedding_with_rows_to_spare_is_taken_without_a_word(model, capsys):
    weights = mx.load(str(model / "model.safetensors"))
    name = "model.embed_tokens.weight"
    more = mx.concatenate([weights[name], mx.zeros((64, weights[name].shape[1]))])
    mx.save_safetensors(str(model / "model.safetensors"), weights | {name: more})
    edit(model / "config.json", vocab_size=len(more))
    load_tokenizer(model)
    assert capsys.readouterr().err == ""


@pytest.fixture
def refused_command(capsys):
    """Run a command that a user's mistake ends: what it says."""
    from mlx_dpo.cli import main

    def run(command):
        with pytest.raises(SystemExit) as stop:
            main(command.split())
        assert stop.value.code == 1
        return capsys.readouterr().err

    return run
