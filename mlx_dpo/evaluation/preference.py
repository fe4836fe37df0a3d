"""What held-out pairs say of a run, and how it reads."""

from dataclasses import dataclass

from ..console import plural
from ..errors import cut_short

_PROMPT = 600
"""Characters of a prompt that are shown; of a longer one its middle is left out."""


@dataclass(frozen=True)
class Evaluation:
    """Held-out figures of a run, on so many pairs of so many different prompts.

    `metrics` are those of metrics.jsonl, without their eval/ prefix. `preferred` is the share of pairs whose
    chosen answer the model itself finds likelier than the rejected one, without looking at the reference:
    the figure that exists for the base model too. Intervals are 95 % (Wilson). `trained_on` of the pairs have
    a prompt that the run was trained on: they are not held out; None where the run's own file is gone.
    Of samples `base_cut`, `tuned_cut`: the answer was cut off at the longest that was asked for.
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
    lines = [
        f"{'held-out pairs' if result.trained_on == 0 else 'pairs'} (n)".ljust(30) + count,
        *([f"NOT held out                  {result.trained_on}: trained on"] if result.trained_on else []),
        *(["held out                      not known: the training pairs are gone"] if unknown else []),
        f"preference accuracy           {m['rewards/accuracies']:.3f}  (95 % interval {low:.3f}-{high:.3f})",
        f"reward margin                 {m['rewards/margins']:+.3f}",
        f"reward of chosen, rejected    {m['rewards/chosen']:+.3f}, {m['rewards/rejected']:+.3f}",
        f"loss                          {m['loss']:.4f}",
        f"chosen likelier, whole answer base {result.preferred_base:.3f}, tuned {result.preferred_tuned:.3f}",
    ]
    for sample in result.samples:
        lines += ["", f"Q      {cut_short(sample['prompt'], _PROMPT)}"]
        for name in ("base", "tuned"):
            cut = " … (cut off; --max-tokens lets it go on)" if sample[f"{name}_cut"] else ""
            lines.append(f"{name:<6} {sample[name]}{cut}")
    return "\n".join(lines)
