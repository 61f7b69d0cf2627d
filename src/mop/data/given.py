"""What is handed over in Python, Records, rows and tables, to Records: the road of `mop.MixtureOfPersonas`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Number
from typing import Any, Literal

from mop.data.values import WEIGHTS
from mop.errors import DataError
from mop.types import Record

Rows = Iterable[Record | Mapping[str, Any]]
"""Records, or rows with their fields; a DataFrame too."""


def records_given(
    records: Rows,
    *,
    on_unusable: Literal["raise", "warn"] = "raise",
    drops_repeated: bool = False,
) -> list[Record]:
    """Records as they are; rows, of a DataFrame too, by their columns as `MixtureOfPersonas.fit` names them.

    Raises
    ------
    DataError
        For what is none, or lacks a column; the message says how to hand it over.
    """
    source, rows, names = _opened_rows(records, "records", "Records and rows with context and response")
    if rows and isinstance(rows[0], str):
        raise DataError(
            f"a record is a context and the response to it, got the text {rows[0]!r} alone; give both: "
            'fit([{"context": "Film?", "response": TEXT} for TEXT in TEXTS])'
        )
    if names:
        _require_columns(names)
    if rows and all(isinstance(row, Record) for row in rows):
        for record in rows:
            _check_record(record)
        refuse_lopsided(rows)
        return rows
    return _loaded(
        source, names, ("label", "key", "weight", "group"), on_unusable=on_unusable, what="records",
        duplicates="auto" if drops_repeated else "keep",
    )  # fmt: skip


ALSO_CALLED = {
    "context": ("context", "question", "prompt", "instruction", "input", "item", "title", "film", "topic"),
    "response": ("response", "answer", "text", "reply", "review", "output", "completion", "comment", "verdict"),
}
"""Columns that are likely meant, the likeliest first."""


def _require_columns(names: Sequence[str]) -> None:
    """Refuse columns of other names, and say which call reads them."""
    missing = [name for name in ALSO_CALLED if name not in names]
    if not missing:
        return
    free = [name for name in names if name not in ("context", "response", "label", "key", "weight", "group")]
    chosen = {name: name for name in ALSO_CALLED if name not in missing}
    for name in missing[: len(free)]:
        by_name = {column.strip().lower(): column for column in free}
        likely = [by_name[also] for also in ALSO_CALLED[name] if also in by_name]
        chosen[name] = likely[0] if likely else free[0 if name == "context" else -1]
        free.remove(chosen[name])
    told = ", ".join(map(repr, names))
    what = " and ".join(f"no column {name!r}" for name in missing)
    if len(chosen) < 2:
        raise DataError(
            f"the records given have {what}; their columns are {told}; a record is what a person was given (context) "
            "and what that person wrote (response), so add what is missing, such as the same context in every row"
        )
    said = ", ".join(f"{name}={chosen[name]!r}" for name in ALSO_CALLED)
    raise DataError(
        f"the records given have {what}; their columns are {told}; say which are meant: fit(mop.load_records(RECORDS, "
        f"{said})), with your RECORDS, or rename them"
    )


def _check_record(record: Record) -> None:
    """Refuse what loading would not have let through."""
    if not record.response.strip():
        raise DataError(f"the record {record.key!r} has no text in its response; leave it out")
    if not WEIGHTS[0] <= record.weight <= WEIGHTS[1]:
        raise DataError(
            f"the record {record.key!r} has the weight {record.weight}; it must be a finite number above 0 "
            "(1e-100 to 1e100); divide all weights by the largest"
        )


MOST_RATIO = 1e9
"""Of two weights: beyond it the smaller one counts for nothing, and a covariance is that of one record."""


def refuse_lopsided(records: Sequence[Record]) -> None:
    """Refuse weights that leave no more than one record to speak of.

    Raises
    ------
    DataError
        Names the records of the least and of the largest weight.
    """
    low, high = (choose(records, key=lambda r: r.weight, default=None) for choose in (min, max))
    if low is not None and high is not None and high.weight > MOST_RATIO * low.weight:
        raise DataError(
            f"the weights go from {low.weight:g} (record {low.key!r}) to {high.weight:g} (record {high.key!r}); beside "
            f"one more than {MOST_RATIO:g} times as large a weight counts for nothing: trim the large ones, or leave "
            "out the records of the small ones"
        )


_SOME = "sample([record.context for record in model.mixture_.exemplars])"


def contexts_given(contexts: Iterable[str | Record | Mapping[str, Any]]) -> list[Record]:
    """Records as they are, strings and rows (of a DataFrame too) under their place."""
    if isinstance(contexts, str):
        raise DataError(f"several contexts are expected, got the one string {contexts!r}; put it into a list")
    if isinstance(contexts, Number):
        is_count = str(contexts).lstrip("0").isdecimal()  # a whole number from 1
        how = f"for so many responses give so many contexts, such as {_SOME[:-1]}[:{contexts}])"
        raise DataError(
            f"contexts to respond to are expected, got the number {contexts!r}; "
            f"{how if is_count else f'give a list of them, such as {_SOME}'}"
        )
    if not hasattr(contexts, "columns") and not hasattr(contexts, "column_names"):
        if not isinstance(contexts, Iterable):
            raise DataError(f"strings, Records and rows with a context are expected, got {contexts!r}; give a list")
        contexts = list(contexts)  # a column of a table, too
    source, rows, names = _opened_rows(contexts, "contexts", "strings, Records and rows with a context")
    if rows is not None and all(isinstance(row, str | Record) for row in rows):
        return [
            row if isinstance(row, Record) else Record(key=f"context-{i}", context=row, response="")
            for i, row in enumerate(rows)
        ]
    asked = ("label", "key", "weight", "group")
    found = _loaded(
        source, names, asked, on_unusable="raise", what="contexts", duplicates="keep", response=None,
        attributes=[name for name in names if name not in ("context", *asked)],
    )  # fmt: skip
    if "key" in names:
        return found
    return [replace(record, key=f"context-{i}") for i, record in enumerate(found)]


def _opened_rows(given: Iterable[Any], what: str, accepted: str) -> tuple[object, list[Any] | None, tuple[str, ...]]:
    """What `mop.data.records.load_records` takes, its rows unless it is a table, and the names of columns."""
    if isinstance(given, str | os.PathLike):
        raise DataError(
            f"{what} are expected, got the path {os.fspath(given)!r}; give {accepted}, or "
            "load a file with mop.data.records.load_records"
        )
    from mop.data.sources import open_source

    given = list(given) if isinstance(given, Iterator) else given
    opened = open_source(given)
    if opened.columns is not None:  # a table
        return given, None, opened.columns
    names = {name for _, row in opened.rows(()) if isinstance(row, Mapping) for name in row}
    return given, list(given), tuple(names)


def _loaded(
    source: object,
    names: Sequence[str],
    asked: Sequence[str],
    *,
    on_unusable: Literal["raise", "warn"],
    what: str,
    **options: Any,
) -> list[Record]:
    from mop.config import DataConfig
    from mop.data.losses import require_few_lost
    from mop.data.records import load_records

    columns: dict[str, Any] = {name: name for name in asked if name in names}
    loaded = load_records(source, **columns, **options)
    if on_unusable == "raise" and len(loaded) < loaded.n_rows:
        lost = next(problem for problem in loaded.problems if not problem.is_kept)
        raise DataError(
            f"{lost.place} {lost.message}; each of the {what} given gets a figure or an answer, so none can be "
            "left out; fix or remove it"
        )
    loaded.warn(f"the {what} given")
    refuse_lopsided(loaded.records)
    if options.get("duplicates") == "auto":  # to be fitted to
        require_few_lost([loaded], DataConfig().max_lost, way_out="fit to mop.data.load_records(...) of these rows")
    return loaded.records
