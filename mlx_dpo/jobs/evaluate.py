"""Preference accuracy and margins of a run, and answers of the base model and the tuned model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..config import RunConfig
from ..console import progress, say
from ..data.conversation_tokens import prompt_tokens
from ..data.pair_store import open_pairs
from ..data.row_files import Source, row_files
from ..data.row_index import RowIndex, index_rows, shared_prompts
from ..data.sources import say_of_rows
from ..errors import DpoError
from ..evaluation.preference import Evaluation
from ..forward.mlx_attention import attending
from ..forward.pair_logps import desensitised
from ..forward.scoring import score_pairs, singles
from ..losses import build_loss
from ..metrics import wilson_interval
from ..models.adapters import attach_like, load_adapter
from ..models.base_of_adapter import check_base
from ..models.end_of_turn import end_note
from ..models.generate import Answer, generate_answers
from ..models.load import find_model, load_model, load_tokenizer
from ..models.peft_adapter import check_adapter, mlx_adapter
from ..storage.reading import is_there
from ..training.forward_check import choose_forward
from ..training.reference import reference_key
from ..training.reference_check import checked_reference
from ..training.trainer import Data, evaluation_metrics
from .open_run import open_run, say_if_unfinished

SAMPLE_TOKENS = 256
"""Default maximum length of a sampled answer, in tokens; long ones take minutes on a small machine."""


def evaluate_run(
    folder: Path | str,
    data: Source | None = None,
    samples: int = 3,
    model: str | None = None,
    max_tokens: int | None = None,
) -> Evaluation:
    """Score held-out pairs with the run's reference and with its adapter, from one set of weights.

    Args:
        data: pairs to evaluate on; by default the held-out pairs of the run.
        samples: number of prompts that both models answer, greedily, as the command of `ask_run` does.
        model: where the base model is now; by default where it was when the run was made.
        max_tokens: their maximum length; by default the run's generate.max_tokens, at most SAMPLE_TOKENS.

    Raises:
        DpoError: no held-out pairs, or files that do not belong together.
    """
    config = open_run(folder, model)
    say_if_unfinished(folder, config)
    longest = max_tokens or min(config.generate.max_tokens, SAMPLE_TOKENS)
    config = replace(config, generate=replace(config.generate, temperature=0.0, max_tokens=longest))
    with attending(config.training.attention):
        return _evaluated(config, folder, data, samples)


def _evaluated(config: RunConfig, folder: Path | str, data: Source | None, samples: int) -> Evaluation:
    source = data or config.data.valid
    if not source:
        raise DpoError(
            "the run has no held-out pairs", where=folder, hint="name a file of pairs: --data FILE"
        )
    rows = index_rows(source)
    if config.model.adapter and not is_there(config.model.adapter):
        raise DpoError(
            "is missing: the adapter that this run started from",
            where=config.model.adapter,
            hint=f"restore it, or set model.adapter in {Path(folder) / 'config.yaml'} to its new place",
        )
    trained_on = _trained_on(config, rows)
    if config.model.adapter:
        check_adapter(config.model.adapter)
    base = find_model(config.model.path)
    start = mlx_adapter(config.model.adapter, base) if config.model.adapter else None
    tokenizer = load_tokenizer(base, config.model)
    for adapter in (folder, config.model.adapter):
        if adapter:
            check_base(adapter, base, tokenizer)
    if note := end_note(base, tokenizer):
        say(note)
    say_of_rows(rows.source, rows.left_out, rows.unused)
    pairs = open_pairs(rows, tokenizer, config.data.max_length)
    say(f"evaluated on: {pairs.counts}")
    first = np.sort(np.unique(rows.prompts, return_index=True)[1])
    chosen = np.linspace(0, len(first) - 1, min(samples, len(first))).round().astype(int)
    spread = [rows.read(int(row)) for row in first[chosen]]
    prompts = [prompt_tokens(tokenizer, row.prompt, row.tools) for row in spread]

    policy, _ = load_model(base)
    if start:
        load_adapter(policy, start)
    attach_like(policy, folder)  # without weights yet: a misfit is refused before the slow part
    separate = config.training.branches == "separate"
    forward = choose_forward(policy, pairs, config.training.forward, separate=separate)
    forward = desensitised(forward, config.loss.ld_alpha)

    # The key of the run's reference, so that the scores of its held-out pairs come from the cache.
    key = reference_key(policy, base, config.model.adapter, pairs, forward)
    reference = checked_reference(policy, pairs, forward, key, "evaluated pairs")
    before = _answer("answers of the base model", policy, tokenizer, prompts, config)
    load_adapter(policy, folder)
    with progress("tuned", len(pairs), "pairs") as advance:
        tuned = score_pairs(policy, pairs, forward, singles(pairs), advance)
    after = _answer("answers of the tuned model", policy, tokenizer, prompts, config)

    if not np.isfinite(tuned).all():
        raise DpoError(
            "the tuned model's log-probabilities are not finite",
            where=folder,
            hint="the run diverged; train again with a lower optimizer.learning_rate",
        )
    loss, beta = build_loss(config.loss), mx.array(config.beta.value)
    metrics = evaluation_metrics(tuned, Data(pairs, reference), loss, beta)
    wins = round(metrics["eval/rewards/accuracies"] * len(pairs))
    likelier = [int((s[:, 0] > s[:, 1]).sum()) for s in (reference, tuned)]
    return Evaluation(
        pairs=len(pairs),
        prompts=len({pair.prompt.tobytes() for pair in pairs}),
        trained_on=trained_on,
        metrics={k.removeprefix("eval/"): v for k, v in metrics.items() if k != "eval/pairs"},
        accuracy_interval=wilson_interval(wins, len(pairs)),
        preferred_base=likelier[0] / len(pairs),
        preferred_tuned=likelier[1] / len(pairs),
        preferred_base_interval=wilson_interval(likelier[0], len(pairs)),
        preferred_tuned_interval=wilson_interval(likelier[1], len(pairs)),
        samples=[
            {
                "prompt": row.prompt[-1]["content"],
                "base": base_answer.text,
                "base_cut": base_answer.capped,
                "tuned": tuned_answer.text,
                "tuned_cut": tuned_answer.capped,
                "curated": row.chosen,
            }
            for row, base_answer, tuned_answer in zip(spread, before, after, strict=True)
        ],
    )


def _trained_on(config: RunConfig, rows: RowIndex) -> int | None:
    """How many rows have a prompt of the run's training files; None if one of them is gone."""
    try:
        gone = not all(is_there(file.path) for file in row_files(config.data.train))
    except DpoError:
        gone = True
    if gone:
        return None
    return len(shared_prompts(rows, index_rows(config.data.train, answers=config.loss.answers_only)))


def _answer(
    label: str, model: Any, tokenizer: Any, prompts: list[list[int]], config: RunConfig
) -> list[Answer]:
    longest = len(prompts) * config.generate.max_tokens
    with progress(label, longest, "tokens at most") as advance:
        return sorted(generate_answers(model, tokenizer, prompts, config.generate, advance=advance))
