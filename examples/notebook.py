# %% [markdown]
# # mlx_dpo in a notebook
#
# Score pairs, train with a loss of your own, look at the curves. Open this file in VS Code or Jupyter
# (`jupytext --to notebook examples/notebook.py`) and run it cell by cell, or as a script:
# `python examples/notebook.py`. It takes about 20 seconds. Curves need `pip install 'mlx-dpo[report]'`.

# %%
import mlx_dpo  # first: it loads a fast BLAS, which MLX chooses when it is imported

# isort: split
from pathlib import Path

import mlx.core as mx

MODEL = None  # a model folder or a name on the Hub; None makes a tiny model with random weights
OUTPUT = Path("runs/notebook")

# %% [markdown]
# ## Pairs
#
# A pair is a dict with `prompt`, `chosen` and `rejected`. Rows of a file work as well:
# `mlx_dpo.read_pairs("my_pairs.jsonl")`. A mistake names its place, such as `pairs[3]`.

# %%
QUESTIONS = {
    "How do I descale a kettle?": "Boil equal parts of vinegar and water, wait an hour, rinse twice.",
    "How do I sharpen a knife?": "Draw it along a wet stone at twenty degrees, ten times a side.",
    "How do I store basil?": "Put the stems in water, cover the leaves, keep it out of the fridge.",
    "How do I remove a wine stain?": "Blot it, pour on sparkling water, then wash it cold with salt.",
    "How do I stop a door squeaking?": "Lift out the hinge pin, rub it with wax, and put it back.",
    "How do I keep bread fresh?": "Wrap it in linen, or slice and freeze it on the first day.",
}
pairs = mlx_dpo.read_pairs(
    [
        {"prompt": question, "chosen": answer, "rejected": "It depends. There are many ways to do this."}
        for question, answer in QUESTIONS.items()
    ]
)
pairs[0]

# %% [markdown]
# ## Scores
#
# The log-probability of every chosen and rejected answer, in nats: float32 (n, 2).

# %%
if MODEL is None:
    from mlx_dpo.demo.tiny_models import make_model

    MODEL = make_model(OUTPUT / "model", "llama", [f"{p.prompt[0]['content']} {p.chosen}" for p in pairs])

model = mlx_dpo.load(MODEL)
before = mlx_dpo.score(model, pairs)
print("chosen answers that the model finds likelier:", int((before[:, 0] > before[:, 1]).sum()), "of 6")
print(before)

# %% [markdown]
# ## A loss of your own
#
# A loss takes the log-probabilities of B pairs and beta, and gives one float32 loss per pair. Its keyword
# arguments are options. From now on it is a loss like the built-in ones (`mlx_dpo.losses.sigmoid`, ...).


# %%
@mlx_dpo.register_loss("squared_hinge", source="the hinge of SLiC (Zhao et al. 2023), squared")
def squared_hinge(pairs: mlx_dpo.PairLogps, beta: mx.array) -> mx.array:
    return mx.maximum(0.0, 1.0 - beta * pairs.margins) ** 2


# %% [markdown]
# ## Training
#
# Every other setting is one of `mlx-dpo config`. The callback sees each row of metrics as it is written;
# when it returns False the run ends. Running this cell again finds the finished run.

# %%
losses = []


def watch(step, metrics):
    if "loss" in metrics:  # rows of held-out pairs have eval/loss
        losses.append(metrics["loss"])
    return metrics.get("loss", 1.0) > 0.01


settings = [
    "training.epochs=8",
    "training.accumulation=2",  # pairs an update
    "training.samples=0",  # answers sampled on the way: not from random weights
    "optimizer.learning_rate=1e-3",
    "adapter.rank=8",
]
run = mlx_dpo.train(
    MODEL,
    pairs[:4],
    valid=pairs[4:],
    loss="squared_hinge",
    beta=0.1,
    output=OUTPUT / "run",
    config=mlx_dpo.load_config(overrides=settings),
    callback=watch,
)
print(run)

# %% [markdown]
# ## The result
#
# The same pairs scored with the adapter, and held-out figures with their intervals.

# %%
tuned = mlx_dpo.load(MODEL, adapter=run)
after = mlx_dpo.score(tuned, pairs)
margins = (after - before) @ [1, -1]
print("margins over the base, nats:", margins.round(2))

result = mlx_dpo.evaluate(run, samples=0)
print("held-out accuracy", result.metrics["rewards/accuracies"], "95 % interval", result.accuracy_interval)
print(mlx_dpo.generate(tuned, "How do I descale a kettle?", max_tokens=20, temperature=0))

# %% [markdown]
# ## Curves

# %%
import matplotlib.pyplot as plt  # noqa: E402

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for ax, name in zip(axes, ("loss", "rewards/margins"), strict=True):
    for prefix, label in (("", "training"), ("eval/", "held-out")):
        rows = [row for row in run.metrics if prefix + name in row]
        ax.plot([row["step"] for row in rows], [row[prefix + name] for row in rows], label=label)
    ax.axvline(run.best_step, color="grey", linestyle="dotted", label="best step")
    ax.set(xlabel="step", title=name)
axes[0].legend()
figure.savefig(OUTPUT / "curves.png", dpi=120)
plt.show()

# %% [markdown]
# `mlx_dpo.fuse(run, "models/mine")` makes a model folder that needs no adapter.
