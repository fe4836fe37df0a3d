"""Settings of the judge."""

from dataclasses import dataclass

from ..endpoint import EndpointConfig
from ..settings import setting
from .prompts import RUBRICS

METHODS = ("auto", "labels", "written")


@dataclass(frozen=True)
class PaidEndpointConfig(EndpointConfig):
    """A model that is asked, on a server or in this process, and what its replies may cost."""

    max_calls: int | None = setting(
        None,
        "stop after so many requests; the same command continues later. null: no limit",
        least=1,
        most=10**12,
    )
    input_price: float | None = setting(
        None, "price of a million prompt tokens, to estimate and sum up the cost", least=0, most=1_000_000
    )
    output_price: float | None = setting(
        None,
        "price of a million tokens that the model writes, to estimate and sum up the cost",
        least=0,
        most=1_000_000,
    )

    @property
    def is_named(self) -> bool:
        """Whether there is a model to ask."""
        return self.url is not None or self.model is not None

    def price(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What these tokens cost; None if no price is set."""
        if self.input_price is None and self.output_price is None:
            return None
        return (prompt_tokens * (self.input_price or 0) + completion_tokens * (self.output_price or 0)) / 1e6


@dataclass(frozen=True)
class JudgeConfig(PaidEndpointConfig):
    """How completions are compared; `url` and `model` are the judge's, not the trained model's."""

    model: str | None = setting(
        None,
        "the judge: the server's name for it (null: the only one that it offers); without url, a model "
        "folder or a name on the Hub",
        path="read",
        also="judge judge_model model_name",
    )
    completions: str = setting(
        "data/pairs/completions.jsonl",
        "file with a prompt and several completions per line; gen-pairs writes it",
        path="read",
        also="source input",
    )
    output: str = setting(
        "data/judged", "folder for verdicts.jsonl, train.jsonl and valid.jsonl", path="written"
    )
    rubric: str = setting(
        "helpfulness",
        f"what decides: {', '.join(RUBRICS)}, or a text file of yours",
        path="read",
        also="criterion criteria prompt_template",
    )
    examples: str | None = setting(
        None, "curated rows that show the wanted style; the rubric style needs them", path="read"
    )
    method: str = setting(
        "auto",
        "how the judge answers. labels: one letter, by its log-probabilities; written: a reason and a "
        "verdict; auto: labels if the judge gives log-probabilities, else written",
        choices=METHODS,
    )
    guard: str = setting(
        "stop",
        "what happens if the judge fails a question with a known answer: stop, or warn and go on",
        choices=("stop", "warn"),
    )
    tie_band: float = setting(
        0.1,
        "for labels: a comparison is a tie if the probability of the first answer is within this of one half",
        least=0,
        below=0.5,
    )
    max_tokens: int = setting(
        400, "for written: maximum length of reason and verdict, in tokens", least=16, most=100_000
    )
    valid_fraction: float = setting(0.1, "share of the prompts that become held-out pairs", least=0, below=1)
    trained: str | list[str] | None = setting(
        None,
        "rows that the sampled model was trained on before, such as those of sft; their prompts are not held "
        "out",
        path="read",
    )
