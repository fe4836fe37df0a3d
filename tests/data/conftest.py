"""Tokenizers of families, and rows that a command must refuse."""

import json

import pytest

from mlx_dpo.demo.tiny_models import write_tokenizer

from ..support.family_prompts import FAMILIES, REAL
from ..support.mistakes import NO_MODEL, write


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A tokenizer folder by family, made when first asked for."""
    root = tmp_path_factory.mktemp("tokenizers")

    def get(name):
        folder = root / name
        if not folder.exists():
            folder.mkdir()
            write_tokenizer(folder, FAMILIES[name], REAL, 400)
            eos = FAMILIES[name].special.index(FAMILIES[name].end)
            (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": eos}))
        return folder

    return get


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def refused_rows(refused_at, tmp_path):
    """A command must refuse the rows of a case: (content, line, phrase, remedy, code)."""

    def check(command, case):
        content, line, phrase, remedy, code = case
        if content is not None:
            write(tmp_path / "rows.jsonl", content)
        refused_at(f"{command} {NO_MODEL}", f"rows.jsonl{line}", phrase, remedy, code)

    return check
