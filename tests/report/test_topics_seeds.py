"""The report of a topic model over several seeds: one more table, and which runs are refused."""

import json
import shutil

import pytest
import yaml

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from mlx_dpo.jobs.topics_seeds import SeedRuns, seeds_table
from mlx_dpo.topics.changes import read_changes
from mlx_dpo.topics.corpus import read_corpus
from mlx_dpo.topics.over_seeds import FigureOverSeeds, Mean, end_figures
from mlx_dpo.training.checkpoint_folder import save_checkpoint

from ..support.mistakes import cases, lines, without, write
from ..support.pages import Page
from ..support.topic_corpus import train_words, write_corpus

GUIDED = ("training.epochs=4", "dpo.start_epoch=2", "dpo.topic_filter=none", "preferences.file=wanted.jsonl")
REPORT = "topics report --run one --seed-run two"
AGAIN = "leave it out, or train it again with one/config.yaml, another training.seed and another --output"


@pytest.fixture
def train(tmp_path, outcome):
    """Train into this folder with these settings too, and preferences for topic 0."""

    def go(output, *settings):
        if not (tmp_path / "corpus").exists():
            write_corpus(tmp_path / "corpus")
        write(tmp_path / "wanted.jsonl", lines({"k": 0, "w_win_indices": [0, 1], "w_loose_indices": [2]}))
        code, _, errors = outcome(*train_words(*settings, output=output))
        assert code == 0, errors

    return go


@pytest.fixture
def two(train, once, tmp_path):
    """The folder with the runs `one` and `two`, of the seeds 0 and 1."""

    def make():
        train("one", *GUIDED)
        train("two", *GUIDED, "training.seed=1")

    once("two seeds of topics", make)
    return tmp_path


def table(folder):
    """Text of the table over seeds on the page of the run `one`; None without one."""
    text = Page((folder / "one" / "report.html").read_text()).text.get("seeds")
    return text and " ".join(text.split())


def test_the_page_of_two_runs_has_a_table_over_seeds(two, outcome):
    code, out, errors = outcome(*REPORT.split(), "--json")
    assert code == 0, errors
    found = json.loads(out)["over_seeds"]
    assert (found["runs"], found["seeds"], found["topics_with_preferences"]) == (
        ["one", "two"],
        [0, 1],
        [1, 1],
    )
    corpus = read_corpus(two / "corpus")
    ends = [end_figures(read_changes(two / own, two / own / "preferences", corpus)) for own in ("one", "two")]
    assert list(found["figures"]) == list(ends[0])
    for name, figure in found["figures"].items():
        assert figure["end"]["mean"] == pytest.approx(sum(end[name] for end in ends) / 2)
    told = table(two)
    assert told.startswith(
        "Over 2 seeds Runs: one (seed 0, 1 topic with preferences), two (seed 1, 1 topic with preferences). "
        "Mean ± half the width of its 95 % interval over seeds (Student's t), of the top 15 words. Topics "
        "also change when training just goes on. figure snapshot at the end change C_V, topics "
        "with preferences "
    )
    assert (
        told.index("NPMI, other topics") < told.index("top words kept, other topics") < told.index("purity")
    )
    change = found["figures"]["npmi, others"]["change"]
    assert f"{change['mean']:+.3f} ± {change['half_width']:.3f} top words kept, other topics" in told
    kept = found["figures"]["kept, others"]
    assert (
        f"top words kept, other topics {kept['end']['mean']:.3f} ± {kept['end']['half_width']:.3f} purity"
        in told
    )


def test_the_page_of_one_run_has_no_such_table(two, outcome):
    code, out, _ = outcome("topics", "report", "--run", "one", "--json")
    assert (code, json.loads(out)) == (0, {"report": "one/report.html"})
    assert table(two) is None


def test_runs_without_preferences_are_compared_at_their_ends(train, outcome, tmp_path):
    train("one", "training.epochs=1")
    train("two", "training.epochs=1", "training.seed=1")
    code, _, errors = outcome(*REPORT.split())
    assert code == 0, errors
    told = table(tmp_path)
    assert "Runs: one (seed 0), two (seed 1). " in told
    assert "figure at the end C_V 0." in told
    assert "preferences" not in told and "snapshot" not in told


def test_a_row_says_how_many_seeds_have_its_figure():
    figures = {
        "npmi, with preferences": FigureOverSeeds(
            1, Mean(-0.25, None), Mean(-0.125, None), Mean(0.125, None)
        ),
        "kept, others": FigureOverSeeds(2, None, Mean(0.75, 0.5), None),
    }
    assert seeds_table(SeedRuns(["one", "two"], [0, 7], [2, 0], figures), 15) == (
        2,
        "Runs: one (seed 0, 2 topics with preferences), two (seed 7, 0 topics with preferences). Mean ± half "
        "the width of its 95 % interval over seeds (Student's t), of the top 15 words. Topics also change "
        "when training just goes on.",
        ("figure", "snapshot", "at the end", "change"),
        [
            ("NPMI, topics with preferences (1 of 2 seeds)", "-0.250", "-0.125", "+0.125"),
            ("top words kept, other topics", "", "0.750 ± 0.500", ""),
        ],
    )


def of_pairs(folder):
    """A checkpoint as runs on pairs have it, which names no kind."""
    shutil.rmtree(folder / "two" / "checkpoints")
    save_checkpoint(folder / "two", 1, {}, {"key": {"settings": {}}}, lambda adapter: None)


def reset(folder, section, **values):
    """Change the settings file of the run `two`."""
    path = folder / "two" / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings[section] |= values
    write(path, yaml.safe_dump(settings))


def asking_another(folder):
    url = "http://localhost:1/v1"
    reset(
        folder, "preferences", file=None, url=url, model="teacher", embedder="words", max_tokens=300, seed=5
    )


WRONG = {
    "the same seed": (
        lambda folder: shutil.copytree(folder / "one", folder / "two", dirs_exist_ok=True),
        "has the seed 0, as one has",
        AGAIN,
    ),
    "a run that was stopped": (
        without("two/top_words_15.jsonl"),
        "is not finished",
        "finish it: mlx-dpo topics train --config two/config.yaml --output two",
    ),
    "no run": (
        lambda folder: shutil.rmtree(folder / "two"),
        "contains no run of a topic model with its checkpoints",
        "give a whole folder that mlx-dpo topics train wrote",
    ),
    "a run on pairs": (
        of_pairs,
        "contains no run of a topic model with its checkpoints",
        "give a whole folder that mlx-dpo topics train wrote",
    ),
    "another LLM": (
        asking_another,
        "differs from one not only in its seed: preferences.url is http://localhost:1/v1, not null, "
        "preferences.model is teacher, not null, preferences.embedder is words, not null, "
        "preferences.max_tokens is 300, not 400, preferences.seed is 5, not 0",
        AGAIN,
    ),
}


@cases(WRONG)
def test_a_second_run_that_does_not_fit_is_refused(case, two, mistake):
    damage, told, remedy = case
    damage(two)
    assert str(mistake(REPORT)) == f"two: {told}\n  {remedy}"


def test_everything_in_which_runs_differ_is_listed(train, mistake, tmp_path):
    train("one", "training.epochs=1")
    write_corpus(tmp_path / "corpus", seed=5)
    train("two", "training.epochs=2", "training.seed=1", "optimizer.halve_epochs=9")
    assert str(mistake(REPORT)) == (
        "two: differs from one not only in its seed: optimizer.halve_epochs is 9, not null, training.epochs "
        f"is 2, not 1, the corpus (corpus.folder) is another one\n  {AGAIN}"
    )


def test_only_what_a_run_computes_has_to_be_the_same(two, outcome):
    reset(two, "training", keep_checkpoints=7)
    reset(two, "preferences", concurrency=2)
    assert outcome(*REPORT.split())[0] == 0
