"""The command inspect: read both files to the end, measure, score some pairs with the model, advise."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np

from ..config import RunConfig
from ..console import progress
from ..data.conversation_tokens import end_of_turn
from ..data.row_files import open_rows
from ..data.row_index import RowIndex
from ..data.tokenize import TokenizedPair, pair_sizes
from ..errors import DpoError
from ..forward.pair_logps import Forward
from ..forward.scoring import score_pairs, singles
from ..inspection.advice import Plan, commands, verdict
from ..inspection.defects import counted
from ..inspection.measures import Likelihood, OwnAnswers, figures, likelihood
from ..inspection.near_leaks import near_leaks
from ..inspection.report import File, Inspection
from ..inspection.row_checks import build_context
from ..inspection.scan import FoundPairs, Scan, leaks, scan
from ..inspection.scored_text import masked
from ..losses import LossConfig
from ..models.adapters import load_adapter
from ..models.base_of_adapter import check_base
from ..models.generate import GenerateConfig, generate_answers
from ..models.load import find_model, load_model, load_tokenizer
from ..models.peft_adapter import check_adapter, mlx_adapter
from ..records import Preference
from ..training.checked_rows import spread_rows
from ..training.forward_check import choose_forward
from ..training.reference_check import check_unmoved
from .output_folder import check_run_settings
from .run_inputs import amounts_of, check_memory_limit, check_rule, say_if_small_beta, say_without_template

SCORED = 64
"""Pairs that the model scores, from the shortest to the longest."""
CONVERTED = 3
"""Pairs of another format that are shown as they were converted."""
OWN, OWN_TOKENS = 8, 64
"""Prompts that the model answers, and how many tokens of an answer are compared at most."""


def inspect_pairs(config: RunConfig, shown: int = 3, *, ask_model: bool = True) -> Inspection:
    """Inspect the files that a run with these settings would train and be evaluated on.

    Args:
        shown: number of pairs shown as the model gets them.
        ask_model: load the weights and score some pairs; otherwise only the tokenizer is loaded.

    Raises:
        DpoError: a file or a model cannot be used, or the settings are those of `sft`, which needs no pairs.
    """
    if config.loss.answers_only:
        hint = f"use the settings of mlx-dpo train, or add --set loss.name={LossConfig().name}"
        raise DpoError("is a loss of single answers, but inspect checks pairs", where="loss.name", hint=hint)
    check_run_settings(config)
    say_if_small_beta(config)
    sources = [config.data.train, *([config.data.valid] if config.data.valid else [])]
    for source in sources:
        open_rows(source)
    if config.model.adapter and ask_model:
        check_adapter(config.model.adapter)
    base = find_model(config.model.path, weights=ask_model)
    if config.model.adapter and ask_model:
        mlx_adapter(config.model.adapter, base)
    check_memory_limit(config, base)
    tokenizer = load_tokenizer(base, config.model)
    if config.model.adapter and ask_model:
        check_base(config.model.adapter, base, tokenizer)
    say_without_template(tokenizer)
    context = build_context(tokenizer, config.data.max_length, config.pairs.max_similarity)
    scans = [scan(source, context) for source in sources]
    train = scans[0]
    if train.pairs:
        count = len(train.pairs)
        check_rule(config, config.training.updates(count, amounts_of(config, count).epochs))
    defects = [defect for one in scans for defect in one.defects]
    for held in scans[1:]:
        same = leaks(train.index, held.index)
        defects += same
        if embedder := config.pairs.embedder:
            exact = {f"{one.file}:{one.line}" for one in same}
            least = config.pairs.max_prompt_similarity
            defects += near_leaks(train.index, held.index, embedder, least, exact)
    likely, own = asked(config, base, tokenizer, train.pairs) if ask_model and train.pairs else (None, None)
    found, plan = figures(train.pairs, likely, own=own), plan_of(config, len(train.pairs))
    advice = verdict(counted(defects), sum(one.rows for one in scans), found, plan)
    return Inspection(
        files=[_file(one) for one in scans],
        defects=defects,
        figures=found,
        shown=[
            masked(pair, row, tokenizer)
            for pair, row in zip(train.pairs[:shown], train.pairs.texts[:shown], strict=True)
        ],
        advice=advice,
        commands=commands(advice, plan.run),
    )


def _file(found: Scan) -> File:
    index = found.index
    return File(
        index.source.label,
        found.rows,
        len(found.pairs),
        found.cut_off,
        dict(index.unused),
        list(index.source.descriptions()),
        index.left_out.text(index.source.where),
        [_converted(index.read(pair)) for pair in _first_converted(index)],
    )


def _first_converted(index: RowIndex) -> list[int]:
    """The first pairs of every file that does not have our own form."""
    found = []
    for part in index.source.parts:
        first = int(np.searchsorted(index.lines, part.first))
        some = range(first, min(first + CONVERTED, len(index)))
        same = [pair for pair in some if index.source.part(int(index.lines[pair])) is part]
        found += [] if part.form is None and part.kind.plain else same
    return found


def _converted(pair: Preference) -> dict[str, str]:
    turns = "\n".join(f"{turn['role']}: {turn['content']}" for turn in pair.prompt)
    return {"where": pair.where, "prompt": turns, "chosen": pair.chosen, "rejected": pair.rejected}


def plan_of(config: RunConfig, pairs: int) -> Plan:
    """The settings on which advice about this number of pairs depends."""
    data, model = config.data, config.model
    usual = config.training.epochs_for(max(1, pairs), answers_only=False)
    epochs = config.training.epochs or usual
    output, limit = config.run.output, config.pairs.limit
    return Plan(epochs, config.loss, output, data.train, data.valid, model.adapter, usual, limit)


def asked(
    config: RunConfig, base: Path, tokenizer: Any, pairs: FoundPairs
) -> tuple[Likelihood | None, OwnAnswers]:
    """How likely the model that a run would start from finds some of the answers, and its own answers.

    Both are scored as a run scores them; the model answers a few of the prompts itself.

    Raises:
        DpoError: the model cannot be loaded, or its log-probabilities are not finite.
    """
    policy, _ = load_model(base)
    policy.freeze()
    if config.model.adapter:
        load_adapter(policy, mlx_adapter(config.model.adapter, base))
    separate = config.training.branches == "separate"
    forward = choose_forward(policy, pairs, config.training.forward, separate=separate)
    rows = spread_rows(pairs, SCORED)
    some = [pairs[row] for row in rows]
    with progress("base model", len(some), "pairs") as advance:
        scores = score_pairs(policy, some, forward, singles(some), advance)
    check_unmoved(policy, some, forward, scores)
    own = own_answers(policy, tokenizer, some, forward, config.generate)
    return likelihood(scores, np.array(pairs.sizes[rows])), own


def own_answers(
    policy: nn.Module,
    tokenizer: Any,
    pairs: Sequence[TokenizedPair],
    forward: Forward,
    config: GenerateConfig,
) -> OwnAnswers:
    """Compare the start of rejected answers to a few prompts with answers sampled as gen-pairs does."""
    few = [pairs[row] for row in np.linspace(0, len(pairs) - 1, min(OWN, len(pairs))).round().astype(int)]
    config = replace(config, max_tokens=OWN_TOKENS, batch_size=len(few))
    end = end_of_turn(tokenizer)
    answers = sorted(generate_answers(policy, tokenizer, [pair.prompt.tolist() for pair in few], config))
    said = [[*answer.ids, *([] if answer.capped else [end])] for answer in answers]
    compared = [
        replace(pair, chosen=np.array(own, np.int32), rejected=pair.rejected[:OWN_TOKENS])
        for pair, own in zip(few, said, strict=True)
    ]
    scores = score_pairs(policy, compared, forward, singles(compared)) / pair_sizes(compared)[:, 1:]
    sampled, rejected = (float(column.mean()) for column in scores.T)
    return OwnAnswers(len(few), rejected, sampled)
