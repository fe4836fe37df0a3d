"""mlx-dpo sft"""

import json

import click

from .next_command import after_sft
from .options import data_files, flags
from .run_command import run_training, training_options


@click.command()
@training_options("Curated rows or pairs to learn from; without --valid, none are held out.")
def sft(config_file, overrides, data, valid, **options):
    """Train an adapter on the curated answers alone, before pairs.

    Rows are curated rows (prompt, answer), or pairs, whose chosen answers are learnt. Settings that only
    concern pairs (loss, beta, moving reference) are ignored. Without a learning rate
    (optimizer.learning_rate=null), a short test on four rows finds one. Without training.epochs, the run
    makes 2 to 10 passes, about 100 updates for a small set; with held-out rows, it ends earlier when their
    loss stops falling. The model is kept close to the base model on short texts that the base model wrote
    at the start (training.rehearsal=0 turns this off). The result is an adapter folder. To continue with
    pairs, set model.adapter to this folder; the reference is then the model with this adapter.

    \b
    Example:
      mlx-dpo sft --config config/granite_sft.yaml
      mlx-dpo inspect --config config/granite_dpo.yaml --set model.adapter=runs/granite-sft
    """
    given = [*data_files(data, valid), *overrides]

    def following(config, folder):
        return after_sft(folder, config_file, [*given, *flags()])

    run_training(following, config_file, [*given, *_of_answers()], **options)


def _of_answers() -> list[str]:
    """Settings that replace the loss on pairs, so that sft can use the settings file of train."""
    from ..losses import SUPERVISED, BetaConfig, LossConfig
    from ..settings import as_plain

    loss = {f"loss.{name}": value for name, value in as_plain(LossConfig(name=SUPERVISED)).items()}
    others = {"beta.rule": BetaConfig().rule, "training.reference_sync_steps": None}
    return [f"{name}={json.dumps(value)}" for name, value in (loss | others).items()]
