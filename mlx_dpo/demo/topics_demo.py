"""A topic model from start to end, offline, on the household texts that come with the project."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..console import plural, say, show
from ..errors import DpoError
from ..jobs.topics_evaluate import evaluate_topics_run
from ..jobs.topics_folder import PREFERENCES
from ..jobs.topics_train import train_topics
from ..printed_commands import command_line
from ..storage.files import check_writable, make_folder
from ..storage.jsonl import read_jsonl, write_jsonl
from ..topics.coherence import c_v
from ..topics.config import TopicsConfig, load_topics_config
from ..topics.corpus import Corpus, read_corpus
from ..topics.evaluation import TOP, TopicFigures, read_top_words
from ..topics.preference_files import SELECTED
from ..topics.prepare import prepare
from .run_demo import shipped

_SHOWN = 8
"""Top words that are printed."""
_PARTS = ("texts", "corpus", "run")


def tell_topics(output: str, *, overwrite: bool = False) -> None:
    """Run all steps in folder `output`, and print which words preferences have changed.

    Raises:
        DpoError: the folder contains a demo already, or the extra `topics` is not installed.
    """
    start, folder = time.monotonic(), Path(output)
    config = topics_demo_config(folder)
    _make_room(folder, overwrite)
    say("1/4 texts: answers about household things of twelve materials")
    write_texts(folder / "texts")
    say("2/4 bags of words")
    say(str(prepare(config.corpus)))
    say(f"3/4 training: {config.dpo.start_epoch} epochs, then preferences, without an LLM")
    train_topics(config)
    say("4/4 evaluation")
    figures = evaluate_topics_run(folder / "run")
    show(story(folder / "run", read_corpus(folder / "corpus"), figures))
    show(_whereabouts(folder, time.monotonic() - start))


def topics_demo_config(folder: Path) -> TopicsConfig:
    """config/topics.yaml with this demo's paths, and sizes for a few hundred texts."""
    return load_topics_config(
        shipped("config/topics.yaml"),
        [
            f"corpus.source={folder / 'texts' / 'train.jsonl'}",
            f"corpus.test={folder / 'texts' / 'test.jsonl'}",
            "corpus.label=label",
            f"corpus.folder={folder / 'corpus'}",
            "model.topics=12",
            "model.ecr_weight=20",
            "training.batch_size=48",
            "training.epochs=90",
            "dpo.start_epoch=60",
            "dpo.weight=100",
            "training.report_epochs=10",
            "optimizer.learning_rate=0.005",
            "optimizer.halve_epochs=null",
            f"run.output={folder / 'run'}",
        ],
    )


def write_texts(folder: Path) -> None:
    """train.jsonl and test.jsonl with the answers of data/: text, and as its label the material."""
    make_folder(folder)
    for part, name in (("train", "curated"), ("test", "heldout")):
        rows = (row for _, row in read_jsonl(shipped(f"data/{name}.jsonl")))
        texts = ({"text": row["answer"], "label": row["id"].split("-")[0]} for row in rows)
        write_jsonl(folder / f"{part}.jsonl", texts)


def _make_room(folder: Path, overwrite: bool) -> None:
    check_writable(folder, need_bytes=50_000_000)
    parts = [folder / name for name in _PARTS]
    if any(part.exists() for part in parts):
        if not overwrite:
            raise DpoError(
                "contains a demo already",
                where=folder,
                hint="choose another folder with --output, or replace it with --overwrite",
            )
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)
    make_folder(folder)


def story(run: Path, corpus: Corpus, figures: TopicFigures) -> str:
    """What preferences have changed, and the figures of the model at the end."""
    before, after = (read_top_words(path / TOP, corpus) for path in (run / PREFERENCES, run))
    lines = (run / PREFERENCES / SELECTED).read_text().splitlines()
    chosen = [json.loads(line)["k"] for line in lines]
    told = ["", f"Preferences for {plural(len(chosen), 'topic')} of {len(before)}:"]
    for topic in chosen:
        told += ["", f"topic {topic:<3} before  {_words(before[topic], corpus)}"]
        told += [f"          after   {_words(after[topic], corpus)}"]
    own, others = _coherence(corpus, before, chosen), _coherence(corpus, after, chosen)
    told += ["", f"{'coherence C_V, top 15':<36}before   after"]
    told += [f"{name:<36}{a:6.3f}  {b:6.3f}" for (name, a), (_, b) in zip(own, others, strict=True)]
    return "\n".join([*told, "", str(figures)])


def _words(topic: Sequence[int], corpus: Corpus) -> str:
    return " ".join(corpus.vocabulary[word] for word in topic[:_SHOWN])


def _coherence(corpus: Corpus, top: np.ndarray, chosen: Sequence[int]) -> list[tuple[str, float]]:
    """Mean coherence of the chosen topics and of the others, with a name for each."""
    each = c_v(corpus.texts or [], corpus.vocabulary, top)
    others = [k for k in range(len(each)) if k not in set(chosen)]
    groups = (("topics with preferences", chosen), ("other topics", others))
    return [(name, float(each[list(topics)].mean())) for name, topics in groups if len(topics)]


def _whereabouts(folder: Path, seconds: float) -> str:
    commands = [
        ["prepare", "--source", "my_texts.txt", "--output", "data/topics"],
        ["train", "--corpus", "data/topics", "--set", "dpo.start_epoch=150"],
        ["eval", "--run", "runs/topics"],
    ]
    return "\n".join(
        [
            "",
            f"Done in {seconds:.0f} s. All results are in {folder}:",
            "  texts/  the texts    corpus/  bags of words    run/  model, top words, preferences",
            "",
            "The same with your own texts, one document a line:",
            *(f"  {command_line(['mlx-dpo', 'topics', *words])}" for words in commands),
        ]
    )
