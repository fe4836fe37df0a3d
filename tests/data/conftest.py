"""Tokenizers of families, and rows that a command must refuse."""

import json

import pytest

from mlx_dpo.demo.tiny_models import write_tokenizer

from ..support import mistakes
from ..support.family_prompts import FAMILIES, REAL
from ..support.mistakes import NO_MODEL, lines


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
            mistakes.write(tmp_path / "rows.jsonl", content)
        refused_at(f"{command} {NO_MODEL}", f"rows.jsonl{line}", phrase, remedy, code)

    return check


@pytest.fixture
def write(tmp_path):
    def to(name, content):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return to


@pytest.fixture
def file_of(tmp_path):
    def write(*rows):
        (tmp_path / "rows.jsonl").write_text(lines(*rows))
        return tmp_path / "rows.jsonl"

    return write
