"""Settings of the preferences that improve weak topics."""

from dataclasses import dataclass

from ..judges.config import PaidEndpointConfig
from ..settings import setting

SECTION = "preferences"


@dataclass(frozen=True)
class PreferencesConfig(PaidEndpointConfig):
    """Who says which words belong to a topic: a file, an LLM, or vectors of the words."""

    model: str | None = setting(
        None,
        "the LLM: the server's name for it (null: the only one that it offers); without url, a model folder "
        "or a name on the Hub. With url=null and model=null there is no LLM: vectors of the words decide",
        path="read",
        also="llm llm_model dpo_llm_model model_name",
    )
    file: str | None = setting(
        None,
        "preferences.jsonl of an earlier run, or one that you wrote; null: build the preferences",
        path="read",
        also="preferences preferences_file",
    )
    embedder: str | None = setting(
        None,
        "sentence-transformers model (folder or Hub name, such as sentence-transformers/all-mpnet-base-v2) "
        "that gives the vectors of words and descriptions; null: vectors from the corpus itself",
        path="read",
        also="embedding_model plm_model sentence_transformer",
    )
    max_tokens: int = setting(400, "maximum length of the LLM's reply, in tokens", least=16, most=100_000)
    seed: int = setting(0, "seed of the vectors from the corpus", least=0, most=2**32 - 1)
