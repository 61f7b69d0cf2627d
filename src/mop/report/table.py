"""The figures of a comparison to a table in Markdown and LaTeX, and to one page with a map per method.

The page asks nothing of a network; every text in it may be hostile and is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from mop.errors import require
from mop.report import plots
from mop.report.page import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS: Sequence[tuple[str, str, int]] = (
    ("energy", "energy", -1),
    ("fid_excess", "FID excess", -1),
    ("fid", "FID", -1),
    ("mauve", "MAUVE", 1),
    ("kl_cosine", "KL-cosine", -1),
    ("f1", "F1", 1),
    ("sense", "sense", 0),
    ("improbable", "improbable", 0),
    ("mean_words", "words", 0),
    ("empty", "empty", 0),
    ("near_copies", "copies", 0),
)
"""(name, title, better) of the figures; -1 if lower is better, 1 if higher, 0 if neither is ranked."""
DRAWN = ("energy", "fid_excess", "mauve", "f1")
"""Ranked figures that the page draws."""
COSTS: Sequence[tuple[str, str]] = (
    ("lm_calls", "LM calls"),
    ("lm_tokens", "LM tokens"),
    ("minutes", "minutes"),
    ("money", "money"),
    ("prepare_calls", "calls before"),
    ("prepare_tokens", "tokens before"),
    ("prepare_minutes", "minutes before"),
)
"""(name, title) of what a method cost per seed, and once before its draws."""

FLOOR_NAME = "other real texts"


@dataclass(frozen=True, slots=True)
class Row:
    """One method of the table."""

    name: str
    values: dict[str, Any]
    """Figures by name, as `mop.runs.compare.over_seeds` gives them, with costs."""


def cell(values: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Return a figure and its interval as text.

    Examples
    --------
    >>> cell({"fid": 0.25, "fid_interval": [0.2, 0.3]}, "fid"), cell({}, "fid")
    (('0.250', '0.200 to 0.300'), ('–', ''))
    """
    value = values.get(name)
    interval = values.get(f"{name}_interval")
    spread = f"{number(interval[0])} to {number(interval[1])}" if interval else ""
    return number(value), spread


def best_names(rows: Sequence[Row]) -> dict[str, str]:
    """Method that is best on each ranked figure, if more than one has it."""
    best = {}
    for name, _, better in COLUMNS:
        have = [row for row in rows if row.values.get(name) is not None]
        if better and len(have) > 1:
            best[name] = max(have, key=lambda row: better * row.values[name]).name
    return best


def _columns(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    """The figures that any row has."""
    return [c for c in COLUMNS if any(row.values.get(c[0]) is not None for row in rows)]


def _costs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [c for c in COSTS if any(row.values.get(c[0]) for row in rows)]


def _header(columns: Sequence[tuple[str, str, int]]) -> list[str]:
    arrows = {-1: " ↓", 0: "", 1: " ↑"}
    return [title + arrows[better] for _, title, better in columns]


def compared_on(n: int, n_golden: int) -> str:
    """Return on how many texts figures rest, as a sentence."""
    return f"Figures are of {n:,} texts of each method against {n_golden:,} real ones that no method saw."


def markdown_table(rows: Sequence[Row], floor: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """Return the table in Markdown: a row per method, the floor last; the best of a column is bold; then notes."""
    columns, costs, best = _columns(rows), _costs(rows), best_names(rows)
    titles = ["method", *_header(columns), "seeds", *(title for _, title in costs), "sees real texts"]
    lines = ["| " + " | ".join(titles) + " |", "| " + " | ".join(["---"] * len(titles)) + " |"]
    for row in rows:
        cells = []
        for name, _, _ in columns:
            text, spread = cell(row.values, name)
            text = f"**{text}**" if best.get(name) == row.name else text
            cells.append(f"{text} ({spread})" if spread else text)
        cells.append(number(row.values.get("n_seeds")))
        cells += [number(row.values.get(name)) for name, _ in costs]
        cells.append("yes" if row.values.get("sees_real") else "no")
        lines.append("| " + " | ".join([row.name.replace("|", r"\|"), *cells]) + " |")
    last = [number(floor.get(name)) for name, _, _ in columns]
    lines.append("| " + " | ".join([FLOOR_NAME, *last, *[""] * (len(costs) + 2)]) + " |")
    said = ["", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join([*lines, *said]) + "\n"


def latex_table(rows: Sequence[Row], floor: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """Return the table in LaTeX (``booktabs``), the best of a column in bold, intervals in small type.

    Notes become comments.
    """
    columns, costs, best = _columns(rows), _costs(rows), best_names(rows)
    titles = ["method", *_header(columns), "seeds", *(title for _, title in costs)]
    lines = [
        r"\begin{tabular}{l" + "r" * (len(titles) - 1) + "}",
        r"\toprule",
        " & ".join(latex(title) for title in titles) + r" \\",
        r"\midrule",
    ]
    for row in rows:
        cells = [latex(row.name)]
        for name, _, _ in columns:
            text, spread = (latex(part) for part in cell(row.values, name))
            text = rf"\textbf{{{text}}}" if best.get(name) == row.name else text
            cells.append(rf"{text} {{\scriptsize ({spread})}}" if spread else text)
        cells += [latex(number(row.values.get(name))) for name in ("n_seeds", *(c[0] for c in costs))]
        lines.append(" & ".join(cells) + r" \\")
    last = [latex(number(floor.get(name))) for name, _, _ in columns]
    lines += [r"\midrule", " & ".join([FLOOR_NAME, *last, *[""] * (len(costs) + 1)]) + r" \\"]
    said = [f"% {' '.join(note.split())}" for note in notes]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *said]) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "−": r"$-$", "–": "--",
}  # fmt: skip


def latex(text: str) -> str:
    r"""Return text that LaTeX prints as it is.

    Examples
    --------
    >>> print(latex("k_5 & 10 % −1"))
    k\_5 \& 10 \% $-$1
    """
    return "".join(_LATEX.get(char, char) for char in text)


def comparison_page(
    document: Mapping[str, Any],
    rows: Sequence[Row],
    ablations: Sequence[Row],
    places: Mapping[str, Sequence[Sequence[float]]],
) -> tuple[str, dict[str, Figure]]:
    """Return the page and its figures, the latter as for a paper.

    Parameters
    ----------
    document : mapping
        ``comparison.json``.
    rows, ablations : sequence of Row
        The two tables; the second may be empty.
    places : mapping of str to (m, 2) places
        ``golden`` and methods on one map.

    Raises
    ------
    MissingDependencyError
        If jinja2 or matplotlib is not installed.
    """
    jinja2 = require("jinja2", extra="report")
    markup = require("markupsafe", extra="report").Markup
    paper = _figures(document, rows, places, plots.WIDE)
    svgs: dict[str, list[tuple[str, Any]]] = {}
    rules: dict[str, str] = {}
    for form, width in (("wide", plots.WIDE), ("narrow", plots.NARROW)):
        for name, figure in _figures(document, rows, places, width).items():
            svg, more = plots.themed_svg(figure, f"{name}-{form}", _ALT[name])
            svgs.setdefault(name, []).append((form, markup(svg)))
            rules |= more
    own = resources.files("mop.report").joinpath("templates")
    style = own.joinpath("report.css").read_text(encoding="utf-8") + "".join(
        f".{name}{{{rules[name]}}}" for name in sorted(rules)
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page: str = environment.from_string(own.joinpath("compare.html").read_text(encoding="utf-8")).render(
        style=markup(style),
        policy=(f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"),
        document=document,
        figures=svgs,
        tables=[
            _table(title, of, found, compared_on(found["n_responses"], document["n_golden"]))
            for title, of, found in (("Methods", rows, document), ("Ablations", ablations, document.get("ablations")))
            if found is not None
        ],
        real=[(name, *cell(values, "f1"), number(values["n_train"])) for name, values in document["real"].items()],
        settings=_flat(document["settings"]),
        number=number,
    )
    return page, paper


_ALT = {
    "metrics": "Each method's score with its interval, one panel per metric; numbers in the table.",
    "map": "One map per method: its texts over real texts in grey.",
}


def _figures(
    document: Mapping[str, Any], rows: Sequence[Row], places: Mapping[str, Sequence[Sequence[float]]], width: float
) -> dict[str, Figure]:
    ranked = [column for column in _columns(rows) if column[0] in DRAWN]
    values = np.array([[_or_nan(row.values.get(name)) for name, _, _ in ranked] for row in rows]).reshape(
        len(rows), len(ranked)
    )
    intervals = np.array(
        [[row.values.get(f"{name}_interval") or (math.nan, math.nan) for name, _, _ in ranked] for row in rows]
    ).reshape(len(rows), len(ranked), 2)
    floors = np.array([_or_nan(document["floor"].get(name)) for name, _, _ in ranked])
    names = [row.name for row in rows]
    points = np.array([xy for of in places.values() for xy in of], dtype=np.float64)
    kinds = [("real" if kind == "golden" else kind) for kind, of in places.items() for _ in of]
    return {
        "metrics": plots.metric_figure(values, intervals, floors, names, _header(ranked), width=width),
        "map": plots.map_panels_figure(points, kinds, series=names, width=width),
    }


def _or_nan(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _table(title: str, rows: Sequence[Row], found: Mapping[str, Any], said: str) -> dict[str, Any]:
    """What the template shows of a table."""
    columns, costs, best = _columns(rows), _costs(rows), best_names(rows)
    return {
        "title": title,
        "columns": _header(columns),
        "costs": [title for _, title in costs],
        "rows": [
            {
                "name": plots.printable(row.name),
                "cells": [(*cell(row.values, name), best.get(name) == row.name)
                          for name, _, _ in columns],
                "n_seeds": row.values.get("n_seeds"),
                "sees_real": bool(row.values.get("sees_real")),
                "costs": [number(row.values.get(name)) for name, _ in costs],
            }
            for row in rows
        ],
        "floor": [number(found["floor"].get(name)) for name, _, _ in columns],
        "said": said,
        "notes": found["notes"],
    }  # fmt: skip


def _flat(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings as (dotted name, text)."""
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += [(f"{name}.{inner}", text) for inner, text in _flat(value)]
        else:
            found.append((name, plots.printable(str(value))))
    return found
