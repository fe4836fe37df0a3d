"""All settings of a run in one dataclass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .data.sources import DataConfig
from .endpoint import EndpointConfig
from .errors import DpoError
from .judges.config import JudgeConfig
from .losses import BETA_RULES, BetaConfig, LossConfig, beta_rule
from .models.adapters import AdapterConfig
from .models.generate import GenerateConfig
from .models.load import ModelConfig
from .monitoring.trackers import TRACKERS
from .optimizers import OptimizerConfig
from .pairs.config import PairsConfig
from .settings import Section, build, section, setting
from .settings_file import read_settings
from .training.config import TrainingConfig


@dataclass(frozen=True)
class OutputConfig(Section):
    """The folder of a run, and where its metrics go."""

    output: str = setting(
        "runs/dpo",
        "folder of the run",
        path="written",
        also={
            "output_dir save_dir output_path adapter_path": "",
            "overwrite_output_dir": "--overwrite replaces the run that is there.",
            "run_name": "trackers use the folder's name.",
            "resume_from_checkpoint": "run the same command again: it continues the run in the folder.",
            "save_adapter": "the adapter is always in the run's folder.",
        },
    )
    report_to: list[str] = setting(
        ["jsonl"],
        "where metrics are written",
        choices=("jsonl", *TRACKERS),
        meant={"none": "[jsonl] writes only metrics.jsonl in the run folder;", "all": "list them by name;"},
        also="log_with logger tracker wandb tensorboard trackio use_wandb report",
    )
    margin_files: bool = setting(
        False, "also write the margins of every window, into margins/ in the run folder"
    )
    keep_awake: bool = setting(True, "keep the Mac awake during the run; the display may sleep")
    short_gpu_work: bool = setting(
        False, "give the GPU short pieces of work; slower, but macOS's watchdog does not end the run"
    )


@dataclass(frozen=True)
class RunConfig:
    """Every section of a settings file."""

    model: ModelConfig = section(ModelConfig, also="model_args model_config base_model")
    pairs: PairsConfig = section(PairsConfig, also="gen_pairs generate_pairs", decides=False)
    generate: GenerateConfig = section(
        GenerateConfig,
        also="generation generation_config generating_args sampling sampling_params",
        decides=False,
    )
    endpoint: EndpointConfig = section(EndpointConfig, also="server openai api", decides=False)
    judge: JudgeConfig = section(JudgeConfig, also="judging ranker reward_model", decides=False)
    data: DataConfig = section(DataConfig, also="dataset datasets dataset_args data_args data_config")
    adapter: AdapterConfig = section(
        AdapterConfig,
        also="lora dora peft lora_parameters lora_config peft_config finetuning_args",
    )
    loss: LossConfig = section(LossConfig, also="losses loss_config objective")
    beta: BetaConfig = section(BetaConfig)
    optimizer: OptimizerConfig = section(
        OptimizerConfig, also="optim optimiser optimizer_config scheduler lr_schedule"
    )
    training: TrainingConfig = section(
        TrainingConfig,
        also="train trainer training_args training_arguments training_config dpo dpo_config train_args args",
    )
    run: OutputConfig = section(OutputConfig, also="output logging", decides=False)

    def __post_init__(self):
        for wrong, where, what, hint in self._clashes():
            if wrong:
                raise DpoError(what, where=where, hint=hint)

    def _clashes(self) -> Iterator[tuple[bool, str, str, str]]:
        """Settings that cannot be used together: whether they are set, where, what, remedy."""
        dropout, window, rule = self.adapter.dropout, self.training.window, self.beta.rule
        names, moves, filters = self.loss.label, BETA_RULES[rule].moves, BETA_RULES[rule].filters
        still = f"set beta.rule={BetaConfig().rule}"
        yield (  # the second forward of a checkpointed block would draw another mask: a wrong gradient
            bool(dropout) and self.training.gradient_checkpointing == "on",
            "adapter.dropout",
            "dropout cannot be used with gradient checkpointing",
            "set adapter.dropout=0 or training.gradient_checkpointing=off",
        )
        yield (
            bool(dropout) and self.passes == "two",
            "adapter.dropout",
            f"dropout cannot be used with {self._second_pass}, which scores every pair twice",
            "set adapter.dropout=0",
        )
        yield (
            moves and self.loss.answers_only,
            "beta.rule",
            f"the loss {names} has no beta that {rule} could change",
            f"{still}, or another loss.name",
        )
        blind = self.loss.reference_free or not self.loss.needs_reference
        yield (
            bool(self.training.reference_sync_steps) and blind,
            "training.reference_sync_steps",
            f"the loss {names} does not use the reference with these settings",
            "set training.reference_sync_steps=null, or another loss",
        )
        yield (
            bool(self.training.reference_sync_steps) and bool(dropout),
            "adapter.dropout",
            "cannot be used with training.reference_sync_steps, which scores the reference during training",
            "set adapter.dropout=0",
        )
        yield (
            bool(self.training.reference_sync_steps) and self.adapter.type == "full",
            "training.reference_sync_steps",
            "needs a second copy of the trained weights, and full training trains all weights",
            "set adapter.type=lora",
        )
        yield (
            self.loss.needs_window and window == 1,
            "loss.name",
            f"the loss {names} compares the pairs of a window (one update), and the window has one pair",
            "set training.accumulation to at least 2",
        )
        yield (
            moves and window == 1,
            "beta.rule",
            f"the rule {rule} compares the margins of a window (one update), and the window has one pair",
            "set training.accumulation to 16, or at least 8",
        )
        yield (
            self.loss.needs_window and filters,
            "beta.rule",
            f"the rule {rule} leaves out single pairs, but the loss {names} has no loss per pair",
            f"{still}, or another loss.name",
        )
        deferred, setting_of = beta_rule(self.beta).deferred, f"beta.{rule}.deferred"
        yield (
            deferred and self.training.micro_batch > 1,
            setting_of,
            "needs the gradient of every single pair, so a micro-batch must have one pair",
            f"set training.micro_batch=1 and training.accumulation={window}",
        )
        yield (
            deferred and self.loss.wpo,
            setting_of,
            "scores every pair once, but loss.wpo must score pairs before it can weight them",
            f"set {setting_of}=false",
        )
        yield (
            deferred and not self.loss.of_margins,
            setting_of,
            f"needs a loss of the margin alone, and the loss {names} uses more than the margin",
            f"set {setting_of}=false",
        )

    @property
    def passes(self) -> str:
        """How a window is differentiated: "one", "two" or "deferred", see `training.window.Objective`."""
        if not self._second_pass:
            return "one"
        return "deferred" if beta_rule(self.beta).deferred else "two"

    @property
    def _second_pass(self) -> str:
        """The setting that needs all scores of a window before the first gradient, or ""."""
        if beta_rule(self.beta).looks_first:
            return f"beta.rule={self.beta.rule}"
        if self.loss.wpo or self.loss.bco_shift:
            return "loss.wpo" if self.loss.wpo else "loss.bco_shift"
        several = self.loss.needs_window and self.training.accumulation > 1
        return f"loss.name={self.loss.label} and training.accumulation above 1" if several else ""


MOVED = {
    f"loss.{name}": f"loss.options.{name}"
    for name in ("label_smoothing", "discopop_tau", "dpop_lambda", "simpo_gamma", "cpo_alpha")
}
"""Settings of earlier versions with their present names: files and runs that have them are still read."""


def load_config(path: Path | str | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Defaults, then the YAML file, then each "section.key=value".

    Raises:
        DpoError: with file and line, or the override, of what is wrong.
    """
    return build(RunConfig, read_settings(path, overrides, MOVED))
