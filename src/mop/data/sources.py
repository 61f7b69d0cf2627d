"""Files, tables and data sets to numbered rows; `data` makes records of them.

A row that cannot be read comes out as a `BadRow` in its place, so that one bad line costs one line.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mop.data.hub import is_offline
from mop.errors import DataError, require
from mop.types import unguarded, without_surrogates

Row = Mapping[str, object]

MAX_LINE_BYTES = 16 * 2**20
"""A longer line of JSON, or cell of a CSV, is no record; chosen, not tuned: the longest review we know has 14 kB."""
MAX_UNPACKED_BYTES = 64 * 2**20
"""A .gz may always unpack to this much ..."""
MAX_RATIO = 100
"""... and beyond it to this many times its packed size: text packs 3 to 30 times, a bomb 1,000."""

KINDS = ".csv, .tsv, .jsonl, .ndjson, .json (each also with .gz) or .parquet"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read: why, in a word and in a sentence, without its text."""

    code: str
    message: str


_OURS = ["id", "context", "response", "label", "persona", "exemplar", "temperature"]
"""How the columns of a CSV begin that `mop.simulate.rows` wrote: its cells may be guarded."""

NOT_UTF8 = BadRow("encoding", "has bytes that are not UTF-8; convert the file to UTF-8")
REPEATED_NAME = BadRow("repeated_name", "has two fields of the same name; keep one of them")


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from; nothing is read before `rows` is called and iterated."""

    name: str
    """As the user wrote it; empty for objects in memory."""
    unit: str
    """``line`` or ``row``: what the numbers count, from 1."""
    columns: tuple[str, ...] | None
    """Names in order; None if every row brings its own."""
    rows: Callable[[Sequence[str]], Iterator[tuple[int, Row | BadRow]]]
    """Called with the columns that are wanted; yields (number, row)."""

    def place(self, number: int) -> str:
        """Name a row for a person: ``reviews.csv:17``, ``reviews.parquet row 17`` or ``row 17``."""
        if self.unit == "line":
            return f"{self.name}:{number}"
        return f"{self.name} row {number}".lstrip()


def open_source(source: object) -> Source:
    """Find out what kind of source this is, and its columns; `mop.data.records.load_records` says what it may be.

    Raises
    ------
    DataError
        If it is of no known kind, or a file that is missing, unreadable or empty.
    MissingDependencyError
        If it is an ``hf:`` name and the package ``datasets`` is not installed.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        return _open_hub(source)
    if isinstance(source, str | os.PathLike):
        return _open_file(Path(source))
    if _is_from("datasets", source):
        return _open_dataset(source, name="")
    if _is_from("pandas", source):
        return _open_frame(source)
    if isinstance(source, Iterable) and not isinstance(source, Mapping | bytes | bytearray):
        return Source("", "row", None, lambda _: enumerate(map(_checked, source), start=1))
    raise DataError(
        f"records cannot be read from a {type(source).__name__}; give a path to "
        f"{KINDS}, 'hf:ORG/NAME', a datasets.Dataset, a pandas.DataFrame or a list of dicts"
    )


def json_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    r"""Yield (line number, object) for every line that is not blank.

    Lines end at ``\n`` and nowhere else: U+2028 and the like are ordinary characters of a text.

    Raises
    ------
    DataError
        If a .gz file is damaged or unpacks to more than the limit, or the file is UTF-16.
    """
    with _open_bytes(path) as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES):
            number += 1
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield number, BadRow("too_long", f"is longer than {MAX_LINE_BYTES:,} bytes")
            elif not line.isspace():
                yield number, _json_row(line)


def _is_from(package: str, source: object) -> bool:
    """Tell whether a class of that package made the object, without importing the package."""
    return any(base.__module__.partition(".")[0] == package for base in type(source).__mro__)


def _checked(row: object) -> Row | BadRow:
    """Let objects and bad rows pass; anything else is no row."""
    if isinstance(row, Mapping | BadRow):
        return row
    return BadRow("wrong_type", f"is a {type(row).__name__}; a row must be an object with fields")


# Files


def _open_file(path: Path) -> Source:
    if not path.is_file():
        raise DataError(_missing_file(path))
    name = path.name.lower()
    kind = Path(name.removesuffix(".gz")).suffix
    if kind in {".csv", ".tsv"}:
        return _open_delimited(path, "," if kind == ".csv" else "\t")
    if kind in {".jsonl", ".ndjson"} or (kind == ".json" and not _is_array(path)):
        return Source(str(path), "line", None, lambda _: json_rows(path))
    if kind == ".json":
        return Source(str(path), "row", None, lambda _: _array_rows(path))
    if kind == ".parquet" and name.endswith(".parquet"):
        return _open_parquet(path)
    raise DataError(f"{path} has the ending {path.suffix!r}, which is not known; rename or convert the file to {KINDS}")


def _missing_file(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder; name one of its files ({KINDS})"
    folder = path.parent
    names = [p.name for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    advice = f"did you mean {str(folder / near[0])!r}?" if near else "check the path"
    return f"there is no file {str(path)!r} to read; {advice}"


class _Gunzip(io.RawIOBase):
    """A .gz file as a stream that refuses to unpack without end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._limit = max(MAX_UNPACKED_BYTES, MAX_RATIO * path.stat().st_size)
        self._n_bytes = 0
        self._file = gzip.open(path, "rb")  # noqa: SIM115 - closed with this stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; damage and excess are errors of the whole file, not of one row."""
        try:
            n_bytes = self._file.readinto(buffer)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{self._path} is damaged: it cannot be unpacked beyond byte {self._n_bytes:,} "
                f"({error}); fetch or pack it again"
            ) from error
        self._n_bytes += n_bytes
        if self._n_bytes > self._limit:
            raise DataError(
                f"{self._path} unpacks to more than {self._limit:,} bytes; the limit is {MAX_RATIO} times the packed "
                f"size, or {MAX_UNPACKED_BYTES:,}; if you trust the file, unpack it yourself and load that"
            )
        return n_bytes

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_bytes(path: Path) -> io.BufferedReader[Any]:
    """Open a file for reading, unpacked, and behind its byte order mark."""
    try:
        raw = _Gunzip(path) if path.name.lower().endswith(".gz") else io.FileIO(path)
        stream = io.BufferedReader(raw, buffer_size=2**17)
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); check its permissions") from error
    start = stream.peek(4)[:4]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        stream.close()
        raise DataError(f"{path} is encoded as UTF-16; save it as UTF-8 and load it again")
    if start.startswith(b"\xef\xbb\xbf"):
        stream.read(3)
    return stream


def _open_delimited(path: Path, delimiter: str) -> Source:
    header: list[str] | BadRow = next((row for _, row in _delimited(path, delimiter)), [])
    if isinstance(header, BadRow) or not header:
        what = header.message if isinstance(header, BadRow) else "is missing: the file is empty"
        raise DataError(f"the header of {path} {what}; add a first line with the column names")
    is_ours = header[: len(_OURS)] == _OURS
    header = [unguarded(name) for name in header] if is_ours else header

    def rows(wanted: Sequence[str]) -> Iterator[tuple[int, Row | BadRow]]:
        indices = [(name, header.index(name)) for name in wanted]
        lines = _delimited(path, delimiter)
        next(lines)
        for number, cells in lines:
            if isinstance(cells, BadRow):
                yield number, cells
            elif len(cells) != len(header):
                message = f"has {len(cells)} cells where the header has {len(header)}"
                yield number, BadRow("cells", f"{message}; quote cells that hold a separator")
            else:
                yield number, {name: unguarded(cells[index]) if is_ours else cells[index] for name, index in indices}

    return Source(str(path), "line", tuple(header), rows)


def _delimited(path: Path, delimiter: str) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Yield (number of its first line, cells) for every row, the header included.

    A cell whose quote is not closed ends somewhere in later rows, with an error: its first line is the bad row, and the
    lines after it are read again, as rows of their own.
    """
    # The limit is one for the process; a wider one hurts nobody.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    with _open_bytes(path) as stream:
        # surrogateescape keeps the row countable: a broken byte becomes a lone surrogate, which
        # valid UTF-8 cannot hold, and is found below.
        text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")
        again: deque[str] = deque()
        taken: list[str] = []

        def lines() -> Iterator[str]:
            while line := again.popleft() if again else text.readline():
                taken.append(line)
                yield line

        reader, number = csv.reader(lines(), delimiter=delimiter, strict=True), 1
        while True:
            taken.clear()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                last = number + len(taken) - 1
                again_from = f"; lines {number + 1} to {last} were read again" if taken[1:] else ""
                message = f"is wrongly quoted ({error}){again_from}; fix the quotes"
                yield number, BadRow("cells", message)
                again.extendleft(reversed(taken[1:]))
                reader = csv.reader(lines(), delimiter=delimiter, strict=True)
                number += 1
                continue
            whole = "".join(cells)
            if without_surrogates(whole) != whole:
                yield number, NOT_UTF8
            elif cells:
                yield number, cells
            number += len(taken)


def _is_array(path: Path) -> bool:
    """Whether a ``.json`` file starts like an array; both that and lines are in use."""
    with _open_bytes(path) as stream:
        return stream.read(1024).lstrip().startswith(b"[")


def _array_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    with _open_bytes(path) as stream:
        try:
            items = _DECODER.decode(stream.read().decode("utf-8"))
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
            raise DataError(
                f"{path} is not a JSON array ({_json_fault(error)}) of objects in UTF-8; "
                "fix the file, or write one object a line (.jsonl)"
            ) from None  # the exception holds the whole text
    yield from enumerate(map(_checked, items), start=1)


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object] | BadRow:
    """Build an object, or notice that a name occurs twice, where `json` would keep the last."""
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else REPEATED_NAME


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct)


def _json_row(line: bytes) -> Row | BadRow:
    try:
        return _checked(_DECODER.decode(line.decode("utf-8")))
    except UnicodeDecodeError:
        return NOT_UTF8
    except (ValueError, RecursionError) as error:
        return BadRow("bad_json", f"is not JSON ({_json_fault(error)}); write one object a line")


def _json_fault(error: ValueError | RecursionError) -> str:
    """Say what is wrong without quoting the text."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, character {error.pos + 1}"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start + 1}"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


# Tables


def _open_parquet(path: Path) -> Source:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(_bad_parquet(path)) from error

    def rows(wanted: Sequence[str]) -> Iterator[tuple[int, Row | BadRow]]:
        try:
            with pq.ParquetFile(path) as file:
                first = 1
                for batch in file.iter_batches(batch_size=8192, columns=list(wanted)):
                    values = [_values(batch.column(name)) for name in wanted]
                    yield from enumerate(_zipped(wanted, values, batch.num_rows), start=first)
                    first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(_bad_parquet(path)) from error

    return Source(str(path), "row", columns, rows)


def _bad_parquet(path: Path) -> str:
    return f"{path} cannot be read as Parquet; fetch or write it again"


def _values(column: Any) -> list[object]:
    """Turn an Arrow column into Python values; a text that is not UTF-8 becomes `NOT_UTF8`."""
    import pyarrow as pa

    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_decoded(raw) for raw in column.cast(pa.large_binary()).to_pylist()]


def _decoded(raw: bytes | None) -> object:
    try:
        return None if raw is None else raw.decode("utf-8")
    except UnicodeDecodeError:
        return NOT_UTF8


def _zipped(names: Sequence[str], columns: Sequence[Sequence[object]], n_rows: int) -> Iterator[Row]:
    """Turn columns into rows."""
    if not names:
        yield from ({} for _ in range(n_rows))
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _open_frame(frame: Any) -> Source:
    if getattr(frame, "ndim", 0) != 2 or not hasattr(frame, "iloc"):
        raise DataError(
            f"records cannot be read from a pandas {type(frame).__name__}; pass a DataFrame with a column for each part"
        )
    columns = tuple(str(name) for name in frame.columns)

    def rows(wanted: Sequence[str]) -> Iterator[tuple[int, Row | BadRow]]:
        parts = [frame.iloc[:, columns.index(name)] for name in wanted]
        # pandas has four ways to say "missing"; all become None.
        values = [part.astype(object).where(part.notna(), None).tolist() for part in parts]
        yield from enumerate(_zipped(wanted, values, len(frame)), start=1)

    return Source("", "row", columns, rows)


# Hugging Face data sets

_HUB = re.compile(
    r"hf:(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(/(?P<subset>[^@:/]+))?(@(?P<revision>[^@:]+))?(:(?P<split>.+))?"
)


_HUB_FORM = "'hf:ORG/NAME[/SUBSET][@REVISION][:SPLIT]'"


def _open_hub(source: str) -> Source:
    match = _HUB.fullmatch(source)
    if match is None:
        raise DataError(
            f"{source!r} does not name a data set; write {_HUB_FORM}, for example 'hf:stanfordnlp/imdb:test'"
        )
    if Path(match["name"]).exists():
        raise DataError(
            f"a folder {match['name']!r} lies here, and the package datasets would read it in place of {source!r}; "
            "run the command in another folder, or give a file of that folder by its path"
        )
    if is_offline():
        raise DataError(
            f"MOP_OFFLINE=1 forbids fetching {source!r}; save it as a file once (with MOP_OFFLINE unset: "
            f"datasets.load_dataset({match['name']!r}, split=...).to_parquet('data.parquet')) and give that file"
        )
    datasets = require("datasets", extra="datasets")
    split = match["split"] or "train"
    try:
        dataset = datasets.load_dataset(match["name"], match["subset"], split=split, revision=match["revision"])
    except (OSError, ValueError) as error:  # what `datasets` raises for names, splits, the network
        raise DataError(
            f"the data set {source!r} cannot be loaded ({error}); "
            f"check the name, the split and the network; the form is {_HUB_FORM}"
        ) from error
    return _open_dataset(dataset, name=source)


def _open_dataset(dataset: Any, *, name: str) -> Source:
    if isinstance(dataset, Mapping):
        splits = ", ".join(repr(key) for key in dataset)
        raise DataError(
            f"this is a dictionary of data sets with the splits {splits}; "
            f"pass one of them, as in dataset[{next(iter(dataset), 'train')!r}]"
        )
    features = dataset.features or {}

    def rows(wanted: Sequence[str]) -> Iterator[tuple[int, Row | BadRow]]:
        # Only the wanted columns, as plain Python values: a picture column would be decoded.
        table = dataset.select_columns(list(wanted)).with_format(None)
        first = 1
        for batch in table.iter(batch_size=1000):
            columns = [_class_names(batch[name], features.get(name)) for name in wanted]
            n_rows = len(columns[0]) if columns else 0
            yield from enumerate(_zipped(wanted, columns, n_rows), start=first)
            first += n_rows

    columns = dataset.column_names
    return Source(name, "row", None if columns is None else tuple(columns), rows)


def _class_names(values: list[object], feature: object) -> list[object]:
    """Spell out class numbers (``ClassLabel``); -1 means that the label is missing."""
    names = getattr(feature, "names", None)
    if names is None:
        return values
    return [names[v] if isinstance(v, int) and 0 <= v < len(names) else None for v in values]
