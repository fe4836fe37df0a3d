"""mlx-dpo topics prefer"""

from dataclasses import asdict

import click

from ..console import plural, show, show_json
from ..errors import DpoError
from .options import config_option, dry_run_option, json_option, resolve_topics, set_option, setting_option
from .topics_options import corpus_option


@click.command("prefer")
@config_option
@corpus_option
@setting_option("--output", "run.output", "The run's folder, with the snapshot of a model.")
@setting_option("--endpoint", "preferences.url", "Address of the LLM's server.")
@setting_option("--model", "preferences.model", "The LLM; without --endpoint a model folder or a Hub name.")
@setting_option("--max-calls", "preferences.max_calls", "Stop after so many requests.")
@dry_run_option
@set_option
@json_option
def topics_prefer(config_file, overrides, dry_run, as_json):
    """Build the preferences of a run's snapshot, as topics train does, or print what they will cost.

    Without an LLM, vectors of the words decide. Replies are kept: run it again to continue, and nothing is
    asked twice.

    \b
    Example:
      mlx-dpo topics prefer --config config/topics.yaml --endpoint http://localhost:8080/v1 --dry-run
      mlx-dpo topics prefer --config config/topics.yaml
    """
    config = resolve_topics(config_file, overrides)
    from ..jobs.topics_prefer import estimate_cost, prefer, preferences_folder

    if dry_run:
        if not config.preferences.is_named:
            hint = "set preferences.url or preferences.model; without an LLM, preferences cost nothing"
            raise DpoError("there is no LLM", where="preferences.url", hint=hint)
        estimate = estimate_cost(config)
        if as_json:
            show_json(asdict(estimate))
        else:
            show(str(estimate))
        return
    found = prefer(config)
    if as_json:
        preferred = {k: {"w_win": own.win, "w_loose": own.lose} for k, own in found.win_lose.items()}
        show_json({"preferences": preferred, "scores": found.scores})
        return
    show(f"{plural(len(found.win_lose), 'topic')} with preferences: {preferences_folder(config)}")
