"""Rows that are no people: column names repeated where exports were joined, what survey tools write below them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from mop.data.sources import BadRow, Source
from mop.data.tables import Numbered, Row
from mop.data.values import plain, stripped

HEADER_ROW = BadRow("header_row", "is a further header row and no person")
BLANK_ROW = BadRow("blank_row", "is blank in every column that is used")

_IMPORT_ID = re.compile(r"""\s*\{\s*["']ImportId["']\s*:""")


def people(opened: Source, wanted: Sequence[str]) -> Numbered:
    """Rows of a source; those in which nobody stands come out as `HEADER_ROW` or `BLANK_ROW`.

    Qualtrics writes question texts below the names, and a row of ``{"ImportId": ...}`` below those.
    """
    names = set(wanted)
    if len(names) < 2:  # one name may be what a person says
        names.update(itertools.islice(opened.columns or (), 2))
    rows = opened.rows(tuple(dict.fromkeys([*wanted, *sorted(names - set(wanted))])))
    after_header, is_import = True, None
    first = next(iter(opened.rows(opened.columns or ())), (0, None))[1] if opened.is_export else None
    is_explained = isinstance(first, Mapping) and _explains(first)
    nothing: Iterable[tuple[int, Row | BadRow]] = [(0, {})]
    for (number, row), (_, following) in itertools.pairwise(itertools.chain(rows, nothing)):
        if isinstance(row, BadRow):
            after_header, is_import = False, None
            yield number, row
            continue
        was_import = _is_import(row) if is_import is None else is_import
        is_import = _is_import(following)
        after_header = is_explained or (after_header and is_import) or was_import or _repeats(row, names)
        is_explained = False
        if after_header:
            yield number, HEADER_ROW
        else:
            yield number, BLANK_ROW if wanted and all(plain(row.get(name)) is None for name in wanted) else row


def _is_import(row: Row | BadRow) -> bool:
    return isinstance(row, Mapping) and any(
        isinstance(v, str) and "{" in v[:9] and _IMPORT_ID.match(v) for v in row.values()
    )


def _repeats(row: Row, names: set[str]) -> bool:
    return len(names) > 1 and all(isinstance(v := row.get(name), str) and stripped(v) == name for name in names)


def _explains(row: Row) -> bool:
    """Whether the first row says the names in other words: "Start Date" below StartDate."""
    pairs = [(_letters(name), _letters(v)) for name, v in row.items() if isinstance(name, str) and isinstance(v, str)]
    return sum(name == value != "" for name, value in pairs) > 1


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold() if len(text) < 100 else ""
