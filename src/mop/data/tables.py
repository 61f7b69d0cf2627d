"""Tables in memory and Parquet: columns to rows, values as Arrow or pandas hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mop.data.values import BadRow
from mop.errors import DataError

Row = Mapping[str, object]
Numbered = Iterator[tuple[int, Row | BadRow]]

MAX_UNPACKED_BYTES = 64 * 2**20
"""A packed file may always unpack to this much ..."""
MAX_RATIO = 100
"""... and beyond it to this many times its packed size: text packs 3 to 30 times, a bomb 1,000."""
MAX_SHORT_ROWS = 1_000_000
"""More rows than this need a byte each, or they are no people."""

NOT_UTF8 = BadRow("encoding", "has bytes that are not UTF-8; write the table again from its source")


def is_table(source: object) -> bool:
    """Whether it is a table of Arrow, polars or any library that shares tables in memory, but not of pandas."""
    return any(hasattr(source, name) for name in ("__arrow_c_stream__", "__arrow_c_array__", "__dataframe__"))


def arrow_table(source: Any) -> Any:
    """The same table as Arrow holds it.

    Raises
    ------
    DataError
        If it is one column, or no table.
    """
    import pyarrow as pa
    import pyarrow.interchange as interchange

    try:
        if hasattr(source, "__arrow_c_stream__"):
            return pa.table(source)
        if hasattr(source, "__arrow_c_array__"):
            return pa.Table.from_batches([pa.record_batch(source)])
        return interchange.from_dataframe(source)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"records cannot be read from a {type(source).__name__} ({error}); pass a table with a column for each part"
        ) from error


def arrow_rows(table: Any, wanted: Sequence[str], names: Sequence[str]) -> Numbered:
    """Rows of a table of Arrow, numbered from 1."""
    first = 1
    chosen = table.select([names.index(name) for name in wanted])
    for batch in chosen.to_batches(max_chunksize=8192):
        yield from enumerate(zipped(wanted, [values(column) for column in batch.columns], batch.num_rows), start=first)
        first += batch.num_rows


def parquet_columns(path: Path) -> tuple[str, ...]:
    """Names of the columns.

    Raises
    ------
    DataError
        If it cannot be read, or holds more rows than a file of its size can.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            n_rows, columns = file.metadata.num_rows, tuple(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(_bad_parquet(path)) from error
    if n_rows > max(MAX_SHORT_ROWS, path.stat().st_size):
        raise _too_much(path, f"{n_rows:,} rows from {path.stat().st_size:,} bytes")
    return columns


def parquet_rows(path: Path, wanted: Sequence[int], names: Sequence[str]) -> Numbered:
    """Rows of a Parquet file with the columns at these places, under these names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    limit, n_bytes, first = max(MAX_UNPACKED_BYTES, MAX_RATIO * path.stat().st_size), 0, 1
    try:
        with pq.ParquetFile(path) as file:
            columns = [file.schema_arrow.names[place] for place in wanted]
            for batch in file.iter_batches(batch_size=2048, columns=columns):
                n_bytes += batch.nbytes
                if n_bytes > limit:
                    raise _too_much(path, f"more than {limit:,} bytes")
                cells = [values(batch.column(name)) for name in columns]
                yield from enumerate(zipped(names, cells, batch.num_rows), start=first)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(_bad_parquet(path)) from error


def _bad_parquet(path: Path) -> str:
    return f"{path} cannot be read as Parquet; fetch or write it again"


def _too_much(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} unpacks to {what}, which is more than text does; if you trust the file, "
        "read it with pandas.read_parquet and write it as CSV, or pass the DataFrame"
    )


def values(column: Any) -> list[object]:
    """Turn an Arrow column into Python values: times as text, and short floats as they are written."""
    import pyarrow as pa

    kind = column.type
    try:
        if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
            return list(column.cast(pa.string()).to_pylist())
        if pa.types.is_float16(kind) or pa.types.is_float32(kind):
            return [
                None if value is None or value != value else float(str(value))
                for value in column.to_numpy(zero_copy_only=False)
            ]
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):  # text that a writer did not mark as such
            return [_decoded(raw) for raw in column.to_pylist()]
        return list(column.to_pylist())
    except pa.ArrowException:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_decoded(raw) for raw in column.cast(pa.large_binary()).to_pylist()]


def _decoded(raw: bytes | None) -> object:
    try:
        return None if raw is None else raw.decode("utf-8")
    except UnicodeDecodeError:
        return NOT_UTF8


def zipped(names: Sequence[str], columns: Sequence[Sequence[object]], n_rows: int) -> Iterator[Row]:
    """Turn columns into rows."""
    if not names:
        yield from ({} for _ in range(n_rows))
    for cells in zip(*columns, strict=True):
        yield dict(zip(names, cells, strict=True))


def checked_frame(frame: Any) -> Any:
    """A DataFrame of pandas; a named index is a column of it, as it is in the files that pandas writes.

    Raises
    ------
    DataError
        If it is something else of pandas.
    """
    if getattr(frame, "ndim", 0) != 2 or not hasattr(frame, "iloc"):
        raise DataError(
            f"records cannot be read from a pandas {type(frame).__name__}; pass a DataFrame with a column for each part"
        )
    named = [name for name in frame.index.names if name is not None and name not in frame.columns]
    return frame.reset_index(named) if named else frame


def frame_rows(frame: Any, wanted: Sequence[str], names: Sequence[str]) -> Numbered:
    """Rows of a DataFrame of pandas, numbered from 1."""
    parts = [frame.iloc[:, names.index(name)] for name in wanted]
    # pandas has four ways to say "missing"; all become None. A short float is what it is written as.
    cells = [
        [None if value != value else float(str(value)) for value in part.to_numpy()]
        if str(part.dtype) in {"float16", "float32"}
        else part.astype(object).where(part.notna(), None).tolist()
        for part in parts
    ]
    yield from enumerate(zipped(wanted, cells, len(frame)), start=1)
