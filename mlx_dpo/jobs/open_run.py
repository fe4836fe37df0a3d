"""Open the folder of a run, for the commands after training."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..config import RunConfig, load_config
from ..console import say
from ..errors import DpoError
from ..models.adapters import read_adapter_config
from ..models.base_of_adapter import check_template
from ..models.foreign_weights import check_not_peft
from ..monitoring.run_log import RunLog
from ..printed_commands import command_line
from ..settings_file import read_yaml
from ..storage.reading import expanded, is_there

SETTINGS, INSPECTION, TEMPLATE = "config.yaml", "inspection.json", "chat_template.jinja"


def say_if_unfinished(folder: Path | str, config: RunConfig) -> None:
    """Say if a run was stopped before its end, with the command that continues it."""
    folder = Path(folder)
    log, epochs = RunLog(folder, 0), config.training.epochs
    with suppress(DpoError):  # damaged metrics do not matter for the adapter
        rows = [row for row in log.rows() if "epoch" in row]
        early = [event["step"] for event in log.events() if event["event"] == "stopped"]
        if (
            not rows
            or not epochs
            or rows[-1]["epoch"] >= epochs
            or max(early, default=-1) >= rows[-1]["step"]
        ):
            return
        words = ["mlx-dpo", "train", "--config", str(folder / SETTINGS), "--output", str(folder)]
        say(
            f"WARNING: {folder} is not finished: its last report is of update {rows[-1]['step']}, epoch "
            f"{rows[-1]['epoch']:.4g} of {epochs}; to continue: {command_line(words)}"
        )


def is_topics_run(folder: Path) -> bool:
    """Whether the settings file of a folder, if there is one, is of a topic model's run.

    Raises:
        DpoError: it is damaged.
    """
    return is_there(folder / SETTINGS) and "corpus" in read_yaml(folder / SETTINGS).values


def settings_file(folder: Path) -> Path:
    """The settings file of a run on pairs.

    Raises:
        DpoError: the folder is not a run, or is the run of a topic model.
    """
    path = folder / SETTINGS
    if not is_there(path):
        raise DpoError(
            "is not a run folder: it has no config.yaml" if is_there(folder) else "no such folder",
            where=folder,
            hint="name the folder that mlx-dpo train wrote (its run.output)",
        )
    if is_topics_run(folder):
        commands = [
            command_line(["mlx-dpo", "topics", name, "--run", str(folder)]) for name in ("eval", "report")
        ]
        raise DpoError("is the run of a topic model", where=folder, hint=f"use {' or '.join(commands)}")
    return path


def open_run(folder: Path | str, model: str | None = None) -> RunConfig:
    """The settings of a run.

    Args:
        model: where the base model is now; by default where it was when the run was made.

    Raises:
        DpoError: the folder is not a run, or its base model is missing.
    """
    if not is_there(Path(folder) / SETTINGS):
        check_not_peft(Path(folder))
    path = settings_file(Path(folder))
    config = load_config(path, [f"model.path={model}"] if model else [])
    read_adapter_config(folder)
    if is_there(template := Path(folder) / TEMPLATE):
        check_template(folder, template)
        config = replace(config, model=replace(config.model, chat_template=str(template)))
    if config.model.path.startswith(("/", ".", "~")) and not is_there(expanded(config.model.path)):
        raise DpoError(
            "is missing: the base model of this run",
            where=config.model.path,
            hint="say where the model is now: --model FOLDER",
        )
    return config
