"""Files to records."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..console import say
from ..errors import DpoError, quoted
from ..records import Curated, Preference, Prompt
from ..settings import Section, setting
from .foreign_rows import unused_text
from .formats import to_curated, to_pairs
from .prompts import PROMPT_COLUMNS, is_prompt, to_prompt
from .row_reader import Parse, Record, RowReader


@dataclass(frozen=True)
class DataConfig(Section):
    """The pairs to train on, and the held-out pairs."""

    train: str = setting(
        "data/pairs/train.jsonl",
        "file of pairs to train on",
        path="read",
        also="data dataset dataset_name dataset_path data_path train_file train_data train_path "
        "train_dataset",
    )
    valid: str | None = setting(
        "data/pairs/valid.jsonl",
        "file of held-out pairs for evaluation; null: train without held-out pairs",
        path="read",
        also="validation eval test dev eval_dataset eval_file valid_file val_file validation_file val_data "
        "valid_data valid_path test_file",
    )
    max_length: int = setting(
        1024,
        "maximum length of prompt plus answer, in tokens; longer answers are cut, both answers of a pair at "
        "the same length",
        least=8,
        most=10_000_000,
        also={
            "max_seq_length max_seq_len seq_length seq_len cutoff_len max_sequence_length "
            "sequence_len model_max_length": "",
            "max_prompt_length max_completion_length": "it counts prompt and answer together.",
        },
    )


def read_pairs(path: Path | str) -> list[Preference]:
    """All pairs of a JSONL file.

    Raises:
        DpoError: a bad row, the same id twice, or no rows.
    """
    return _read(path, to_pairs)


def read_curated(path: Path | str) -> list[Curated]:
    """All curated answers of a JSONL file; errors as for `read_pairs`."""
    return _read(path, lambda row, where: [to_curated(row, where)])


def read_questions(path: Path | str) -> list[Curated] | list[Prompt]:
    """All curated answers of a JSONL file, or, if its first row has no answer, all its prompts.

    Raises:
        DpoError: as for `read_pairs`.
    """
    first = next(iter(RowReader(path, lambda row, where: [])))
    if not is_prompt(first.row):
        return read_curated(path)
    return _read(path, lambda row, where: [to_prompt(row, where)], own=PROMPT_COLUMNS)


def _read(path: Path | str, parse: Parse[Record], own: Collection[str] = ()) -> list[Record]:
    reader = RowReader(path, parse)
    records = [record for line in reader.good() for record in line.records]
    seen: dict[str, Record] = {}
    for record in records:
        if record.id in seen:
            raise doubled_id(seen[record.id], record)
        seen[record.id] = record
    if unused := {name: count for name, count in reader.unused.items() if name not in own}:
        say(unused_text(path, unused))
    return records


def doubled_id(first: Record, second: Record) -> DpoError:
    """What to raise for two rows with the same id."""
    return DpoError(
        f"the id {quoted(second.id)} is also used at {first.where}",
        where=second.where,
        hint="every row needs a different id; rows without an id are called line-1, line-2, ...",
        code="duplicate-id",
    )
