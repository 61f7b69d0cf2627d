"""Responses as rows of a file: JSON Lines, Parquet or CSV, each with the columns that its record came with."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mop.errors import ArtifactError
from mop.storage.files import read_jsonl, write_atomic, write_jsonl
from mop.storage.typed import DamagedError, of_row
from mop.types import Response, guarded, unguarded, without_surrogates

SUFFIXES = (".jsonl", ".parquet", ".csv")
"""What a file of responses may be."""

_FIELDS = tuple(field for field in dataclasses.fields(Response) if field.name != "attributes")
_TAKEN = frozenset(field.name for field in dataclasses.fields(Response))
_REQUIRED = frozenset(field.name for field in _FIELDS if field.default is dataclasses.MISSING)
_HINTS = {field.name: str(field.type) for field in _FIELDS}
_PLAIN = {"int": int, "float": float}


def row_of(response: Response) -> dict[str, Any]:
    """Columns of a response, then its record's further ones; of these a name that is ours gets ``given_`` before it.

    Examples
    --------
    >>> from mop.types import Response
    >>> one = Response(id="a", context="", response="y", label=None, persona=None, exemplar=None, temperature=1.0,
    ...                log_pi=0.0, log_omega=0.0, seed=1, model="fake", prompt_version=1, finish_reason="stop",
    ...                n_tokens=2, attributes={"age": "32", "id": "7"})
    >>> {name: value for name, value in row_of(one).items() if name in ("id", "age", "given_id")}
    {'id': 'a', 'age': '32', 'given_id': '7'}
    """
    row = {field.name: getattr(response, field.name) for field in _FIELDS}
    for name, value in response.attributes.items():
        while name in _TAKEN or name in row:
            name = f"given_{name}"
        row[name] = value
    return row


def column_of(name: str) -> str:
    """Where `row_of` puts a record's column of this name."""
    return f"given_{name}" if name in _TAKEN else name


def write_responses(path: Path, responses: Iterable[Response]) -> int:
    """Write responses in the form that the file's name asks for; it appears, whole, after the last; return how many.

    JSON Lines are written as they come. Where a further column is missing in a row it is empty in CSV and Parquet.
    Cells of a CSV that a spreadsheet would take for a formula begin with an apostrophe, which reading takes off.
    Lone surrogates, which only JSON can hold, become U+FFFD in the other two. Equal rows give equal bytes, of
    Parquet by the same version of pyarrow.

    Raises
    ------
    ArtifactError
        If the disk is full or the file cannot be written; what was there before stays.
    """
    if path.suffix not in (".parquet", ".csv"):
        return write_jsonl(path, map(row_of, responses))
    rows = [
        {name: without_surrogates(value) if isinstance(value, str) else value for name, value in row_of(one).items()}
        for one in responses
    ]
    names = list(dict.fromkeys([*(field.name for field in _FIELDS), *(name for row in rows for name in row)]))
    write_atomic(path, _csv(names, rows) if path.suffix == ".csv" else _parquet(names, rows))
    return len(rows)


def read_responses(path: Path) -> Iterator[Response]:
    """Yield the responses of a file that `write_responses` wrote; further columns are attributes, as text.

    Raises
    ------
    ArtifactError
        If it is missing, or a row is no response of this version.
    """
    for number, row in enumerate(_rows(path), start=1):
        given = {name: value for name, value in row.items() if name in _TAKEN}
        further = {name: str(value) for name, value in row.items() if name not in _TAKEN and value not in (None, "")}
        try:
            response = of_row(Response, {**given, "attributes": further})
        except DamagedError as error:
            raise ArtifactError(
                f"{path}, row {number}: not a response ({error}); expected the columns "
                f"{', '.join(f.name for f in _FIELDS)}; simulate again"
            ) from error
        yield response


def holds_responses(path: Path) -> int | None:
    """How many responses a file has; None if it holds something else."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            found = pq.read_metadata(path)
            return int(found.num_rows) if set(found.schema.to_arrow_schema().names) >= _REQUIRED else None
        rows = [row.keys() >= _REQUIRED for row in _rows(path)]
        return len(rows) if rows and all(rows) else None
    except (ArtifactError, OSError, ValueError):
        return None


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".csv":
        yield from _read_csv(path)
    elif path.suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(path).to_pylist()
    else:
        yield from read_jsonl(path)


def _parquet(names: list[str], rows: list[dict[str, Any]]) -> bytes:
    """The types are given, not inferred, so that an all-empty column keeps its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"float": pa.float64(), "int": pa.int64()}
    schema = pa.schema(
        [
            pa.field(
                name,
                # a seed fills all 64 bits
                pa.uint64() if name == "seed" else numbers.get(_HINTS.get(name, ""), pa.string()),
                nullable="None" in _HINTS.get(name, "None"),
            )
            for name in names
        ]
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _csv(names: list[str], rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([guarded(name) for name in names])
    for row in rows:
        cells = (row.get(name) for name in names)
        writer.writerow([guarded(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue().encode("utf-8")


def _read_csv(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            csv.field_size_limit(max(csv.field_size_limit(), 2**24))
            for row in csv.DictReader(lines, restval="", strict=True):
                cells = {unguarded(name): unguarded(cell) for name, cell in row.items()}
                yield {
                    name: _PLAIN[_HINTS[name]](cell) if _HINTS.get(name) in _PLAIN
                    else None if not cell and "None" in _HINTS.get(name, "") else cell
                    for name, cell in cells.items()
                }  # fmt: skip
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ArtifactError(
            f"{path} cannot be read as responses: {error}; check the path, or write it again"
        ) from error
