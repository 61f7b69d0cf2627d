"""Rows that are no people: column names repeated where exports were joined, what survey tools write below them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from mop.data.sources import BadRow, Source
from mop.data.tables import Numbered, Row
from mop.data.values import is_number, kinds_of, plain, stripped

HEADER_ROW = BadRow("header_row", "is a further header row and no person")
BLANK_ROW = BadRow("blank_row", "is blank in every column that is used")
TOTALS_ROW = BadRow("totals_row", "is a row of totals and no person")

_IMPORT_ID = re.compile(r"""\s*\{\s*["']ImportId["']\s*:""")
_BELOW_NAMES = frozenset({"response", "open-ended response", "other (please specify)"})
"""What SurveyMonkey writes there, beside the options of a question."""
_TOTALS = frozenset(
    {"total", "totals", "sum", "average", "mean", "gesamt", "summe", "suma", "totale", "somme", "totaal"}
)
N_BELOW = 50
"""Rows that the first one is compared with; `LEAST_BELOW` is the least number."""
LEAST_BELOW = 5


def people(opened: Source, wanted: Sequence[str]) -> Numbered:
    """Rows of a source; those in which nobody stands come out as `HEADER_ROW`, `BLANK_ROW` or `TOTALS_ROW`.

    Qualtrics writes question texts below the names, and a row of ``{"ImportId": ...}`` below those; LimeSurvey and
    SurveyMonkey write one row.
    """
    names = set(wanted)
    names.update(itertools.islice(opened.columns or (), 2 if len(names) < 2 else 1))
    rows = opened.rows(tuple(dict.fromkeys([*wanted, *sorted(names - set(wanted))])))
    start = [row for _, row in itertools.islice(opened.rows(opened.columns or ()), N_BELOW)] if opened.is_export else []
    is_explained = bool(start) and _explains(*start)
    after_header, is_import, before = True, None, None
    nothing: Iterable[tuple[int, Row | BadRow]] = [(0, {})]
    for (number, row), (_, following) in itertools.pairwise(itertools.chain(rows, nothing)):
        if isinstance(row, BadRow):
            after_header, is_import = False, None
            yield number, row
            continue
        was_import = _is_import(row) if is_import is None else is_import
        is_import = _is_import(following)
        after_header = is_explained or (after_header and is_import) or was_import or _repeats(row, set(wanted) or names)
        is_explained = False
        if after_header:
            yield number, HEADER_ROW
        elif wanted and all(plain(row.get(name)) is None for name in wanted):
            yield number, BLANK_ROW
        elif before is not None and following == {} and opened.is_export and _sums_up(row, before, opened.columns):
            yield number, TOTALS_ROW
        else:
            yield number, row
        before = row


def _sums_up(row: Row, before: Row, columns: Sequence[str] | None) -> bool:
    """Whether a last row begins with "Total", and has nothing or a number where the row before has a text."""
    first = next(iter(columns or row), "")
    if stripped(str(row.get(first))).rstrip(":").casefold() not in _TOTALS:
        return False
    others = [(plain(row.get(name)), plain(value)) for name, value in before.items() if name != first]
    return any(v is not None and (own is None or (is_number(str(own)) and not is_number(str(v)))) for own, v in others)


def _is_import(row: Row | BadRow) -> bool:
    return isinstance(row, Mapping) and any(
        isinstance(v, str) and "{" in v[:9] and _IMPORT_ID.match(v) for v in row.values()
    )


def _repeats(row: Row, names: set[str]) -> bool:
    return len(names) > 1 and all(isinstance(v := row.get(name), str) and stripped(v) == name for name in names)


def _explains(row: Row | BadRow, *below: Row | BadRow) -> bool:
    """Whether the first row is about the columns.

    It says their names in other words, or has questions, or SurveyMonkey's words, where the rows below have ids,
    numbers or single words.
    """
    if isinstance(row, BadRow):
        return False
    own = {name: stripped(v) if isinstance(v, str) else plain(v) for name, v in row.items() if isinstance(name, str)}
    texts = {name: value for name, value in own.items() if isinstance(value, str)}
    if sum(_letters(name) == _letters(value) != "" for name, value in texts.items()) > 1:
        return True
    columns = {name: [plain(r.get(name)) for r in below if not isinstance(r, BadRow)] for name in own}
    full = {name: values for name, values in columns.items() if len(values) >= LEAST_BELOW and None not in values}
    if any(not own[name] for name in full) and any(value.casefold() in _BELOW_NAMES for value in texts.values()):
        return True
    kinds = {name: set.intersection(*map(kinds_of, values)) for name, values in full.items()}
    if any(found & kinds_of(own[name]) for name, found in kinds.items()):
        return False  # a number or a date, as below
    is_asked = any(
        value.endswith("?") and not any(str(v).endswith("?") for v in columns[name]) for name, value in texts.items()
    )
    unlike = sum(_is_phrase(texts.get(name)) and not any(map(_is_phrase, values)) for name, values in full.items())
    return is_asked and unlike > 1


def _is_phrase(value: object) -> bool:
    return isinstance(value, str) and len(value.split()) > 1


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold() if len(text) < 100 else ""
