"""The chat template of a run is in exports of its adapter, and in the commands that are printed."""

from importlib.util import find_spec

import pytest

from mlx_dpo.models.load import load_tokenizer

from ..support.hub_uploads import BASE

needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="the package gguf is not installed")


@pytest.fixture
def template(finished):
    """The run's own template, that of the base with a comment."""
    text = load_tokenizer(finished.parent / "model").chat_template + "{# the run's own #}"
    (finished / "chat_template.jinja").write_text(text)
    return text


def test_peft_and_vllm_get_the_runs_own_template(finished, template, outcome, written):
    folder = finished.parent / "peft"
    code, out, err = outcome(
        "export", "peft", "--no-prove", "--run", finished, "--output", folder, "--base", BASE
    )
    assert code == 0, err
    assert f"vLLM needs --chat-template {folder}/chat_template.jinja" in out
    sent = written(folder, licence="apache-2.0")
    assert (sent / "chat_template.jinja").read_text() == template
    card = (sent / "README.md").read_text()
    assert "tokenizer.chat_template = open(hf_hub_download(" in card
    assert "--chat-template tiny-dpo/chat_template.jinja" in card


@needs_gguf
def test_llama_cpp_gets_the_runs_own_template_beside_the_adapter(finished, template, outcome, written):
    folder = finished.parent / "lora"
    code, out, err = outcome("export", "gguf", "--lora", "--run", finished, "--output", folder)
    assert code == 0, err
    assert f"--jinja --chat-template-file {folder}/chat_template.jinja" in out
    sent = written(folder, licence="apache-2.0")
    assert (sent / "chat_template.jinja").read_text() == template
    assert "--jinja --chat-template-file tiny-dpo/chat_template.jinja" in (sent / "README.md").read_text()


@needs_gguf
def test_the_bases_template_is_not_repeated(finished, outcome):
    for kind in (("peft", "--no-prove", "--base", BASE), ("gguf", "--lora")):
        folder = finished.parent / kind[0]
        code, out, err = outcome("export", *kind, "--run", finished, "--output", folder)
        assert code == 0, err
        assert "chat template" not in out and "--jinja" not in out
        assert not (folder / "chat_template.jinja").exists()
