"""Options of losses as settings: checked against the configured losses, and read from older files."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_dpo.cli import main
from mlx_dpo.config import MOVED, RunConfig, load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.resume import up_to_date
from mlx_dpo.losses import LOSSES, LossConfig, register_loss
from mlx_dpo.settings import save_settings

from ..support.mistakes import assert_told

NULL = "".join(f"  {name.partition('.')[2]}: null\n" for name in MOVED)
"""What every settings file of an earlier version has in its section `loss`."""


def refusal(path, *overrides):
    with pytest.raises(DpoError) as caught:
        load_config(path, overrides)
    return caught.value


@pytest.mark.parametrize("text", ["1", "1.0", "1e0", "'1'"])
def test_an_option_is_a_number_however_it_is_written(text, tmp_path):
    """PyYAML reads 1e0 as text."""
    path = tmp_path / "run.yaml"
    path.write_text(f"loss: {{name: simpo, options: {{simpo_gamma: {text}}}}}\n")
    for config in (
        load_config(path),
        load_config(None, ["loss.name=simpo", f"loss.options.simpo_gamma={text}"]),
        load_config(None, ["loss.name=simpo", f"loss.options={{simpo_gamma: {text}}}"]),
    ):
        assert config.loss.options == {"simpo_gamma": 1.0}
        assert type(config.loss.options["simpo_gamma"]) is float


def test_an_option_that_is_null_is_the_losss_own():
    given = ["loss.name=simpo", "loss.options.simpo_gamma=1", "loss.options.simpo_gamma=null"]
    assert load_config(None, given).loss == LossConfig(name="simpo")


def test_options_written_to_a_file_and_read_again_are_equal(tmp_path):
    config = load_config(None, ["loss.name=[simpo, cpo]", "loss.options={simpo_gamma: 1, cpo_alpha: 1e-3}"])
    save_settings(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("loss", "option", "what", "hint"),
    [
        (
            "simpo",
            "simpo_gama=1",
            "loss.options.simpo_gama is not an option of simpo",
            "choose from simpo_gamma; did you mean simpo_gamma?",
        ),
        (
            "sigmoid",
            "simpo_gamma=1",
            "loss.options.simpo_gamma is an option of simpo, not of sigmoid",
            "sigmoid takes label_smoothing",
        ),
        ("sft", "x=1", "loss.options.x is not an option of sft", "sft takes no options"),
        (
            "simpo",
            "gamma_beta_ratio=0.5",
            "loss.options.gamma_beta_ratio is not an option of simpo",
            "did you mean loss.options.simpo_gamma? simpo_gamma = gamma_beta_ratio · beta.value. "
            "choose from simpo_gamma",
        ),
        (
            "simpo",
            "simpo_gamma=much",
            "loss.options.simpo_gamma must be a number, got 'much'",
            "simpo: margin that the loss asks for",
        ),
        (
            "simpo",
            "simpo_gamma=-1",
            "loss.options.simpo_gamma must be at least 0, got -1.0",
            "simpo: margin that the loss asks for",
        ),
    ],
)
def test_an_option_that_no_configured_loss_takes_so_is_refused(loss, option, what, hint, tmp_path):
    error = refusal(None, f"loss.name={loss}", f"loss.options.{option}")
    name, _, value = option.partition("=")
    assert (error.what, error.where, error.hint) == (what, f"--set loss.options.{name}", hint)
    path = tmp_path / "run.yaml"
    path.write_text(f"loss:\n  name: {loss}\n  options:\n    {name}: {value}\n")
    error = refusal(path)
    assert (error.what, error.where, error.hint) == (what, f"{path}:4", hint)


def test_options_that_are_no_mapping_are_refused():
    assert refusal(None, "loss.options=1").what == "loss.options must be a mapping, got 1"


def test_every_option_is_explained_with_the_losses_that_take_it(capsys):
    with pytest.raises(SystemExit):
        main(["config", "--json"])
    rows = {row["name"]: row["help"] for row in json.loads(capsys.readouterr().out)["settings"]}
    for loss, known in LOSSES.items():
        for name, option in known.options.items():
            told = [part for part in rows["loss.options"].split("; ") if option.help in part and name in part]
            assert loss in told[0]


# ---- earlier versions


@pytest.mark.parametrize("old", MOVED)
@pytest.mark.parametrize("prefix", ["", "loss.", "training."])
def test_an_old_name_is_answered_with_where_the_setting_is_now(old, prefix):
    option = old.partition(".")[2]
    error = refusal(None, f"{prefix}{option}=0.2")
    assert_told(
        error, f"--set {prefix}{option}", f"'{prefix}{option}'", f"did you mean loss.options.{option}?"
    )


def test_a_file_of_an_earlier_version_is_read_and_what_moved_is_said_once(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("loss:\n  name: simpo\n" + NULL.replace("simpo_gamma: null", "simpo_gamma: 1e-1"))
    for _ in range(2):
        assert load_config(path).loss == LossConfig(name="simpo", options={"simpo_gamma": 0.1})
    assert capsys.readouterr().err == f"{path}:6: loss.simpo_gamma is now called loss.options.simpo_gamma\n"


def test_old_names_that_are_null_are_left_out_without_a_word(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("loss:\n" + NULL)
    assert load_config(tmp_path / "run.yaml") == RunConfig()
    assert capsys.readouterr().err == ""


def test_an_old_name_that_is_merged_from_another_section_is_moved_too(tmp_path):
    (tmp_path / "run.yaml").write_text("loss: &a {label_smoothing: 0.1}\nbeta: {}\n")
    assert load_config(tmp_path / "run.yaml").loss.options == {"label_smoothing": 0.1}
    (tmp_path / "run.yaml").write_text("loss: {<<: {label_smoothing: 0.1}}\n")
    assert load_config(tmp_path / "run.yaml").loss.options == {"label_smoothing": 0.1}


def test_a_wrong_value_under_an_old_name_is_refused_with_its_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("loss:\n  label_smoothing: 2\n")
    error = refusal(path)
    assert (error.what, error.where) == (
        "loss.options.label_smoothing must be below 0.5, got 2.0",
        f"{path}:2",
    )


def test_an_old_and_a_new_name_in_one_file_are_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("loss:\n  label_smoothing: 0.1\n  options: {label_smoothing: 0.2}\n")
    error = refusal(path)
    assert_told(error, f"{path}:2", "loss.options.label_smoothing", "remove loss.label_smoothing")


def test_settings_in_a_checkpoint_of_an_earlier_version_are_those_of_today():
    """All old names are in its key, and null where they were not set."""
    old = {"loss.name": "sigmoid", **dict.fromkeys(MOVED), "loss.label_smoothing": 0.1}
    layout = {"gradient_checkpointing": "on", "branches": "joint", "epochs": 1, "learning_rate": 2e-5}
    now = up_to_date({"layout": layout, "key": {"settings": old}})["key"]["settings"]
    assert now["loss.options.label_smoothing"] == 0.1
    assert [name for name in now if name.startswith("loss.options")] == ["loss.options.label_smoothing"]
    assert not now.keys() & MOVED.keys()


# ---- a loss of one's own


@pytest.fixture
def squared():
    @register_loss("squared", source="nobody")
    def squared(pairs, beta, *, goal: float = 1.0):
        return mx.square(beta * pairs.margins - goal)

    yield "squared"
    del LOSSES["squared"]


def test_a_loss_that_is_registered_later_is_a_choice_with_its_option(squared):
    config = load_config(None, [f"loss.name={squared}", "loss.options.goal=2"])
    assert config.loss.options == {"goal": 2.0}
    assert refusal(None, "loss.goal=2").hint == "did you mean loss.options.goal?"
    assert squared in refusal(None, "loss.name=sqared").hint


def test_an_option_is_declared_only_where_the_loss_takes_it():
    with pytest.raises(TypeError, match="mine has no keyword-only parameter gaol"):

        @register_loss("mine", source="nobody", options={"gaol": LOSSES["simpo"].options["simpo_gamma"]})
        def mine(pairs, beta, *, goal=1.0):
            return pairs.margins

    assert "mine" not in LOSSES


def test_the_settings_files_of_the_project_have_no_old_name():
    for path in (Path(__file__).parents[2] / "config").glob("*.yaml"):
        assert not [name for name in MOVED if f"\n  {name.partition('.')[2]}:" in path.read_text()]
