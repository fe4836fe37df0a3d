"""Files to records."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..console import say
from ..errors import DpoError, quoted
from ..records import Curated, Preference, Prompt
from ..settings import Section, setting
from .own_format import to_curated_rows, to_pairs
from .prompts import PROMPT_COLUMNS, is_prompt, to_prompt
from .row_files import Rows, Source, open_rows
from .row_reader import Parse, Record, RowReader
from .unusable_rows import LeftOut, unused_text


@dataclass(frozen=True)
class DataConfig(Section):
    """The pairs to train on, and the held-out pairs."""

    train: str | list[str] = setting(
        "data/pairs/train.jsonl",
        "pairs to train on: a file, a folder, a data set on the Hub (org/name:split), or a list of these",
        path="read",
        also="data dataset dataset_name dataset_path data_path train_file train_data train_path "
        "train_dataset",
    )
    valid: str | list[str] | None = setting(
        "data/pairs/valid.jsonl",
        "held-out pairs for evaluation, named in the same way; null: train without held-out pairs",
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


def read_pairs(source: Source) -> list[Preference]:
    """All pairs of a file, or of what else `open_rows` takes.

    Raises:
        DpoError: a bad row, the same id twice, or no pairs.
    """
    return _read(source, to_pairs)


def read_curated(source: Source) -> list[Curated]:
    """All curated answers, or chosen answers of pairs; errors as for `read_pairs`."""
    return _read(source, to_curated_rows)


def read_questions(source: Source) -> list[Curated] | list[Prompt]:
    """All curated answers, or, if the first row has no answer, all prompts; errors as for `read_pairs`."""
    rows = open_rows(source)
    first = next(iter(RowReader(rows, lambda row, where, form: [])))
    if rows.part(first.number).form or not is_prompt(first.row):
        return read_curated(source)
    return _read(source, to_prompt, own=PROMPT_COLUMNS)


def _read(source: Source, parse: Parse[Record], own: Collection[str] = ()) -> list[Record]:
    rows = open_rows(source)
    reader = RowReader(rows, parse)
    records = [record for line in reader.good() for record in line.records]
    seen: dict[str, Record] = {}
    for record in records:
        if record.id in seen:
            raise doubled_id(seen[record.id], record)
        seen[record.id] = record
    unused = {name: count for name, count in reader.unused.items() if name not in own}
    say_of_rows(rows, reader.left_out, unused)
    if not records:
        raise no_pairs(rows, reader.left_out)
    return records


def say_of_rows(rows: Rows, left_out: LeftOut, unused: Mapping[str, int]) -> None:
    """Say what files are that do not have our own form, which rows make no pair, and unused columns."""
    for text in rows.descriptions():
        say(text)
    if left_out:
        say(left_out.text(rows.where))
    if unused:
        say(unused_text(rows.label, unused))


def no_pairs(rows: Rows, left_out: LeftOut) -> DpoError:
    """What to raise where no row makes a pair."""
    reasons = "; ".join(f"{count:,}: {reason}" for reason, (count, _) in left_out.found.items())
    return DpoError(f"has no row that makes a pair ({reasons})", where=rows.label, hint="give other rows")


def doubled_id(first: Record, second: Record) -> DpoError:
    """What to raise for two rows with the same id."""
    return DpoError(
        f"the id {quoted(second.id)} is also used at {first.where}",
        where=second.where,
        hint="every row needs a different id; rows without an id are called line-1, line-2, ...",
        code="duplicate-id",
    )
