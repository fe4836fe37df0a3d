"""Model and adapter folders with one thing wrong: each is read, or refused quickly and with a remedy."""

import random

import pytest

from mlx_dpo.data.conversation_tokens import end_of_turn
from mlx_dpo.models.adapters import read_adapter_config
from mlx_dpo.models.load import ModelConfig, find_model, load_tokenizer

from . import CASES
from .faults import fault
from .generate_folders import copy, damage


def as_model(folder):
    base = find_model(str(folder))
    end_of_turn(load_tokenizer(base, ModelConfig(str(folder))))


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_every_folder_is_read_or_refused(kind, tmp_path, models, trained):
    whole = models("llama") if kind == "model" else trained("llama")
    read = as_model if kind == "model" else read_adapter_config
    faults = {}
    for number in range(CASES // 10):
        folder = copy(whole, tmp_path / "folder")
        done = damage(random.Random(number), folder)
        if wrong := fault(lambda: read(folder)):  # noqa: B023
            faults[number, done] = wrong
    assert faults == {}
