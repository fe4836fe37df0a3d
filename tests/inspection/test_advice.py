"""Advice follows from figures, at the thresholds that are documented and not beside them."""

import pytest

from mlx_dpo.config import RunConfig, load_config
from mlx_dpo.inspection import scan  # noqa: F401  (it registers every kind)
from mlx_dpo.inspection.advice import (
    ADVICE,
    BY_HEART,
    FAR_OFF_POLICY,
    FOREIGN,
    MOST_EPOCHS,
    MUCH_WARNED,
    NOT_OWN,
    OF_THE_SET,
    OFF_POLICY,
    TOLD_APART,
    TOLD_BY_LENGTH,
    Plan,
    Step,
    commands,
    of_the_set,
    verdict,
)
from mlx_dpo.inspection.defects import KINDS
from mlx_dpo.inspection.measures import Figures, LengthBias, Likelihood, OwnAnswers
from mlx_dpo.inspection.surface_features import Separability
from mlx_dpo.losses import LossConfig

N = 100


def of(off_policy=0.0, rejected=-1.0, style=0.5, length=0.5, likely=True, rule="longer", less_likely=None):
    own = None if less_likely is None else OwnAnswers(8, rejected, rejected + less_likely)
    return Figures(
        pairs=N,
        lengths=LengthBias(N, length, 1.5, rule, length),
        style=Separability(N, style, (style, style)),
        repetition=None,
        likelihood=Likelihood(N, rejected - off_policy, rejected, off_policy, 0.5) if likely else None,
        own=own,
    )


def plan(epochs=1, output="runs/dpo", valid="valid.jsonl", train="train.jsonl", adapter=None, **loss):
    return Plan(epochs, LossConfig(**loss), output, train, valid, adapter)


def codes(figures=None, found=None, run=None):
    return [a.code for a in verdict(found or {}, N, figures or of(), run or plan())]


ABOVE = 1e-6


@pytest.mark.parametrize(
    ("at", "beyond", "code"),
    [
        (of(off_policy=FAR_OFF_POLICY), of(off_policy=FAR_OFF_POLICY + ABOVE), "sft_first"),
        (of(off_policy=OFF_POLICY), of(off_policy=OFF_POLICY + ABOVE), "anchor"),
        (of(off_policy=-1 - BY_HEART + ABOVE), of(off_policy=-1 - BY_HEART - ABOVE), "learnt"),
        (of(rejected=FOREIGN), of(rejected=FOREIGN - ABOVE), "on_policy"),
        (of(less_likely=NOT_OWN), of(less_likely=NOT_OWN + ABOVE), "on_policy"),
        (of(style=TOLD_APART - ABOVE), of(style=TOLD_APART), "anchor"),
        (of(length=TOLD_BY_LENGTH - ABOVE), of(length=TOLD_BY_LENGTH), "anchor"),
    ],
    ids=[
        "far off-policy",
        "off-policy",
        "by heart",
        "foreign",
        "not its own",
        "told apart",
        "told by length",
    ],
)
def test_advice_begins_where_its_threshold_is(at, beyond, code):
    assert code not in codes(at)
    assert codes(beyond) == [code]


def test_the_thresholds_are_the_documented_ones():
    assert (MUCH_WARNED, FAR_OFF_POLICY, OFF_POLICY, FOREIGN) == (0.1, 1.0, 0.3, -2.5)
    assert (TOLD_APART, TOLD_BY_LENGTH, MOST_EPOCHS) == (0.95, 0.9, 3)
    assert (OF_THE_SET, NOT_OWN, BY_HEART) == (0.5, 0.5, -0.2)


def test_one_error_is_enough_and_warnings_are_not_before_a_tenth():
    assert codes(found={"not-json": 1}) == ["mend"]
    assert codes(found={"refusal": 10, "repeats": 10}) == ["train"]
    assert codes(found={"refusal": 11}) == ["mend"]
    (advice,) = verdict({"not-json": 2, "leak": 1, "refusal": 11}, N, of(), plan())
    assert advice.why == "errors: 3 in 100 rows; refusal: 11 in 100 rows, above 10%"


def test_unlike_lengths_in_most_rows_are_a_property_of_the_set_and_nothing_to_mend():
    assert of_the_set({"far-shorter": 51, "far-longer": 50}, N, of()) == {"far-shorter": 51}
    assert codes(found={"far-shorter": 51}) == ["train"]
    assert codes(found={"far-shorter": 50}) == ["mend"]


def test_a_fault_of_another_kind_is_to_be_mended_however_many_rows_have_it():
    others = [code for code in KINDS if code not in ("far-longer", "far-shorter")]
    assert of_the_set(dict.fromkeys(others, N), N, of()) == {}
    assert codes(found={"special-token-in-answer": N}) == ["mend"]


def test_short_chosen_answers_are_no_defects_where_shorter_ones_are_chosen():
    """They follow from the length of all of them, on which the advice on the loss is given."""
    shorter, found = of(length=1.0, rule="shorter"), {"far-shorter": 30, "far-longer": 2}
    assert of_the_set(found, N, shorter) == {"far-shorter": 30}
    assert codes(shorter, found) == ["anchor"]
    assert codes(of(length=1.0, rule="longer"), found) == ["mend", "anchor"]


def test_own_answers_are_believed_before_a_fixed_figure():
    assert codes(of(rejected=-3.0, less_likely=0.1)) == ["train"]
    (advice,) = verdict({}, N, of(rejected=-1.5, less_likely=0.8), plan())
    assert advice.code == "on_policy"
    assert all(figure in advice.why for figure in ("-1.50", "-0.70", "(n 8)", "above 0.5"))


def test_epochs_are_many_above_three_or_above_one_where_style_tells():
    assert codes(run=plan(epochs=3)) == ["train"]
    assert codes(run=plan(epochs=4)) == ["fewer_epochs"]
    assert codes(of(style=1.0), run=plan(epochs=2)) == ["anchor", "fewer_epochs"]
    assert commands(verdict({}, N, of(), plan(epochs=4))) == [Step("train", ("training.epochs=3",))]


def test_nothing_to_say_is_train_as_it_is():
    (advice,) = verdict({}, N, of(), plan())
    assert (advice.code, advice.why) == ("train", "no figure is beyond its threshold (n 100)")
    assert commands([advice]) == [Step("train")]
    (unasked,) = verdict({}, N, of(likely=False), plan())
    assert "likelihood" in unasked.why and "likelihood" not in advice.why
    nothing = Figures(0, None, None, None, None)
    assert [a.code for a in verdict({}, 0, nothing, plan())] == ["train"]


def test_the_failed_run_of_the_published_attempt_is_told_to_fine_tune_first():
    """300 curated answers at -5.2 nats per token against -0.8, told by their style; several epochs."""
    advice = verdict({}, 300, of(off_policy=4.4, rejected=-0.8, style=1.0), plan(epochs=16))
    assert [a.code for a in advice] == ["sft_first"]
    assert "4.40 nats per token less likely" in advice[0].why


def test_after_fine_tuning_the_figures_are_others_and_are_looked_at_again():
    assert commands(verdict({}, N, of(off_policy=2.0, style=1.0, rejected=-3.0), plan(epochs=9))) == [
        Step("sft", ("run.output=runs/dpo-sft", "optimizer.learning_rate=null", "training.epochs=null")),
        Step("inspect", ("model.adapter=runs/dpo-sft",)),
    ]


def test_what_the_model_knows_by_heart_is_not_trained_on_again():
    advice = verdict({}, N, of(off_policy=-3.0, rejected=-3.1, style=1.0, less_likely=2.0), plan(epochs=9))
    assert [a.code for a in advice] == ["learnt"]
    assert commands(advice) == []
    # Rejected answers that are about as likely are ones to learn from.
    assert codes(of(off_policy=-0.5, rejected=-0.6)) == ["train"]
    assert codes(of(off_policy=-0.5 - ABOVE, rejected=-0.6)) == ["learnt"]


def test_passes_that_few_pairs_have_by_default_are_not_too_many():
    assert codes(run=plan(epochs=6)._replace(usual=6)) == ["train"]
    advice = verdict({}, N, of(style=1.0), plan(epochs=4)._replace(usual=3))
    assert [a.code for a in advice] == ["anchor", "fewer_epochs"]
    assert advice[1].settings == ("training.epochs=3",)
    assert "training.epochs is 4, above 3" in advice[1].why


def test_pairs_are_made_anew_by_the_model_that_starts_the_run():
    advice = verdict({}, N, of(less_likely=1.0), plan(adapter="runs/dpo-sft"))
    assert [a.code for a in advice] == ["on_policy"]
    assert commands(advice) == [
        Step(
            "gen-pairs",
            (
                "pairs.source=train.jsonl",
                "pairs.valid_source=valid.jsonl",
                "pairs.output=runs/dpo-pairs",
            ),
        ),
        Step(
            "train",
            (
                "data.train=runs/dpo-pairs/train.jsonl",
                "data.valid=runs/dpo-pairs/valid.jsonl",
            ),
        ),
    ]


def test_without_held_out_pairs_none_are_held_out_of_what_was_learnt():
    advice = verdict({}, N, of(less_likely=1.0), plan(valid=None))
    assert commands(advice) == [
        Step(
            "gen-pairs",
            (
                *("pairs.source=train.jsonl", "pairs.valid_source=null", "pairs.valid_fraction=0"),
                "pairs.output=runs/dpo-pairs",
            ),
        ),
        Step("train", ("data.train=runs/dpo-pairs/train.jsonl",)),
    ]


def test_a_second_round_writes_into_folders_that_it_does_not_read_from():
    """The pairs inspected are those of the first round, and the run starts from its adapter."""
    again = plan(train="runs/dpo-pairs/train.jsonl", adapter="runs/dpo-sft")
    sft, inspect = commands(verdict({}, N, of(off_policy=2.0), again))
    assert "run.output=runs/dpo-sft-2" in sft.settings
    assert inspect.settings == ("model.adapter=runs/dpo-sft-2",)
    pairs, train = commands(verdict({}, N, of(less_likely=1.0), again))
    assert "pairs.output=runs/dpo-pairs-2" in pairs.settings
    assert "data.train=runs/dpo-pairs-2/train.jsonl" in train.settings


def test_an_anchor_names_all_that_asks_for_it():
    (advice,) = verdict({}, N, of(off_policy=0.5, style=1.0, length=0.95), plan())
    assert advice.code == "anchor"
    assert [why.split()[0] for why in advice.why.split("; ")] == ["chosen", "picking", "style"]
    assert commands([advice]) == [Step("train", ("loss.name=[sigmoid, sft]",))]


@pytest.mark.parametrize(
    "loss",
    [
        {"name": ["sigmoid", "sft"]},
        {"name": "orpo"},
        {"ld_alpha": 0.5},
        {"divergence": "forward_kl"},
        {"name": "sigmoid", "weights": [2.0]},
    ],
    ids=["anchored", "with a supervised part", "desensitised", "another divergence", "weighted"],
)
def test_an_anchor_is_not_advised_where_there_is_one_or_none_can_be(loss):
    assert codes(of(style=1.0), run=plan(**loss)) == ["train"]


def test_length_says_nothing_where_the_loss_sees_to_it_already():
    for loss in ({"ld_alpha": 0.5}, {"name": "simpo"}, {"name": "sigmoid_norm"}):
        assert codes(of(length=1.0), run=plan(**loss)) == ["train"]
    assert codes(of(length=1.0), run=plan(options={"label_smoothing": 0.1})) == ["anchor"]


def test_advice_is_ordered_and_of_the_closed_set():
    found = {code: N // 4 for code in KINDS}
    given = []
    for distance in (FAR_OFF_POLICY, FAR_OFF_POLICY + ABOVE, -2.9):
        figures = of(off_policy=distance, rejected=-3.0, style=1.0, length=1.0)
        given.append([a.code for a in verdict(found, N, figures, plan(epochs=9))])
    assert given[0] == [code for code in ADVICE if code not in ("sft_first", "learnt", "train")]
    assert given[1:] == [["mend", "sft_first"], ["mend", "learnt"]]


def test_settings_that_are_advised_can_be_set():
    advice = verdict({}, N, of(off_policy=0.5, style=1.0, length=1.0), plan(epochs=9))
    config = load_config(None, commands(advice)[-1].settings)
    assert (config.loss.names, config.training.epochs) == (["sigmoid", "sft"], 1)
    assert RunConfig().loss.names == ["sigmoid"]
