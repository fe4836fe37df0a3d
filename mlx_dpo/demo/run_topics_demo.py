"""Topics from start to end, offline: bags of words, training, preferences, second phase, figures, page."""

import time
from pathlib import Path

from ..console import plural, say, show
from ..jobs.report import missing_libraries
from ..jobs.topics_folder import PREFERENCES
from ..jobs.topics_report import change_sentences, write_page
from ..jobs.topics_train import train_topics
from ..printed_commands import command_line
from ..topics.changes import Changes, read_changes
from ..topics.config import TopicsConfig, load_topics_config
from ..topics.corpus import read_corpus
from ..topics.libraries import check_libraries
from ..topics.prepare import prepare
from .demo_folder import activation, empty_folder, from_here, shipped

_PARTS = ("corpus", "run")
_SHOWN = 3
_WORDS = 10


def tell_topics(output: str, *, overwrite: bool = False) -> None:
    """Run all steps in folder `output`, and print some topics, figures and the list of folders.

    Raises:
        DpoError: the folder contains a demo already, or a library is missing.
    """
    start, folder = time.monotonic(), Path(output)
    check_libraries()
    config = topics_demo_config(folder)
    empty_folder(folder, _PARTS, overwrite)
    found = run_steps(config)
    show(topics_text(folder, *found, time.monotonic() - start))


def run_steps(config: TopicsConfig) -> tuple[Changes, list[str], Path | None]:
    """Every step: what preferences changed, the vocabulary, and the page if its libraries are installed."""
    say("1/4 corpus: passages of State of the Union addresses become bags of words")
    say(str(prepare(config.corpus)))
    say(
        f"2/4 training: ECRTM with {config.model.topics} topics; after epoch {config.dpo.start_epoch}, "
        "vectors of words choose the words that fit, and weak topics learn to rank them first"
    )
    run = train_topics(config).folder
    say("3/4 figures: words and coherence before preferences and at the end")
    corpus = read_corpus(config.corpus.folder)
    changes = read_changes(run, run / PREFERENCES, corpus)
    say("4/4 report page")
    report = None if missing_libraries() else write_page(run, config, corpus, changes)
    return changes, corpus.vocabulary, report


def topics_demo_config(folder: Path) -> TopicsConfig:
    """config/topics_demo.yaml with this demo's paths."""
    return load_topics_config(
        shipped("config/topics_demo.yaml"),
        [
            f"corpus.source={shipped('data/addresses.jsonl')}",
            f"corpus.folder={folder / 'corpus'}",
            f"run.output={folder / 'run'}",
        ],
    )


def topics_text(
    folder: Path, changes: Changes, vocabulary: list[str], report: Path | None, seconds: float
) -> str:
    """The demo's last page."""
    lines = ["", *change_sentences(changes)]
    if changes.clustering:
        found = changes.clustering
        lines += [
            f"{plural(found.documents, 'held-out passage')}, {found.labels} periods: "
            f"purity {found.purity:.3f}, NMI {found.nmi:.3f}."
        ]
    for k in list(changes.improved)[:_SHOWN]:
        lines += [""]
        for title, moment in (("before", changes.snapshot), ("after", changes.end)):
            words = " ".join(vocabulary[word] for word in moment.words[k, :_WORDS]) if moment else ""
            lines += [f"{f'topic {k}' if title == 'before' else '':<9}{title:<8}{words}"]
    return "\n".join([*lines, "", *_whereabouts(folder, report, seconds)])


def _whereabouts(folder: Path, report: Path | None, seconds: float) -> list[str]:
    config = ["--config", from_here(shipped("config/topics.yaml"))]
    same = [
        ["prepare", *config, "--source", from_here(shipped("data/addresses.jsonl"))],
        ["train", *config],
        ["eval", "--run", "runs/topics"],
        ["report", "--run", "runs/topics"],
    ]
    page = f"the page to look at: {report}" if report else "no page: pip install 'mlx-dpo[report]'"
    return [
        f"Done in {seconds:.0f} s. All results are in {folder}:",
        "  corpus/  bags of words    run/  model, top words, preferences/",
        f"  {page}",
        "",
        *activation(),
        "The same at full size; --source can name your own texts, one on each line of a .txt file:",
        *(f"  {command_line(['mlx-dpo', 'topics', *words])}" for words in same),
    ]
