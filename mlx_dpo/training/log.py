"""One console line and one metrics.jsonl row per report."""

import json
from pathlib import Path

from ..console import say
from ..files import unwritable

METRICS = "metrics.jsonl"


class RunLog:
    """Appends rows to metrics.jsonl, each whole and flushed, and says the gist of them on stderr."""

    def __init__(self, folder: Path, steps: int):
        self.path, self.steps = folder / METRICS, steps

    def row(self, metrics: dict[str, float]) -> None:
        """Write one report: keys as in DESIGN, held-out ones with eval/ before them."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")
        except OSError as error:
            raise unwritable(self.path, error) from None
        say(self._train_line(metrics) if "loss" in metrics else self._eval_line(metrics))

    def _train_line(self, m: dict[str, float]) -> str:
        return (
            f"step {m['step']:>{len(str(self.steps))}}/{self.steps}  loss {m['loss']:.4f}  "
            f"margin {m['rewards/margins']:+.3f}  accuracy {_accuracy(m, '')}  "
            f"lr {m['learning_rate']:.1e}  grad {m['grad_norm']:.2f}  "
            f"{m['tokens_per_second']:,.0f} tokens/s  {m['peak_memory_gb']:.2f} GB"
        )

    def _eval_line(self, m: dict[str, float]) -> str:
        return (
            f"step {m['step']:>{len(str(self.steps))}}/{self.steps}  held-out (n {m['eval/pairs']}): "
            f"loss {m['eval/loss']:.4f}  margin {m['eval/rewards/margins']:+.3f}  "
            f"chosen {m['eval/rewards/chosen']:+.3f}  accuracy {_accuracy(m, 'eval/')}"
        )


def _accuracy(m: dict[str, float], prefix: str) -> str:
    """Two digits; a dash before the policy has moved, when every pair is a tie but for rounding."""
    unmoved = m["step"] == (0 if prefix else 1)
    return "   -" if unmoved else f"{m[f'{prefix}rewards/accuracies']:.2f}"
