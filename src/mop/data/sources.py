"""Files, tables and data sets to numbered rows; `data` makes records of them.

A row that cannot be read comes out as a `BadRow` in its place, so that one bad line costs one line.
"""

from __future__ import annotations

import difflib
import gzip
import io
import itertools
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mop.data import tables
from mop.data.delimited import DELIMITERS, MAX_CELL, NOT_UTF8, header_and_rows
from mop.data.formats import KINDS, content_of, errors_of, refuse_misnamed, unknown_ending
from mop.data.hub import is_offline
from mop.data.tables import MAX_RATIO, MAX_UNPACKED_BYTES, Numbered, Row, zipped
from mop.data.values import BadRow, stripped
from mop.errors import ConfigError, DataError, require
from mop.types import without_surrogates

__all__ = ["BadRow", "Row", "Source", "open_source"]

MAX_LINE = MAX_CELL
"""A longer line of JSON, or cell of a CSV, is no record; chosen, not tuned: the longest review we know has 14 kB."""

REPEATED_NAME = BadRow("repeated_name", "has two fields of the same name; keep one of them")


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from; nothing is read before `rows` is called and iterated."""

    name: str
    """As the user wrote it; empty for objects in memory."""
    unit: str
    """``line`` or ``row``: what the numbers count, from 1."""
    columns: tuple[str, ...] | None
    """Names in order, without blanks around them; None if every row brings its own."""
    rows: Callable[[Sequence[str]], Numbered]
    """Called with the columns that are wanted; yields (number, row). It can be called again."""
    note: str = ""
    """What a person should know about how it is read."""
    delimiter: str = ""
    """Of a CSV."""
    is_export: bool = True
    """Whether what programs write below the column names may be among the rows."""

    def place(self, number: int) -> str:
        """Name a row for a person: ``reviews.csv:17``, ``reviews.parquet row 17`` or ``row 17``."""
        if self.unit == "line":
            return f"{self.name}:{number}"
        return f"{self.name} row {number}".lstrip()


def open_source(source: object, *, encoding: str = "auto", delimiter: str = "auto") -> Source:
    """Find out what kind of source this is, and its columns; `mop.data.records.load_records` says what it may be.

    Raises
    ------
    DataError
        If it is of no known kind, or a file that is missing, unreadable or empty.
    ConfigError
        If encoding or delimiter is none.
    MissingDependencyError
        If it is an ``hf:`` name and the package ``datasets`` is not installed.
    """
    delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
    if delimiter != "auto" and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ConfigError(f"data.delimiter must be auto, tab or one character such as ; or |, got {delimiter!r}")
    if isinstance(source, str) and source.startswith("hf:"):
        return _open_hub(source)
    if isinstance(source, str | os.PathLike):
        return _open_file(Path(source).expanduser(), encoding, delimiter)
    if _is_from("datasets", source):
        return _open_dataset(source, name="")
    if _is_from("pandas", source):
        frame = tables.checked_frame(source)
        columns = _names(frame.columns)
        return Source("", "row", columns, lambda wanted: tables.frame_rows(frame, wanted, columns))
    if tables.is_table(source):
        table = tables.arrow_table(source)
        names = _names(table.column_names)
        return Source("", "row", names, lambda wanted: tables.arrow_rows(table, wanted, names))
    if hasattr(source, "collect") and hasattr(source, "lazy"):
        raise DataError(
            f"records cannot be read from a {type(source).__name__} before it is collected; pass .collect()"
        )
    if isinstance(source, Iterable) and not isinstance(source, Mapping | bytes | bytearray):
        rows = source if isinstance(source, Sequence) else list(source)
        return Source("", "row", None, lambda _: enumerate(map(_checked, rows), start=1))
    raise DataError(
        f"records cannot be read from a {type(source).__name__}; give a path to {KINDS}, 'hf:ORG/NAME', a "
        "datasets.Dataset, a DataFrame of pandas or polars, a table of Arrow, or a list of dicts"
    )


def _names(columns: Iterable[object]) -> tuple[str, ...]:
    return tuple(stripped(str(name)) for name in columns)


def _is_from(package: str, source: object) -> bool:
    """Tell whether a class of that package made the object, without importing the package."""
    return any(base.__module__.partition(".")[0] == package for base in type(source).__mro__)


def _checked(row: object) -> Row | BadRow:
    """Let objects and bad rows pass, named tuples and Series too; anything else is no row."""
    if isinstance(row, BadRow):
        return row
    as_dict = getattr(row, "_asdict", None) or getattr(row, "to_dict", None)
    fields = row if as_dict is None else as_dict()
    if not isinstance(fields, Mapping):
        return BadRow("wrong_type", f"is a {type(row).__name__}; a row must be an object with fields")
    if all(type(name) is str and name == name.strip() for name in fields):
        return fields
    return dict(zip(_names(fields), fields.values(), strict=True))


# Files


def _open_file(path: Path, encoding: str, delimiter: str) -> Source:
    if not path.is_file():
        raise DataError(_missing_file(path))
    name = path.name.lower()
    kind = Path(name.removesuffix(".gz")).suffix
    if name.endswith(".parquet"):
        columns = _names(tables.parquet_columns(path))
        return Source(
            str(path), "row", columns,
            lambda wanted: tables.parquet_rows(path, [columns.index(name) for name in wanted], wanted),
        )  # fmt: skip
    is_csv = kind in {".csv", ".tsv"}
    if not is_csv and kind not in {".jsonl", ".ndjson", ".json"}:
        raise DataError(unknown_ending(str(path), path.suffix))
    try:
        with path.open("rb") as stream:
            start = stream.read(1024)
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); check its permissions") from error
    refuse_misnamed(str(path), start, packed=name.endswith(".gz"), is_csv=is_csv)
    content = content_of(str(path), lambda: _chunks(path), encoding)
    if is_csv:
        header, mark, rows = header_and_rows(
            str(path),
            lambda encoding: _open_text(path, encoding, newline=""),
            content,
            delimiter=delimiter,
            first="," if kind == ".csv" else "\t",
        )
        if mark in DELIMITERS:
            delimiter = mark
        return Source(str(path), "line", tuple(header), rows, content.note, delimiter)
    if kind == ".json" and _is_array(path, content.encoding):
        return Source(str(path), "row", None, lambda _: _array_rows(path, content.encoding), content.note)
    if kind == ".json" and (wrapped := _wrapped(path, content.encoding)):
        name, items = wrapped
        note = " ".join(filter(None, (content.note, f"the rows of {path} are those of its field {name!r}")))
        return Source(str(path), "row", None, lambda _: enumerate(map(_checked, items), start=1), note)
    return Source(str(path), "line", None, lambda _: _json_rows(path, content.encoding), content.note)


def _chunks(path: Path) -> Iterator[bytes]:
    with _open_bytes(path) as stream:
        while chunk := stream.read(2**20):
            yield chunk


def _json_rows(path: Path, encoding: str) -> Numbered:
    r"""Yield (line number, object) for every line that is not blank.

    Lines end at ``\n`` and nowhere else: U+2028 and the like are ordinary characters of a text.

    Raises
    ------
    DataError
        If a .gz file is damaged or unpacks to more than the limit.
    """
    with _open_text(path, encoding) as text:
        number = 0
        while line := text.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE and not line.endswith("\n"):
                while (rest := text.readline(MAX_LINE)) and not rest.endswith("\n"):
                    pass
                yield number, BadRow("too_long", f"is longer than {MAX_LINE:,} characters")
            elif not line.isspace():
                yield number, _json_row(line.removeprefix("\ufeff"))


def _open_text(path: Path, encoding: str, *, newline: str = "\n") -> io.TextIOWrapper:
    return io.TextIOWrapper(_open_bytes(path), encoding, errors_of(encoding), newline=newline)


def line_with(path: str, names: Sequence[str]) -> int | None:
    """Which of the first lines of a text holds all these names as cells; None for none."""
    with _open_text(Path(path).expanduser(), "utf-8", newline="") as text:
        cells = [
            {stripped(cell).strip('"') for cell in re.split(r"[,;\t|]", line)} for line in itertools.islice(text, 50)
        ]
    return next((number for number, found in enumerate(cells, start=1) if found >= set(names)), None)


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
    raw = _Gunzip(path) if path.name.lower().endswith(".gz") else io.FileIO(path)
    stream = io.BufferedReader(raw, buffer_size=2**17)
    if stream.peek(3)[:3] == b"\xef\xbb\xbf":
        stream.read(3)
    return stream


def _is_array(path: Path, encoding: str) -> bool:
    """Whether a ``.json`` file starts like an array; both that and lines are in use."""
    with _open_text(path, encoding) as text:
        return text.read(1024).lstrip("\ufeff \t\r\n").startswith("[")


def _wrapped(path: Path, encoding: str) -> tuple[str, list[object]] | None:
    """The one list of objects in a file that is one object, as interfaces of the web give: its field and its items."""
    with _open_text(path, encoding) as text:
        try:
            whole = _DECODER.decode(text.read().lstrip("\ufeff"))
        except (ValueError, RecursionError):  # an object a line, most often
            return None
    lists = (
        [(name, v) for name, v in whole.items() if isinstance(v, list) and v and all(isinstance(i, dict) for i in v)]
        if isinstance(whole, dict)
        else []
    )
    return lists[0] if len(lists) == 1 else None


def _array_rows(path: Path, encoding: str) -> Numbered:
    with _open_text(path, encoding) as text:
        whole = text.read().lstrip("\ufeff")
        if without_surrogates(whole) != whole:
            raise DataError(f"{path} {NOT_UTF8.message}; set data.encoding, or save the file as UTF-8")
        try:
            items = _DECODER.decode(whole)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path} is not a JSON array ({_json_fault(error)}) of objects; "
                "fix the file, or write one object a line (.jsonl)"
            ) from None  # the exception holds the whole text
    yield from enumerate(map(_checked, items), start=1)


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object] | BadRow:
    """Build an object, or notice that a name occurs twice, where `json` would keep the last."""
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else REPEATED_NAME


def _integer(digits: str) -> int | str:
    """A number as long as `int` takes it, or its digits: an id of 5,000 digits is a text in a CSV, too."""
    return int(digits) if len(digits) <= 4000 else digits


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_int=_integer)


def _json_row(line: str) -> Row | BadRow:
    if without_surrogates(line) != line:
        return NOT_UTF8
    try:
        return _checked(_DECODER.decode(line))
    except (ValueError, RecursionError) as error:
        return BadRow("bad_json", f"is not JSON ({_json_fault(error)}); write one object a line")


def _json_fault(error: ValueError | RecursionError) -> str:
    """Say what is wrong without quoting the text."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, character {error.pos + 1}"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


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

    def rows(wanted: Sequence[str]) -> Numbered:
        # Only the wanted columns, as plain Python values: a picture column would be decoded.
        table = dataset.select_columns(list(wanted)).with_format(None)
        first = 1
        for batch in table.iter(batch_size=1000):
            columns = [_class_names(batch[name], features.get(name)) for name in wanted]
            n_rows = len(columns[0]) if columns else 0
            yield from enumerate(zipped(wanted, columns, n_rows), start=first)
            first += n_rows

    columns = dataset.column_names
    return Source(name, "row", None if columns is None else tuple(columns), rows, is_export=False)


def _class_names(values: list[object], feature: object) -> list[object]:
    """Spell out class numbers (``ClassLabel``); -1 means that the label is missing."""
    names = getattr(feature, "names", None)
    if names is None:
        return values
    return [names[v] if isinstance(v, int) and 0 <= v < len(names) else None for v in values]
