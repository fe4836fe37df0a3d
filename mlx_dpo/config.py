"""All settings of a run in one dataclass: load, override, write."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .data.sources import DataConfig
from .errors import DpoError
from .files import write_text
from .losses import BetaConfig, LossConfig
from .models.adapters import AdapterConfig
from .models.generate import GenerateConfig
from .models.load import ModelConfig
from .optimizers import OptimizerConfig
from .pairs.generate import PairsConfig
from .settings import Tree, as_plain, build, read_yaml, setting, to_yaml
from .training.trainer import TrainingConfig


@dataclass(frozen=True)
class OutputConfig:
    """Where a run's folder is and who is told of it."""

    output: str = setting("runs/dpo", "the run's folder")
    report_to: list[str] = setting(["jsonl"], "where metrics go", choices=("jsonl",))


@dataclass(frozen=True)
class RunConfig:
    """Every section of a settings file."""

    model: ModelConfig = field(default_factory=ModelConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    data: DataConfig = field(default_factory=DataConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    beta: BetaConfig = field(default_factory=BetaConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    run: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self):
        if self.adapter.dropout and self.training.gradient_checkpointing == "on":
            # The second forward of a checkpointed block would draw another mask: a wrong gradient.
            raise DpoError(
                "dropout cannot be used with gradient checkpointing",
                where="adapter.dropout",
                hint="set adapter.dropout=0 or training.gradient_checkpointing=off",
            )


def load_config(path: Path | str | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Defaults, then the YAML file, then each "section.key=value".

    Raises:
        DpoError: with file and line, or the override, of what is wrong.
    """
    tree = read_yaml(path) if path else Tree({}, {})
    for override in overrides:
        tree = tree.with_override(override)
    return build(RunConfig, tree)


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved settings; a run from this file repeats the run."""
    write_text(path, to_yaml(as_plain(config)))
