"""The command to run next."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DpoError
from ..printed_commands import assignment, beside, command_line, last_ones, unused_folder
from .options import repeated

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..data.row_files import Source

_OF_SFT = ("run.output", "optimizer.learning_rate", "training.epochs")
"""Settings of a supervised run that do not apply to the run on pairs after it."""


def judging(folder: Path | str) -> str:
    """The command that evaluates a run on its held-out pairs."""
    return command_line(["mlx-dpo", "eval", "--run", str(folder)])


def measuring_topics(folder: Path) -> str:
    """The command that measures a topic model."""
    return command_line(["mlx-dpo", "topics", "eval", "--run", str(folder)])


def after_preparing(corpus: str, config_file: str | None, given: Sequence[str]) -> str:
    """The command that trains a topic model on a corpus, with the settings of this command.

    Args:
        given: the "section.key=value" settings, besides the settings file; those of the corpus are done with.
    """
    words = ["mlx-dpo", "topics", "train", *(["--config", config_file] if config_file else [])]
    for one in last_ones([one for one in given if not one.strip().startswith("corpus.")]):
        words += ["--set", one]
    return command_line([*words, "--corpus", corpus])


def ranking(config: "RunConfig", completions: str, config_file: str | None, given: Sequence[str]) -> str:
    """The command that ranks sampled answers: with the judge of the settings, else with the sampled model.

    Args:
        given: the "section.key=value" settings of the sampling, besides the settings file.
    """
    if config.judge.is_named:
        return repeated("judge", config_file, given, [assignment("judge.completions", completions)])
    words = ["mlx-dpo", "judge", "--completions", completions]
    beside = str(Path(completions).parent.parent / "judged")
    if beside != type(config.judge)().output:
        words += ["--output", beside]
    server = config.endpoint
    if not server.url:
        return command_line([*words, "--model", config.model.path])
    words += ["--endpoint", server.url, *(["--model", server.model] if server.model else [])]
    if server.key_variable != type(server)().key_variable:
        words += ["--set", assignment("judge.key_variable", server.key_variable)]
    return command_line(words)


def after_sft(folder: Path, config_file: str | None, given: Sequence[str]) -> str:
    """The command after a supervised run: inspect its pairs with its adapter, or make pairs from its rows.

    Args:
        given: the "section.key=value" settings of the run, besides the settings file.

    Raises:
        DpoError: the settings are not valid for a run on pairs.
    """
    from ..config import load_config
    from ..inspection.advice import sampling
    from ..jobs.inspect import plan_of

    kept = [one for one in given if one.partition("=")[0].strip() not in _OF_SFT]
    config = load_config(config_file, kept)
    more = [assignment("model.adapter", str(folder)), *run_settings(config, folder)]
    if _all_pairs(config.data.train):
        return repeated("inspect", config_file, kept, more)
    source, _ = sampling(plan_of(load_config(config_file, [*kept, *more]), 1))
    return repeated("gen-pairs", config_file, kept, [*more, *source])


def run_settings(config: "RunConfig", adapter: Path | None = None) -> list[str]:
    """Settings to add to these, so that a command trains on pairs in a folder without a run.

    Args:
        adapter: the folder that the run starts from.
    """
    from ..losses import LossConfig

    output = unused_folder(config.run.output, [adapter] if adapter else [])
    if adapter and Path(config.run.output).absolute() == adapter.absolute():
        output = beside(adapter, "dpo")
    settings = [] if output == config.run.output else [assignment("run.output", output)]
    return [*settings, *([f"loss.name={LossConfig().name}"] if config.loss.answers_only else [])]


def _all_pairs(source: "Source") -> bool:
    """Whether all rows give pairs; curated rows have no rejected answer."""
    from ..data.own_format import to_pairs
    from ..data.row_files import open_rows
    from ..data.row_reader import RowReader

    try:
        return all(line.error is None for line in RowReader(open_rows(source), to_pairs))
    except DpoError:
        return False
