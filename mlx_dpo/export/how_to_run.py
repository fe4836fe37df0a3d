"""Commands that run a model from the Hub, in each program that reads its kind of folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..printed_commands import command_line
from .own_template import FILE as TEMPLATE
from .peft import consumer_notes

_TRANSFORMERS = """\
from transformers import pipeline

model = pipeline("text-generation", model="{repo}")
print(model([{{"role": "user", "content": "..."}}]))"""
_PEFT = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{repo}")
tokenizer = AutoTokenizer.from_pretrained("{base}")"""
_PEFT_TEMPLATE = """\
from huggingface_hub import hf_hub_download
{code}
tokenizer.chat_template = open(hf_hub_download("{repo}", "{file}"), encoding="utf-8").read()"""
_OWN_TEMPLATE = """\
from mlx_lm import generate, load

template = open("{name}/chat_template.jinja").read()
model, tokenizer = load("{base}", adapter_path="{name}", tokenizer_config={{"chat_template": template}})
prompt = tokenizer.apply_chat_template([{{"role": "user", "content": "..."}}], add_generation_prompt=True)
print(generate(model, tokenizer, prompt))"""


class Recipe(NamedTuple):
    """How a program runs the model: a block of code in a language, "sh" or "python", and notes."""

    program: str
    code: str
    language: str = "sh"
    notes: Sequence[str] = ()


class Pushed(NamedTuple):
    """What the commands depend on.

    `base`: the base model's name on the Hub. `files`: names of all files. `generate`: the command of mlx_lm,
    if the base is at hand. `own_template`: the run has a chat template of its own. `peft`: the content of
    adapter_config.json of a PEFT adapter.
    """

    repo: str
    base: str
    files: Sequence[str]
    generate: str
    own_template: bool = False
    peft: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Of the repository, without its owner."""
        return self.repo.partition("/")[2]


def recipes(kind: str, pushed: Pushed) -> list[Recipe]:
    """How to run a folder of this kind, one of `file_lists.KINDS`, after it was uploaded."""
    return _RECIPES[kind](pushed)


def _download(pushed: Pushed) -> str:
    return command_line(["hf", "download", pushed.repo, "--local-dir", pushed.name])


def _adapter(pushed: Pushed) -> list[Recipe]:
    if pushed.own_template:
        code = _OWN_TEMPLATE.format(name=pushed.name, base=pushed.base)
        notes = [f"first: `{_download(pushed)}`", "mlx_lm does not read a chat template beside an adapter"]
        return [Recipe("mlx_lm", code, "python", notes)]
    return [Recipe("mlx_lm", f"{_download(pushed)}\n{pushed.generate}")]


def _peft(pushed: Pushed) -> list[Recipe]:
    content = pushed.peft or {}
    code = _PEFT.format(repo=pushed.repo, base=pushed.base)
    if pushed.own_template:
        code = _PEFT_TEMPLATE.format(code=code, repo=pushed.repo, file=TEMPLATE)
    found = [Recipe("PEFT", code, "python")]
    notes = consumer_notes(content, Path(pushed.name))
    if content.get("use_dora"):
        return [found[0]._replace(notes=notes)]
    words = ["vllm", "serve", pushed.base, "--enable-lora", "--lora-modules", f"{pushed.name}={pushed.repo}"]
    if pushed.own_template:
        words += ["--chat-template", f"{pushed.name}/{TEMPLATE}"]
        notes = [f"first: `{_download(pushed)}`", *notes]
    return [*found, Recipe("vLLM", command_line(words), notes=notes)]


def _fused(pushed: Pushed) -> list[Recipe]:
    server = command_line(["python", "-m", "mlx_lm", "server", "--model", pushed.repo])
    return [Recipe("mlx_lm", f"{pushed.generate}\n{server}")]


def _hf(pushed: Pushed) -> list[Recipe]:
    return [
        Recipe("transformers", _TRANSFORMERS.format(repo=pushed.repo), "python"),
        Recipe("vLLM", command_line(["vllm", "serve", pushed.repo])),
        Recipe("mlx_lm", pushed.generate),
    ]


def _gguf(pushed: Pushed) -> list[Recipe]:
    file, model = f"{pushed.name}/{_gguf_file(pushed)}", f"{pushed.name}/Modelfile"
    llama = command_line(["llama-cli", "-m", file])
    ollama = command_line(["ollama", "create", pushed.name, "-f", model])
    notes = [f"first: `{_download(pushed)}`"]
    return [Recipe("llama.cpp", f"{_download(pushed)}\n{llama}"), Recipe("Ollama", ollama, notes=notes)]


def _gguf_lora(pushed: Pushed) -> list[Recipe]:
    file = f"{pushed.name}/{_gguf_file(pushed)}"
    template = f"{pushed.name}/{TEMPLATE}" if pushed.own_template else None
    llama = llama_with_lora(file, template)
    notes = [f"BASE.gguf: any GGUF file of {pushed.base}"]
    return [Recipe("llama.cpp", f"{_download(pushed)}\n{llama}", notes=notes)]


def llama_with_lora(file: str, template: str | None) -> str:
    """llama.cpp's command for an adapter.

    Args:
        template: the file with the run's own chat template.
    """
    own = ["--jinja", "--chat-template-file", template] if template else []
    return command_line(["llama-cli", "-m", "BASE.gguf", "--lora", file, *own])


def _gguf_file(pushed: Pushed) -> str:
    return next(name for name in pushed.files if name.endswith(".gguf"))


_RECIPES = {
    "adapter": _adapter,
    "peft": _peft,
    "fused": _fused,
    "hf": _hf,
    "gguf": _gguf,
    "gguf-lora": _gguf_lora,
}
