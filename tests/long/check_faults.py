"""Which planted faults do the start-up checks find, on which models and in which precision?

    python -m tests.long.check_faults                                     tiny models: the table, as Markdown
    python -m tests.long.check_faults --smollm2 FOLDER --write docs/checks.md     the real model too

Every fault is planted into the shared forward. A cell says how far it is above what is allowed; at 1 or less
it is not found. The exit status is 1 if that happens in float32, or a forward without fault is refused.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.forward import pair_logps as forwards
from mlx_dpo.forward.pair_logps import SHARED, Forward
from mlx_dpo.models.adapters import AdapterConfig, attach
from mlx_dpo.models.load import load_model
from mlx_dpo.training import forward_errors

from ..support.tiny_architectures import TOKENS, build
from .planted_faults import ABSENT, FAULTS, Fault

TINY: dict[str, Callable[[], nn.Module]] = {
    "Llama, sliding windows": partial(build, "llama"),
    "Granite hybrid": partial(build, "granitemoehybrid", num_local_experts=0),
    "Qwen3-Next": partial(build, "qwen3_next"),
}
"""Granite 4.0 H-Micro is dense."""
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


class Above(NamedTuple):
    """How often what is allowed a fault goes beyond it: by scores, by gradients."""

    scores: float
    gradient: float


def tiny(name: str) -> nn.Module:
    """A tiny model with random weights and an adapter that has moved."""
    return adapted(TINY[name]())


def adapted(model: nn.Module) -> nn.Module:
    """The same, with LoRA on all linear layers, none of it zero."""
    mx.random.seed(0)
    attach(model, AdapterConfig(rank=4))
    for module in model.modules():
        if "lora_b" in module:
            module.lora_b = tree_map(lambda b: 0.02 * mx.random.normal(b.shape), module.lora_b)
    mx.eval(model.parameters())
    return model


def outlier_channels(model: nn.Module) -> nn.Module:
    """The same function up to rounding, with a few hidden channels 1,000 times as large.

    Raises:
        ValueError: it is not the same function.
    """
    before = forward_errors.own_tokens(model, [random_pair()])
    for block in model.layers:
        for name, module in block.named_modules():
            if "up_proj" in module and module.up_proj.linear.weight.ndim == 2:
                _enlarge(module.up_proj, module.down_proj, slice(0, 4))
            if name.endswith("attn") and "v_proj" in module and model.args.num_key_value_heads:
                groups = model.args.num_attention_heads // model.args.num_key_value_heads
                width = module.v_proj.linear.weight.shape[0] // model.args.num_key_value_heads
                readers = [head * width for head in range(groups)]
                _enlarge(module.v_proj, module.o_proj, slice(0, 1), readers)
    if forward_errors.apart(forward_errors.own_tokens(model, [random_pair()]), before).most > 1e-4:
        raise ValueError("the outlier channels change the function")
    return model


def _enlarge(writer: nn.Module, reader: nn.Module, rows: slice, columns: Any = None) -> None:
    columns = rows if columns is None else mx.array(columns)
    writer.linear.weight[rows] *= 1000
    writer.lora_b[:, rows] *= 1000
    reader.linear.weight[:, columns] /= 1000
    reader.lora_a[columns] /= 1000


def random_pair() -> TokenizedPair:
    """Longer than the windows of the tiny models."""
    rng = np.random.default_rng(0)
    parts = (rng.integers(1, TOKENS, n).astype(np.int32) for n in (45, 30, 17))
    return TokenizedPair(*parts, "row 0")


class Proof:
    """The model's own call on one pair, in one precision, and its floors: what faults are held against."""

    def __init__(self, model: nn.Module, pair: TokenizedPair, dtype: mx.Dtype, context: Callable[[], Any]):
        self._model, self._pair, self._context = model, pair, context
        with context():
            self._tokens, self._slopes = (
                forward_errors.own_tokens(model, [pair]),
                forward_errors.own_gradient(model, pair),
            )
            self.floor = forward_errors.rounding(model, lambda: forward_errors.own_tokens(model, [pair]))
            with forward_errors.rounded_otherwise(model):
                self.slope_floor = forward_errors.relative_error(
                    forward_errors.own_gradient(model, pair), self._slopes
                )
        self._allowed = forward_errors.allowed(self.floor, dtype)
        self._allowed_slope = forward_errors.allowed_slope(self.slope_floor, dtype)

    def above(self, fault: Fault) -> Above:
        """How far the shared forward with this fault is above what is allowed."""
        with self._context(), fault():
            forward = Forward("shared", SHARED.build, lambda *a, **k: forwards.shared_score(*a, **k))
            found = forward_errors.apart(
                forward_errors.forward_tokens(self._model, [self._pair], forward), self._tokens
            )
            slopes = forward_errors.forward_gradient(self._model, self._pair, forward)
        scores = max(f / most for f, most in zip(found, self._allowed, strict=True))
        return Above(scores, forward_errors.relative_error(slopes, self._slopes) / self._allowed_slope)


def proofs(model: nn.Module, pair: TokenizedPair, own: str) -> Iterator[tuple[str, Proof]]:
    """In what the start-up checks prove a model of this dtype, each with its name."""
    for dtype in forward_errors.precisions(model):
        wide = dtype == mx.float32 and own != "float32"
        context = (lambda: forward_errors.in_float32(model)) if wide else nullcontext
        name = f"{own} in float32" if wide else own
        yield name, Proof(model, pair, dtype, context)


def figure(above: Above) -> str:
    """A cell: the larger of both, with where it shows."""
    where = "scores" if above.scores >= above.gradient else "gradient"
    most = max(above)
    text = f"{most:,.0f}" if most >= 10 else f"{most:.2g}"
    return f"{text} ({where})" if most > 1 else f"**not found**: {text}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smollm2", type=Path, metavar="FOLDER", help="the real model, in float32")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--models", nargs="+", metavar="NAME", help="all by default")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    options = parser.parse_args()
    columns, cells, floors, wrong = [], {}, [], []
    for label, own, model, pair in cases(options):
        try:
            for name, held in proofs(model, pair, own):
                column = f"{label}, {name}"
                columns.append(column)
                floors.append((column, held.floor, held.slope_floor))
                for fault, planted in FAULTS.items():
                    if fault in ABSENT[label.removesuffix(OUTLIERS)]:
                        continue
                    above = held.above(planted)
                    cells[fault, column] = figure(above) if fault != "none" else f"{max(above):.2g}"
                    print(column, fault, above, file=sys.stderr, flush=True)
                    if (max(above) > 1) != (fault != "none") and ("float32" in name or fault == "none"):
                        wrong.append(f"{fault} on {column}")
        except RuntimeError as error:
            print(label, own, error, file=sys.stderr)
            floors.append((f"{label}, {own}", None, str(error)))
    text = page(columns, cells, floors)
    if options.write:
        options.write.write_text(text)
    print(text)
    sys.exit("; ".join(wrong) if wrong else 0)


OUTLIERS = ", outlier channels"


def cases(options: argparse.Namespace) -> Iterator[tuple[str, str, nn.Module, TokenizedPair]]:
    """(name, dtype, model, pair) of every model that is tried."""
    for label in [*TINY, *(["SmolLM2"] if options.smollm2 else [])]:
        for outliers in ("", OUTLIERS):
            for own in options.dtypes:
                if (options.models and label + outliers not in options.models) or (
                    outliers and own != "float32"
                ):
                    continue
                model = load_model(options.smollm2)[0] if label == "SmolLM2" else TINY[label]()
                model.set_dtype(DTYPES[own])
                model = adapted(model)
                if outliers:
                    model = outlier_channels(model)
                yield label + outliers, own, model, real_pair() if label == "SmolLM2" else random_pair()


def real_pair() -> TokenizedPair:
    """The first stored pair of the real model, as the start-up checks shorten it."""
    import json

    from mlx_dpo.training.checked_rows import shortened

    stored = Path(__file__).parents[1] / "golden" / "smollm2.json"
    tokens = json.loads(stored.read_text())["pairs"][0]["tokens"]
    return shortened(TokenizedPair(*(np.array(t, np.int32) for t in tokens), "row 0"), 24, 12)


def page(columns: list[str], cells: dict, floors: list) -> str:
    """docs/checks.md."""
    lines = [ABOUT.format(versions=", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm")))]
    labels = dict.fromkeys(column.rsplit(", ", 1)[0] for column in columns)
    for label in labels:
        own = [c for c in columns if c.rsplit(", ", 1)[0] == label]
        lines += ["", f"## {label}", "", "| fault | " + " | ".join(c.rsplit(", ", 1)[1] for c in own) + " |"]
        lines.append("|---" * (1 + len(own)) + "|")
        for fault in FAULTS:
            row = [cells.get((fault, c), "has none") for c in own]
            lines.append(f"| {fault} | " + " | ".join(row) + " |")
    lines += [
        "",
        "## Floors",
        "",
        "| model | nats per token | the most of them | gradient |",
        "|---|---|---|---|",
    ]
    for column, floor, slope in floors:
        row = (
            f"{floor.rms:.1e} | {floor.most:.1e} | {slope:.1e}"
            if floor
            else f"cannot be run here: {slope} | |"
        )
        lines.append(f"| {column} | {row} |")
    return "\n".join([*lines, ""])


ABOUT = """\
# Start-up checks

Before the first update, every run checks five things, on rows of your data and with your model:

1. **The policy equals its reference.** Before the first update every margin is 0 and the loss is ln 2.
   (Pairs that share a micro-batch round differently: in bfloat16 a first margin may be some thousandths.
   Held-out pairs are scored one by one.)
2. **The mask is right.** The scored tokens decode to exactly the answer and one end of turn.
3. **Both answers follow the same prompt.** Both answers of a pair come after the same prompt tokens, and
   these are the tokens that sampling sees.
4. **The fast forward is exact.** It computes every prompt once for both answers, and logits for answer
   tokens only. It must agree with the model's own call in the log-probability of every answer token and
   in gradients. If it does not, the run uses a slower forward that does, and the log says why.
   [Architectures](architectures.md) shows which text architectures of mlx_lm share their prompts.
5. **Batches change nothing.** Pairs score in a batch as they do alone.

Checks 1, 4 and 5 use a few short rows, check 4 also the longest row, checks 2 and 3 eight rows. On a
slow device the rows are fewer and shorter, and the log says so.

## Tolerance

A forward is compared with the model's own call: the log-probability of every answer token, and the
gradient of the first block. The tolerance is four times the **floor**. The floor is measured at the
start: it is how far the model's own call moves when the output of each block changes by up to one unit
in its last place. In float32 this is about 1e-6 nats per token.

- At least 2e-5 nats per token (1e-4 in a single token) and 1e-4 of the gradient are allowed.
- At most 1e-3 nats are allowed in float32, 0.1 in float16 and 0.5 in bfloat16 (five or ten times that in
  a single token), and 1 %, 10 % and 50 % of the gradient.

Rounding in half precision hides faults. So a model in half precision is checked with float32 activations
("bfloat16 in float32"), and once more as it trains ("bfloat16"), which finds what is wrong there only.
Gradients in float32 are left out above 1 GB of unquantised half-precision weights.

## Planted faults

The tables show faults that were planted into the shared forward, and how many times the tolerance each
one exceeds. `tests/long/check_faults.py` writes this page ({versions}, on a CPU).

*None* is the forward without a fault: it must be below 1. *Has none*: the model lacks what this fault
would break. *Outlier channels*: the same functions, with some hidden channels 1,000 times as large and
the weights that read them as much smaller."""


if __name__ == "__main__":
    main()
