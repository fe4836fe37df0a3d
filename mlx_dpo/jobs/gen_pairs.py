"""The command gen-pairs: make every cheap check, load, answer, apply the rules, write."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..config import RunConfig
from ..console import plural, say
from ..data.sources import read_curated, read_questions
from ..data.tokenize import forgets
from ..endpoint import Endpoint
from ..errors import DpoError, first_ten
from ..models.adapters import load_adapter
from ..models.base_of_adapter import check_base
from ..models.embedder import check_embedder
from ..models.load import find_model, load_model, load_tokenizer
from ..models.peft_adapter import check_adapter, mlx_adapter
from ..pairs.completions import (
    COMPLETIONS,
    SETTINGS,
    Answers,
    Keep,
    Missing,
    Row,
    SampleCounts,
    Sampled,
    Work,
    answer_missing,
    completions_log,
    count_samples,
    request_key,
)
from ..pairs.from_curated import DROPPED, PairCounts, count_pairs, make_pairs, trained_prompts, write_pairs
from ..pairs.sampled_answers import Said, answer_texts, pairs_origin, sample_missing, tokenize_prompts
from ..pairs.served_answers import ask_missing, check_only_text, served_origin, served_texts
from ..records import Curated, Prompt
from ..storage.append_log import AppendLog
from ..storage.files import check_writable, remove_left
from .output_folder import check_run_settings
from .run_inputs import check_memory_limit, say_if_slow, say_without_template


class _Answerer(NamedTuple):
    """A model ready to answer: the log of its answers, how to sample, and the answers as texts for pairs."""

    log: AppendLog
    origin: dict[str, Any]
    sample: Callable[[Sequence[Missing], Keep], Work]
    texts: Callable[[Mapping[str, Answers]], dict[str, list[Said]]]


def generate_pairs(config: RunConfig) -> PairCounts | SampleCounts:
    """Read rows, answer their prompts, write completions.jsonl; of curated rows, train.jsonl and valid.jsonl.

    Returns:
        The counts of the pairs; of the answers if the rows are prompts alone, of which no pairs are made.

    Raises:
        DpoError: anything a user can fix; before slow work, if it can be known before.
    """
    check_run_settings(config)
    settings = config.pairs
    _check_samples(config)
    check_embedder(settings.embedder)
    rows = read_questions(settings.source)[: settings.limit]
    valid = read_curated(settings.valid_source)[: settings.limit] if settings.valid_source else None
    alone = isinstance(rows[0], Prompt)
    if alone:
        _check_alone(config)
    output = Path(settings.output)
    check_writable(output, need_bytes=10_000_000)
    for name in (SETTINGS, COMPLETIONS, "train.jsonl", "valid.jsonl"):
        remove_left(output / name)
    asked: list[Row] = [*rows, *(valid or [])]
    by_key = {request_key(row): row for row in asked}
    answerer = (_server if config.endpoint.url else _model)(config, asked, by_key, output)
    most = config.generate.max_tokens
    done, sampled = answer_missing(by_key, answerer.log, settings.samples, most, answerer.sample)
    begun = plural(sampled.begun, "new answer")
    say(f"sampled {plural(sampled.tokens, 'token')}: {begun}, {sampled.continued} continued")
    _check_none_failed(sampled, by_key, output)
    counts = count_samples(done, list(by_key), settings.samples, sampled)
    if settings.samples > 1:
        _say_how_different(counts)
    if alone:
        say(f"wrote {output / COMPLETIONS}")
        return counts
    if settings.samples > 1:
        say(str(counts))
    answers = answerer.texts(done)
    return _pairs_of(config, rows, valid, answers, answerer.origin, counts)


def _check_samples(config: RunConfig) -> None:
    if config.pairs.samples > 1 and config.generate.temperature == 0:
        raise DpoError(
            f"at temperature 0 all {config.pairs.samples} answers to a prompt would be the same",
            where="pairs.samples",
            hint="set generate.temperature=0.9, or pairs.samples=1",
        )


def _check_alone(config: RunConfig) -> None:
    if config.pairs.valid_source:
        raise DpoError(
            "cannot be used: pairs.source has prompts without answers, so no pairs are made",
            where="pairs.valid_source",
            hint="set pairs.valid_source=null; mlx-dpo judge holds out pairs itself",
        )
    say("the rows are prompts without answers: they are answered, and no pairs are made")


def _check_none_failed(sampled: Sampled, asked: Mapping[str, Row], output: Path) -> None:
    """Raises DpoError if answers are missing; those that are there are kept."""
    failed = sampled.work.failed
    if failed:
        places = [f"{asked[one.key].where}: {reason}" for one, reason in failed]
        several = "answers are" if len(failed) > 1 else "answer is"
        raise DpoError(
            f"{len(failed)} {several} missing; the others are in {COMPLETIONS} ({first_ten(places)})",
            where=output,
            hint="run the same command again: it asks only for the missing answers; or remove these rows",
        )


def _say_how_different(counts: SampleCounts) -> None:
    if counts.equal == counts.prompts:
        say(
            f"all {counts.samples} answers to every prompt are the same, so there is nothing to rank: set a "
            "higher generate.temperature, and another pairs.output"
        )


def _model(config: RunConfig, asked: Sequence[Row], by_key: Mapping[str, Row], output: Path) -> _Answerer:
    """The model of model.path in this process; it is loaded when everything else is checked."""
    if config.model.adapter:
        check_adapter(config.model.adapter)
    base = find_model(config.model.path)
    start = mlx_adapter(config.model.adapter, base) if config.model.adapter else None
    check_memory_limit(config, base)
    tokenizer = load_tokenizer(base, config.model)
    if config.model.adapter:
        check_base(config.model.adapter, base, tokenizer)
    say_without_template(tokenizer)
    prompts = tokenize_prompts(asked, tokenizer, config.data.max_length)
    forgotten = sum(forgets(tokenizer, row.prompt, prompts[request_key(row)]) for row in asked)
    if forgotten:
        several = plural(forgotten, "prompt")
        say(f"the chat template leaves the reasoning of earlier turns out of {several}")
    origin = pairs_origin(config.model, base, tokenizer, config.generate)
    log = completions_log(output, origin)
    log.check()
    model, _ = load_model(base)
    say_if_slow(model, config.model.path)
    if start:
        load_adapter(model, start)
    settings = config.generate
    return _Answerer(
        log,
        origin,
        partial(sample_missing, model, tokenizer, by_key, prompts, settings),
        lambda done: answer_texts(asked, done, tokenizer, config.pairs.samples, settings.max_tokens),
    )


def _server(config: RunConfig, asked: Sequence[Row], by_key: Mapping[str, Row], output: Path) -> _Answerer:
    """The model of a server; nothing of model.path is used."""
    if config.model.adapter:
        raise DpoError(
            "a server answers with its own model, without this adapter",
            where="model.adapter",
            hint="set model.adapter=null, or endpoint.url=null to sample from the adapter",
        )
    check_only_text(asked)
    endpoint = Endpoint(config.endpoint, "endpoint")
    endpoint.check()
    origin = served_origin(endpoint, config.generate)
    log = completions_log(output, origin)
    log.check()
    return _Answerer(
        log,
        origin,
        partial(ask_missing, endpoint, by_key, config.generate),
        lambda done: served_texts(asked, done, config.pairs.samples),
    )


def _pairs_of(
    config: RunConfig,
    rows: Sequence[Curated],
    valid: Sequence[Curated] | None,
    answers: Mapping[str, Sequence[Said]],
    origin: dict[str, Any],
    sampled: SampleCounts,
) -> PairCounts:
    """Make pairs of curated and sampled answers, and write them."""
    output = Path(config.pairs.output)
    trained = trained_prompts(output)
    files, dropped = make_pairs(rows, valid, answers, config.pairs, origin, config.generate.seed, trained)
    counts = count_pairs(files, dropped, sampled.tokens, sampled if sampled.samples > 1 else None)
    for reason, places in dropped.items():
        say(f"dropped {len(places)}, {reason} ({first_ten(places)}): {DROPPED[reason]}")
    write_pairs(files, counts, output)
    if counts.cut_off:
        say(
            f"{plural(counts.cut_off, 'answer was', 'answers were')} cut off at "
            f"{plural(config.generate.max_tokens, 'token')} and will be scored without an end token; after "
            "raising generate.max_tokens, the same command continues them"
        )
    if not counts.valid:
        split = ", or choose another pairs.output to split the rows again" if trained else ""
        say(f"no pairs are held out, so nothing will show whether training helps: add curated rows{split}")
    say(f"wrote {output / 'train.jsonl'} and {output / 'valid.jsonl'}")
    return counts
