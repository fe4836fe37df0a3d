"""Rows and files that nobody would write: each is read, or refused quickly and with a remedy."""

from contextlib import suppress

import pytest

from mlx_dpo.data.known_formats import NoPairError, detected
from mlx_dpo.data.own_format import (
    to_answer,
    to_answers,
    to_curated,
    to_curated_rows,
    to_pairs,
    to_preference,
)
from mlx_dpo.data.row_files import open_rows
from mlx_dpo.data.row_reader import RowReader
from mlx_dpo.data.tokenize import RowTokenizer
from mlx_dpo.data.unusable_rows import unused_columns
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


def as_format(row, where):
    """As a row of the format that it still has."""
    form = detected([row])
    for read in (to_pairs, to_answers, to_curated_rows):
        with suppress(NoPairError):
            read(row, where, form)
    list(unused_columns(row, form))


def read_file(file):
    list(RowReader(open_rows(file), to_pairs))


def test_every_file_of_rows_is_read_or_refused(tmp_path, tokenizers):
    file, faults = tmp_path / "rows.jsonl", {}
    for number, content in enumerate(files(0, CASES)):
        file.write_bytes(content)
        tokenizer = tokenizers[number % len(tokenizers)]
        if wrong := fault(lambda: read_file(file)):
            faults[number] = f"{wrong} of {content[:300]!r}"
        for line, _, text in read_lines(file):
            where = f"{file}:{line}"
            for kind in (as_pair, as_answer, as_curated):
                if wrong := fault(lambda k=kind, t=text, w=where: k(parse_line(t, w), w, tokenizer)):  # noqa: B023
                    faults[number, kind.__name__] = f"{wrong} of {text[:300]!r}"
            if wrong := fault(lambda t=text, w=where: as_format(parse_line(t, w), w)):
                faults[number, "format"] = f"{wrong} of {text[:300]!r}"
    assert faults == {}
