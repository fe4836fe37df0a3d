"""Settings of the word vectors that a topic model starts from."""

from dataclasses import dataclass

from ..settings import Section, setting


@dataclass(frozen=True)
class WordVectorsConfig(Section):
    """Where the word vectors start."""

    source: str = setting(
        "corpus",
        "corpus: which words are often in the same documents (PPMI and SVD), model.embedding_size numbers "
        "each; file: vectors in GloVe's text format; embedder: a sentence-transformers model; random",
        choices=("corpus", "file", "embedder", "random"),
        also="pretrained_WE",
    )
    path: str | None = setting(
        None, "the file, or the embedder's folder or name on the Hub", path="read", also="glove embedder"
    )

    def __post_init__(self):
        super().__post_init__()
        named = self.source in ("file", "embedder")
        if named and self.path is None:
            raise ValueError(f"path must be set, because source is {self.source}")
        if self.path is not None and not named:
            raise ValueError(f"path has no effect, because source is {self.source}")
