"""Runs for other programs: export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DpoError, quoted
from ..export.gguf_fields import FILE_TYPES
from ..export.precisions import MAX_KL_RATIO
from ..jobs.export import export_gguf_lora_run, export_gguf_run, export_hf_run, export_peft_run
from ..storage.reading import expanded
from .models import say_blas_note
from .runs import TrainedRun

KINDS = {
    "hf": ("prove", "max_kl_ratio"),
    "gguf": ("prove", "type", "system", "max_kl_ratio"),
    "gguf-lora": (),
    "peft": ("prove", "base"),
}
"""What a run can be exported as, and the options of each."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    `path`: the folder; for GGUF, the file in it. `proof`: the figures of the comparison with MLX in the
    program that will read the export; None if there was none. `notes`: what other programs need.
    """

    path: Path
    proof: str | None = None
    notes: tuple[str, ...] = ()


def export(
    run: TrainedRun | str | Path,
    kind: str,
    output: str | Path,
    *,
    model: str | Path | None = None,
    prove: bool | None = None,
    base: str | None = None,
    type: str | None = None,
    system: str | None = None,
    max_kl_ratio: float | None = None,
) -> Exported:
    """Write a run's result for other programs, as `mlx-dpo export` does.

    Args:
        run: the result of `train`, or a run's folder.
        kind: hf (the fused model in the Hub's layout), gguf (the fused model for llama.cpp, Ollama and
            LM Studio), gguf-lora (the adapter for llama.cpp), peft (the adapter for PEFT and vLLM).
        output: folder for the export; must not exist yet.
        model: where the base model is now; by default where it was when the run was made.
        prove: compare the export in the other program with MLX; by default where that program is installed.
        base: of peft: name on the Hub, or folder, of the unquantised base model.
        type: of gguf: f32, f16, bf16 or q8_0; f16 by default.
        system: of gguf: system prompt for the Modelfile.
        max_kl_ratio: of hf and gguf: largest KL(adapter || export) / KL(adapter || base); above it nothing is
            written; 0.1 by default. Not compared where nothing is rounded: hf and f32 of a float32 base.

    Raises:
        DpoError: the folder is not a run, files do not fit, `output` exists, a package is missing, the other
            program has no such architecture, or the export is not what MLX computes.
    """
    say_blas_note()
    given = {"prove": prove, "base": base, "type": type, "system": system, "max_kl_ratio": max_kl_ratio}
    _check_options(kind, given)
    folder, output, model = Path(run), expanded(output), model and str(model)
    if kind == "peft":
        made = export_peft_run(folder, output, base, model, prove)
        return Exported(made.folder, made.proof.text() if made.proof else None, tuple(made.notes))
    if kind == "gguf-lora":
        return Exported(export_gguf_lora_run(folder, output, model))
    most = MAX_KL_RATIO if max_kl_ratio is None else max_kl_ratio
    if kind == "hf":
        told = export_hf_run(folder, output, model, prove, most)
    else:
        told = export_gguf_run(folder, output, type or "f16", model, prove, system, most)
    proved = told["proof"] if "difference" in told else None
    return Exported(Path(told["exported"]), proved, tuple(filter(None, [told.get("compared")])))


def _check_options(kind: str, given: dict[str, Any]) -> None:
    """Check the kind, and that the options are among its own.

    Raises:
        DpoError: they are not.
    """
    if kind not in KINDS:
        raise DpoError(f"cannot be {quoted(kind)}", where="kind", hint=f"one of {', '.join(KINDS)}")
    for name, value in given.items():
        if value is not None and name not in KINDS[kind]:
            others = ", ".join(other for other, own in KINDS.items() if name in own)
            hint = f"leave it out; {others} can take it"
            raise DpoError(f"is not an option of {kind}", where=name, hint=hint)
    if given["type"] not in (None, *FILE_TYPES):
        hint = f"one of {', '.join(FILE_TYPES)}"
        raise DpoError(f"cannot be {quoted(given['type'])}", where="type", hint=hint)
