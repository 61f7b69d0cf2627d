"""The figures of a comparison to a table in Markdown and LaTeX, and to one page with a map per method.

Rows are method names to figures, as `mop.runs.compare.over_seeds` gives them, with costs. The page asks nothing of a
network; every text in it may be hostile and is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mop.evaluate.samples import FLOOR
from mop.report import plots
from mop.report.document import ends, flat, html, number, printable
from mop.report.names import page_title
from mop.report.page import ALT, METRICS, MOP, PLAIN, score_figure, titled
from mop.report.palette import REAL, series_of
from mop.report.reading import bin_table, lengths, option_shares, side_by_side
from mop.report.verdicts import FOR_FREE_TEXTS
from mop.types import Record, Response

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Mapping[str, Mapping[str, Any]]
"""Method to figures and costs by name."""
Best = Mapping[str, str | None]
"""Figure to the method that is clearly the best on it, if one is."""

COLUMNS = (
    "valid_answers", "total_variation", "energy", "fid_excess", "fid", "mauve", "kl_cosine", "f1", "sense",
    "improbable", "wrong_label", "cut_share", "mean_words", "empty", "near_copies",
)  # fmt: skip
"""Figures of the table, by their names in `mop.report.page.METRICS`."""
FIRST = (
    "valid_answers", "total_variation", "energy", "fid_excess", "f1", "mauve", "cut_share", "sense", "mean_words",
)  # fmt: skip
"""Figures by how much a reader wants them: the page shows the first `N_FIRST` there are, the others on request; the
short table has the first `N_SHORT`."""
N_FIRST, N_SHORT = 5, 6
BEST_IS_CLEAR = (
    "Bold is a method that is better than every other, beyond the 95 % interval of their difference on the same "
    "questions; in a column without bold none is."
)
DRAWN = ("total_variation", "energy", "fid_excess", "mauve", "f1")
"""Ranked figures that the page draws."""
COSTS: Mapping[str, str] = {
    "lm_calls": "LM calls",
    "lm_tokens": "LM tokens",
    "minutes": "minutes",
    "money": "money",
    "prepare_calls": "calls before",
    "prepare_tokens": "tokens before",
    "prepare_minutes": "minutes before",
}
"""Titles of what a method cost per seed, and once before its draws."""

FLOOR_NAME = "other real texts"

_ALT = {**ALT, "map": "One map per method: its texts over real texts in grey."}


def _columns(rows: Rows) -> list[str]:
    """The figures that any row has."""
    return [name for name in COLUMNS if any(values.get(name) is not None for values in rows.values())]


def _first(columns: Sequence[str]) -> list[str]:
    """Those of `FIRST` that there are; of closed questions, without what is not meant for them."""
    left_out = FOR_FREE_TEXTS if "valid_answers" in columns else ()
    return [name for name in FIRST if name in columns and name not in left_out]


def _costs(rows: Rows) -> list[str]:
    """The costs that any row has."""
    return [name for name in COSTS if any(values.get(name) for values in rows.values())]


def compared_on(found: Mapping[str, Any], n_golden: int) -> str:
    """Return on how many texts the figures of a table rest, and why not on more, as a sentence."""
    limit = found.get("limited_by")
    why = f" ({FLOOR_NAME if limit == FLOOR else limit} has no more)" if limit else ""
    n = f"{found['n_responses']:,}"
    return f"Figures are of {n} texts of each method{why} against {n_golden:,} real ones that no method saw."


def _grid(
    rows: Rows,
    floor: Mapping[str, Any],
    best: Best,
    is_short: bool,
    plain: Callable[[str], str],
    show: Callable[[str, str, bool], str],
) -> list[list[str]]:
    """Titles, a line of cells per method, and other real texts.

    ``plain`` escapes a text, and ``show`` joins a figure and its interval, knowing if the figure is the best.
    """
    columns, costs = _columns(rows), _costs(rows)
    if is_short:
        columns = _first(columns)[:N_SHORT]
    further = [] if is_short else ["seeds", *(COSTS[name] for name in costs), "sees real texts"]
    titles = ["method", *map(titled, columns), *further]
    lines = [list(map(plain, titles))]
    for method, values in rows.items():
        figures = [
            show(
                plain(number(values.get(name))),
                plain(ends(values.get(f"{name}_interval"))),
                method == best.get(name),
            )
            for name in columns
        ]
        about = [number(values.get(name)) for name in ("n_seeds", *costs)]
        about.append("yes" if values.get("sees_real") else "no")
        lines.append([plain(method), *figures, *(map(plain, about) if further else [])])
    last = [plain(number(floor.get(name))) for name in columns]
    return [*lines, [FLOOR_NAME, *last, *[""] * len(further)]]


def markdown_table(
    rows: Rows, floor: Mapping[str, Any], notes: Sequence[str] = (), *, best: Best, is_short: bool = False
) -> str:
    """Return the table in Markdown: a row per method, other real texts last; the best of a column is bold; then notes.

    The short form has at most `N_SHORT` figures and no costs.
    """

    def show(text: str, spread: str, is_best: bool) -> str:
        text = f"**{text}**" if is_best else text
        return f"{text} ({spread})" if spread else text

    lines = _grid(rows, floor, best, is_short, lambda text: text.replace("|", r"\|"), show)
    lines.insert(1, ["---"] * len(lines[0]))
    said = ["", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), *said]) + "\n"


def latex_table(
    rows: Rows, floor: Mapping[str, Any], notes: Sequence[str] = (), *, best: Best, is_short: bool = False
) -> str:
    """Return the table of `markdown_table` in LaTeX (``booktabs``), intervals in small type, notes as comments."""

    def show(text: str, spread: str, is_best: bool) -> str:
        text = rf"\textbf{{{text}}}" if is_best else text
        return rf"{text} {{\scriptsize ({spread})}}" if spread else text

    grid = _grid(rows, floor, best, is_short, latex, show)
    titles, *body, last = [" & ".join(line) + r" \\" for line in grid]
    start = r"\begin{tabular}{l" + "r" * (len(grid[0]) - 1) + "}"
    said = [f"% {' '.join(note.split())}" for note in notes]
    rule, end = r"\midrule", [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([start, r"\toprule", titles, rule, *body, rule, last, *end, *said]) + "\n"


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
    rows: Rows,
    ablations: Rows,
    places: Mapping[str, Sequence[Sequence[float]]],
    *,
    texts: Mapping[str, Sequence[Response]] | None = None,
    real: Sequence[Record] = (),
) -> tuple[str, dict[str, Figure]]:
    """Return the page and its figures, the latter as for a paper.

    Parameters
    ----------
    document : mapping
        ``comparison.json``.
    rows, ablations : Rows
        The two tables; the second may be empty.
    places : mapping of str to (m, 2) places
        ``golden`` and methods on one map.
    texts : mapping of str to sequence of Response
        What each method wrote with the first seed, those that were drawn.
    real : sequence of Record
        What people wrote to the same contexts; their keys are the ids of the texts.

    Raises
    ------
    MissingDependencyError
        If jinja2 or matplotlib is not installed.
    """
    document, rows, ablations = printable(document), printable(rows), printable(ablations)
    texts, real = printable(texts or {}), printable(real)
    first = [name for name in (MOP, PLAIN) if name in rows]
    rows = {name: rows[name] for name in dict.fromkeys([*first, *rows])}
    texts = {name: texts[name] for name in rows if name in texts}
    points = np.array([xy for of in places.values() for xy in of], dtype=np.float64)
    kinds = [REAL if kind == plots.GOLDEN else kind for kind, of in places.items() for _ in of]
    series = series_of([*rows, *kinds, *ablations])
    closed = None if document.get("closed") is None else option_shares(document["closed"], rows)
    sizes = lengths([row.response for row in real], [row for of in texts.values() for row in of])

    def draw(width: float) -> dict[str, Figure]:
        ranked = [name for name in _columns(rows) if name in DRAWN]
        found = {
            "metrics": score_figure(rows, document["floor"], ranked, series=series, width=width),
            "map": plots.map_panels_figure(points, kinds, series=series, width=width),
        }
        if sizes is not None:
            found["lengths"] = plots.histogram_figure(*sizes, series=series, x_label="words of a text", width=width)
        if closed is not None:
            found["options"] = plots.shares_figure(closed.of, closed.rows, series=series, width=width)
        return {name: figure for name, figure in found.items() if figure is not None}

    tables = [
        {
            "title": title,
            "rows": of,
            "floor": found["floor"],
            "columns": {name: titled(name) for name in [*_first(_columns(of))[:N_FIRST], *_columns(of)]},
            "costs": {name: COSTS[name] for name in _costs(of)},
            "best": {name: {found.get("best", {}).get(name)} for name in _columns(of)},
            "said": f"{compared_on(found, document['n_golden'])} {BEST_IS_CLEAR}",
            "verdicts": found.get("verdicts", []),
            "notes": found["notes"],
        }
        for title, of, found in (("Methods", rows, document), ("Ablations", ablations, document.get("ablations")))
        if found is not None
    ]
    figure_tables = {} if sizes is None else {"lengths": bin_table("words", *sizes)}
    if closed is not None:
        figure_tables["options"] = closed.table()
    task = document["settings"].get("data", {}).get("task", "")
    page = html(
        "compare.html", draw, _ALT,
        script_data={}, document=document, title=page_title(task, document["source"]), tables=tables,
        n_first=N_FIRST, settings=flat(document["settings"]), series=series, beside=side_by_side(real, texts),
        figure_tables=figure_tables, guides=METRICS,
    )  # fmt: skip
    return page, draw(plots.WIDE)
