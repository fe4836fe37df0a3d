"""Runs: train, evaluate and fuse."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import RunConfig, load_config
from ..data.row_index import index_rows
from ..errors import DpoError
from ..evaluation.preference import Evaluation
from ..export.precisions import MAX_KL_RATIO
from ..jobs.evaluate import evaluate_run
from ..jobs.fuse import fuse_folder
from ..jobs.output_folder import output_folder
from ..jobs.train import train_run
from ..losses import LOSSES, LossFunction
from ..monitoring.callback import Callback
from ..monitoring.run_log import RunLog
from ..settings import as_plain, build
from ..settings_file import Tree
from ..storage.files import make_folder, write_text
from ..storage.reading import expanded
from .models import Model, say_blas_note
from .pairs import Pairs, as_file, in_memory, named


@dataclass(frozen=True)
class TrainedRun:
    """A run that has ended; functions that take a run accept this, or its folder.

    `folder`: contains adapters.safetensors and adapter_config.json, which mlx_lm can load, config.yaml,
    metrics.jsonl and checkpoints. `metrics`: the rows of metrics.jsonl; names of held-out metrics begin with
    eval/. `held_out`: the held-out metrics of the adapter in the folder; None without held-out pairs.
    `best_step`: number of updates before this adapter.
    """

    folder: Path
    metrics: list[dict[str, float]]
    held_out: dict[str, float] | None
    best_step: int

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"TrainedRun({str(self.folder)!r}, best_step={self.best_step}, held_out={self.held_out})"


def train(
    model: Model | str | Path | None = None,
    pairs: Pairs | None = None,
    *,
    valid: Pairs | None = None,
    loss: str | LossFunction | Sequence[str | LossFunction] | None = None,
    beta: float | None = None,
    output: str | Path | None = None,
    callback: Callback | None = None,
    config: RunConfig | None = None,
    overwrite: bool = False,
) -> TrainedRun:
    """Train an adapter on preference pairs, as `mlx-dpo train` does; the same call again continues the run.

    Args:
        model: a path, a Hub name, or the result of `load`. The run loads its own copy of the weights: if
            memory is short, give the path. The reference is this model with its adapter, if it has one.
        pairs: a file, a folder, a data set on the Hub, a list of these, dicts, or the result of `read_pairs`.
            Pairs in memory are saved in the folder.
        valid: held-out pairs in the same forms; with `pairs` and without `valid`, none are held out.
        loss: a registered loss, by its name or as the function (`losses.sigmoid`); or a list of losses, which
            are added. Their options are settings, see `config`.
        beta: pull towards the reference, above 0.
        output: the run's folder.
        callback: called as `callback(step, metrics)` with each row of metrics.jsonl, of training and of
            held-out pairs, as soon as it is written. When it returns False, the run ends early:
            held-out pairs are evaluated once more, and the best adapter is kept.
        config: all other settings, see `load_config`; the other arguments override it.
        overwrite: replace another run in the folder.

    Returns:
        The run's folder, metrics and best step.

    Raises:
        DpoError: anything a user can fix; `where` is a setting, a file's line, or "pairs[3]" in memory.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was written. Errors of the callback are passed on.
    """
    say_blas_note()
    given: dict[str, Any] = {}
    if isinstance(model, Model):
        given |= {f"model.{name}": value for name, value in as_plain(model.settings).items()}
    elif model is not None:
        given["model.path"] = str(model)
    if loss is not None:
        given["loss.name"] = _name_of(loss)
    if beta is not None:
        given["beta.value"] = beta
    if output is not None:
        given["run.output"] = str(output)
    config = _with(config or load_config(), given)
    texts = {
        name: _checked(rows, name, config)
        for name, rows in (("pairs", pairs), ("valid", valid))
        if in_memory(rows)
    }
    files = {name: _kept(text, name, config) for name, text in texts.items()}
    if pairs is not None:
        config = _with(config, {"data.train": files.get("pairs") or _names(pairs), "data.valid": None})
    if valid is not None:
        config = _with(config, {"data.valid": files.get("valid") or _names(valid)})
    with named({path: name for name, path in files.items()}):
        folder, held_out = train_run(config, overwrite=overwrite, callback=callback)
    metrics = RunLog(folder, 0).rows()
    best = int((held_out or metrics[-1])["step"])
    return TrainedRun(folder, metrics, held_out and dict(held_out), best)


def _names(source: Pairs) -> str | list[str]:
    return str(source) if isinstance(source, (str, Path)) else [str(one) for one in source]


def _name_of(loss: str | LossFunction | Sequence[str | LossFunction]) -> str | list[str]:
    """The value of the setting loss.name."""
    if isinstance(loss, str):
        return loss
    if not callable(loss):
        return [str(_name_of(one)) for one in loss]
    for name, known in LOSSES.items():
        if known.function is loss:
            return name
    raise DpoError(
        f"{getattr(loss, '__name__', 'this function')} is not a registered loss",
        where="loss",
        hint='put @mlx_dpo.register_loss("its_name", source="...") above the function',
    )


def _with(config: RunConfig, given: Mapping[str, Any]) -> RunConfig:
    """The settings with these values, by dotted names; they are checked like those of a file."""
    values = as_plain(config)
    for name, value in given.items():
        section, key = name.split(".")
        values[section][key] = value
    return build(RunConfig, Tree(values, {}))


def _checked(rows: Pairs, name: str, config: RunConfig) -> str:
    """Pairs in memory as JSONL, after checking every row."""
    with as_file(rows, name) as path:
        index_rows(path, answers=config.loss.answers_only)
        return path.read_text()


def _kept(text: str, name: str, config: RunConfig) -> str:
    """Save these rows in a file in the run's folder; its name.

    The name depends on the content, so that other pairs never replace those of an existing run.
    """
    folder = output_folder(config).absolute()
    make_folder(folder)
    path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
    write_text(path, text)
    return str(path)


def evaluate(
    run: TrainedRun | str | Path,
    pairs: Pairs | None = None,
    *,
    samples: int = 3,
    max_tokens: int | None = None,
    model: str | Path | None = None,
) -> Evaluation:
    """Evaluate a run on held-out pairs, as `mlx-dpo eval` does: its adapter against its reference.

    Args:
        run: the result of `train`, or a run's folder.
        pairs: pairs to evaluate on, in any form; by default the held-out pairs of the run.
        samples: number of prompts that both models answer, greedily; 0 for none.
        max_tokens: maximum length of these answers; by default generate.max_tokens, at most 256.
        model: where the base model is now; by default where it was when the run was made.

    Returns:
        `metrics` (means over pairs, by the names of metrics.jsonl without eval/), 95 % intervals, `samples`.

    Raises:
        DpoError: the folder is not a run, there are no held-out pairs, a row is bad, or files do not fit.
    """
    say_blas_note()
    base = model and str(model)
    with nullcontext() if pairs is None else as_file(pairs) as path:
        return evaluate_run(Path(run), path, samples, base, max_tokens)


def fuse(
    run: TrainedRun | str | Path,
    output: str | Path,
    *,
    model: str | Path | None = None,
    precision: str | int | None = None,
    max_kl_ratio: float = MAX_KL_RATIO,
    base: str | Path | None = None,
    pairs: Pairs | None = None,
) -> Path:
    """Merge a run's adapter into its base model, as `mlx-dpo fuse` does: a model folder without adapter.

    The fused model is compared with the adapter on a few rows; likeness.json in the folder has the figures.

    Args:
        run: the result of `train`, or a run's folder.
        output: folder for the new model; must not exist yet.
        model: where the base model is now; by default where it was when the run was made.
        precision: auto, plain, 4, 6, 8 or mixed; by default auto if the base is quantised, else plain (in the
            dtype of the base, unquantised).
        max_kl_ratio: largest KL(adapter || fused) / KL(adapter || base), and / KL(adapter || start) if the
            run began from an adapter; above it nothing is written.
        base: the unquantised model from which a quantised base was made: the adapter is added to its weights,
            which are then quantised once.
        pairs: rows to compare on, in any form; by default the held-out rows of the run.

    Returns:
        `output`, which `load` and mlx_lm can load.

    Raises:
        DpoError: the folder is not a run, files do not fit, `output` exists, or the fused model would not
            behave like the adapter.
    """
    say_blas_note()
    with nullcontext() if pairs is None else as_file(pairs) as path:
        return fuse_folder(
            Path(run),
            expanded(output),
            model and str(model),
            precision=precision if precision is None else str(precision),
            max_kl_ratio=max_kl_ratio,
            original=base and str(base),
            data=path,
        )
