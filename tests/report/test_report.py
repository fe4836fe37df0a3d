"""A run on one page: what the folder holds is on it, exactly, and nothing else."""

import json
import re
from functools import partial

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from mlx_dpo.cli.report import report
from mlx_dpo.config import load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.report import report_run
from mlx_dpo.report.charts import COLOURS, points
from mlx_dpo.settings import save_settings

from ..support.mistakes import assert_told, lines
from ..support.pages import FEW, ROWS, TOLD, Page, drawn, eval_row, page_of, places, train_row


@pytest.fixture
def run(tmp_path):
    """A run's page and its HTML, from rows, settings and further files."""
    return partial(page_of, tmp_path / "granite-house")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page and the HTML of a run that has everything."""
    files = {"events": EVENTS, "samples": SAMPLES, "inspection": INSPECTION}
    return page_of(tmp_path_factory.mktemp("whole") / "run", ROWS, **files)


EVENTS = [
    {"step": 3, "event": "skipped", "name": "grad_norm", "what": "an update of 40", "remedy": ""},
    {
        "step": 5,
        "event": "alarm",
        "name": "chosen falls",
        "what": "0.8 nats lost",
        "meaning": "It moves away from both.",
        "remedy": "Lower the rate.",
    },
    {"step": 6, "event": "resumed"},
    {"step": 8, "event": "best"},
    {"step": 12, "event": "stopped", "what": "no better for 3 evaluations"},
]
SAMPLES = [
    {"step": 0, "prompt": "How?", "answer": "Like so."},
    {"step": 4, "prompt": "How?", "answer": "Half way."},
    {"step": 12, "prompt": "How?", "answer": "Gladly! Like so."},
]
INSPECTION = {
    "measures": {"pairs": 472, "length_ratio": 1.25, "percentiles": {"50": 64}},
    "verdict": [{"advice": "Fine-tune first.", "why": "Chosen is far.", "remedy": "mlx-dpo sft"}],
    "defects": {"same_answer": 3},
}


def test_every_curve_of_the_rows_is_a_figure_that_says_what_it_shows(whole):
    page, _ = whole
    names = [name.removeprefix("chart-") for name in page.having("figure", "id")]
    assert names == [
        "loss",
        "margins",
        "accuracy",
        "rewards",
        "logps",
        "grad-norm",
        "learning-rate",
        "speed",
        "memory",
    ]
    labels = page.having("svg", "aria-label")
    assert len(labels) == len(names) and page.having("svg", "role") == ["img"] * len(names)
    assert labels[0] == (
        "Loss, by step. train 0.69 to 0.46, lowest 0.46, highest 0.69; "
        "held-out 0.6931 to 0.5131, lowest 0.5131, highest 0.6931."
    )


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(whole):
    page, html = whole
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "a"}
    assert not re.search(r"https?:|//|@import|url\((?!#)", html)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    targets = [t for a in ("href", "xlink:href") for _, e in page.elements if a in e for t in [e[a]]]
    assert targets and {target[0] for target in targets} == {"#"}


def test_ids_are_unique_and_every_reference_finds_its_own(whole):
    page, html = whole
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', html)) <= set(ids)


def test_colours_are_the_pages_in_light_and_in_dark(whole):
    _, html = whole
    assert not any(colour in html for colour in COLOURS.values())
    light, dark = re.findall(r":root \{(.*?)\}", html, re.S)
    wanted = {f"--{name}" for name in COLOURS} | {"--paper", "--quiet", "--panel"}
    for theme in (light, dark):
        assert set(re.findall(r"(--\w+):", theme)) == wanted
    assert set(re.findall(r"var\((--\w+)\)", html)) == wanted
    svgs = "".join(re.findall(r"<svg.*?</svg>", html, re.S))
    assert set(re.findall(r"(?:fill|stroke): ?(#\w+)", svgs)) == set()


def test_beta_is_drawn_when_it_moves_with_every_number_of_its_rule(run):
    rows = [{**row, "beta": 0.1 * row["step"], "risk/p_hat": 0.1, "risk/tau": 1.0} for row in FEW]
    page, _ = run(rows)
    names = [name.removeprefix("chart-") for name in page.having("figure", "id")]
    assert names == ["loss", "beta", "risk-p_hat", "risk-tau"]
    assert "risk/tau" in page.text["chart-risk-tau"]


def test_the_summary_says_how_the_run_went_in_figures(run):
    page, _ = run(TOLD, events=EVENTS)
    assert " ".join(page.text["summary"].split()) == (
        "12 updates, epoch 1 of 1; training loss from 0.6900 to 0.4600. "
        "At step 12, the chosen answer has the higher reward in 87.5 % of 96 held-out pairs (95 % interval "
        "79.4 % to 92.7 %), with a mean reward margin of +0.360 and a mean loss of 0.5131. "
        "The held-out loss was 0.6931 at step 0. "
        "The best evaluation was at step 8: the chosen answer has the higher reward in 87.5 % of 96 held-out "
        "pairs (95 % interval 79.4 % to 92.7 %), with a mean reward margin of +0.240 and a mean loss of "
        "0.5731. "
        "Stopped early: no better for 3 evaluations. "
        "Updates skipped: 1. Times resumed: 1. Alarms: 1."
    )


def test_what_is_written_of_the_best_evaluation_is_told(run):
    events = [{"step": 12, "event": "best", "what": "the run folder's adapter is that of step 8"}]
    page, _ = run(TOLD, events=events)
    assert "The run folder's adapter is that of step 8. No alarm" in page.text["summary"]


def test_fine_tuning_on_answers_has_a_page_without_rewards(run):
    rows = [
        {name: value for name, value in row.items() if re.search("step|epoch|loss|pairs|logps/chosen", name)}
        for row in ROWS
    ]
    page, _ = run(rows, overrides=["loss.name=sft"])
    assert "At step 12, 96 held-out pairs have a mean loss of 0.5131. The held-out" in page.text["summary"]
    assert not {"chart-margins", "chart-accuracy", "chart-rewards"} & set(page.having("figure", "id"))
    assert "rejected" not in next(t for t in page.having("svg", "aria-label") if t.startswith("Log-prob"))


def test_sampled_answers_have_their_curves(run):
    rows = [{**eval_row(step), "eval/samples/distinct_4": 1 - step / 100} for step in (0, 4, 8)]
    page, _ = run(rows)
    assert "held-out 1 to 0.92" in next(t for t in page.having("svg", "aria-label") if "samples/" in t)


def test_accuracy_begins_when_the_policy_has_moved(run):
    """Before, every pair is a tie: the first update's own and the held-out ones of step 0."""
    assert points(ROWS, "eval/rewards/accuracies") == ([4, 8, 12], [0.875] * 3)
    assert points(ROWS, "rewards/accuracies")[0] == list(range(2, 13))
    assert points(ROWS, "eval/loss")[0] == [0, 4, 8, 12]
    page, _ = run(TOLD[1:2])
    assert page.having("figure", "id") == ["chart-loss", "chart-margins"]


def test_the_page_says_how_each_kind_of_event_is_drawn(run):
    page, _ = run(events=EVENTS)
    told = "alarm: red, solid; resumed: dashed; best: blue, dashed; stopped: solid."
    assert f"Vertical lines are events. skipped: orange, dotted; {told}" in page.text["curves"]


def test_a_run_without_held_out_pairs_has_no_figures_of_them(run):
    page, _ = run([row for row in TOLD if "loss" in row])
    assert "No pairs were held out" in page.text["summary"]
    assert "held-out" not in "".join(page.having("svg", "aria-label"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (TOLD[1:2], "1 update, epoch 0.0833 of 1, so the run did not see all of its pairs"),
        (
            TOLD[:1],
            "No update was made. At step 0, 96 held-out pairs have a mean loss of 0.6931.",
        ),
    ],
)
def test_a_run_of_one_row_has_its_page(run, rows, said):
    page, _ = run(rows)
    assert said in page.text["summary"]
    assert page.having("figure", "id")


def test_a_number_that_is_not_finite_leaves_a_gap_and_no_more(run):
    norms = (1.9, float("inf"), 1.7, float("nan"))
    rows = [{"step": n, "epoch": 1.0, "loss": 0.6, "grad_norm": norm} for n, norm in enumerate(norms, 1)]
    page, _ = run(rows)
    assert len(places(drawn("grad-norm", rows), "grad-norm-grad_norm")) == 2
    label = next(label for label in page.having("svg", "aria-label") if "Gradient" in label)
    assert "train 1.9 to 1.7, lowest 1.7, highest 1.9" in label


def test_events_stand_with_their_meaning_and_remedy(run):
    page, _ = run(events=EVENTS)
    told = " ".join(page.text["events"].split())
    assert "5 alarm: chosen falls 0.8 nats lost It moves away from both. Lower the rate. 6 resumed" in told
    assert "12 stopped no better for 3 evaluations" in told


def test_answers_of_before_and_after_stand_side_by_side(run):
    page, _ = run(samples=SAMPLES)
    told = " ".join(page.text["samples"].split())
    assert told.endswith("How? before training Like so. after step 12 Gladly! Like so.")
    assert "Half way." not in told


def test_the_inspection_gives_advice_measures_and_defects(run):
    page, _ = run(inspection=INSPECTION)
    told = " ".join(page.text["data"].split())
    assert "Fine-tune first. Chosen is far. mlx-dpo sft" in told
    for figure in ("pairs 472", "length_ratio 1.25", "50 64", "same_answer 3"):
        assert figure in told


@pytest.mark.parametrize("inspection", [[1, {"a": "b"}], "text", {"verdict": "go on"}, {"verdict": [1]}, {}])
def test_an_inspection_of_another_shape_is_shown_as_it_is(run, inspection):
    page, _ = run(inspection=inspection)
    words = re.findall(r"[a-z]+ ?[a-z]*|\d", json.dumps(inspection))
    assert all(word in page.text["data"] for word in words)


def test_what_the_folder_lacks_is_said(run):
    page, _ = run()
    for section, file in (
        ("events", "events.jsonl"),
        ("samples", "samples.jsonl"),
        ("data", "inspection.json"),
    ):
        assert f"the folder has no {file}" in page.text[section]


def test_settings_other_than_the_defaults_come_first(run):
    page, html = run(overrides=["beta.value=0.25", "loss.name=[sigmoid, sft]"])
    settings = " ".join(page.text["settings"].split())
    changed, rest = settings.split("Settings with their default values")
    assert "beta.value 0.25 0.1" in changed and 'loss.name ["sigmoid", "sft"] sigmoid' in changed
    assert "optimizer.grad_clip" in rest and "optimizer.grad_clip" not in changed
    assert "models/granite · loss sigmoid + sft · beta 0.25 (fixed)" in html


HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>&amp;\"'"


def test_text_from_files_stays_text(run):
    page, _ = run(
        [{**row, f"risk/{HOSTILE}": row["loss"]} for row in FEW],
        overrides=[f"model.path={HOSTILE}"],
        samples=[{"step": 0, "prompt": HOSTILE, "answer": HOSTILE}],
        events=[{"step": 1, **dict.fromkeys(("event", "name", "what", "meaning", "remedy"), HOSTILE)}],
        inspection={"measures": {HOSTILE: HOSTILE}, "verdict": [{"advice": HOSTILE}]},
    )
    assert any(HOSTILE in label for label in page.having("svg", "aria-label"))
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    for section in ("events", "data", "samples", "settings"):
        assert HOSTILE in page.text[section]


def test_equal_runs_give_equal_pages(run):
    files = {"events": EVENTS, "samples": SAMPLES, "inspection": INSPECTION}
    assert run(**files)[1] == run(**files)[1]


def test_the_users_plotting_habits_do_not_change_the_page(run):
    import matplotlib

    _, before = run()
    with matplotlib.rc_context({"font.size": 30, "xtick.direction": "in", "lines.markeredgewidth": 9}):
        _, after = run()
        assert matplotlib.rcParams["font.size"] == 30
    assert before == after


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ('{"step": 3, "lo', "not JSON"),
        ('{"loss": 1.0}', "'step' is missing or not a whole number"),
        ('{"step": 3, "loss": "low", "epoch": 1.0}', "not a number: loss"),
        ('{"step": 3, "loss": true, "epoch": null}', "not a number: loss, epoch"),
        ('{"step": 3, "loss": 1.0}', "has no epoch"),
        (
            '{"step": 3, "eval/loss": 1, "eval/rewards/accuracies": 1}',
            "has no eval/pairs, eval/rewards/margins",
        ),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(run, tmp_path, row, what):
    run()
    path = tmp_path / "granite-house" / "metrics.jsonl"
    path.write_text(lines(train_row(1), train_row(2)) + row + "\n")
    with pytest.raises(DpoError, match=re.escape(what)) as caught:
        report_run(path.parent)
    assert caught.value.where == f"{path}:3"


@pytest.mark.parametrize(
    ("file", "text", "what"),
    [
        ("metrics.jsonl", "", "has no lines yet"),
        ("events.jsonl", '{"step": 1}\n', "'event' is missing or not text"),
        ("samples.jsonl", '{"step": 1, "prompt": 5, "answer": ""}\n', "'prompt' is missing or not text"),
        ("inspection.json", "{", "not JSON"),
    ],
)
def test_a_broken_file_is_named_and_an_older_report_stays(run, tmp_path, file, text, what):
    _, html = run()
    folder = tmp_path / "granite-house"
    (folder / file).write_text(text)
    with pytest.raises(DpoError, match=re.escape(what)) as caught:
        report_run(folder)
    assert str(folder / file) in caught.value.where
    assert (folder / "report.html").read_text() == html


def test_a_folder_without_settings_or_metrics_is_no_run(tmp_path):
    with pytest.raises(DpoError, match="is not a run folder"):
        report_run(tmp_path)
    with pytest.raises(DpoError, match="no such folder"):
        report_run(tmp_path / "none")
    save_settings(load_config(None), tmp_path / "config.yaml")
    with pytest.raises(DpoError, match="no such file") as caught:
        report_run(tmp_path)
    assert caught.value.where == str(tmp_path / "metrics.jsonl")


def test_a_missing_library_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_dpo.jobs.report.find_spec", lambda name: None)
    with pytest.raises(DpoError) as caught:
        report_run(tmp_path)
    assert_told(caught.value, "mlx-dpo report", "matplotlib", "pip install 'mlx-dpo[report]'")


def test_the_command_says_where_the_page_is(run, tmp_path, capsys):
    run()
    folder = tmp_path / "granite-house"
    report.main(["--run", str(folder)], standalone_mode=False)
    assert capsys.readouterr().out == f"report: {folder / 'report.html'}\n"
    report.main(["--run", str(folder), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == {"report": str(folder / "report.html")}


def test_the_page_of_a_real_run_has_all_of_its_updates(trained):
    """A tiny Granite trained on two pairs: one update, two held-out evaluations."""
    folder = trained("granite")
    page = Page(report_run(folder).read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    held = [row for row in rows if "eval/loss" in row]
    assert "6 updates, epoch 6 of 6" in page.text["summary"]
    assert f"a mean loss of {held[-1]['eval/loss']:.4f}" in page.text["summary"]
    assert {"chart-loss", "chart-memory"} <= set(page.having("figure", "id"))
