"""Settings of gen-pairs."""

from dataclasses import dataclass

from ..settings import Section, setting


@dataclass(frozen=True)
class PairsConfig(Section):
    """How curated answers become pairs."""

    source: str | list[str] = setting(
        "data/curated.jsonl",
        "curated rows, whose answers become the chosen ones, or prompts without answers: named in the same "
        "way as data.train",
        path="read",
        also="curated source_file prompts_file",
    )
    valid_source: str | list[str] | None = setting(
        None,
        "curated rows for the held-out pairs; null: a share of source (valid_fraction)",
        path="read",
    )
    output: str = setting(
        "data/pairs", "folder for completions.jsonl, train.jsonl and valid.jsonl", path="written"
    )
    samples: int = setting(
        1,
        "answers sampled for each prompt; with more than one, mlx-dpo judge can rank them",
        least=1,
        most=64,
        also="num_return_sequences num_generations best_of completions_per_prompt n",
    )
    limit: int | None = setting(
        None,
        "use only this many rows of each source, from the first; null: all",
        least=1,
        most=10**12,
        also="max_samples max_rows num_samples n_samples",
    )
    valid_fraction: float = setting(
        0.1,
        "share of the prompts that become held-out pairs",
        least=0,
        below=1,
        also="test_size val_size valid_size eval_size validation_split valid_split",
    )
    max_similarity: float = setting(
        0.95,
        "pairs whose two answers are more similar than this (0 to 1) are dropped",
        above=0,
        most=1,
    )
    keep_capped: bool = setting(
        True, "keep answers that were cut off at max_tokens; they are scored without an end token"
    )
    per_prompt: int | None = setting(
        None, "use at most this many pairs of a prompt, from the first; null: all", least=1, most=10**6
    )
    length_matched: bool = setting(
        False,
        "of several possible rejected answers, take the one whose length is closest to the chosen answer's",
    )
    embedder: str | None = setting(
        None,
        "sentence-transformers model (folder or Hub name) that finds prompts which ask nearly the same, and "
        "answers off the topic; null: none",
        path="read",
        also="embedding_model sentence_transformer",
    )
    max_prompt_similarity: float = setting(
        0.8,
        "prompts more similar than this (cosine, by the embedder) are on the same side of the split",
        above=0,
        most=1,
    )
    min_relevance: float | None = setting(
        None,
        "pairs are dropped if the chosen answer is less similar to its prompt than this (cosine, by the "
        "embedder); null: none",
        above=0,
        below=1,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.min_relevance and not self.embedder:
            raise ValueError("min_relevance needs an embedder: set pairs.embedder too")
