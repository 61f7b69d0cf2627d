"""What is shown to people: texts made harmless, and lists that show themselves as tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar

from mop.errors import MissingDependencyError

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""What moves, colours or retitles a terminal, turns the direction of writing, hides letters, or is none."""

MOST_ROWS, LONGEST = 20, 200
"""Rows, and letters of each cell, that a notebook shows."""

T = TypeVar("T")


def visible(text: str) -> str:
    r"""Text of data or models made harmless for a terminal, and still valid if it was JSON.

    Examples
    --------
    >>> visible("a\x1b[2Jb")
    'a\\u001b[2Jb'
    """
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class TableList(list[T]):
    """A list of records, responses or mappings that a notebook shows as a table.

    Examples
    --------
    >>> TableList([{"persona": "p0", "weight": 0.25}]).to_dicts()
    [{'persona': 'p0', 'weight': 0.25}]
    """

    def to_dicts(self) -> list[dict[str, Any]]:
        """Each row as a dictionary."""
        return [_as_dict(row) for row in self]

    def to_frame(self) -> Any:
        """All rows as a pandas DataFrame.

        Raises
        ------
        MissingDependencyError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "to_frame needs the package 'pandas', which is not installed; install it with: pip install pandas; "
                "to_dicts() gives the rows for any other package"
            ) from error
        return pd.DataFrame(self.to_dicts())

    def __str__(self) -> str:
        """A table for a terminal."""
        rows = self.to_dicts()
        if not rows:
            return "[]"
        lines = [list(rows[0]), *([_cell(value, 60) for value in row.values()] for row in rows[:MOST_ROWS])]
        widths = [max(len(line[place]) for line in lines) for place in range(len(rows[0]))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([*text, *_more(rows)])

    def _repr_html_(self) -> str:
        return html_table(self.to_dicts())


def html_table(rows: list[dict[str, Any]]) -> str:
    """Rows as an HTML table in which nothing of the data is markup."""
    if not rows:
        return "<p>no rows</p>"
    head = "".join(f"<th>{_escaped(name, LONGEST)}</th>" for name in rows[0])
    body = "".join(
        "<tr>"
        + "".join(f'<td style="text-align:left">{_escaped(value, LONGEST)}</td>' for value in row.values())
        + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" + "".join(
        f"<p>{html.escape(line)}</p>" for line in _more(rows)
    )


def _more(rows: list[dict[str, Any]]) -> Iterable[str]:
    return [f"and {len(rows) - MOST_ROWS} more"] if len(rows) > MOST_ROWS else []


def _escaped(value: object, longest: int) -> str:
    return html.escape(_cell(value, longest))


def _cell(value: object, longest: int) -> str:
    """A value on one line."""
    if isinstance(value, float):
        return f"{value:.3g}"
    text = " · ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
    text = visible(" ".join(text.split()))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _as_dict(row: Any) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    return asdict(row) if is_dataclass(row) and not isinstance(row, type) else {"value": row}
