"""Write a fused model as a folder that mlx_lm loads, after comparing it with the adapter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..console import json_text, say
from ..data.conversation_tokens import end_of_turn
from ..data.tokenize import TokenizedPair
from ..models.adapters import load_adapter
from ..models.config_files import read_model_config
from ..models.end_of_turn import mlx_lm_stops
from ..models.load import ModelConfig, find_model, load_model, weight_bytes
from ..models.weights import embedded_tokens
from ..storage.files import check_writable, replace_folder
from ..storage.reading import files_in
from .end_of_turn_files import list_end
from .fuse_report import FILE, HEADER, explanation, faint, refusal, report, table_row
from .fused_model import FusedModel, fused_model, fused_weights
from .hub_layout import base_tensors
from .hub_model import plain_bytes
from .ladder import Built, Ladder, Measured, Rung, climb
from .layer_precisions import grids_at, layers_of, survey, target_of
from .likeness import Yardstick, check_room
from .made_from import write_made_from
from .precisions import MAX_KL_RATIO, check_precision
from .prove_fused import prove_fused
from .start import checked_tokenizer, find_base, named
from .unquantised_base import check_original


def fuse_run(
    model_path: str,
    adapter: Path | str,
    output: Path | str,
    asked: ModelConfig | None = None,
    *,
    precision: str = "plain",
    rows: Sequence[TokenizedPair] = (),
    max_kl_ratio: float = MAX_KL_RATIO,
    original: str | None = None,
) -> Path:
    """Write base weights plus adapter as a model folder in hub layout.

    On `rows`, the fused model is compared with the adapter, and written only if it behaves like it. The
    figures are in likeness.json in the folder. The end of turn is added to config files that lack it.

    Args:
        asked: the model settings of the run; the fused model gets their chat template.
        precision: one of PRECISIONS. Layers of a quantised base that were not trained stay as they are,
            except in plain precision.
        rows: answers to compare on; without rows, which only `plain` allows, nothing is compared.
        max_kl_ratio: largest KL(adapter || fused) / KL(adapter || base).
        original: the model from which the quantised base was made: the adapter is added to its weights, which
            are then rounded once.

    Raises:
        DpoError: files do not fit, the adapter belongs to another base, weights are not finite, the output
            exists, the disk is full, or no precision is like the adapter.
    """
    check_precision(precision, max_kl_ratio)
    output = Path(output)
    base = find_base(model_path, adapter, output)
    origin = find_model(original) if original else None
    others = _bytes(base, "*.json", "*.jinja", "*.model", "*.txt")
    check_writable(output, need_bytes=_least_bytes(base, precision) + others)
    if origin:
        check_original(origin, base)
    measured: list[Measured] = []
    if rows:
        fused, measured = _compared(base, origin, adapter, asked, precision, rows, max_kl_ratio)
    elif precision != "plain" or original:
        raise ValueError(f"precision {precision} needs rows to compare on")
    else:
        fused = fused_model(base, adapter, asked)
    if fused.was_quantised and "quantization" not in fused.config:
        say("the base model is quantised: the fused model is written in plain precision")
    check_writable(output, need_bytes=weight_bytes(fused.model) + others)
    content = report(measured, max_kl_ratio) if measured else None

    def write(beside: Path) -> None:
        _write(beside, base, fused, content)
        with named(beside, output):
            prove_fused(beside, base, fused)
        write_made_from(beside, output, "fused", adapter)

    replace_folder(output, write)  # the folder appears only when it is complete and proved
    return output


def _compared(
    base: Path,
    original: Path | None,
    adapter: Path | str,
    asked: ModelConfig | None,
    precision: str,
    rows: Sequence[TokenizedPair],
    most: float,
) -> tuple[FusedModel, list[Measured]]:
    """The smallest fused model that passes, and the measures of all that were built.

    Raises:
        DpoError: none passes.
    """
    check_room(rows, embedded_tokens(base, read_model_config(base)) or 0)
    tokenizer = checked_tokenizer(base, adapter, asked)
    ladder, yardstick = prepared(base, original, adapter, precision, rows)
    if note := faint(yardstick.to_base):
        say(note)

    def build(rung: Rung) -> Built:
        return fused_weights(original or base, adapter, rung.grids)[:2]

    def tell(measured: Measured) -> None:
        say(table_row(measured, most))

    say(HEADER)
    built, measured = climb(ladder, precision, build, yardstick, most, tell)
    quantised = bool(ladder.target.grids)
    if built is None:
        raise refusal(measured, most, adapter, precision)
    say(explanation(measured[-1].likeness, len(measured)))
    model, config = built
    return FusedModel(model, tokenizer, config, quantised), measured


def prepared(
    base: Path, original: Path | None, adapter: Path | str, precision: str, rows: Sequence[TokenizedPair]
) -> tuple[Ladder, Yardstick]:
    """Everything that is measured on base and adapter, of which nothing stays in memory."""
    yardstick = Yardstick(rows)
    model, _ = load_model(base)
    target = target_of(model)
    yardstick.see_base(model)
    layers = layers_of(model)
    every = bits_of(precision, target.bits)
    grids = {bits: grids_at(model, target, bits) for bits in {target.bits, *filter(None, every)}}
    load_adapter(model, adapter)
    yardstick.see_adapter(model)
    del model
    mx.clear_cache()
    return Ladder(layers, target, grids, survey(original or base, adapter, grids, every)), yardstick


def bits_of(precision: str, usual: int) -> list[int | None]:
    """The numbers of bits that a precision may use; None: unquantised."""
    if precision == "plain":
        return [None]
    if precision.isdigit():
        return [int(precision)]
    more = (6, 8) if precision == "auto" else (8,)
    return [usual, *(bits for bits in more if bits > usual), None]


def _least_bytes(base: Path, precision: str) -> int:
    """Bytes that the weights of the fused model need, as far as the precision tells."""
    tensors, files = base_tensors(base), _bytes(base, "model*.safetensors")
    if precision == "plain":
        return plain_bytes(base, tensors)
    bits = int(precision) if precision.isdigit() else 4
    return min(files, plain_bytes(base, tensors, bits / 8))


def _bytes(folder: Path, *patterns: str) -> int:
    return sum(file.stat().st_size for file in files_in(folder, *patterns))


def _write(folder: Path, base: Path, fused: FusedModel, content: dict[str, Any] | None) -> None:
    """Fill an empty folder."""
    from mlx_lm.utils import save

    tokenizer = fused.tokenizer
    save(folder, base, fused.model, tokenizer, fused.config, donate_model=False)  # a model card too
    for code in files_in(folder, "*.py"):  # code of the base: we never run it, and nobody should
        code.unlink()
    if content:
        (folder / FILE).write_text(json_text(content, indent=1, only_ascii=True) + "\n")
    end = end_of_turn(tokenizer)
    if list_end(folder, end, mlx_lm_stops(base, tokenizer)):
        token = tokenizer.convert_ids_to_tokens(end)
        say(
            f"the config files of the base model do not list the end of turn {token}: it is added to "
            "config.json and generation_config.json of the fused model, so that mlx_lm stops there"
        )
