"""Settings of a corpus: where its texts are, and how they become bags of words."""

from dataclasses import dataclass

from ..settings import LARGEST_SEED, Section, setting

STOP_WORDS = ("english", "none")


@dataclass(frozen=True)
class CorpusConfig(Section):
    """The texts of a topic model, and the folder with their bags of words."""

    folder: str = setting(
        "data/topics",
        "folder with the bags of words: topics prepare writes it, topics train reads it",
        path="read",
        also="data_dir dataset_dir corpus_folder",
    )
    source: str | list[str] | None = setting(
        None,
        "for prepare: texts, as a text file with one document a line, a folder of text files, or rows "
        "(JSONL, JSON, CSV, TSV, Parquet)",
        path="read",
        also="texts documents train",
    )
    test: str | list[str] | None = setting(
        None,
        "for prepare: texts held out for the clustering figures, named in the same way; null: a share of "
        "source (test_fraction)",
        path="read",
        also="test_texts valid",
    )
    test_fraction: float = setting(
        0.2, "for prepare: share of source that is held out, if test is null", least=0, below=1, also="test_p"
    )
    field: str = setting(
        "text", "for prepare: field or column of the rows with the text", also="text_field text_column column"
    )
    label: str | None = setting(
        None,
        "for prepare: field or column with a label, used only for purity and NMI; null: none. For text "
        "files, any name: their folder is the label",
        also="label_field label_name label_column",
    )
    vocabulary_size: int = setting(
        5000,
        "for prepare: most words, those in the most documents",
        least=2,
        most=1_000_000,
        also="vocab_size max_features",
    )
    min_documents: int = setting(
        1,
        "for prepare: a word is kept if it is in this many documents",
        least=1,
        most=10**9,
        also="min_df min_doc_count",
    )
    min_length: int = setting(
        3, "for prepare: shorter words are left out, in characters", least=1, most=100, also="min_word_length"
    )
    min_words: int = setting(
        1, "for prepare: documents with fewer words are left out", least=1, most=10**6, also="min_term"
    )
    stop_words: str = setting(
        "english",
        f"for prepare: words that are left out: {', '.join(STOP_WORDS)}, or a text file with one word a line",
        path="read",
        also="stopwords",
    )
    seed: int = setting(
        0, "for prepare: seed of the choice of documents that are held out", least=0, most=LARGEST_SEED
    )
