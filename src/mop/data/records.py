"""Records from files, tables and data sets; records in the run folder.

Bad rows are left out or repaired, counted and named by file and line. `sources` reads the rows,
`splits` deals the records.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mop.data.delimited import CsvRow
from mop.data.headers import people
from mop.data.losses import Loaded, RowProblem, sayings
from mop.data.own import content_name, digest
from mop.data.questions import WORDS, column_kinds, decimal_mark, questions
from mop.data.sources import BadRow, Row, Source, line_with, open_source
from mop.data.splits import split_records
from mop.data.values import Decimals, is_rounded, plain, spelled, stripped, weight_of, why_no_weight
from mop.errors import ArtifactError, ConfigError, DataError
from mop.storage.files import read_jsonl, write_jsonl
from mop.types import Record, without_surrogates

__all__ = ["MAX_LISTED", "Loaded", "RowProblem", "load_records", "read_records", "save_records", "split_records"]

MAX_LISTED = 1000
"""Problems of one code that are listed one by one; the counts are always complete."""


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
    duplicates: Literal["auto", "drop", "keep"] = "auto",
    encoding: str = "auto",
    delimiter: str = "auto",
    decimal: Decimals = "auto",
) -> Loaded:
    """Read records, leaving out and counting the rows that cannot be used.

    Parameters
    ----------
    source : str, path, datasets.Dataset, DataFrame, table or iterable of mappings
        A path to a .csv, .tsv, .jsonl, .ndjson or .json file (each also with .gz) or a .parquet
        file; ``hf:ORG/NAME[/SUBSET][@REVISION][:SPLIT]`` (split ``train`` if none is named); or
        the rows themselves, also as a table of pandas, polars or Arrow. The same table gives the same records.
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
    duplicates : {"auto", "drop", "keep"}
        What becomes of a row with the context, response and group of an earlier one: it is kept where rows have a
        key or a weight, else left out. Keep them where many people give the same answer and no column
        distinguishes them.
    encoding, delimiter, decimal : str
        Of files of text, and of weights: found out from the whole file, or an encoding such as ``cp1252``, the
        character between cells, ``"."`` or ``","``.

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
    columns = {"label": label, "key": key, "weight": weight, "group": group, "response": response}
    _check_arguments(duplicates, attributes, {**columns, "context": context})
    opened = open_source(source, encoding=encoding, delimiter=delimiter)
    columns = {role: None if name is None else stripped(name) for role, name in columns.items()}
    further = tuple(map(stripped, attributes))
    template = _parse_context(context, opened.columns)
    asked = dict.fromkeys(further, "attributes") | {name: role for role, name in columns.items() if name is not None}
    asked |= {name: "context" for _, name in template if name is not None}
    if opened.columns is not None:
        _check_columns(opened, opened.columns, asked)
    keeps = duplicates == "keep" or (duplicates == "auto" and (key or weight) is not None)
    reader = _Reader(
        template=template,
        columns=columns,
        attributes=further,
        decimal=decimal_mark(opened, columns["weight"], decimal),
        kinds=column_kinds(opened, asked.keys() - {columns["weight"]}),
        names=_Names(opened, keeps_duplicates=keeps),
    )
    found: set[str] = set()
    records: list[Record] = []
    problems: list[RowProblem] = []
    counts: Counter[str] = Counter()
    n_rows = 0

    def note(reason: BadRow, *, is_kept: bool) -> None:
        counts[reason.code] += 1
        if counts[reason.code] <= MAX_LISTED:
            problems.append(RowProblem(reason.code, opened.place(number), reason.message, is_kept))

    for number, row in people(opened, tuple(asked)):
        n_rows += 1
        try:
            if isinstance(row, BadRow):
                raise _Unusable(row.code, row.message)
            if opened.columns is None and (n_rows <= MAX_LISTED or not asked.keys() <= found):
                found.update(row)
            if isinstance(row, CsvRow) and row.reason:
                note(row.reason, is_kept=True)
            repairs: list[BadRow] = []
            record = reader.record(row, number, repairs)
        except _Unusable as error:
            note(BadRow(*error.args), is_kept=False)
            continue
        for reason in repairs:
            note(reason, is_kept=True)
        records.append(record)
    if opened.columns is None and found:
        _check_columns(opened, tuple(sorted(found)), asked)
    notes = [opened.note] if opened.note else []
    days = sorted(name for name, kind in reader.kinds.items() if kind == "days")
    notes += [f"{name!r} holds milliseconds since 1970 and is read as dates" for name in days]
    notes += questions(records, response, reader.words)
    loaded = Loaded(records, problems, dict(counts), n_rows, tuple(notes))
    if not records:
        raise DataError(_nothing_usable(opened, loaded))
    return loaded


def _check_arguments(duplicates: str, attributes: Sequence[str], columns: Mapping[str, object]) -> None:
    if duplicates not in {"auto", "drop", "keep"}:
        raise ConfigError(f"duplicates must be 'auto', 'drop' or 'keep', got {duplicates!r}")
    if isinstance(attributes, str):
        raise ConfigError(f"attributes must be a list of column names, got {attributes!r}; write [{attributes!r}]")
    for role, name in columns.items():
        if not isinstance(name, str) and (name is not None or role == "context"):
            raise ConfigError(f"{role} must be the name of a column, as text, got {name!r}; write {str(name)!r}")


# From a row to a record


class _Unusable(Exception):  # noqa: N818 - never leaves this module
    """The code and message of the `BadRow` that makes no record."""


_Template = Sequence[tuple[str, str | None]]
"""Literal texts, each with the column that follows it."""

_TEMPLATE_PARTS = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]|[^{}]+")


def _parse_context(context: str, columns: Sequence[str] | None) -> _Template:
    """Read the argument `context`; the exact name of a column always wins."""
    has_braces = "{" in context or "}" in context
    if stripped(context) in (columns or ()) or not (has_braces or context.startswith("text:")):
        return [("", stripped(context))]
    if context.startswith("text:"):
        return [(context.removeprefix("text:").strip(), None)]
    template: list[tuple[str, str | None]] = []
    literal = ""
    for part in _TEMPLATE_PARTS.finditer(context):
        if part[1] is not None:
            template.append((literal, stripped(part[1])))
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


def without_labels(context: str | None, label: str | None) -> str:
    """How to do without labels, at the end of a message; nothing where the contexts themselves show the label."""
    shown = {name for _, name in _parse_context(context or "", None)}
    return "" if stripped(label or "") in shown else ", or leave labels out with --set data.label="


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Makes records of rows; what is known of the columns as wholes is decided before."""

    template: _Template
    columns: Mapping[str, str | None]
    attributes: Sequence[str]
    decimal: str
    kinds: Mapping[str, str]
    names: _Names
    words: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often (column, one of `WORDS`) occurred."""

    def record(self, row: Row, number: int, repairs: list[BadRow]) -> Record:
        """Make a record of a row; `repairs` takes what had to be repaired."""
        response = ""
        if (name := self.columns["response"]) is not None:
            response = self.text(row, name, repairs) or ""
            if not response:
                raise _Unusable("empty_response", f"has no text in {name!r}")
        context = self.context(row, repairs)
        label, group = (self.class_(row, self.columns[role], repairs) for role in ("label", "group"))
        self.refuse_rounded(row, self.columns["group"])
        weight = 1.0 if self.columns["weight"] is None else self.weight(row, self.columns["weight"])
        further = {name: text for name in self.attributes if (text := self.attribute(row, name, repairs)) is not None}
        own_key = None if self.columns["key"] is None else self.key(row, self.columns["key"], repairs)
        key = self.names.key(own_key, (context, response, group or ""), number)  # last: it takes note
        return Record(
            key=key, context=context, response=response, label=label, weight=weight, group=group, attributes=further
        )

    def context(self, row: Row, repairs: list[BadRow]) -> str:
        """Fill in the template; a column that is all of it stays as it is, blanks included."""
        parts, is_whole = [], len(self.template) == 1
        for literal, name in self.template:
            parts.append(literal)
            if name is not None:
                text = self.text(row, name, repairs)
                if text is None:
                    repairs.append(BadRow("empty_context", f"has no text in {name!r}; kept as it is"))
                parts.append("" if text is None else text if is_whole else stripped(text))
        return "".join(parts)

    def text(self, row: Row, name: str, repairs: list[BadRow]) -> str | None:
        """Take a column as text that UTF-8 can hold; None if it is missing."""
        value = plain(row.get(name))
        if value is None:
            return None
        text = value if isinstance(value, BadRow) else spelled(value, self.kinds.get(name, ""))
        if isinstance(text, BadRow):
            where = "" if isinstance(value, BadRow) else f" in {name!r}; write text"
            raise _Unusable(text.code, f"{text.message}{where}")
        if "\0" in text:
            raise _Unusable("nul", f"has a NUL character in {name!r}; remove it")
        if text in WORDS:
            self.words[name, text] += 1
        whole = without_surrogates(text)
        if whole != text:
            n = whole.count("\ufffd") - text.count("\ufffd")
            repairs.append(BadRow("surrogate", f"has lone surrogates ({n}) in {name!r}; replaced by U+FFFD"))
        return whole

    def class_(self, row: Row, name: str | None, repairs: list[BadRow]) -> str | None:
        """Take a label, group or attribute, without blanks around it."""
        text = None if name is None else self.text(row, name, repairs)
        return None if text is None else stripped(text)

    def attribute(self, row: Row, name: str, repairs: list[BadRow]) -> str | None:
        """Take a further column; a list or an object is kept as JSON, since no prompt shows it."""
        value = row.get(name)
        value = value.tolist() if isinstance(value, np.ndarray) else value
        if isinstance(value, list | tuple | dict):
            row = {name: json.dumps(value, ensure_ascii=False, default=str)}
        return self.class_(row, name, repairs)

    def refuse_rounded(self, row: Row, name: str | None) -> None:
        """An id that went through a float is another one's, too."""
        if name is not None and is_rounded(plain(row.get(name))):
            raise _Unusable(
                "rounded_id", f"has a number above 2^53 that a program rounded in {name!r}; read the column as text"
            )

    def key(self, row: Row, name: str, repairs: list[BadRow]) -> str:
        """Take a key; responses name several exemplars joined by spaces, so it has none itself."""
        key = self.class_(row, name, repairs)
        if key is None:
            raise _Unusable("missing_value", f"has no value for {name!r}")
        if any(c.isspace() for c in key):
            raise _Unusable("bad_key", f"has a key with white space in it, in {name!r}")
        self.refuse_rounded(row, name)
        return key

    def weight(self, row: Row, name: str) -> float:
        """Take a finite number above 0."""
        value = plain(row.get(name))
        weight = weight_of(value, self.decimal)
        if weight is None:
            why = why_no_weight(value, self.decimal)
            raise _Unusable("bad_weight", f"has no finite number above 0 in {name!r}, which holds the weight; {why}")
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
        content = digest(part.strip() for part in identity)
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
            below = line_with(source.name, [*asked]) if source.unit == "line" and source.delimiter else None
            if len(columns) == 1 and source.delimiter:
                advice = "if its cells are separated by another character, set data.delimiter"
            if below is not None:
                advice = f"the names stand in line {below}: remove the lines before it"
            raise DataError(
                f"{where} has no column {name!r}, which {role} asks for; its columns are {listed}; {advice}"
            )


def _nothing_usable(source: Source, loaded: Loaded) -> str:
    where = source.name or "the data"
    if loaded.n_rows == 0:
        return f"{where} has no rows; at least one is needed; check that it is the right source"
    return f"none of the {loaded.n_rows} rows of {where} can be used: {'; '.join(sayings([loaded]))}"


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
        If the file is missing or empty, or a row is not such a record or repeats a key.
    """
    records: dict[str, Record] = {}
    for number, row in enumerate(read_jsonl(Path(path)), start=1):
        if not _is_saved(row) or row["key"] in records:
            raise ArtifactError(
                f"{path} row {number} is not a record, or repeats a key; rows have "
                f"the fields {', '.join(_FIELDS)}, each key once; load the data again, or fix it"
            )
        records[row["key"]] = Record(**row)
    if not records:
        raise ArtifactError(f"{path} holds no record; load the data again, or put it back as it was")
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
