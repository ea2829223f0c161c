"""Writes the same few rows in every format that Medley reads, with pyarrow, datasets and zstandard.

    python tests/reference/data_formats.py tests/fixtures/data_formats

`rows.jsonl` and `chat.jsonl` are the originals; every other file must give exactly their conversations.
The files are small and, with the versions of requirements.txt, the same bytes every time.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import zstandard

ROWS = [
    {"instruction": "Say hello.", "input": "", "output": "Hello.", "task_name": "qa"},
    {"instruction": "Quote \"this\", please", "input": "a, b\tc\nd", "output": "\"a, b\tc\nd\"", "task_name": "qa"},
    {"instruction": "翻译：早上好", "input": "é ü 🎉", "output": "Good morning", "task_name": None},
    {"instruction": "Label it.", "input": "fine\\n", "output": "7", "task_name": "label"},
    {"instruction": "True or false?", "input": "x", "output": "true", "task_name": "label"},
    {"instruction": " spaces kept ", "input": None, "output": " yes ", "task_name": None},
]
CHAT = [
    {"conversations": [{"from": "human", "value": "1?"}, {"from": "gpt", "value": "one"}], "system": None},
    {
        "conversations": [
            {"from": "human", "value": "a\nb"},
            {"from": "gpt", "value": "é"},
            {"from": "human", "value": "and?"},
            {"from": "gpt", "value": ""},
        ],
        "system": "Be brief.",
    },
    {"conversations": [{"from": "human", "value": "\"2\""}, {"from": "gpt", "value": "two"}], "system": None},
]


def json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def delimited(rows: list[dict], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def stream(table: pa.Table, path: Path, options: pa.ipc.IpcWriteOptions | None = None) -> None:
    with pa.ipc.new_stream(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=4)


def file_form(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)


def odd_types(table: pa.Table) -> pa.Table:
    """The same rows in the types that pandas, polars and Spark like: large, dictionary and view strings; and
    a column of a type that is not read, which nobody asks for."""
    columns = {
        "instruction": table["instruction"].cast(pa.large_string()),
        "input": table["input"].cast(pa.string_view()),
        "output": table["output"].cast(pa.string()).dictionary_encode(),
        "task_name": table["task_name"].cast(pa.large_string()),
        "when": pa.array([0] * len(table), pa.timestamp("us")),
    }
    return pa.table(columns)


def saved(rows: list[dict], folder: Path, **options) -> None:
    dataset = datasets.Dataset.from_list(rows)
    dataset._fingerprint = "0" * 16
    dataset.save_to_disk(folder, **options)


def main(out: Path) -> None:
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    datasets.disable_progress_bars()

    lines = json_lines(ROWS)
    (out / "rows.jsonl").write_bytes(lines)
    (out / "chat.jsonl").write_bytes(json_lines(CHAT))
    array = json.dumps(ROWS, ensure_ascii=False, indent=1).encode()
    (out / "rows.json").write_bytes(array)
    (out / "rows.csv").write_bytes(delimited(ROWS, ","))
    (out / "rows.tsv").write_bytes(delimited(ROWS, "\t"))
    for name, data in [("jsonl", lines), ("json", array), ("csv", delimited(ROWS, ","))]:
        (out / f"rows.{name}.gz").write_bytes(gzip.compress(data, mtime=0))
        (out / f"rows.{name}.zst").write_bytes(zstandard.ZstdCompressor().compress(data))

    table, chat = pa.Table.from_pylist(ROWS), pa.Table.from_pylist(CHAT)
    for codec in ["snappy", "zstd", "gzip", "none"]:
        pq.write_table(table, out / f"rows.{codec}.parquet", compression=codec, row_group_size=4)
    pq.write_table(table, out / "rows.v2.parquet", data_page_version="2.0", use_dictionary=False)
    pq.write_table(odd_types(table), out / "odd.parquet")
    pq.write_table(chat, out / "chat.parquet")
    stream(table, out / "rows.stream.arrow")
    file_form(table, out / "rows.file.arrow")
    stream(odd_types(table), out / "odd.arrow")
    stream(chat, out / "chat.arrow")

    # A column of numbers or booleans where text is read.
    numbers = pa.table({
        "instruction": ["a", "b", "c"],
        "output": pa.array([1, -2, 3], pa.int8()),
        "system": pa.array([0.1, None, 2.0], pa.float32()),
        "input": [True, False, None],
    })
    pq.write_table(numbers, out / "numbers.parquet")
    # What is refused by the column's name.
    dates = pa.table({"instruction": ["a"], "output": pa.array([0], pa.timestamp("s"))})
    pq.write_table(dates, out / "dates.parquet")
    nested = pa.table({"instruction": ["a"], "output": [["b"]]})
    pq.write_table(nested, out / "nested.parquet")
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["output", "output"])
    stream(twice, out / "twice.arrow")
    stream(table.slice(0, 0), out / "none.arrow")

    saved(ROWS, out / "saved", num_shards=2)
    saved(CHAT, out / "saved_chat")
    splits = {"train": ROWS[:4], "validation": ROWS[4:]}
    both = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})
    for split in both.values():
        split._fingerprint = "0" * 16
    both.save_to_disk(out / "splits")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
