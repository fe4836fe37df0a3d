"""The command gen-pairs: make every cheap check, load, answer, apply the rules, write."""

from pathlib import Path

from ..config import RunConfig
from ..console import plural, say
from ..data.sources import read_curated
from ..data.tokenize import forgets
from ..errors import first_ten
from ..models.adapters import load_adapter, read_adapter_config
from ..models.base_of_adapter import check_base
from ..models.load import find_model, load_model, load_tokenizer
from ..pairs.from_curated import DROPPED, PairCounts, count_pairs, make_pairs, trained_prompts, write_pairs
from ..pairs.sampled_answers import (
    SETTINGS,
    answer_missing,
    answer_texts,
    completions_log,
    pairs_origin,
    request_key,
    tokenize_prompts,
)
from ..storage.files import check_writable, remove_left
from .output_folder import check_run_settings
from .run_inputs import check_memory_limit, say_if_slow, say_without_template


def generate_pairs(config: RunConfig) -> PairCounts:
    """Read curated rows, answer their prompts with the base model, write train.jsonl and valid.jsonl.

    Raises:
        DpoError: anything a user can fix; before slow work, if it can be known before.
    """
    check_run_settings(config)
    settings = config.pairs
    rows = read_curated(settings.source)[: settings.limit]
    valid = read_curated(settings.valid_source)[: settings.limit] if settings.valid_source else None
    output = Path(settings.output)
    check_writable(output, need_bytes=10_000_000)
    for name in (SETTINGS, "train.jsonl", "valid.jsonl"):
        remove_left(output / name)
    if config.model.adapter:
        read_adapter_config(config.model.adapter)
    base = find_model(config.model.path)
    check_memory_limit(config, base)
    tokenizer = load_tokenizer(base, config.model)
    if config.model.adapter:
        check_base(config.model.adapter, base, tokenizer)
    say_without_template(tokenizer)
    asked = [*rows, *(valid or [])]
    requests = tokenize_prompts(asked, tokenizer, config.data.max_length)
    forgotten = sum(forgets(tokenizer, row.prompt, requests[request_key(row)]) for row in asked)
    if forgotten:
        prompts = plural(forgotten, "prompt")
        say(f"the chat template leaves the reasoning of earlier turns out of {prompts}")
    origin = pairs_origin(config.model, base, tokenizer, config.generate)
    log = completions_log(output, origin)
    log.check()
    model, _ = load_model(base)
    say_if_slow(model, config.model.path)
    if config.model.adapter:
        load_adapter(model, config.model.adapter)
    done, sampled = answer_missing(model, tokenizer, requests, log, config.generate)
    begun = plural(sampled.begun, "new answer")
    say(f"sampled {plural(sampled.tokens, 'token')}: {begun}, {sampled.continued} continued")
    answers = answer_texts(asked, done, tokenizer, config.generate.max_tokens)
    trained = trained_prompts(output)
    files, dropped = make_pairs(rows, valid, answers, settings, origin, config.generate.seed, trained)
    counts = count_pairs(files, dropped, sampled.tokens)
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
