"""The same rows as the content of files of several kinds."""

import csv
import io
import json

import pyarrow
import pyarrow.feather
import pyarrow.parquet

from ..support.mistakes import lines

ROWS = [
    {"prompt": "How 0?", "chosen": 'So,\n"well"', "rejected": "} {"},
    {"prompt": "How 1?", "chosen": "[1]\u2028so", "rejected": "Où?"},
    {"prompt": '{"a": 1}', "chosen": "So\t;", "rejected": "So\\"},
]
LINES = lines(*ROWS)


def table(delimiter, rows=ROWS):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def parquet(rows=ROWS, **more):
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink, **more)
    return sink.getvalue()


def arrow(rows=ROWS, new=pyarrow.ipc.new_file):
    sink, content = io.BytesIO(), pyarrow.Table.from_pylist(rows)
    with new(sink, content.schema) as writer:
        writer.write_table(content)
    return sink.getvalue()


PRETTY = json.dumps(ROWS, indent=2)
OBJECTS = [json.dumps(row, indent=2) for row in ROWS]
