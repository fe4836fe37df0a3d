"""Rows and files that nobody would write: each is read, or refused quickly and with a remedy."""

import pytest

from mlx_dpo.data.foreign_files import check_is_jsonl
from mlx_dpo.data.foreign_rows import unused_columns
from mlx_dpo.data.formats import to_answer, to_curated, to_preference
from mlx_dpo.data.tokenize import RowTokenizer
from mlx_dpo.models.load import ModelConfig, load_tokenizer
from mlx_dpo.pairs.completions import request_key
from mlx_dpo.storage.jsonl import parse_line, read_lines

from ..support.families import FAMILIES, write_family
from . import CASES
from .faults import fault
from .generate_rows import files


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """One of every family, and a plain one."""
    made = []
    for name, form in FAMILIES.items():
        folder = tmp_path_factory.mktemp(name)
        write_family(folder, form)
        made.append(load_tokenizer(folder, ModelConfig(str(folder))))
    return made


def as_pair(row, where, tokenizer):
    RowTokenizer(tokenizer, 256).pair(to_preference(row, where))


def as_answer(row, where, tokenizer):
    RowTokenizer(tokenizer, 256, answers=True).pair(to_answer(row, where))


def as_curated(row, where, tokenizer):
    request_key(to_curated(row, where))


def test_every_file_of_rows_is_read_or_refused(tmp_path, tokenizers):
    file, faults = tmp_path / "rows.jsonl", {}
    for number, content in enumerate(files(0, CASES)):
        file.write_bytes(content)
        tokenizer = tokenizers[number % len(tokenizers)]
        if wrong := fault(lambda: check_is_jsonl(file)):
            faults[number] = wrong
        for line, _, text in read_lines(file):
            where = f"{file}:{line}"
            for kind in (as_pair, as_answer, as_curated):
                if wrong := fault(lambda k=kind, t=text, w=where: k(parse_line(t, w), w, tokenizer)):  # noqa: B023
                    faults[number, kind.__name__] = f"{wrong} of {text[:300]!r}"
            if wrong := fault(lambda t=text, w=where: list(unused_columns(parse_line(t, w)))):
                faults[number, "columns"] = wrong
    assert faults == {}
