"""Export a run's fused model for other programs, and prove it there."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..console import say
from ..data.conversation_tokens import end_of_turn, pair_tokens, prompt_tokens
from ..data.row_index import index_rows
from ..errors import DpoError
from ..export import prove_llama_cpp, prove_transformers
from ..export.fuse_report import check_like, faint, likeness_figures
from ..export.fused_model import checked_tokenizer
from ..export.gguf import export_gguf
from ..export.gguf_likeness import TOKENS as GGUF_TOKENS
from ..export.gguf_likeness import likeness_in_llama_cpp, likeness_in_mlx, remedy
from ..export.gguf_lora import export_gguf_lora
from ..export.hf import export_hf
from ..export.hub_model import Source
from ..export.layer_precisions import rounds_sums
from ..export.likeness import TOKENS, Yardstick, run_yardstick
from ..export.peft_run import PeftExport, export_peft
from ..export.precisions import MAX_KL_RATIO, check_ratio
from ..export.predictions import Agreement, has_step_limit, step_limit_note
from ..storage.reading import expanded
from .comparison import comparison_rows, first_adapter
from .open_run import open_run, say_if_unfinished

PROOF_ROWS, PROOF_TOKENS = 4, 200
_QUESTIONS = ("How do I clean a copper kettle?", "Why is the sky blue?", "Name three rivers.", "Hello!")


def proof_rows(config: RunConfig, tokenizer: Any) -> list[list[int]]:
    """Token ids of a few prompts with half of an answer, from the run's held-out file, else its data.

    Where the files are gone: a few questions.
    """
    try:
        return list(islice(_rows(config, tokenizer), PROOF_ROWS))
    except DpoError as error:
        say(f"note: the proof uses its own questions, because the run's rows cannot be read: {error.what}")
        asked = [[{"role": "user", "content": question}] for question in _QUESTIONS]
        return [prompt_tokens(tokenizer, prompt) for prompt in asked]


def _rows(config: RunConfig, tokenizer: Any) -> Iterator[list[int]]:
    source = config.data.valid or config.data.train
    end = end_of_turn(tokenizer)
    for row in index_rows(source, answers=config.loss.answers_only).records():
        prompt, answers = pair_tokens(tokenizer, row.prompt, row.answers[:1], end, row.tools, PROOF_TOKENS)
        yield [*prompt, *answers[0][: len(answers[0]) // 2]][:PROOF_TOKENS]


def export_hf_run(
    folder: Path | str,
    output: Path | str,
    model: str | None = None,
    prove: bool | None = None,
    max_kl_ratio: float = MAX_KL_RATIO,
) -> dict[str, Any]:
    """Write a run's fused model in the Hub's layout; what was written, and the proof, as plain values.

    The fused model of a base in half precision is compared with the adapter.

    Args:
        model: where the base model is now; by default where it was when the run was made.
        prove: compare with transformers; by default where torch is installed.
        max_kl_ratio: largest KL(adapter || export) / KL(adapter || base), and / KL(adapter || start).

    Raises:
        DpoError: not a run, torch is missing, files do not fit, the export is not the fused model, or is not
            like the adapter.
    """
    check_ratio(max_kl_ratio)
    config = _opened(folder, model)
    told: dict[str, Any] = {"exported": str(output), "proof": "not proved"}
    with_transformers = _wanted(prove, prove_transformers.can_prove(), "torch")
    yardstick: Yardstick | None = None

    def first(base: Path) -> None:
        nonlocal yardstick
        if rounds_sums(base):
            yardstick = _yardstick(config, folder, base, TOKENS)

    def prover(path: Path, source: Source) -> dict[str, str]:
        rows = _rows_to_predict(config, source, with_transformers)
        if with_transformers:
            _tell(told, "transformers", prove_transformers.prove_transformers(path, source, rows))
        else:
            prove_transformers.check_files(path, source)
        if yardstick:
            found = yardstick.likeness(source.fused.model)
            instead = "use the adapter without fusing: mlx-dpo export peft"
            told["compared"] = check_like(found, max_kl_ratio, folder, "the exported model", instead)
            told.update(likeness_figures(found))
        return _checks(told)

    export_hf(config.model.path, folder, expanded(output), config.model, prover, first=first)
    return told


def export_peft_run(
    folder: Path | str,
    output: Path | str,
    base_name: str | None = None,
    model: str | None = None,
    prove: bool | None = None,
) -> PeftExport:
    """Write a run's adapter for PEFT; see `export.peft_run.export_peft`.

    Raises:
        DpoError: not a run, or as `export_peft`.
    """
    config = _opened(folder, model)
    return export_peft(
        config.model,
        Path(folder),
        expanded(output),
        base_name=base_name,
        prove=prove,
        rows=lambda tokenizer: proof_rows(config, tokenizer),
    )


def export_gguf_run(
    folder: Path | str,
    output: Path | str,
    type: str,
    model: str | None = None,
    prove: bool | None = None,
    system: str | None = None,
    max_kl_ratio: float = MAX_KL_RATIO,
) -> dict[str, Any]:
    """Write a run's fused model as GGUF, with a Modelfile; what was written, and the proof, as plain values.

    Args:
        type: f32, f16, bf16 or q8_0. The file is compared with the adapter, except in f32 where the base is
            float32 too, because nothing is rounded then.
        model: where the base model is now; by default where it was when the run was made.
        prove: compare with llama.cpp; by default where xllamacpp is installed.
        system: system prompt for the Modelfile.
        max_kl_ratio: largest KL(adapter || export) / KL(adapter || base), and / KL(adapter || start).

    Raises:
        DpoError: not a run, a package is missing, no GGUF of this architecture, files do not fit, the export
            is not the fused model, or the file is not like the adapter.
    """
    check_ratio(max_kl_ratio)
    config = _opened(folder, model)
    told: dict[str, Any] = {"proof": "not proved"}
    with_llama_cpp = _wanted(prove, prove_llama_cpp.can_prove(), "xllamacpp")
    yardstick: Yardstick | None = None
    rounded = False

    def first(base: Path) -> None:
        nonlocal yardstick, rounded
        rounded = rounds_sums(base)
        if rounded or type != "f32":
            yardstick = _yardstick(config, folder, base, GGUF_TOKENS)

    def prover(path: Path, source: Source) -> dict[str, str]:
        rows = _rows_to_predict(config, source, with_llama_cpp)
        if with_llama_cpp:
            _tell(told, "llama.cpp", prove_llama_cpp.prove_llama_cpp(path, source, type, rows))
        else:
            prove_llama_cpp.check_file(path, source, type)
        if yardstick:
            if with_llama_cpp:
                found = likeness_in_llama_cpp(next(path.glob("*.gguf")), yardstick)
            else:
                source.tensors.forget()  # the unrounded weights would be a second copy of the model
                found = likeness_in_mlx(source.fused.model, type, yardstick)
            subject = f"the {type} GGUF file"
            told["compared"] = check_like(found, max_kl_ratio, folder, subject, remedy(type, rounded))
            told.update(likeness_figures(found))
        return _checks(told)

    file = export_gguf(
        config.model.path, folder, expanded(output), type, config.model, prover, system=system, first=first
    )
    return {"exported": str(file), "modelfile": str(file.parent / "Modelfile"), **told}


def _yardstick(config: RunConfig, folder: Path | str, base: Path, tokens: int) -> Yardstick | None:
    """The run's adapter, to compare an export with; None, with a warning, if rows of the run cannot be read.

    Raises:
        DpoError: the adapter belongs to another base, or is damaged.
    """
    checked_tokenizer(base, folder, config.model)
    rows = comparison_rows(config, folder, base, "the export", tokens=tokens)
    if not rows:
        return None
    yardstick = run_yardstick(base, folder, rows, first_adapter(config, folder))
    if note := faint(yardstick):
        say(note)
    return yardstick


def export_gguf_lora_run(folder: Path | str, output: Path | str, model: str | None = None) -> Path:
    """Write a run's adapter as GGUF-LoRA; the file.

    Raises:
        DpoError: as `export_gguf_lora`.
    """
    config = _opened(folder, model)
    return export_gguf_lora(config.model.path, folder, expanded(output), config.model)


def _wanted(asked: bool | None, installed: bool, package: str) -> bool:
    """Whether to prove.

    Raises:
        DpoError: it was asked for, and the package is missing.
    """
    if asked and not installed:
        hint = "pip install 'mlx-dpo[prove]', or give --no-prove"
        raise DpoError(f"{package} is not installed", where="--prove", hint=hint, code="not-installed")
    if asked is None and not installed:
        say(f"note: {package} is not installed, so the export is not compared with MLX")
    return installed if asked is None else asked


def _tell(told: dict[str, Any], program: str, found: Agreement) -> None:
    told |= {**found._asdict(), "proof": f"proved with {program}: {found}"}


def _checks(told: Mapping[str, Any]) -> dict[str, str]:
    """What was found out about an export, for its model card."""
    proof = {"proof": told["proof"]} if "difference" in told else {}
    return proof | ({"compared": told["compared"]} if "compared" in told else {})


def _opened(folder: Path | str, model: str | None) -> RunConfig:
    config = open_run(folder, model)
    say_if_unfinished(folder, config)
    return config


def _rows_to_predict(config: RunConfig, source: Source, proved: bool) -> list[list[int]]:
    """The rows of a proof. Say on them, also without a proof, what mlx_lm's limit on time steps changes."""
    limited = has_step_limit(source.fused.model)
    rows = proof_rows(config, source.tokenizer) if proved or limited else []
    if limited:
        say(f"note: {step_limit_note(source.fused.model, rows)}")
    return rows
