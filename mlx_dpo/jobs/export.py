"""Export a run's fused model for other programs, and prove it there."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..console import say
from ..data.row_index import index_rows
from ..data.templates import end_of_turn, pair_tokens, prompt_tokens
from ..errors import DpoError
from ..export.hf import export_hf
from ..export.predictions import step_limit_note
from ..export.prove_transformers import can_prove, prove_transformers
from ..export.source import Source
from ..storage.reading import expanded
from .runs import open_run, say_if_unfinished

PROOF_ROWS, PROOF_TOKENS = 4, 200
_QUESTIONS = ("How do I clean a copper kettle?", "Why is the sky blue?", "Name three rivers.", "Hello!")


def proof_rows(config: RunConfig, tokenizer: Any) -> list[list[int]]:
    """Token ids of a few prompts with their first answer, from the run's held-out file, else its data.

    Where the files are gone: a few questions.
    """
    try:
        return list(islice(_rows(config, tokenizer), PROOF_ROWS))
    except DpoError as error:
        say(f"note: the proof uses its own questions, because the run's rows cannot be read: {error.what}")
        asked = [[{"role": "user", "content": question}] for question in _QUESTIONS]
        return [prompt_tokens(tokenizer, prompt) for prompt in asked]


def _rows(config: RunConfig, tokenizer: Any) -> Iterator[list[int]]:
    source = config.data.valid or config.data.train
    end = end_of_turn(tokenizer)
    for row in index_rows(source, answers=config.loss.answers_only).records():
        prompt, answers = pair_tokens(tokenizer, row.prompt, row.answers[:1], end, row.tools, PROOF_TOKENS)
        yield [*prompt, *answers[0]][:PROOF_TOKENS][:-1]


def export_hf_run(
    folder: Path | str, output: Path | str, model: str | None = None, prove: bool | None = None
) -> dict[str, Any]:
    """Write a run's fused model in the Hub's layout; what was written, and the proof, as plain values.

    Args:
        model: where the base model is now; by default where it was when the run was made.
        prove: compare with transformers; by default where torch is installed.

    Raises:
        DpoError: not a run, torch is missing, files do not fit, or the export is not the fused model.
    """
    config = _opened(folder, model)
    if prove is None:
        prove = can_prove()
    elif prove and not can_prove():
        raise DpoError(
            "torch is not installed", where="--prove", hint="pip install torch, or give --no-prove"
        )
    told: dict[str, Any] = {"exported": str(output), "proof": "not proved: torch is not installed"}

    def proved(path: Path, source: Source) -> None:
        rows = proof_rows(config, source.tokenizer)
        _say_step_limit(source, rows)
        found = prove_transformers(path, source, rows)
        told.update(found._asdict() | {"proof": f"proved with transformers: {found}"})

    export_hf(config.model.path, folder, expanded(output), config.model, proved if prove else None)
    return told


def _opened(folder: Path | str, model: str | None) -> RunConfig:
    config = open_run(folder, model)
    say_if_unfinished(folder, config)
    return config


def _say_step_limit(source: Source, rows: list[list[int]]) -> None:
    if note := step_limit_note(source.fused.model, rows):
        say(f"note: {note}")
