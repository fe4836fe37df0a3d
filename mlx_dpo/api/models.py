"""A loaded model: its scores and its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, overload

import mlx.nn as nn
import numpy as np

from .. import blas_note
from ..console import progress, say
from ..data.conversation_tokens import prompt_tokens
from ..data.own_format import to_curated
from ..data.row_index import index_rows
from ..data.sources import DataConfig
from ..data.tokenize import RowTokenizer
from ..forward.pair_logps import Forward
from ..forward.scoring import score_pairs, singles
from ..models.adapters import load_adapter
from ..models.base_of_adapter import check_base
from ..models.end_of_turn import end_note
from ..models.generate import GenerateConfig, generate_answers
from ..models.load import ModelConfig, find_model, load_model, load_tokenizer
from ..models.peft_adapter import mlx_adapter
from ..records import Message
from ..settings import build
from ..settings_file import Tree
from ..training.forward_check import choose_forward
from ..training.mask_check import check_masks
from .pairs import Pairs, as_file

Prompt = str | Sequence[Message]
"""A question, or the turns before the answer: [{"role": "user", "content": "..."}]."""


@dataclass
class Model:
    """Weights and tokenizer in memory.

    `settings`: path, adapter and chat template, as given. `module`: mlx_lm's model, an `mlx.nn.Module`.
    `tokenizer`: mlx_lm's. `forward`: how pairs are scored; checked to be exact when the model first scores.
    """

    settings: ModelConfig
    module: nn.Module = field(repr=False)
    tokenizer: Any = field(repr=False)
    forward: Forward | None = field(default=None, repr=False)


@cache
def say_blas_note() -> None:
    """Say once what makes this machine slow, if anything does."""
    if blas_note:
        say(f"note: {blas_note}")


def load(
    path: str | Path,
    adapter: str | Path | None = None,
    *,
    chat_template: str | Path | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> Model:
    """Load a model with its tokenizer.

    Args:
        path: a folder in hub layout, or a name on the Hub, which is downloaded once.
        adapter: a run (its folder, or the result of `train`) whose adapter is added to the model; or the
            folder of a PEFT adapter.
        chat_template: replaces the model's: a .jinja file, a template name of the tokenizer, or "chatml".
        template_options: arguments for the chat template, such as {"enable_thinking": False}.

    Raises:
        DpoError: the model does not exist, files are damaged, or the adapter belongs to another model.
    """
    say_blas_note()
    given = {
        "path": str(path),
        "adapter": adapter and str(Path(adapter)),
        "chat_template": chat_template and str(chat_template),
        "template_options": dict(template_options or {}),
    }
    settings = build(ModelConfig, Tree(given, {}))
    folder = find_model(settings.path)
    tokenizer = load_tokenizer(folder, settings)
    start = mlx_adapter(settings.adapter, folder) if settings.adapter else None
    if start:
        check_base(start, folder, tokenizer)
    if note := end_note(folder, tokenizer):
        say(note)
    module, _ = load_model(folder)
    if start:
        load_adapter(module, start)
    return Model(settings, module, tokenizer)


def score(model: Model | str | Path, pairs: Pairs, *, max_length: int = DataConfig.max_length) -> np.ndarray:
    """Log-probabilities of the chosen and the rejected answer of every pair, end of turn included.

    These are the numbers that a run takes as its reference: the same tokens, masks and exact forward, and
    each pair scored by itself, so that a score does not depend on the other pairs.

    Args:
        model: what `load` gave; or a path, which is loaded for this call.
        pairs: what `read_pairs` takes, or what it gave. Pairs of two same answers are scored too.
        max_length: tokens of prompt and answer; longer answers are cut, as in training.

    Returns:
        float32 (n, 2), nats, summed over completion tokens: chosen and rejected, in the order of `pairs`.

    Raises:
        DpoError: a bad row, a prompt that leaves no room for an answer, or a model that cannot be scored.
    """
    model = model if isinstance(model, Model) else load(model)
    with as_file(pairs) as path:
        rows = list(index_rows(path).records())
        work = RowTokenizer(model.tokenizer, max_length, answers=True)  # which keeps pairs with equal answers
        tokenized = [pair for row in rows if (pair := work.pair(row))]
        work.counts()  # raises if prompts are too long
        check_masks(rows, tokenized, model.tokenizer, max_length)
        if model.forward is None:
            model.forward = choose_forward(model.module, tokenized, "auto")
        with progress("scoring", len(tokenized), "pairs") as advance:
            return score_pairs(model.module, tokenized, model.forward, singles(tokenized), advance)


@overload
def generate(model: Model | str | Path, prompts: str, **settings: Any) -> str: ...
@overload
def generate(model: Model | str | Path, prompts: Sequence[Prompt], **settings: Any) -> list[str]: ...
def generate(model: Model | str | Path, prompts: str | Sequence[Prompt], **settings: Any) -> str | list[str]:
    """Answer prompts, several at a time.

    Args:
        model: the result of `load`; or a path, which is loaded for this call.
        prompts: a list of questions or of conversations that end with a user turn; or one question.
        settings: settings of the section `generate`: max_tokens, temperature (0: always the most likely
            token), top_p, batch_size, seed. The same seed gives the same answers.

    Returns:
        The answers' texts, in the order of `prompts`, without the end of turn; for one question one text.

    Raises:
        DpoError: the chat template cannot render a prompt, or a setting is unknown.
    """
    if isinstance(prompts, str):
        return generate(model, [prompts], **settings)[0]
    config = build(GenerateConfig, Tree(settings, {}))
    rows = [_asked(prompt, f"prompts[{number}]") for number, prompt in enumerate(prompts)]
    model = model if isinstance(model, Model) else load(model)
    tokens = [prompt_tokens(model.tokenizer, row) for row in rows]
    with progress("answers", len(tokens) * config.max_tokens, "tokens at most") as advance:
        found = generate_answers(model.module, model.tokenizer, tokens, config, advance=advance)
        return [answer.text for answer in sorted(found)]


def _asked(prompt: Prompt, where: str) -> tuple[Message, ...]:
    """The prompt's turns, checked like the turns of a row."""
    turns = prompt if isinstance(prompt, str) else list(prompt)
    return to_curated({"prompt": turns, "answer": "..."}, where).prompt
