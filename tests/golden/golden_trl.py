#!/usr/bin/env python
"""Numbers of TRL on two tiny models, for tests/training/test_golden.py.

    python -m venv trl && trl/bin/pip install torch==2.13.0 trl==1.16.0
    trl/bin/python -m tests.golden.golden_trl tests/golden/trl.json

An environment of its own: TRL and torch are no dependencies. The models are made from NumPy's random numbers,
so tests make the same ones in MLX. Stored: log-probs of policy and reference, every loss that both have, and
a run of 20 updates of all blocks' weights.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models
from torch.utils.data import SequentialSampler
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from .golden_models import CONFIGS, pairs, weights, write_model

MOVED, STEPS, BATCH, BETA, RATE, DECAY = 0.03, 20, 4, 0.1, 1e-3, 0.01
LOSSES = [
    *({"name": name} for name in ("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard")),
    *(
        {"name": name, "options": {"label_smoothing": 0.1}}
        for name in ("robust", "aot", "aot_unpaired", "exo_pair")
    ),
    *({"name": name} for name in ("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm", "aot")),
    {"name": ["sigmoid", "bco_pair", "sft"], "weights": [0.8, 0.2, 1.0]},
    *(
        {"name": name, "divergence": divergence}
        for name in ("sigmoid", "ipo", "sigmoid_norm")
        for divergence in ("forward_kl", "js", "alpha")
    ),
]
WEIGHED = [
    {"ld_alpha": 0.5},
    {"ld_alpha": 0.0, "name": "ipo"},
    {"wpo": True},
    {"wpo": True, "name": "ipo", "ld_alpha": 0.3},
]
"""What needs the tokens: for these the models are scored."""
DIVERGENCES = {"js": "js_divergence", "alpha": "alpha_divergence"}


class InOrder(DPOTrainer):
    """Batches in the order of the rows; every loss is noted."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # of token ids already

    def _get_train_sampler(self, *args, **kwargs):
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.seen.append(float(loss[0] if isinstance(loss, tuple) else loss))
        return loss


def load(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def make_trainer(folder: Path, name: str, shapes: dict, moved: float) -> InOrder:
    reference = load(write_model(folder / "reference", name, weights(shapes), save_file))
    policy = load(write_model(folder / "policy", name, weights(shapes, moved), save_file))
    rows = [dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), row, strict=True)) for row in pairs()]
    config = DPOConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_grad_norm=1.0,
        beta=BETA,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        max_length=None,
        router_aux_loss_coef=0.0,
        use_weighting=moved > 0,  # so that the head gives what loss.wpo needs; a run is without
    )
    for n, p in policy.named_parameters():
        p.requires_grad_(".layers." in n)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({f"t{i}": i for i in range(96)}, unk_token="t3")),
        pad_token="t0",
        eos_token="t2",
    )
    data = Dataset.from_list(rows)
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE, weight_decay=DECAY)  # by itself TRL spares norms the decay
    trainer = InOrder(
        policy,
        reference,
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
        optimizers=(optimizer, None),
    )
    trainer.seen = []
    return trainer


@torch.no_grad()
def log_probs(folder: Path, inputs) -> list[list[float]]:
    """Sums over completion tokens, chosen and rejected, of every pair; transformers' own model in float64."""
    model = load(folder).double().eval()
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
    each = torch.log_softmax(logits.double(), -1).gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]
    sums = (each * inputs["completion_mask"][:, 1:]).sum(1)
    return sums.reshape(2, -1).T.tolist()


@torch.no_grad()
def loss_of(trainer: InOrder, inputs, settings: dict) -> float:
    names = settings.get("name", "sigmoid")
    trainer.loss_types = names if isinstance(names, list) else [names]
    trainer.loss_weights = settings.get("weights") or [1.0] * len(trainer.loss_types)
    trainer.label_smoothing = settings.get("options", {}).get("label_smoothing", 0.0)
    divergence = settings.get("divergence", "reverse_kl")
    trainer.ld_alpha, trainer.use_weighting = settings.get("ld_alpha"), settings.get("wpo", False)
    trainer.f_divergence_type = DIVERGENCES.get(divergence, divergence)
    return float(trainer._compute_loss(trainer.model, inputs, False))


def main() -> None:
    torch.manual_seed(0)
    found = {
        "versions": {n: version(n) for n in ("torch", "transformers", "trl")},
        "beta": BETA,
        "models": {},
    }
    found |= {"moved": MOVED, "rate": RATE, "decay": DECAY, "batch": BATCH}
    for name in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            write_model(folder / "empty", name, {}, save_file)
            empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "empty"))
            shapes = {n: list(w.shape) for n, w in empty.state_dict().items() if n != "lm_head.weight"}
            trainer = make_trainer(folder, name, shapes, MOVED)
            inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(16)])
            trainer.model.eval()
            result = {
                "shapes": shapes,
                "policy": log_probs(folder / "policy", inputs),
                "reference": log_probs(folder / "reference", inputs),
                "losses": [[settings, loss_of(trainer, inputs, settings)] for settings in LOSSES],
                "weighed": [[settings, loss_of(trainer, inputs, settings)] for settings in WEIGHED],
            }
            trainer = make_trainer(folder / "run", name, shapes, 0.0)
            trainer.train()
            found["models"][name] = result | {"run": trainer.seen}
    Path(sys.argv[1]).write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
