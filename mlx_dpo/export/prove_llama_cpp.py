"""Prove a GGUF file: it holds what was meant, and llama.cpp reads, tokenises and predicts as MLX does."""

import json
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..data.chat_template import render
from ..errors import DpoError
from .gguf import GgufContent, gguf_content
from .gguf_fields import Field
from .gguf_file import read_gguf, stored, type_of
from .hub_model import Source
from .predictions import (
    EXACT,
    EXACT_GEMMA,
    Agreement,
    Predictions,
    check_alike,
    computes_exactly,
    llama_cpp_gelu,
    log_softmax,
    mlx_predictions,
    predictions,
)
from .read_back import check_names, check_tensor_names, damaged

_HINT = "nothing was exported; please report this with the model's name, or export with --no-prove"
DIFFICULT = (
    *(
        "",
        " ",
        "  two  spaces ",
        "tab\tand\nline\r\n\r\nend",
        "CamelCase, it's 12345 6.7e-8!",
        "naïve café — “quotes”",
    ),
    *(
        "日本語のテキスト",
        "ខ្មែរ",
        "emoji 🙂🧑‍🚀🏳️‍🌈",
        "مرحبا",
        "def f(x):\n    return x**2  # code",
        "ﬁ ligature",
        "a" * 50,
    ),
)
_CONVERSATION = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three é?"},
]


def can_prove() -> bool:
    """Whether xllamacpp, which contains llama.cpp, is installed."""
    return find_spec("xllamacpp") is not None


def prove_llama_cpp(folder: Path, source: Source, type: str, rows: Sequence[Sequence[int]]) -> Agreement:
    """Read a finished folder back and compare it with the fused model: content, tokens, predictions.

    Raises:
        DpoError: names the field, the tensor or the text that differs.
    """
    file, content = check_file(folder, source, type)
    model = source.fused.model
    exact = computes_exactly(model) and type == "f32"
    gemma = content.architecture == "gemma3"
    with llama_cpp_gelu() if gemma else nullcontext():
        wanted = mlx_predictions(model, rows)
    limit = EXACT_GEMMA if gemma else EXACT
    with llama_cpp(file, max(map(len, rows)) + 64) as server:
        texts = [*DIFFICULT, *(source.tokenizer.decode(list(row)) for row in rows)]
        check_tokens(server, source.tokenizer, texts, file)
        check_template(server, source.tokenizer, file)
        got = server.predictions(rows, wanted.logps.shape[-1])
    return check_alike(wanted, got, "llama.cpp", file, limit if exact else None)


def check_file(folder: Path, source: Source, type: str) -> tuple[Path, GgufContent]:
    """The GGUF file of a finished folder and its content, after checking that it holds the fused model.

    Raises:
        DpoError: as `check_content`.
    """
    file, content = next(folder.glob("*.gguf")), gguf_content(source, type, folder.name)
    check_content(file, content)
    return file, content


def check_content(file: Path, content: GgufContent) -> None:
    """Check every field and every number of a file against what it was meant to hold.

    Raises:
        DpoError: names the field or tensor that is missing, too much, or other.
    """
    fields, tensors = read_gguf(file)
    architecture = Field("general.architecture", "string", content.architecture)
    wanted = {field.key: field for field in (architecture, *content.fields) if field.key != "general.name"}
    fields.pop("general.name", None)
    check_names("field", fields.keys(), wanted, file)
    for key, field in wanted.items():
        if not _equal(fields[key], field):
            raise damaged(f"the field {key} is not what it should be", file)
    meant = {tensor.name: tensor for tensor in content.tensors}
    check_tensor_names(tensors.keys(), meant, file)
    for name, tensor in meant.items():
        kind, values = tensors[name]
        right = stored(tensor, content.type)
        same = kind == type_of(tensor, content.type).name and right.shape == values.shape
        if not (same and np.array_equal(right.view(np.uint8), values.view(np.uint8))):
            raise damaged(f"the tensor {name} is not what it should be", file)


def _equal(found: Any, field: Field) -> bool:
    if field.kind == "float32":
        return np.float32(found) == np.float32(field.value)
    if field.kind == "array" and field.value and isinstance(field.value[0], float):
        return np.array_equal(np.float32(found), np.float32(field.value))
    return found == field.value


class LlamaCpp:
    """A running llama.cpp server with one model."""

    def __init__(self, server: Any):
        self._server, self._address = server, server.listening_address
        # The server leaves out probabilities after an end token, and after half of a character. It reports
        # those before the bias, so a bias towards a letter changes nothing else.
        self._letter = self.ask("tokenize", {"content": "a", "add_special": False})["tokens"][-1]

    def stop(self) -> None:
        """End the server; its thread writes to stderr a moment later."""
        del self._server
        time.sleep(0.2)

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of the server to a request, as JSON."""
        request = urllib.request.Request(
            f"{self._address}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.loads(answer.read())

    def after(
        self, tokens: Sequence[int], vocabulary: int, count: int | None = None, *, cached: bool = False
    ) -> np.ndarray:
        """Log-probabilities of the next token, float64 (V,); with `count`, only the likeliest are finite.

        Args:
            cached: compute only the tokens that the last call did not have.
        """
        answer = self.ask(
            "completion",
            {
                "prompt": [int(token) for token in tokens],
                "n_predict": 1,
                "temperature": 0.0,
                "n_probs": count or vocabulary,
                "cache_prompt": cached,
                "logit_bias": [[self._letter, 1000]],
            },
        )
        found = np.full(vocabulary, -np.inf)
        for entry in answer["completion_probabilities"][0]["top_logprobs"]:
            found[entry["id"]] = entry["logprob"]
        return log_softmax(found)  # the server sums in float32, which is off by 1e-4 over 50,000 entries

    def predictions(self, rows: Sequence[Sequence[int]], vocabulary: int) -> Predictions:
        """What the model predicts after rows."""
        return predictions(
            "llama.cpp",
            lambda tokens: self.after(tokens, vocabulary),
            rows,
            likeliest=lambda tokens: self.after(tokens, vocabulary, count=2, cached=True),
        )


@contextmanager
def llama_cpp(file: Path, context: int, adapter: Path | None = None) -> Iterator[LlamaCpp]:
    """llama.cpp with a model, on the CPU, with float32 in its cache.

    Args:
        context: most tokens of a row.
        adapter: a GGUF-LoRA file.

    Raises:
        DpoError: llama.cpp does not load the file; with its reason.
    """
    import xllamacpp as x

    params = x.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.warmup, params.n_gpu_layers = context, 1, False, 0
    params.cache_type_k = params.cache_type_v = x.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if adapter:
        params.lora_adapters = [x.CommonAdapterLoraInfo(str(adapter), 1.0)]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = min(8, os.cpu_count() or 1)
    with _stderr() as said:
        try:
            server = x.Server(params)
        except RuntimeError:
            reasons = [line for line in said() if "error" in line.lower()]
            reason = reasons[0].partition("error")[2].strip(" :") if reasons else "it gives no reason"
            raise DpoError(
                f"llama.cpp does not load it: {reason}", where=file, hint=_HINT, code="damaged"
            ) from None
        running = LlamaCpp(server)
        del server
        try:
            yield running
        finally:
            running.stop()


@contextmanager
def _stderr() -> Iterator[Any]:
    """Keep what C++ code writes to stderr from the terminal; the yielded function gives its lines so far."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def lines() -> list[str]:
            file.seek(0)
            return file.read().decode(errors="replace").splitlines()

        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def check_tokens(server: LlamaCpp, tokenizer: Any, texts: Sequence[str], where: Path) -> None:
    """Check that llama.cpp gives the tokens of the run's tokenizer, and their text again.

    Raises:
        DpoError: names the first text that differs.
    """
    for text in texts:
        own = tokenizer.encode(text, add_special_tokens=False)
        got = server.ask("tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
        if got != own:
            raise DpoError(
                f"llama.cpp has other tokens for {text[:60]!r}: {got[:12]}, not {own[:12]}",
                where=where,
                hint=_HINT,
                code="damaged",
            )
    plain = tokenizer.encode("a")
    if server.ask("tokenize", {"content": "a", "add_special": True})["tokens"] != plain:
        raise DpoError(
            "llama.cpp begins or ends a text with other tokens", where=where, hint=_HINT, code="damaged"
        )


def check_template(server: LlamaCpp, tokenizer: Any, where: Path) -> None:
    """Check that llama.cpp renders a conversation as the run did.

    A template with options, or with today's date, is not compared.

    Raises:
        DpoError: it renders another text.
    """
    if not tokenizer.has_chat_template:
        return
    wanted = render(tokenizer, _CONVERSATION, generation_prompt=True)
    try:
        got = server.ask("apply-template", {"messages": _CONVERSATION})["prompt"]
    except urllib.error.HTTPError as error:
        raise DpoError(
            f"llama.cpp does not accept the chat template: {error}", where=where, hint=_HINT, code="damaged"
        ) from None
    bos = tokenizer.bos_token or ""
    if got.removeprefix(bos) != wanted.removeprefix(bos):
        raise DpoError(f"llama.cpp renders {got!r}, not {wanted!r}", where=where, hint=_HINT, code="damaged")
