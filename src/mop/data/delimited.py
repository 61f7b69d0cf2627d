"""CSV and its kin: what separates cells and how quotes are written is found out from the whole file."""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mop.data.formats import Content
from mop.data.values import BadRow, stripped
from mop.errors import DataError
from mop.types import unguarded, without_surrogates

MAX_CELL = 16 * 2**20
DELIMITERS = (",", ";", "\t", "|")
NO_DELIMITER = "\x1f"
"""Separates nothing: in a file of one column."""
MAX_JOINED = 20
"""Lines that may be one row whose quotes go wrong."""

NOT_UTF8 = BadRow("encoding", "has bytes of another encoding than the rest")

_OURS = ["id", "context", "response", "label", "persona", "exemplar", "temperature"]
"""How the columns of a CSV begin that `mop.simulate.rows` wrote: its cells may be guarded."""

Open = Callable[[str], io.TextIOWrapper]
"""Opens a file in an encoding, line ends as they are."""


class CsvRow(dict[str, object]):
    """A row, and whether it had to be repaired or needs a look."""

    reason: BadRow | None


@dataclass(frozen=True, slots=True)
class Form:
    """How a file is written."""

    encoding: str
    delimiter: str
    quotes: Literal["doubled", "backslash", "none"] = "doubled"
    """How a quote within a cell is written; none: quotes are letters like others."""
    n_skipped: int = 0
    """1 if the first line is Excel's ``sep=;``."""


def header_and_rows(
    name: str, opened: Open, content: Content, *, delimiter: str, first: str
) -> tuple[list[str], str, Callable[[Sequence[str]], Iterator[tuple[int, dict[str, object] | BadRow]]]]:
    """Names of the columns, the delimiter, and what yields (line, row).

    Raises
    ------
    DataError
        If there is no readable header.
    """
    form = _form_of(opened, content, delimiter, first)
    header: list[str] | BadRow = next((row for _, row, _ in _rows(opened, form, 0)), [])
    if isinstance(header, BadRow) or not header:
        what = header.message if isinstance(header, BadRow) else "is missing: the file is empty"
        raise DataError(f"the header of {name} {what}; the first line must hold the column names")
    is_ours = header[: len(_OURS)] == _OURS
    names = [stripped(unguarded(cell) if is_ours else cell) for cell in header]

    def rows(wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, object] | BadRow]]:
        indices = [(column, names.index(column)) for column in wanted]
        found = _rows(opened, form, len(names))
        next(found)
        for number, cells, reason in found:
            if isinstance(cells, BadRow):
                yield number, cells
                continue
            row = CsvRow({column: unguarded(cells[i]) if is_ours else cells[i] for column, i in indices})
            row.reason = reason
            yield number, row

    return names, form.delimiter, rows


def _form_of(opened: Open, content: Content, delimiter: str, first: str) -> Form:
    """The form in which most rows have as many cells as the header."""
    form = Form(content.encoding, delimiter)
    with opened(content.encoding) as text:
        line = text.readline(MAX_CELL)
    if excel := re.fullmatch(r'\ufeff?"?sep=(.)"?[\r\n]*', line, re.IGNORECASE):
        form = replace(form, n_skipped=1, delimiter=excel[1] if delimiter == "auto" else delimiter)
    forms = [form]
    if form.delimiter == "auto":
        forms = [replace(form, delimiter=mark) for mark in dict.fromkeys((first, *DELIMITERS))]
        n_cells = {form: _n_cells(opened, form) for form in forms}
        most = max(n_cells.values())
        if most < 2:
            return replace(form, delimiter=NO_DELIMITER) if most else forms[0]
        forms = sorted((form for form in forms if n_cells[form] > 1), key=lambda form: -n_cells[form])
    if content.has_backslash_quotes:
        forms += [replace(form, quotes="backslash") for form in forms]
    if len(forms) == 1 and not content.has_quotes:
        return forms[0]
    scores = {form: _score(opened, form) for form in forms}
    best = max(forms, key=scores.__getitem__)
    if scores[best][1]:  # bad rows
        plain = replace(best, quotes="none")
        n_good, n_bad = _score(opened, plain)
        return best if n_bad or n_good <= scores[best][0] else plain
    return best


def _n_cells(opened: Open, form: Form) -> int:
    return next((len(row) for _, row, _ in _rows(opened, form, 0) if not isinstance(row, BadRow)), 0)


def _score(opened: Open, form: Form) -> tuple[int, int]:
    """Rows with as many cells as the header, and minus the others; quotes around a cell are no letters."""
    rows, n_good, n_bad = _rows(opened, form, 0), 0, 0
    header = next(rows, (0, [], None))[1]
    n_cells = 0 if isinstance(header, BadRow) else len(header)
    for _, cells, _ in rows:
        if isinstance(cells, BadRow):
            n_bad -= 1
            continue
        if form.quotes == "none" and any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells):
            return -1, 0
        is_good = len(cells) == n_cells
        n_good, n_bad = n_good + is_good, n_bad - (not is_good)
    return n_good, n_bad


_BEFORE_QUOTE = re.compile(r'(\\+)"')


def _doubled(match: re.Match[str]) -> str:
    n = len(match[1])
    return "\\" * (n // 2) + ('""' if n % 2 else '"')


def _rows(opened: Open, form: Form, n_cells: int) -> Iterator[tuple[int, list[str] | BadRow, BadRow | None]]:
    """Yield (number of its first line, cells, what was wrong with them) for every row, the header included.

    A cell whose quote is not closed ends somewhere in later rows, with an error: the first lines that can be read in
    one way only are the row, else its first line is bad; what follows is read again, as rows of their own. With
    ``n_cells`` of 0 nothing is repaired or compared.
    """
    # The limit is one for the process; a wider one hurts nobody.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
    with opened(form.encoding) as text:
        again: deque[str] = deque()
        taken: list[str] = []
        number = 1 + form.n_skipped
        for _ in range(form.n_skipped):
            text.readline()

        def fresh() -> str:
            line = text.readline()
            return _BEFORE_QUOTE.sub(_doubled, line) if form.quotes == "backslash" and '\\"' in line else line

        def lines() -> Iterator[str]:
            while line := again.popleft() if again else fresh():
                taken.append(line)
                yield line

        def reader() -> Iterator[list[str]]:
            if form.quotes == "none":
                return csv.reader(lines(), delimiter=form.delimiter, quoting=csv.QUOTE_NONE)
            return csv.reader(lines(), delimiter=form.delimiter, strict=True)

        found = reader()
        while True:
            taken.clear()
            cells: list[str] | BadRow
            reason = None
            try:
                cells = next(found)
            except StopIteration:
                return
            except csv.Error as error:
                cells, n_lines = _mended(taken, lines(), form.delimiter, n_cells, str(error), number)
                reason = None if isinstance(cells, BadRow) else _over(n_lines) if n_lines > 1 else _QUOTES
                again.extendleft(reversed(taken[n_lines:]))
                del taken[n_lines:]
                found = reader()
            else:
                cells, reason = _compared(cells, taken, form.delimiter, n_cells)
            if cells:
                yield number, cells, reason
            number += len(taken)


_QUOTES = BadRow("quotes", "has quotes that are not doubled; read as they stand")


def _compared(
    cells: list[str], taken: Sequence[str], delimiter: str, n_cells: int
) -> tuple[list[str] | BadRow, BadRow | None]:
    """The cells as they are, if they are as many as the header's."""
    whole = "".join(cells)
    if without_surrogates(whole) != whole:
        return NOT_UTF8, None
    if n_cells == 0:
        return cells, None
    if not cells:  # a blank line is no row, or the one blank cell
        return ([""] if n_cells == 1 else []), None
    while len(cells) > n_cells and not cells[-1]:
        cells.pop()  # Excel writes separators behind the last cell
    if len(cells) != n_cells:
        message = f"has {len(cells)} cells where the header has {n_cells}"
        return BadRow("cells", f"{message}; quote cells that hold a separator"), None
    if any(_is_like_row(line, delimiter, n_cells) for line in taken[1:]):
        return cells, _over(len(taken))
    return cells, None


def _over(n_lines: int) -> BadRow:
    return BadRow("lines", f"goes over {n_lines} lines that look like rows of their own; if they are, fix the quotes")


def _is_like_row(line: str, delimiter: str, n_cells: int) -> bool:
    """Whether a line within a quoted cell has about as many cells, the first of them one word."""
    first, *others = line.rstrip("\r\n").split(delimiter)
    while len(others) >= n_cells and not others[-1]:
        others.pop()
    n_missing = n_cells - 1 - len(others)
    is_word = len(first.split()) == 1 and '"' not in first  # which ends a text
    return is_word and n_cells > 1 and n_missing in ({0, -1, 1} if n_cells > 4 else {0, -1})


def _mended(
    taken: list[str], more: Iterator[str], delimiter: str, n_cells: int, error: str, number: int
) -> tuple[list[str] | BadRow, int]:
    """Cells of the first lines that can be read in one way, and how many lines; ``more`` adds to ``taken``."""
    n_read = len(taken)
    if n_cells:
        for n_lines in range(1, MAX_JOINED + 1):
            if n_lines > len(taken) and next(more, None) is None:
                break
            last = taken[n_lines - 1]
            if n_lines > 1 and last.count('"') % 2 == 0 and _is_like_row(last, delimiter, n_cells):
                break
            cells = _only_reading("".join(taken[:n_lines]), delimiter, n_cells)
            if cells is not None:
                whole = "".join(cells)
                return (cells if without_surrogates(whole) == whole else NOT_UTF8), n_lines
    after = f"; lines {number + 1} to {number + n_read - 1} were read again" if n_read > 1 else ""
    return BadRow("cells", f"is wrongly quoted ({error}){after}; double the quotes within a quoted cell"), 1


def _only_reading(line: str, delimiter: str, n_cells: int) -> list[str] | None:
    """Cells of a line, if there is one way to have ``n_cells``: a quote closes a cell only at its end."""
    body = line.rstrip("\r\n")
    if body.count('"') % 2:
        return None
    found: list[list[str]] = []
    waiting: list[tuple[int, list[str]]] = [(0, [])]
    for _ in range(500):
        if not waiting or len(found) > 1:
            break
        start, cells = waiting.pop()
        if start > len(body):
            found += [cells[:n_cells]] if len(cells) >= n_cells and not any(cells[n_cells:]) else []
        elif len(cells) < n_cells or not any(cells[n_cells:]):
            ends = _closing(body, start, delimiter)
            waiting += [(end + 2, [*cells, body[start + 1 : end].replace('""', '"')]) for end in ends]
            end = body.find(delimiter, start)
            end = len(body) if end < 0 else end
            if not ends or body[end - 1] != '"':
                waiting.append((end + 1, [*cells, body[start:end]]))
    return found[0] if len(found) == 1 and not waiting else None


def _closing(body: str, start: int, delimiter: str) -> list[int]:
    """Where a quoted cell may end: at a quote before a delimiter or the end that is no half of a doubled one."""
    if not body.startswith('"', start):
        return []
    ends = []
    for run in re.compile('"+').finditer(body, start + 1):
        is_last = run.end() == len(body) or body.startswith(delimiter, run.end())
        if is_last and len(run[0]) % 2:
            ends.append(run.end() - 1)
    return ends
