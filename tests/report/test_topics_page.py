"""The page of a topic model: every topic's words, what preferences changed, nothing from elsewhere."""

import json
import re

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from mlx_dpo.jobs.topics_report import change_text
from mlx_dpo.report.topics_page import Topic, TopicsRecord, Word, topics_page
from mlx_dpo.topics.changes import MeanChange

from ..support.pages import Page
from ..support.topic_corpus import VOCABULARY, train_words, write_corpus

GUIDED = ("dpo.start_epoch=3", "dpo.topic_filter=npmi_below_average", "dpo.weight=20")


@pytest.fixture
def page(tmp_path, outcome):
    """Train with these settings and write the report; the page and its HTML."""

    def make(*settings):
        write_corpus(tmp_path / "corpus")
        code, _, errors = outcome(*train_words(*settings))
        assert code == 0, errors
        code, out, errors = outcome("topics", "report", "--run", "run")
        assert (code, out) == (0, "report: run/report.html\n"), errors
        html = (tmp_path / "run" / "report.html").read_text()
        return Page(html), html

    return make


def record(*words):
    topic = Topic(0, [("at the end", list(words))])
    rows = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    return TopicsRecord("run", "1 topic", [], [], rows, ("figure", "at the end"), [], [], [topic])


def bars(html):
    return [float(width) for width in re.findall(r'class="bar" style="width: ([\d.]+)%"', html)]


def test_the_page_has_the_words_of_every_topic_before_and_after(page, tmp_path):
    found, html = page(*GUIDED)
    improved = re.findall(r'id="topic-(\d+)"', html[html.index('id="improved"') : html.index('id="topics"')])
    assert improved
    before = (tmp_path / "run" / "preferences" / "top_words_15.txt").read_text().splitlines()
    after = (tmp_path / "run" / "top_words_15.txt").read_text().splitlines()
    for k in range(3):
        lines = [before[k], after[k]] if str(k) in improved else [after[k]]
        shown = re.sub("“.*?”", "", found.text[f"topic-{k}"]).split()
        assert [word for word in shown if word in VOCABULARY] == " ".join(lines).split()


def test_the_page_says_which_topics_changed_and_by_how_much(page):
    found, _ = page(*GUIDED)
    told = found.text["summary"]
    assert "6 of 6 epochs, seed 0" in told
    assert re.search(r"(1 topic|\d topics) with preferences kept \d+ % of (its|their) top 15 words", told)
    assert re.search(r"(Its|Their) NPMI went from -?\d\.\d{3} to -?\d\.\d{3}, change [+-]\d\.\d{3}", told)
    figures = " ".join(found.text["figures"].split())
    assert figures.startswith("Figures figure snapshot at the end coherence C_V, top 10")
    assert "purity, 20 held-out documents, 3 labels" in figures
    assert found.text["improved"].count("▲") > 1


def test_the_loss_of_the_summary_is_that_of_the_topics_without_preferences(page, tmp_path):
    found, _ = page(*GUIDED, "dpo.anchor_weight=5")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first, last = (
        sum(rows[place][f"loss/{part}"] for part in ("reconstruction", "kl", "ecr")) for place in (0, -1)
    )
    assert f"training loss without preferences from {first:.3f} to {last:.3f}." in found.text["summary"]


def test_the_page_says_why_no_topic_was_improved(page, tmp_path):
    row = {"k": 0, "w_win_indices": [0], "w_loose_indices": [1]}
    (tmp_path / "wanted.jsonl").write_text(json.dumps(row) + "\n")
    # The first topic has no low coherence in these texts.
    found, _ = page("dpo.start_epoch=3", "preferences.file=wanted.jsonl", "dpo.topic_filter=cv_below_average")
    assert (
        "No topic was improved: the filter picked none that has winners and losers." in found.text["summary"]
    )
    assert "The filter picked no topic that has winners and losers." in found.text["improved"]


def test_a_change_of_nothing_has_no_minus():
    assert change_text(MeanChange(2, 0.3, 0.29996, -0.0004, 0.0002)) == (
        "from 0.300 to 0.300, change +0.000 (95 % interval over topics +0.000 to +0.000)"
    )


def test_the_page_of_a_run_without_preferences_shows_the_end_only(page):
    found, html = page()
    assert "improved" not in found.text
    assert "No preferences were used." in found.text["summary"]
    assert found.text["topics"].count("Topic ") == 3
    assert "mark-preferences" not in html


def test_the_second_phase_begins_at_a_line_in_every_curve(page):
    _, html = page(*GUIDED)
    drawn = re.findall(r'id="chart-([\w-]+)"', html)
    assert {"loss", "reconstruction", "kl", "ecr", "dpo"} <= set(drawn)
    assert all(f'id="{name}-mark-preferences"' in html for name in drawn)


def test_bars_are_as_long_as_shares():
    html = topics_page(record(Word("one", 0.5), Word("two", 0.25), Word("three", 0.0)))
    assert bars(html) == [100.0, 50.0, 0.0]


def test_words_are_escaped_and_nothing_is_loaded():
    html = topics_page(record(Word("<script>alert(1)</script>", 0.5), Word('a"b&c', 0.2)))
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert not re.search(r'(?:src|href)="(?!#)', html)
    assert "http" not in re.sub(r"xmlns(:\w+)?=\"[^\"]*\"", "", html)


def test_the_report_of_another_kind_of_folder_is_refused(refused_at, tmp_path):
    (tmp_path / "empty").mkdir()
    refused_at("topics report --run empty", "empty", "no run of a topic model", "topics train")


def test_the_report_of_runs_on_pairs_names_the_report_of_topics(page, refused_at):
    page()
    refused_at("report --run run", "run", "is the run of a topic model", "mlx-dpo topics report --run run")
