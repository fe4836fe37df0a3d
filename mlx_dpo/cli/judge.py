"""mlx-dpo judge"""

from dataclasses import asdict

import click

from ..console import plural, say, show, show_json
from ..errors import DpoError
from ..printed_commands import assignment
from .next_command import run_settings
from .options import (
    PATH,
    config_option,
    dry_run_option,
    flags,
    json_option,
    repeated,
    resolve,
    set_option,
    setting_option,
)


@click.command()
@config_option
@setting_option("--completions", "judge.completions", "File with several completions per prompt.")
@setting_option("--output", "judge.output", "Folder for verdicts.jsonl, train.jsonl and valid.jsonl.")
@setting_option("--endpoint", "judge.url", "Address of the judge's server, such as http://localhost:8080/v1.")
@setting_option("--model", "judge.model", "The judge; without --endpoint a model folder or a Hub name.")
@setting_option("--rubric", "judge.rubric", "What decides: a rubric's name, or a text file.")
@setting_option("--examples", "judge.examples", "Curated rows that show the style, for the rubric style.")
@setting_option("--max-calls", "judge.max_calls", "Stop after so many requests; run again to continue.")
@dry_run_option
@click.option(
    "--check",
    type=click.IntRange(1),
    metavar="N",
    help="Vote on N judged pairs yourself, and print how far you agree with the judge.",
)
@click.option("--check-file", type=PATH, metavar="FILE", help="Like --check, with votes from a file.")
@set_option
@json_option
def judge(config_file, overrides, dry_run, check, check_file, as_json):
    """Rank the completions of each prompt with a judge, and make pairs of the best and the worst.

    The judge sees every two answers in both orders. Replies are kept: you can interrupt the command at any
    time and run it again to continue, and nothing is asked twice.

    \b
    Example:
      mlx-dpo judge --completions data/pairs/completions.jsonl --endpoint http://localhost:8080/v1 --dry-run
      mlx-dpo judge --config config/judge.yaml --max-calls 100
      mlx-dpo judge --config config/judge.yaml --check 20
    """
    if dry_run + (check is not None) + (check_file is not None) > 1:
        raise click.UsageError("use one of --dry-run, --check and --check-file")
    config = resolve(config_file, overrides)
    from . import say_blas_note

    say_blas_note()
    from ..jobs.judge import estimate_cost, judge_completions
    from ..jobs.judge_check import agreement_by_vote, agreement_with_file

    if dry_run or check or check_file:
        if dry_run:
            result = estimate_cost(config)
        elif check:
            result = agreement_by_vote(config, check, _vote(check))
        else:
            result = agreement_with_file(config, check_file)
        if as_json:
            show_json(asdict(result))
        else:
            show(str(result))
        return
    summary = judge_completions(config)
    if as_json:
        show_json(summary.as_json())
    else:
        show(str(summary))
    output = config.judge.output
    if summary.failed:
        others = "; the pairs of the others are written" if summary.train else ", and there is no pair yet"
        raise DpoError(
            f"{plural(len(summary.failed), 'prompt')} got no verdict{others}",
            where=output,
            hint="run the same command again: it asks only for what is missing"
            + ("; or train without them" if summary.train else ""),
        )
    if not summary.train and summary.dropped:
        raise DpoError(
            "no pair is left after the filters, and no pairs were written",
            where=output,
            hint="the messages above say which setting of pairs drops them",
        )
    if not summary.train and not summary.unfinished:
        raise DpoError(
            "no verdict separates two answers, so there is no pair, and no pairs were written",
            where=output,
            hint="sample more or more different completions, or choose another judge or rubric",
        )
    if as_json:
        return
    if summary.unfinished:
        show(f"next: {repeated('judge', config_file, [*overrides, *flags()], [])}")
        return
    settings = [
        assignment("data.train", f"{output}/train.jsonl"),
        assignment("data.valid", f"{output}/valid.jsonl" if summary.valid else None),
        *run_settings(config),
    ]
    show(f"next: {repeated('inspect', config_file, [*overrides, *flags()], settings)}")


def _vote(count):
    """Asks in the terminal; answers are shown on stderr, so that stdout has only the result."""

    def vote(prompt, one, other):
        say(f"\nPrompt\n{prompt}\n\nAnswer 1\n{one}\n\nAnswer 2\n{other}\n")
        keys = click.Choice(["1", "2", "t", "q"])
        said = click.prompt("better: 1, 2, t for a tie, q to end", type=keys, show_choices=False, err=True)
        return {"t": "tie", "q": None}.get(said, said)

    say(f"{plural(count, 'pair')}: vote without knowing what the judge said")
    return vote
