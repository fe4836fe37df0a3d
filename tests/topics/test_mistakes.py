"""Bad inputs of the topics commands: what each is told, word for word, and that no file is made or changed.

Each entry: what is wrong, the command, and the message with its remedy.
"""

import shutil

import numpy as np
from scipy.sparse import csr_matrix, save_npz

from ..support.mistakes import cases, cut, holding, lines, without, write
from ..support.topic_corpus import train_words, write_corpus

MANY = "a topic model needs many documents, each with several words"
PREPARED = "mlx-dpo topics prepare makes such a folder"
LINES = 'write lines such as {"k": 3, "w_win_indices": [17], "w_loose_indices": [4]}'
COUNT = "topics count from 0, as lines of top_words_15.txt"

TWO = "Cats chase mice\nDogs chase cats\n"
PREPARE = "topics prepare --output corpus --source"
TEXTS = {
    "no text at all": (
        {"texts.txt": ""},
        f"{PREPARE} texts.txt",
        "texts.txt: has no documents with words",
        MANY,
    ),
    "one document": (
        {"texts.txt": "Cats chase mice\n\n"},
        f"{PREPARE} texts.txt",
        "texts.txt: has 1 document with words",
        MANY,
    ),
    "documents of numbers and stop words": (
        {"texts.txt": "1 2\nof the\n"},
        f"{PREPARE} texts.txt",
        "texts.txt: has no documents with words",
        MANY,
    ),
    "the same word in all documents": (
        {"texts.txt": "cats\nCats!\n"},
        f"{PREPARE} texts.txt",
        "texts.txt: has 1 different word",
        MANY,
    ),
    "bytes that are not UTF-8": (
        {"texts.txt": b"cats\n\xff\xfe\n"},
        f"{PREPARE} texts.txt",
        "texts.txt:2: is not UTF-8 text",
        "save the file as UTF-8",
    ),
    "a line of JSONL that breaks off": (
        {"texts.jsonl": '{"text": "cats"}\n{"text": \n'},
        f"{PREPARE} texts.jsonl",
        "texts.jsonl:2: not JSON: Expecting value at column 9",
        'each line must be an object, such as {"text": "..."}; text files end in .txt',
    ),
    "rows without the field": (
        {"texts.jsonl": lines({"body": "cats", "kind": "pets"})},
        f"{PREPARE} texts.jsonl",
        "texts.jsonl:1: has no field 'text'",
        "set corpus.field to one of the fields: body, kind",
    ),
    "a field that is not text": (
        {"texts.jsonl": lines({"text": "cats"}, {"text": None})},
        f"{PREPARE} texts.jsonl",
        "texts.jsonl:2: 'text' is not text: None",
        "set corpus.field to a field with text",
    ),
    "labels of a text file": (
        {"texts.txt": TWO},
        f"{PREPARE} texts.txt --label kind",
        "texts.txt: has no labels, but corpus.label is 'kind'",
        "set corpus.label=null, or give rows with the field of the label",
    ),
    "rows without labels": (
        {"texts.jsonl": lines({"text": "cats"}, {"text": "dogs"})},
        f"{PREPARE} texts.jsonl --label kind",
        "texts.jsonl:1: has no field 'kind'",
        "set corpus.label to one of the fields: text",
    ),
    "a row whose label is null": (
        {"texts.jsonl": lines({"text": "cats", "kind": "pets"}, {"text": "dogs", "kind": None})},
        f"{PREPARE} texts.jsonl --label kind",
        "texts.jsonl:2: 'kind' is not a label: None",
        "a label is a text or a number; leave out rows without one",
    ),
    "a line of CSV with a cell too many": (
        {"texts.csv": "text,kind\ncats,pets,big\n"},
        f"{PREPARE} texts.csv",
        "texts.csv:2: has 3 cells, but the first line names 2 columns",
        "a cell with a separator, a quote or a line break stands between quotes, and a quote in it is "
        "doubled",
    ),
    "a folder without texts": (
        {"texts/thesis.docx": "PK"},
        f"{PREPARE} texts",
        "texts: has no files of texts (.txt) or rows (.jsonl, .json, .csv, .tsv, .parquet)",
        "save each document as a text file, or all of them as rows",
    ),
    "texts that are not there": (
        {},
        f"{PREPARE} texts.txt",
        "texts.txt: no such file",
        "check the path; relative paths start at the current folder",
    ),
    "held-out texts without a known word": (
        {"texts.txt": TWO, "held.txt": "zebra\n"},
        f"{PREPARE} texts.txt --test held.txt",
        "held.txt: has no documents with words of the vocabulary",
        "hold out texts of the same kind",
    ),
    "a list of stop words with two on a line": (
        {"texts.txt": TWO, "stop.txt": "the\nof the\n"},
        f"{PREPARE} texts.txt --set corpus.stop_words=stop.txt",
        "stop.txt:2: is not one word: 'of the'",
        "write one word a line",
    ),
    "words that must be in more documents than there are": (
        {"texts.txt": TWO},
        f"{PREPARE} texts.txt --set corpus.min_documents=9",
        "corpus.min_documents: leaves 0 words",
        "lower it: too few words are in so many documents",
    ),
    "documents that must have more words than they have": (
        {"texts.txt": TWO},
        f"{PREPARE} texts.txt --set corpus.min_words=9",
        "corpus.min_words: leaves 0 documents",
        "lower it: too few documents have so many words",
    ),
    "a folder that is there": (
        {"texts.txt": TWO, "corpus/vocab.txt": "mine\n"},
        f"{PREPARE} texts.txt",
        "corpus: exists already",
        "choose another folder with --output, or replace this one with --overwrite",
    ),
    "a folder to replace in which the texts are": (
        {"corpus/texts.txt": TWO, "corpus/vocab.txt": "cats\n"},
        f"{PREPARE} corpus/texts.txt --overwrite",
        "corpus: contains texts.txt, which is no part of a corpus",
        "choose another folder with --output: a folder is replaced as a whole",
    ),
}


@cases(TEXTS)
def test_texts_that_make_no_corpus_are_told(case, tmp_path, mistake):
    files, command, told, remedy = case
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, content)
    before = set(tmp_path.rglob("*"))
    assert str(mistake(command)) == f"{told}\n  {remedy}"
    assert set(tmp_path.rglob("*")) == before


def bags(counts):
    return lambda folder: save_npz(folder / "train_bow.npz", csr_matrix(counts))


def place_outside(folder):
    """Two documents, whose second word is far outside of the vocabulary of 24."""
    parts = {"data": np.ones(2, int), "indices": np.array([0, 99999]), "indptr": np.array([0, 1, 2])}
    np.savez(folder / "train_bow.npz", format=b"csr", shape=(2, 24), **parts)


CORPORA = {
    "no corpus": (shutil.rmtree, "corpus: is not a folder with a corpus", PREPARED),
    "no vocabulary": (without("vocab.txt"), "corpus/vocab.txt: no such file", PREPARED),
    "a word twice": (
        holding("vocab.txt", "bread\noven\nbread\n"),
        "corpus/vocab.txt:3: the word 'bread' is also on line 1",
        "each line of the vocabulary needs a word of its own",
    ),
    "bags that break off": (
        cut("train_bow.npz", 900),
        "corpus/train_bow.npz: is not a sparse matrix of SciPy",
        f"write it with scipy.sparse.save_npz; {PREPARED}",
    ),
    "bags with a place outside of the matrix": (
        place_outside,
        "corpus/train_bow.npz: is not a sparse matrix of SciPy",
        f"write it with scipy.sparse.save_npz; {PREPARED}",
    ),
    "bags of another vocabulary": (
        bags(np.ones((60, 25), int)),
        "corpus/train_bow.npz: has 25 columns, but vocab.txt has 24 words",
        "both files must come from the same corpus",
    ),
    "bags with one document": (
        bags(np.ones((1, 24), int)),
        "corpus/train_bow.npz: has 1 document",
        "a topic model needs many documents with words",
    ),
    "bags with half a word": (
        bags(np.full((60, 24), 0.5)),
        "corpus/train_bow.npz: has an entry that is not a count (0, 1, 2, ...)",
        "a bag says how often each word is in the document",
    ),
    "texts of other documents": (
        holding("train_texts.txt", "bread oven\n"),
        "corpus/train_texts.txt: has 1 line, but train_bow.npz has 60 documents",
        "write one line for each document",
    ),
    "a label with thirty digits": (
        holding("train_labels.txt", "1" * 30 + "\n" + "1\n" * 59),
        f"corpus/train_labels.txt:1: is not a label: '{'1' * 30}'",
        "write each label as a whole number of at most 18 digits",
    ),
    "held-out texts without bags": (
        without("test_bow.npz"),
        "corpus: there is test_texts.txt, but no test_bow.npz",
        "remove the file, or add the bags of the held-out documents",
    ),
}


@cases(CORPORA)
def test_a_corpus_that_cannot_be_trained_on_is_told(case, tmp_path, mistake):
    damage, told, remedy = case
    damage(write_corpus(tmp_path / "corpus"))
    before = set(tmp_path.rglob("*"))
    assert str(mistake(*train_words())) == f"{told}\n  {remedy}"
    assert set(tmp_path.rglob("*")) == before


def preferences(*rows):
    return {"wanted.jsonl": "".join(row if isinstance(row, str) else lines(row) for row in rows)}


def row(k=0, win=(0, 1), lose=(2,)):
    return {"k": k, "w_win_indices": win, "w_loose_indices": lose}


GUIDED = ("training.epochs=4", "dpo.start_epoch=2", "dpo.topic_filter=none", "preferences.file=wanted.jsonl")
VECTORS = ("word_vectors.source=file", "word_vectors.path=vectors.txt")
NEITHER = (
    "wanted.jsonl: no topic has winners and losers",
    "both lists of a topic need words, and a word in both of them counts in neither",
)
TRAINED = {
    "more topics than words": (
        {},
        ("model.topics=25",),
        "model.topics: is 25, but the corpus has 24 words",
        "ask for fewer topics than words; 50 topics suit thousands of words",
    ),
    "no epochs": (
        {},
        ("training.epochs=0",),
        "--set training.epochs: training.epochs must be at least 1, got 0",
        "passes over the documents",
    ),
    "preferences after the end": (
        preferences(row()),
        (*GUIDED, "training.epochs=2"),
        "dpo.start_epoch: is 2, but the run ends after 2 epochs",
        "set it below training.epochs, or to null for no preferences",
    ),
    "a filter by scores of preferences that have none": (
        preferences(row()),
        (*GUIDED, "dpo.topic_filter=llm_score"),
        "dpo.topic_filter: is llm_score, but with preferences.file topics have no scores",
        "set dpo.topic_filter=none to use them for all topics of the file",
    ),
    "preferences that are not there": (
        {},
        GUIDED,
        "wanted.jsonl: no such file",
        "check the path; relative paths start at the current folder",
    ),
    "preferences that break off": (
        preferences(row(), '{"k": 1, "w_win'),
        GUIDED,
        "wanted.jsonl:2: not JSON: Unterminated string starting at at column 10",
        LINES,
    ),
    "preferences without a line": (preferences(), GUIDED, "wanted.jsonl: has no preferences", LINES),
    "preferences of a topic that there is not": (
        preferences(row(), row(3)),
        GUIDED,
        "wanted.jsonl:2: k must be a topic from 0 to 2, got 3",
        COUNT,
    ),
    "preferences of a topic twice": (
        preferences(row(), row()),
        GUIDED,
        "wanted.jsonl:2: topic 0 is also at wanted.jsonl:1",
        "keep one of the two lines",
    ),
    "preferences with an unknown word": (
        preferences(row(win=["bread", "banana"])),
        GUIDED,
        "wanted.jsonl:1: 'banana' in w_win_indices is not a word of the vocabulary, which has 24 words",
        "write words, or their places in vocab.txt, counted from 0",
    ),
    "preferences with a list missing": (
        preferences({"k": 0, "w_win_indices": [1]}),
        GUIDED,
        "wanted.jsonl:1: w_loose_indices must be a list, got None",
        "write w_loose_indices as a list of the words' indices in vocab.txt, from 0",
    ),
    "preferences with empty lists": (preferences(row(lose=[])), GUIDED, *NEITHER),
    "preferences for words against themselves": (preferences(row(win=[4], lose=[4])), GUIDED, *NEITHER),
    "word vectors of unequal lengths": (
        {"vectors.txt": "bread 1 2\noven 1\n"},
        VECTORS,
        "vectors.txt:2: has 1 number, the first line has 2",
        "each line needs a word and its numbers, with blanks between; unpack a compressed file first",
    ),
    "word vectors of another language": (
        {"vectors.txt": "Brot 1 2\nOfen 3 4\n"},
        VECTORS,
        "vectors.txt: has none of the 24 words",
        "give a file of vectors in the language of the texts, with words in lower case",
    ),
    "words without vectors": (
        {"vectors.txt": "bread\noven\n"},
        VECTORS,
        "vectors.txt:1: has 0 numbers",
        "each line needs a word and its numbers, with blanks between; unpack a compressed file first",
    ),
}


@cases(TRAINED)
def test_settings_and_files_that_do_not_fit_the_corpus_are_told_before_training(case, tmp_path, mistake):
    files, settings, told, remedy = case
    write_corpus(tmp_path / "corpus")
    for name, content in files.items():
        write(tmp_path / name, content)
    assert str(mistake(*train_words(*settings))) == f"{told}\n  {remedy}"
    assert not (tmp_path / "run").exists()
