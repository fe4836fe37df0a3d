"""The figures of a run on held-out pairs, and their text."""

from dataclasses import dataclass

from ..console import plural
from ..errors import cut_short

_PROMPT = 600
"""Most characters of a prompt that are shown; a longer prompt loses its middle."""


@dataclass(frozen=True)
class Evaluation:
    """Held-out figures of a run, on `pairs` pairs of `prompts` different prompts.

    `metrics`: as in metrics.jsonl, without the eval/ prefix. `preferred_*`: share of pairs whose chosen
    answer the model itself finds likelier than the rejected one, without the reference; so the base model has
    this figure too. Intervals are 95 % (Wilson). `trained_on`: number of pairs that are not held out, because
    the run was trained on their prompts; None if the run's training pairs are missing. In samples, `base_cut`
    and `tuned_cut` say that an answer was cut off at the maximum length.
    """

    pairs: int
    prompts: int
    trained_on: int | None
    metrics: dict[str, float]
    accuracy_interval: tuple[float, float]
    preferred_base: float
    preferred_tuned: float
    preferred_base_interval: tuple[float, float]
    preferred_tuned_interval: tuple[float, float]
    samples: list[dict[str, str | bool]]


def evaluation_text(result: Evaluation) -> str:
    """Figures with their n and intervals, then the sampled answers."""
    m = result.metrics
    low, high = result.accuracy_interval
    unknown = result.trained_on is None
    count = str(result.pairs)
    if result.prompts < result.pairs:
        count += f", of {plural(result.prompts, 'prompt')}"
    rows = {f"{'held-out pairs' if result.trained_on == 0 else 'pairs'} (n)": count}
    if unknown:
        rows["held out"] = "unknown: the training pairs of the run are missing"
    elif result.trained_on:
        rows["NOT held out"] = f"{result.trained_on} (the run was trained on them)"
    accuracy = f"{m['rewards/accuracies']:.3f}  (95 % interval {low:.3f}-{high:.3f})"
    rows |= {
        "preference accuracy": accuracy,
        "reward margin": f"{m['rewards/margins']:+.3f}",
        "reward of chosen, rejected": f"{m['rewards/chosen']:+.3f}, {m['rewards/rejected']:+.3f}",
        "loss": f"{m['loss']:.4f}",
        "chosen more likely than rejected": f"base {result.preferred_base:.3f}, "
        f"tuned {result.preferred_tuned:.3f}",
    }
    lines = [f"{label:<34}{text}" for label, text in rows.items()]
    for sample in result.samples:
        lines += ["", f"Q      {cut_short(sample['prompt'], _PROMPT)}"]
        for name in ("base", "tuned"):
            cut = " … (cut off; a larger --max-tokens shows more)" if sample[f"{name}_cut"] else ""
            lines.append(f"{name:<6} {sample[name]}{cut}")
    return "\n".join(lines)
