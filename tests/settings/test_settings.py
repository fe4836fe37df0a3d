"""Settings: which of several values counts, what is refused and where, and that a run's file repeats it."""

import dataclasses
import re

import pytest
import yaml

from mlx_dpo.config import RunConfig, load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.settings import as_plain, build, described, save_settings, setting, to_yaml
from mlx_dpo.settings_file import Tree, read_yaml

from ..conftest import ROOT
from ..support.mistakes import IN_BETA, assert_told

DESIGN_EXAMPLE = """\
model:     {path: ibm-granite/granite-4.0-h-micro, adapter: null}   # adapter: start from this one (e.g. SFT)
data:      {train: data/pairs/train.jsonl, valid: data/pairs/valid.jsonl, max_length: 1024}
adapter:   {type: lora, rank: 16, scale: 2.0, dropout: 0.0, layers: -1, targets: all}
loss:      {name: sigmoid}
beta:      {rule: fixed, value: 0.1}            # rule: fixed | risk | beta_dpo
optimizer: {name: adamw, learning_rate: 5.0e-6, schedule: cosine, warmup_ratio: 0.1, grad_clip: 1.0}
training:  {epochs: 1, micro_batch: 1, accumulation: 8, gradient_checkpointing: auto, forward: auto, seed: 0}
run:       {output: runs/granite-dpo, report_to: [jsonl]}
"""


@pytest.fixture
def write_yaml(tmp_path):
    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


def leaves(plain, prefix=""):
    """Dotted name to value of nested plain settings."""
    found = {}
    for key, value in plain.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def refusal(path, *overrides):
    with pytest.raises(DpoError) as caught:
        load_config(path, overrides)
    return caught.value


def test_an_override_beats_the_file_and_the_file_beats_the_default(write_yaml):
    path = write_yaml("adapter:\n  rank: 8\n  scale: 3.0\nbeta:\n  value: 0.3\n")
    config = load_config(path, ["adapter.rank=4"])
    assert config.adapter.rank == 4
    assert config.adapter.scale == 3.0
    assert config.beta.value == 0.3
    assert config.adapter.layers == -1
    assert config.optimizer == RunConfig().optimizer


def test_of_two_overrides_the_later_counts():
    assert load_config(None, ["adapter.rank=4", "adapter.rank=5"]).adapter.rank == 5


def test_an_override_leaves_its_neighbours_in_the_file_alone(write_yaml):
    path = write_yaml("adapter: {rank: 8, scale: 3.0}\n")
    assert load_config(path, ["adapter.rank=4"]).adapter.scale == 3.0


def test_without_a_file_the_settings_are_the_dataclass_defaults():
    assert load_config(None) == RunConfig()
    assert load_config(None, []).beta.value == 0.1


@pytest.mark.parametrize("text", ["1e-6", "1E-6", "1.0e-6", "0.000001", "'1e-6'"])
def test_a_number_is_a_float_however_it_is_written(write_yaml, text):
    for config in (
        load_config(write_yaml(f"optimizer:\n  learning_rate: {text}\n")),
        load_config(None, [f"optimizer.learning_rate={text}"]),
    ):
        assert config.optimizer.learning_rate == 1e-6
        assert type(config.optimizer.learning_rate) is float


def test_a_whole_number_is_a_float_where_a_float_is_wanted():
    assert type(load_config(None, ["adapter.scale=20"]).adapter.scale) is float


@pytest.mark.parametrize("text", [".nan", "nan", ".inf", "-inf", "1e400", "true", "[1]", "many"])
def test_what_is_no_finite_number_is_refused_where_a_number_is_wanted(text):
    error = refusal(None, f"optimizer.weight_decay={text}")
    assert error.what.startswith("optimizer.weight_decay must be a number, got ")
    assert error.where == "--set optimizer.weight_decay"


@pytest.mark.parametrize(
    ("text", "expected"), [("off", "off"), ("on", "on"), ('"off"', "off"), ("auto", "auto")]
)
def test_bare_on_and_off_are_words_where_they_are_choices(write_yaml, text, expected):
    path = write_yaml(f"training:\n  gradient_checkpointing: {text}\n")
    assert load_config(path).training.gradient_checkpointing == expected
    override = f"training.gradient_checkpointing={text}"
    assert load_config(None, [override]).training.gradient_checkpointing == expected


def test_on_is_not_a_word_where_it_is_no_choice(write_yaml):
    error = refusal(write_yaml("training:\n  forward: on\n"))
    assert error.what == "training.forward cannot be 'on'"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("model.adapter", "null", None),
        ("model.adapter", "runs/sft", "runs/sft"),
        ("data.train", "C: pairs", "C: pairs"),
        ("adapter.targets", "[q_proj, mamba.in_proj]", ["q_proj", "mamba.in_proj"]),
        ("pairs.keep_capped", "false", False),
        ("pairs.limit", "7", 7),
    ],
)
def test_an_override_is_read_as_the_type_of_its_setting(name, text, value):
    section, key = name.split(".")
    assert getattr(getattr(load_config(None, [f"{name}={text}"]), section), key) == value


@pytest.mark.parametrize(
    "text", ["2024_01_02", "2024-01-01", "1.10", "007", "on", "run #2", "a: b", "{x}", "a=b"]
)
def test_a_name_given_as_an_override_is_not_taken_for_a_number_or_a_comment(write_yaml, text):
    assert load_config(None, [f"run.output={text}"]).run.output == text
    assert load_config(None, [f"run.output='{text}'"]).run.output == text
    assert load_config(None, [f"model.adapter={text}"]).model.adapter == text
    assert load_config(write_yaml("run:\n  output: old\n"), [f"run.output={text}"]).run.output == text


@pytest.mark.parametrize("text", ["beta.value", "=1", "beta.=1", ".value=1", "beta value=1"])
def test_an_override_that_names_no_setting_is_refused_with_an_example(text):
    assert_told(refusal(None, text), "--set", repr(text), "--set beta.value=0.2")


TRACKED = "choose from jsonl, wandb, trackio, tensorboard; did you mean wandb?"


@pytest.mark.parametrize(
    ("text", "line", "phrase", "remedy"),
    [
        ("beta:\n  rule: fixed\n  valu: 0.2\n", 3, "'beta.valu'", "did you mean beta.value?"),
        ("\nadaptor:\n  rank: 8\n", 2, "'adaptor'", "did you mean adapter?"),
        ("beta:\n  zzz: 1\n", 2, "'beta.zzz'", IN_BETA),
        (
            "adapter:\n  rank: eight\n",
            2,
            "adapter.rank must be a whole number, got 'eight'",
            "rank of the update; a higher rank can learn more and needs more memory",
        ),
        ("adapter:\n  rank: 8.0\n", 2, "adapter.rank must be a whole number, got 8.0", None),
        ("adapter:\n  rank: true\n", 2, "adapter.rank must be a whole number, got True", None),
        ("adapter:\n  rank:\n", 2, "adapter.rank must be a whole number, got None", None),
        ("model:\n  path: [a, b]\n", 2, "model.path must be text, got ['a', 'b']", None),
        ("pairs:\n  keep_capped: 1\n", 2, "pairs.keep_capped must be true or false, got 1", None),
        ("pairs:\n  limit: few\n", 2, "pairs.limit must be a whole number or null, got 'few'", None),
        ("loss: {}\nbeta: 0.2\n", 2, "beta must be a section of settings, got 0.2", None),
        (
            "adapter:\n  type: lorra\n",
            2,
            "adapter.type cannot be 'lorra'",
            "choose from lora, dora, full; did you mean lora?",
        ),
        ("run:\n  report_to: [jsonl, wandbe]\n", 2, "run.report_to cannot be 'wandbe'", TRACKED),
        (
            "adapter:\n  scale: 2.0\n  rank: 0\n",
            3,
            "adapter.rank must be at least 1, got 0",
            "rank of the update; a higher rank can learn more and needs more memory",
        ),
        ("beta: {rule: fixed, value: -1}\n", 1, "beta.value must be at least 1e-06, got -1.0", None),
        ("beta:\n  value: 1\n  rule: fixed\n  value: 2\n", 4, "'beta.value' is written twice", None),
        ("beta: {}\nloss: {}\nbeta: {}\n", 3, "'beta' is written twice", "keep one"),
        (
            "beta:\n  value: 0.1\n rule: fixed\n",
            3,
            "'<block mapping start>'",
            "indentation",
        ),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line_and_remedy(write_yaml, text, line, phrase, remedy):
    path = write_yaml(text)
    assert_told(refusal(path), f"{path}:{line}", phrase, remedy or "")


def test_a_wrong_override_is_named_as_such_even_where_the_file_has_the_key_too(write_yaml):
    error = refusal(write_yaml("adapter:\n  rank: 8\n"), "adapter.rank=none")
    assert_told(error, "--set adapter.rank", "a whole number, got 'none'")


def test_a_missing_file_and_one_that_is_no_mapping_are_refused(tmp_path, write_yaml):
    assert refusal(tmp_path / "none.yaml").what == "no such file"
    assert "mapping of sections" in refusal(write_yaml("- a\n- b\n")).what


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "beta:\nadapter: {}\n"])
def test_an_empty_file_or_section_means_the_defaults(write_yaml, text):
    assert load_config(write_yaml(text)) == RunConfig()


CHANGED = [
    "model.path=modèle: n° 1",
    "model.adapter=runs/#3",
    "data.valid=null",
    "adapter.targets=[q_proj, 'off', '12']",
    "optimizer.learning_rate=1e-6",
    "beta.value=1e-5",
    "training.gradient_checkpointing=off",
    "training.eval_steps=7",
    "pairs.limit=3",
    "pairs.keep_capped=false",
    "run.output='2024-01-01'",
]


def test_settings_written_to_a_file_and_read_again_are_equal(tmp_path):
    config = load_config(None, CHANGED)
    assert config.adapter.targets == ["q_proj", "off", "12"]
    assert config.run.output == "2024-01-01"
    save_settings(config, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert build(RunConfig, read_yaml(tmp_path / "config.yaml")) == config
    assert to_yaml(as_plain(again)) == to_yaml(as_plain(config))


def test_a_long_path_survives_the_file(tmp_path):
    config = load_config(None, [f"run.output={'very long folder/' * 20}end"])
    save_settings(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_every_setting_is_described_with_its_default_and_help():
    rows = list(described(RunConfig))
    assert {name: default for name, default, _, _ in rows} == leaves(as_plain(RunConfig()))
    assert len(rows) == len({name for name, *_ in rows})
    assert all(text.strip() for _, _, text, _ in rows)
    for name, default, _, choices in rows:
        for value in default if isinstance(default, list) else [default]:
            assert not choices or value in choices, name


def test_a_list_default_is_not_shared_between_two_settings():
    @dataclasses.dataclass(frozen=True)
    class Section:
        names: list[str] = setting(["a"], "some names")

    first, second = Section(), build(Section, Tree({}, {}))
    first.names.append("b")
    assert second.names == ["a"]


def test_settings_cannot_be_changed_once_built():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_config(None).beta.value = 1.0


def test_the_example_of_the_design_loads(write_yaml):
    config = load_config(write_yaml(DESIGN_EXAMPLE))
    assert leaves(as_plain(config)) | leaves(yaml.safe_load(DESIGN_EXAMPLE)) == leaves(as_plain(config))
    assert config.optimizer.learning_rate == 5e-6


@pytest.mark.parametrize("name", ["granite_dpo", "demo", "risk_dpo", "beta_dpo"])
def test_the_projects_own_settings_files_load(name):
    path = ROOT / "config" / f"{name}.yaml"
    resolved = leaves(as_plain(load_config(path)))
    for key, value in leaves(yaml.safe_load(path.read_text())).items():
        assert resolved[key] == value, key


def test_the_granite_file_names_every_setting_with_a_comment():
    path = ROOT / "config" / "granite_dpo.yaml"
    assert set(leaves(yaml.safe_load(path.read_text()))) == {name for name, *_ in described(RunConfig)}
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"  \w+:", line):
            assert "  #" in line or lines[number - 1].startswith("  #"), f"no comment: {line.strip()}"
