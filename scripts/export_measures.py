"""What other programs compute with the exports of one model and adapter, beside what MLX computes."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from llama_cpp_converter import convert

from mlx_dpo.data.chat_template import render
from mlx_dpo.errors import DpoError
from mlx_dpo.export.gguf import export_gguf
from mlx_dpo.export.gguf_file import read_gguf
from mlx_dpo.export.gguf_lora import export_gguf_lora
from mlx_dpo.export.hf import export_hf
from mlx_dpo.export.hub_layout import base_tensors
from mlx_dpo.export.hub_model import Source, read_source
from mlx_dpo.export.peft_run import export_peft
from mlx_dpo.export.predictions import Predictions, likeness, llama_cpp_gelu, mlx_predictions
from mlx_dpo.export.prove_llama_cpp import check_template, check_tokens, llama_cpp
from mlx_dpo.export.prove_peft import log_probs
from mlx_dpo.export.prove_transformers import check_files, transformers_predictions
from mlx_dpo.export.read_back import octets
from mlx_dpo.models.adapters import load_adapter, read_adapter_config
from mlx_dpo.models.load import ModelConfig, load_model
from mlx_dpo.models.peft_adapter import mlx_adapter

TYPES = ("f32", "f16", "bf16", "q8_0")
_TURNS = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three é?"},
]
_ADAPTED = ("proj", "_linear", "router.layer")
"""Ends of the names of the layers that the adapters change, on the Hub."""
Row = dict[str, Any]


class Case:
    """A base, an adapter, rows of token ids to predict after, and texts to tokenise."""

    def __init__(
        self, base: Path, adapter: Path, work: Path, rows: Sequence[Sequence[int]], texts: Sequence[str]
    ):
        self.base, self.adapter, self.work, self.rows, self.texts = base, adapter, work, rows, texts
        self.source: Source = read_source(base, base_tensors(base), adapter)
        self.wanted: Predictions = mlx_predictions(self.source.fused.model, rows)
        self.in_llama_cpp: Predictions = self.wanted
        if "gemma" in str(self.source.config["model_type"]):
            with llama_cpp_gelu():
                self.in_llama_cpp = mlx_predictions(self.source.fused.model, rows)
        self.dora = read_adapter_config(adapter).type == "dora"

    @property
    def tokenizer(self) -> Any:
        return self.source.tokenizer

    def found(self, kind: str, got: Predictions, **more: Any) -> Row:
        """A row of the table: how far another program's predictions are from MLX's.

        `lead`: by how many nats the first greedy token that the other program does not give was ahead.
        """
        wanted = self.in_llama_cpp if kind.startswith("gguf") else self.wanted
        agreement = likeness(wanted, got)
        found = {
            "kind": kind,
            "difference": agreement.difference,
            "divergence": agreement.divergence,
            "greedy": agreement.same_greedy,
            **more,
        }
        other = wanted.leads[agreement.same_greedy :]
        return found | ({"lead": other[0]} if other else {})


def measures(case: Case, converter: Path, split: str | None) -> Iterator[Row]:
    """One row for each export; an export that is refused has the reason instead of figures."""
    adapter = _row_or_refusal("peft", peft, case)
    yield adapter
    if "refused" not in adapter:
        yield _row_or_refusal("peft, trained there", peft_trained, case)
    yield hub(case)
    files = {}
    for type in TYPES:
        try:
            files[type] = export_gguf(str(case.base), case.adapter, case.work / type, type)
        except DpoError as error:
            yield {"kind": f"gguf {type}", "refused": error.what}
            return
        yield gguf(case, files[type], f"gguf {type}")
    theirs = convert(converter, case.work / "hf", case.work / "converted.gguf", split)
    yield {"kind": "gguf f32, llama.cpp's converter", **same_tensors(files["f32"], theirs)}
    yield from lora(case, converter, split)


def _row_or_refusal(kind: str, measure: Callable[[Case], Row], case: Case) -> Row:
    try:
        return measure(case)
    except DpoError as error:
        return {"kind": kind, "refused": error.what}


def peft(case: Case) -> Row:
    """The adapter in PEFT on torch, and read back."""
    made = export_peft(
        ModelConfig(str(case.base)),
        case.adapter,
        case.work / "peft",
        base_name=str(case.base),
        prove=True,
        rows=lambda tokenizer: case.rows,
    )
    back = mlx_adapter(made.folder, case.base)
    own, read = (mx.load(str(folder / "adapters.safetensors")) for folder in (case.adapter, back))
    proof = made.proof
    return {
        "kind": "peft",
        "difference": proof.difference,
        "without adapter": proof.noise,
        "effect": proof.effect,
        **same_bits(own, read),
    }


def peft_trained(case: Case) -> Row:
    """An adapter that PEFT has trained for three steps, imported; PEFT then computes in float64."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(case.base, dtype=torch.float32)
    targets = json.loads((case.work / "peft" / "adapter_config.json").read_text())["target_modules"]
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets, use_dora=case.dora)
    model = get_peft_model(model, config).train()
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        tokens = torch.tensor([list(case.rows[0])])
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(case.work / "trained")
    model.double()
    with torch.no_grad():
        theirs = model(torch.tensor([list(case.rows[0])])).logits[0].log_softmax(-1).numpy()
    ours, _ = load_model(case.base)
    load_adapter(ours, mlx_adapter(case.work / "trained", case.base))
    got = log_probs(ours, [np.array(case.rows[0])])[0]
    return {"kind": "peft, trained there", "difference": float(np.abs(got - theirs).max())}


def hub(case: Case) -> Row:
    """The fused model in transformers on torch."""
    from transformers import AutoTokenizer

    folder = export_hf(str(case.base), case.adapter, case.work / "hf")
    check_files(folder, case.source)
    before, after = (mx.load(str(where / "model.safetensors")) for where in (case.base, folder))
    untouched = [name for name in before if not name.removesuffix(".weight").endswith(_ADAPTED)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = {"add_special_tokens": False}
    same = sum(tokenizer.encode(t, **plain) == case.tokenizer.encode(t, **plain) for t in case.texts)
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}  # as a run has it
    rendered = tokenizer.apply_chat_template(_TURNS, **options)
    return case.found(
        "hf",
        transformers_predictions(folder, case.rows),
        strings=same,
        template=rendered == render(case.tokenizer, _TURNS, generation_prompt=True),
        **same_bits({n: before[n] for n in untouched}, after),
    )


def gguf(case: Case, file: Path, kind: str) -> Row:
    """The fused model in llama.cpp."""
    with llama_cpp(file, max(map(len, case.rows)) + 64) as server:
        return case.found(
            kind,
            server.predictions(case.rows, case.wanted.logps.shape[-1]),
            strings=sum(_passes(check_tokens, server, case.tokenizer, [t], file) for t in case.texts),
            template=_passes(check_template, server, case.tokenizer, file),
        )


def _passes(check: Any, *arguments: Any) -> bool:
    try:
        check(*arguments)
    except DpoError:
        return False
    return True


def lora(case: Case, converter: Path, split: str | None) -> Iterator[Row]:
    """The adapter alone, on a GGUF file of the base by llama.cpp's converter, and on one of our own."""
    kind = "gguf-lora"
    try:
        file = export_gguf_lora(str(case.base), case.adapter, case.work / "lora")
    except DpoError as error:
        yield {"kind": kind, "refused": error.what}
        return
    theirs = convert(converter, case.base, case.work / "base.gguf", split)
    ours = export_gguf(str(case.base), _still(case), case.work / "base", "f32")
    for base, who in ((ours, "our base"), (theirs, "llama.cpp's base")):
        with llama_cpp(base, max(map(len, case.rows)) + 64, file) as server:
            got = server.predictions(case.rows, case.wanted.logps.shape[-1])
        yield case.found(f"{kind}, {who}", got)


def _still(case: Case) -> Path:
    """The adapter with B = 0, which changes nothing."""
    folder = case.work / "still"
    folder.mkdir()
    weights = mx.load(str(case.adapter / "adapters.safetensors"))
    weights = {n: mx.zeros_like(w) if n.endswith("lora_b") else w for n, w in weights.items()}
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights, metadata={"format": "mlx"})
    config = json.loads((case.adapter / "adapter_config.json").read_text())
    config = {name: value for name, value in config.items() if not name.endswith("sha256")}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def same_bits(wanted: dict[str, mx.array], got: dict[str, mx.array]) -> Row:
    """Of the tensors in `wanted`, how many have the same bits in `got`."""
    same = sum(
        name in got
        and value.dtype == got[name].dtype
        and value.shape == got[name].shape
        and np.array_equal(octets(value), octets(got[name]))
        for name, value in wanted.items()
    )
    return {"same bits": same, "tensors": len(wanted)}


def same_tensors(ours: Path, theirs: Path) -> Row:
    """Of the tensors that llama.cpp's converter has written, how many our file has with the same bits.

    `last place`: how many more differ by rounding only; torch and MLX round -exp(A_log) of Mamba differently.
    Fields that describe the model have to be the same too; the converter writes some more, and a context of
    2^20 tokens for every Granite hybrid.
    """
    (own_fields, own), (their_fields, their) = read_gguf(ours), read_gguf(theirs)
    same = last = 0
    for name, (kind, values) in their.items():
        if name in own and own[name][0] == kind:
            exact = np.array_equal(own[name][1], values)
            same += exact
            last += not exact and np.allclose(own[name][1], values, rtol=2**-22, atol=0)
    shared = [key for key in own_fields if key in their_fields and not key.startswith("general.")]
    other = [key for key in shared if own_fields[key] != their_fields[key]]
    other = [key for key in other if key != "granitehybrid.context_length"]
    return {"same bits": same, "last place": last, "tensors": len(their), "other fields": other}
