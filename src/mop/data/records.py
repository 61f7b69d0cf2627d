"""Records from files, tables and data sets; records in the run folder.

Bad rows are left out or repaired, counted and named by file and line. `sources` reads the rows,
`splits` deals the records.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mop.data.own import content_name
from mop.data.sources import BadRow, Row, Source, open_source
from mop.data.splits import split_records
from mop.errors import ArtifactError, ConfigError, DataError
from mop.storage.files import read_jsonl, write_jsonl
from mop.types import Record, without_surrogates

logger = logging.getLogger(__name__)

__all__ = ["MAX_LISTED", "Loaded", "RowProblem", "load_records", "read_records", "save_records", "split_records"]

MAX_LISTED = 1000
"""Problems of one code that are listed one by one; the counts are always complete."""


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What was wrong with one row; never holds the row's text, so that it can be logged."""

    code: str
    """A word to count by; ``docs/data.md`` lists them."""
    place: str
    """``reviews.csv:17``, ``reviews.parquet row 17`` or ``row 17``; lines and rows count from 1."""
    message: str
    is_kept: bool
    """Whether the row was repaired or tolerated; otherwise it was left out."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The usable records of a source, and what was wrong with the rest."""

    records: list[Record] = field(repr=False)
    problems: list[RowProblem] = field(repr=False)
    """In order of the rows; at most `MAX_LISTED` per code."""
    counts: dict[str, int]
    """Problems by code, complete."""
    n_rows: int
    """Rows read: records plus rows left out."""

    def __iter__(self) -> Iterator[Record]:
        """Go over the records."""
        return iter(self.records)

    def __getitem__(self, row: int) -> Record:
        """One record, as from a list: scikit-learn's splitters ask so."""
        return self.records[row]

    def __len__(self) -> int:
        """How many records are usable."""
        return len(self.records)

    def require_clean(self) -> None:
        """Stop at the first problem, also one that was repaired.

        Raises
        ------
        DataError
            If there is a problem.
        """
        if self.problems:
            problem = self.problems[0]
            raise DataError(
                f"{problem.place} {problem.message} ({problem.code}); with strict, every row must be clean; "
                "fix the row, or load without strict to have such rows counted instead"
            )

    def warn(
        self, source: object, *, remedy: str = "kept with duplicates='keep', or where groups tell people apart"
    ) -> None:
        """Log each kind of problem with its count, and how equal answers of different people are kept."""
        for code, count in self.counts.items():
            how = f" ({remedy})" if code == "duplicate" else ""
            logger.warning("%d rows of %s: %s%s", count, source, code, how)


def load_records(
    source: object,
    *,
    context: str = "context",
    response: str | None = "response",
    label: str | None = None,
    key: str | None = None,
    weight: str | None = None,
    group: str | None = None,
    attributes: Sequence[str] = (),
    duplicates: Literal["drop", "keep"] = "drop",
) -> Loaded:
    """Read records, leaving out and counting the rows that cannot be used.

    Parameters
    ----------
    source : str, path, datasets.Dataset, DataFrame or iterable of mappings
        A path to a .csv, .tsv, .jsonl, .ndjson or .json file (each also with .gz) or a .parquet
        file; ``hf:ORG/NAME[/SUBSET][@REVISION][:SPLIT]`` (split ``train`` if none is named); or
        the rows themselves.
    context : str
        A column; or a template with columns in braces, ``"Film: {title}."`` (``{{`` and ``}}``
        stand for braces); or ``"text:"`` and a text that is the context of every record.
    response : str or None
        The column of what the person wrote. None: the rows are contexts to be answered, and the
        responses of the records are empty.
    label, key, weight, group : str or None
        Columns of `Record`. Without a key column, the key is a digest of context and group, numbered
        where several records share them. No weight column means weight 1.
    attributes : sequence of str
        Further columns to keep with each record, as text; an empty value is left out.
    duplicates : {"drop", "keep"}
        What becomes of a row with the context, response and group of an earlier one. Keep them
        where many people give the same answer and no group column distinguishes them.

    Raises
    ------
    DataError
        If the source or a column does not exist, or no row is usable.
    ConfigError
        If the template or another argument is malformed.
    MissingDependencyError
        If an ``hf:`` name is given and ``datasets`` is not installed.

    Examples
    --------
    >>> rows = [{"film": "Up", "text": "Lovely."}, {"film": "Up", "text": " "}]
    >>> loaded = load_records(rows, context="Film: {film}.", response="text")
    >>> loaded.records[0].context, loaded.counts
    ('Film: Up.', {'empty_response': 1})
    >>> loaded.problems[0].place
    'row 2'
    """
    _check_arguments(duplicates, attributes)
    opened = open_source(source)
    columns = {"label": label, "key": key, "weight": weight, "group": group, "response": response}
    template = _parse_context(context, opened.columns)
    asked = dict.fromkeys(attributes, "attributes") | {name: role for role, name in columns.items() if name is not None}
    asked |= {name: "context" for _, name in template if name is not None}
    if opened.columns is not None:
        _check_columns(opened, opened.columns, asked)
    found: set[str] = set(opened.columns or ())
    names = _Names(opened, keeps_duplicates=duplicates == "keep")
    records: list[Record] = []
    problems: list[RowProblem] = []
    counts: Counter[str] = Counter()
    n_rows = 0

    def note(reason: BadRow, *, is_kept: bool) -> None:
        counts[reason.code] += 1
        if counts[reason.code] <= MAX_LISTED:
            problems.append(RowProblem(reason.code, opened.place(number), reason.message, is_kept))

    for number, row in opened.rows(tuple(asked)):
        n_rows += 1
        try:
            if isinstance(row, BadRow):
                raise _Unusable(row.code, row.message)
            if n_rows <= MAX_LISTED or not asked.keys() <= found:
                found.update(map(str, row))
            repairs: list[BadRow] = []
            record = _record(row, number, template, columns, names, repairs)
            further = {name: text for name in attributes if (text := _class(row, name, repairs)) is not None}
        except _Unusable as error:
            note(BadRow(*error.args), is_kept=False)
            continue
        for reason in repairs:
            note(reason, is_kept=True)
        records.append(replace(record, attributes=further) if further else record)
    if opened.columns is None and found:
        _check_columns(opened, tuple(sorted(found)), asked)
    loaded = Loaded(records, problems, dict(counts), n_rows)
    if not records:
        raise DataError(_nothing_usable(opened, loaded))
    return loaded


def _check_arguments(duplicates: str, attributes: Sequence[str]) -> None:
    if duplicates not in {"drop", "keep"}:
        raise ConfigError(f"duplicates must be 'drop' or 'keep', got {duplicates!r}")
    if isinstance(attributes, str):
        raise ConfigError(f"attributes must be a list of column names, got {attributes!r}; write [{attributes!r}]")


# From a row to a record


class _Unusable(Exception):  # noqa: N818 - never leaves this module
    """The code and message of the `BadRow` that makes no record."""


_Template = Sequence[tuple[str, str | None]]
"""Literal texts, each with the column that follows it."""

_TEMPLATE_PARTS = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]|[^{}]+")

# As an integer looks once it is a float: no "-0.0" and no "007.0", which are text.
_WHOLE = re.compile(r"(?:0|-?[1-9][0-9]*)\.0")


def _parse_context(context: str, columns: Sequence[str] | None) -> _Template:
    """Read the argument `context`; the exact name of a column always wins."""
    has_braces = "{" in context or "}" in context
    if context in (columns or ()) or not (has_braces or context.startswith("text:")):
        return [("", context)]
    if context.startswith("text:"):
        return [(context.removeprefix("text:").strip(), None)]
    template: list[tuple[str, str | None]] = []
    literal = ""
    for part in _TEMPLATE_PARTS.finditer(context):
        if part[1] is not None:
            template.append((literal, part[1]))
            literal = ""
        elif part[0] in {"{", "}"}:
            raise ConfigError(
                f"context has a lone {part[0]!r} at character {part.start() + 1} of {context!r}; "
                "columns stand in braces, as in 'Film: {title}.'; "
                f"for the character itself write {part[0] * 2!r}"
            )
        else:
            literal += part[0][0] if part[0] in {"{{", "}}"} else part[0]
    return [*template, (literal, None)]


def _record(
    row: Row,
    number: int,
    template: _Template,
    columns: Mapping[str, str | None],
    names: _Names,
    repairs: list[BadRow],
) -> Record:
    """Make a record of a row; `repairs` takes what had to be repaired."""
    response = ""
    if (name := columns["response"]) is not None:
        response = _text(row, name, repairs, takes_numbers=False)
        if not response or response.isspace():
            raise _Unusable("empty_response", f"has no text in {name!r}")
    context = _context(row, template, repairs)
    label = _class(row, columns["label"], repairs)
    group = _class(row, columns["group"], repairs)
    weight = 1.0 if columns["weight"] is None else _weight(row, columns["weight"])
    own_key = None if columns["key"] is None else _key(row, columns["key"], repairs)
    key = names.key(own_key, (context, response, group or ""), number)  # last: it takes note
    return Record(key=key, context=context, response=response, label=label, weight=weight, group=group)


def _context(row: Row, template: _Template, repairs: list[BadRow]) -> str:
    parts = []
    for literal, name in template:
        parts.append(literal)
        if name is not None:
            parts.append(_text(row, name, repairs))
            if not parts[-1] or parts[-1].isspace():
                repairs.append(BadRow("empty_context", f"has no text in {name!r}; kept as it is"))
    return "".join(parts)


def _value(row: Row, name: str) -> object:
    """A column's value in plain Python; every way to say "missing" is None."""
    value = row.get(name)
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _text(row: Row, name: str, repairs: list[BadRow], *, takes_numbers: bool = True) -> str:
    """Take a column as text that UTF-8 can hold; numbers and truth values are spelled where they may be."""
    value = _value(row, name)
    if isinstance(value, BadRow):
        raise _Unusable(value.code, value.message)
    if value is None:
        raise _Unusable("missing_value", f"has no value for {name!r}")
    if takes_numbers and isinstance(value, int | float):
        value = str(value).lower() if isinstance(value, bool) else str(value)
    if not isinstance(value, str):
        raise _Unusable("wrong_type", f"has a value of type {type(value).__name__} in {name!r}; write text")
    if "\0" in value:
        raise _Unusable("nul", f"has a NUL character in {name!r}; remove it")
    text = without_surrogates(value)
    if text != value:
        n = text.count("\ufffd") - value.count("\ufffd")
        repairs.append(BadRow("surrogate", f"has lone surrogates ({n}) in {name!r}; replaced by U+FFFD"))
    return text


def _class(row: Row, name: str | None, repairs: list[BadRow]) -> str | None:
    """Take a label or group; an empty one is missing, as a CSV cannot distinguish the two.

    A whole number is the same with and without a point: pandas writes 1.0 for 1 where a value is missing in the column.
    """
    value = None if name is None else _value(row, name)
    if name is None or value is None or (isinstance(value, str) and not value):
        return None
    text = _text(row, name, repairs)
    return text[:-2] if _WHOLE.fullmatch(text) else text


def _key(row: Row, name: str, repairs: list[BadRow]) -> str:
    """Take a key; responses name several exemplars joined by spaces, so it has none itself."""
    key = _text(row, name, repairs)
    if not key or any(c.isspace() for c in key):
        raise _Unusable("bad_key", f"has an empty key or white space in it, in {name!r}")
    return key


def _weight(row: Row, name: str) -> float:
    value = _value(row, name)
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        weight = float(value)
        if not 0 < weight < math.inf:
            raise ValueError
    except (ValueError, OverflowError):
        message = f"has no finite number above 0 in {name!r}, which holds the weight"
        raise _Unusable("bad_weight", message) from None
    return weight


class _Names:
    """The records seen so far: finds duplicates, and gives keys where the data has none."""

    def __init__(self, source: Source, *, keeps_duplicates: bool) -> None:
        self._source = source
        self._keeps_duplicates = keeps_duplicates
        self._first: dict[bytes, int] = {}
        self._named: Counter[str] = Counter()
        self._keys: dict[str, int] = {}

    def key(self, own: str | None, identity: tuple[str, str, str], number: int) -> str:
        """Return the row's own key, or one made of its context and group."""
        content = _digest(part.strip() for part in identity)
        first = self._first.get(content)
        if first is not None and not self._keeps_duplicates:
            message = f"has the context, response and group of {self._source.place(first)}"
            raise _Unusable("duplicate", message)
        if own is not None and own in self._keys:
            message = (
                f"has the key of {self._source.place(self._keys[own])}; a key names one record, "
                "a person or film is a group"
            )
            raise _Unusable("duplicate_key", message)
        self._first.setdefault(content, number)
        if own is not None:
            self._keys[own] = number
            return own
        name = content_name(identity[0], identity[2])
        self._named[name] += 1
        return f"{name}-{self._named[name]}" if self._named[name] > 1 else name


def _digest(parts: Iterable[str]) -> bytes:
    # Loaded text has no NUL, so that the joint is not to be mistaken.
    return blake2b("\0".join(parts).encode("utf-8"), digest_size=16).digest()


def _check_columns(source: Source, columns: Sequence[str], asked: Mapping[str, str]) -> None:
    """Stop if a column that was asked for is not there, or is there twice."""
    where = source.name or "the data"
    for name, role in asked.items():
        if columns.count(name) > 1:
            raise DataError(
                f"{where} has {columns.count(name)} columns named {name!r}, which {role} asks for; rename all but one"
            )
        if name not in columns:
            listed = ", ".join(map(repr, columns[:20])) + (", ..." if len(columns) > 20 else "")
            near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]!r}?" if near else f"set {role} to one of them"
            raise DataError(
                f"{where} has no column {name!r}, which {role} asks for; its columns are {listed}; {advice}"
            )


def _nothing_usable(source: Source, loaded: Loaded) -> str:
    where = source.name or "the data"
    if loaded.n_rows == 0:
        return f"{where} has no rows; at least one is needed; check that it is the right source"
    counts = ", ".join(f"{n} {code}" for code, n in loaded.counts.items())
    first = loaded.problems[0]
    return (
        f"none of the {loaded.n_rows} rows of {where} can be used ({counts}); the first: {first.place} "
        f"{first.message}; at least one good row is needed; check the columns and the format"
    )


# Records in the run folder

_FIELDS = {"key": str, "context": str, "response": str, "label": str | None, "weight": float | int, "group": str | None}
"""Of every row; ``attributes`` stands only in rows that have some."""


def save_records(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Write records as JSON Lines in UTF-8: the whole file or none of it.

    Raises
    ------
    ArtifactError
        If the file cannot be written, or a weight is not finite.
    """
    write_jsonl(
        Path(path),
        (
            {name: getattr(record, name) for name in _FIELDS}
            | ({"attributes": dict(record.attributes)} if record.attributes else {})
            for record in records
        ),
    )


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Read what `save_records` wrote; anything else is an error.

    Raises
    ------
    ArtifactError
        If the file is missing, or a row is not such a record or repeats a key.
    """
    records: dict[str, Record] = {}
    for number, row in enumerate(read_jsonl(Path(path)), start=1):
        if not _is_saved(row) or row["key"] in records:
            raise ArtifactError(
                f"{path} row {number} is not a record, or repeats a key; rows have "
                f"the fields {', '.join(_FIELDS)}, each key once; load the data again, or fix it"
            )
        records[row["key"]] = Record(**row)
    return list(records.values())


def _is_saved(row: Mapping[str, Any]) -> bool:
    further = row.get("attributes", {})
    return (
        row.keys() - {"attributes"} == _FIELDS.keys()
        and isinstance(further, dict)
        and all(isinstance(value, str) for value in further.values())
        and all(isinstance(row[name], kind) for name, kind in _FIELDS.items())
        and not isinstance(row["weight"], bool)
        and row["weight"] > 0
    )
