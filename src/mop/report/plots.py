"""One function per figure: plain arrays in, a matplotlib ``Figure`` out; for a page and a paper.

``width`` is in inches everywhere: `WIDE`, or `NARROW`, in which panels stand one above the other. Next comes
`mop.report.page`, which checks that arrays agree and places the figures in one HTML file. The object interface of
matplotlib is used throughout, so nothing global (no current figure, no display) is touched.
"""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec
from xml.etree import ElementTree

import numpy as np

from mop.errors import require
from mop.report.palette import COLOURS, REAL, series_colour, series_marker
from mop.storage.files import write_atomic
from mop.types import FloatArray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

GOLDEN = "golden"
"""Texts that people wrote, among histograms."""

MOST_PERSONAS, MOST_GROUPS = 24, 12
"""Rows and columns of `gates_figure`."""
WIDE, NARROW = 7.2, 3.6
"""Figure widths in inches: a page or two columns of a paper; a telephone or one column."""

_STYLE: Mapping[str, object] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "figure.edgecolor": "none",
    "savefig.facecolor": "none",
    "savefig.edgecolor": "none",
    "text.color": COLOURS["ink"],
    # A dollar sign in a persona or a method name is a dollar sign, not the start of a formula.
    "text.parse_math": False,
    "text.usetex": False,
    **{f"{axis}tick.color": COLOURS["rule"] for axis in "xy"},
    **{f"{axis}tick.labelcolor": COLOURS["muted"] for axis in "xy"},
    **{f"{axis}tick.labelsize": 7.5 for axis in "xy"},
    **{f"{axis}tick.major.size": 2.5 for axis in "xy"},
    **{f"{axis}tick.major.width": 0.7 for axis in "xy"},
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.6,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "mop",
    "pdf.fonttype": 42,
}

_DASHED: Mapping[str, Any] = {"color": COLOURS["real"], "linewidth": 1.2, "linestyle": (0, (3, 2))}
"""What others are compared with."""

_BIDI = dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])

_SVG_ELEMENTS = frozenset({"svg", "g", "defs", "path", "use", "text", "tspan", "rect", "clipPath", "circle", "line"})


def printable(text: str) -> str:
    r"""Return text that any file format can carry, with the unprintable made visible.

    Tabs and line breaks stay (as ``\t`` and ``\n``); other control characters become their
    pictures (NUL is ␀), what no encoding can write (lone surrogates, non-characters) becomes �.

    Examples
    --------
    >>> printable("a\x00b\r\nc\ud800")
    'a␀b\nc�'
    """
    if text.isprintable():
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(char if char in "\t\n" else _visible(char) for char in text)


def _visible(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    is_unwritable = unicodedata.category(char) in {"Cs", "Cc"} or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return "�" if is_unwritable else char


def shorten(text: str, limit: int) -> str:
    r"""Return text as one printable line of at most ``limit`` characters.

    Direction overrides are left away: a label stands beside others.

    Examples
    --------
    >>> shorten("A viewer who likes\nslow films", 15)
    'A viewer who…'
    """
    line = " ".join(printable(text).translate(_BIDI).split())
    if len(line) <= limit:
        return line
    cut = line[: limit - 1]
    space = cut.rfind(" ")
    return (cut[:space] if space > limit // 2 else cut).rstrip(" ,;:.") + "…"


@contextmanager
def _style() -> Iterator[None]:
    """Draw in our style whatever the user's matplotlibrc says."""
    matplotlib = require("matplotlib", extra="report")
    with matplotlib.rc_context(dict(_STYLE)), warnings.catch_warnings():
        # The font is only measured here; the reader's browser brings the scripts that it lacks.
        warnings.filterwarnings("ignore", message=r".*Glyph .* missing from")
        yield


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _style():
            return draw(*args, **kwargs)

    return styled


def _figure(width: float, height: float) -> Figure:
    layout = require("matplotlib.layout_engine", extra="report").ConstrainedLayoutEngine(
        w_pad=0.03, h_pad=0.04, wspace=0.09 if width >= 5 else 0.02
    )
    figure: Figure = require("matplotlib.figure", extra="report").Figure(figsize=(width, height), layout=layout)
    return figure


def _panels(n: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with n panels of one scale, in rows of a height in inches."""
    rows = -(-n // columns)
    figure = _figure(width, height * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for axes in panels[n:]:
        axes.set_visible(False)
    for axes in panels[max(0, n - columns) : n]:  # also above an empty place
        axes.tick_params(labelbottom=True)
    return figure, panels[:n]


def _quiet(axes: Axes, *sides: str) -> None:
    """Remove frame sides and their ticks."""
    for side in sides:
        axes.spines[side].set_visible(False)
    axes.tick_params(left="left" not in sides, bottom="bottom" not in sides)


@_styled
def metric_figure(
    values: FloatArray,
    intervals: FloatArray,
    floors: FloatArray,
    methods: Sequence[str],
    metrics: Sequence[str],
    *,
    series: Mapping[str, int],
    width: float = WIDE,
) -> Figure:
    """Draw each method's score with its interval, one panel per metric, and the floor as a line.

    Parameters
    ----------
    values : ndarray, shape (M, P)
        Score of method m on metric p; nan where it was not measured.
    intervals : ndarray, shape (M, P, 2)
        Lower and upper end; nan where there is none.
    floors : ndarray, shape (P,)
        The same metric for other real texts; nan where there is none.
    methods, metrics : sequence of str
        Their M and P names.
    series : mapping of str to int
        As `mop.report.palette.series_of` gives it.
    """
    is_wide = width >= 5
    rows, columns = (1, len(metrics)) if is_wide else (len(metrics), 1)
    panel = 0.75 + 0.24 * len(methods)
    figure = _figure(width, panel * rows)
    panels = figure.subplots(rows, columns, sharey=is_wide, squeeze=False).ravel()
    places = np.arange(len(methods))[::-1]
    for p, axes in enumerate(panels):
        axes.set_title(shorten(metrics[p], 40))
        if np.isfinite(floors[p]):
            axes.axvline(floors[p], **_DASHED)
        for m, place in enumerate(places):
            slot = series[methods[m]]
            colour = series_colour(slot)
            low, high = intervals[m, p]
            axes.plot([low, high], [place, place], color=colour, linewidth=2.2, alpha=0.45, solid_capstyle="round")
            axes.plot(values[m, p], place, series_marker(slot), color=colour, markersize=5.5)
        axes.set_yticks(places, [shorten(name, 24) for name in methods])
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.tick_params(axis="y", labelcolor=COLOURS["ink"], labelsize=8)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=4)
        _quiet(axes, "left", "bottom")
    return figure


@_styled
def map_figure(
    points: FloatArray,
    kinds: Sequence[str],
    order: Sequence[str],
    *,
    series: Mapping[str, int],
    width: float = WIDE,
) -> Figure:
    """Draw texts as points in the plane, real ones in grey, methods in their colours and shapes.

    The axes of a projection have no meaning and are left away. The points of kind ``order[i]`` are
    the group ``kind-i`` of the SVG, in the order given.

    Parameters
    ----------
    points : ndarray, shape (N, 2)
        Places from a projection of the embeddings.
    kinds : sequence of str
        The N names, each one of ``order``.
    order : sequence of str
        Kinds in drawing order, the last one on top.
    series : mapping of str to int
        As `mop.report.palette.series_of` gives it for all of ``order`` but `REAL`.
    """
    figure = _figure(width, width * 0.62)
    axes = figure.subplots()
    size = float(np.clip(115 / max(len(kinds), 1) ** 0.5, 1.7, 4.5)) * min(width / WIDE, 1)
    for i, name in enumerate(order):
        chosen = points[np.array([kind == name for kind in kinds], dtype=bool)]
        _draw_points(axes, chosen, -1 if name == REAL else series[name], size=size, gid=f"kind-{i}")
    return figure


@_styled
def map_panels_figure(
    points: FloatArray, kinds: Sequence[str], *, series: Mapping[str, int], width: float = WIDE
) -> Figure:
    """Draw the same map once per method, each over the real texts in grey.

    This is the form for paper, where nothing can be hidden. Parameters are those of
    `map_figure`; every name in ``series`` that occurs gets a panel.
    """
    drawn = [name for name in series if name in set(kinds)]
    columns = min(len(drawn), 3 if width >= 5 else 2)
    figure, panels = _panels(len(drawn), columns, width, width / columns * 0.8 + 0.2)
    size = float(np.clip(60 / max(len(kinds), 1) ** 0.5, 1.0, 3.0))
    members = {name: points[np.array([kind == name for kind in kinds], dtype=bool)] for name in (REAL, *drawn)}
    for name, axes in zip(drawn, panels, strict=True):
        axes.set_title(shorten(name, 30))
        _draw_points(axes, members[REAL], -1, size=size)
        _draw_points(axes, members[name], series[name], size=size)
    return figure


def _draw_points(axes: Axes, points: FloatArray, s: int, *, size: float, gid: str | None = None) -> None:
    """Draw one kind of text; series -1 is real texts."""
    axes.plot(
        points[:, 0],
        points[:, 1],
        linestyle="none",
        marker="o" if s < 0 else series_marker(s),
        markersize=size * (0.9 if s < 0 else 1.15),
        markeredgewidth=0,
        color=COLOURS["real"] if s < 0 else series_colour(s),
        alpha=0.5 if s < 0 else 0.72,
        gid=gid,
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.02)
    _quiet(axes, "left", "bottom")


@_styled
def usage_figure(uses: FloatArray, *, width: float = WIDE) -> Figure:
    """Draw which share of all draws the most used exemplars take together.

    Parameters
    ----------
    uses : ndarray, shape (N,)
        How often each exemplar was drawn, zeros included; at least one draw in all.
    """
    share = np.concatenate([[0.0], np.cumsum(np.sort(uses)[::-1]) / np.sum(uses)])
    ranks = np.linspace(0, 100, len(share))
    figure = _figure(width, min(0.42 * width, 2.6) if width >= 5 else 2.3)
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], **_DASHED, label="even use")
    axes.plot(ranks, 100 * share, color=COLOURS["series-1"], label="this run")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 102)
    axes.set_xlabel("most used exemplars (% of the pool)")
    axes.set_ylabel("share of draws (%)")
    axes.grid()
    axes.legend(loc="lower right")
    return figure


@_styled
def gates_figure(
    gates: FloatArray,
    groups: Sequence[str],
    names: Sequence[str],
    *,
    width: float = WIDE,
) -> Figure:
    """Draw mean persona weights per group of contexts: personas down, groups across.

    Only the `MOST_PERSONAS` heaviest and the first `MOST_GROUPS` are drawn; the other personas share one row.

    Parameters
    ----------
    gates : ndarray, shape (G, K)
        Mean π_k(x) over the contexts of each group; rows add up to 1.
    groups : sequence of str
        G names, usually labels.
    names : sequence of str
        K short labels.
    """
    groups = groups[:MOST_GROUPS]
    order = np.argsort(-gates.mean(axis=0), kind="stable")
    table = gates[: len(groups), order[:MOST_PERSONAS]].T
    labels = [names[k] for k in order[:MOST_PERSONAS]]
    if len(names) > MOST_PERSONAS:
        table = np.vstack([table, gates[: len(groups), order[MOST_PERSONAS:]].sum(axis=1)])
        labels.append(f"the other {len(names) - MOST_PERSONAS} personas together")
    n_drawn, n_groups = table.shape
    is_wide = width >= 5
    figure = _figure(width, 0.45 + 0.24 * n_drawn)
    axes = figure.subplots()
    collections = require("matplotlib.collections", extra="report")
    patches = require("matplotlib.patches", extra="report")
    colors = require("matplotlib.colors", extra="report")
    # Shade is opacity of one colour, so that the same drawing serves a light and a dark page. The
    # last row is a sum and would darken everything else if it set the scale.
    depth = np.clip(table / max(float(table[:MOST_PERSONAS].max()), 1e-12), 0, 1)
    gap = 0.006 * n_groups
    cells = [
        patches.Rectangle((column + gap, row + 0.06), 1 - 2 * gap, 0.88)
        for row in range(n_drawn)
        for column in range(n_groups)
    ]
    shades = [colors.to_rgba(COLOURS["heat"], 0.03 + 0.57 * float(d)) for d in depth.ravel()]
    axes.add_collection(collections.PatchCollection(cells, facecolors=shades, edgecolors="none", linewidths=0))
    if n_groups <= (8 if is_wide else 4):
        for row, column in np.ndindex(n_drawn, n_groups):
            text = f"{100 * table[row, column]:.1f}"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center_baseline", fontsize=7)
    axes.set_xlim(0, n_groups)
    axes.set_ylim(n_drawn, 0)
    axes.set_xticks(np.arange(n_groups) + 0.5, [shorten(name, 22 if is_wide else 12) for name in groups])
    if n_groups > 6:
        axes.tick_params(axis="x", rotation=40)
    axes.xaxis.tick_top()
    axes.set_yticks(np.arange(n_drawn) + 0.5, [shorten(name, 48 if is_wide else 22) for name in labels])
    axes.tick_params(length=0, labelcolor=COLOURS["ink"])
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


@_styled
def history_figure(
    steps: FloatArray,
    series: Mapping[str, FloatArray],
    *,
    x_label: str,
    colours: Sequence[int],
    best: float | None = None,
    width: float = WIDE,
) -> Figure:
    """Draw the course of the fit.

    Parameters
    ----------
    steps : ndarray, shape (E,)
        Epoch or round of every entry.
    series : mapping of str to ndarray, shape (E,)
        Log-likelihoods in nats per record; nan where not measured at that step.
    x_label : str
        What a step is.
    colours : sequence of int
        Series, as of methods, for each.
    best : float or None
        The step whose weights were kept; a thin line marks it.
    """
    figure = _figure(width, min(0.4 * width, 2.7) if width >= 5 else 2.5)
    axes = figure.subplots()
    if best is not None:
        axes.axvline(best, **_DASHED, label="kept")
    for i, (name, values) in zip(colours, series.items(), strict=True):
        known = np.isfinite(values)
        marker = series_marker(i) if known.sum() <= 40 else ""
        axes.plot(
            steps[known], values[known], marker=marker, markersize=3.4, color=series_colour(i), label=shorten(name, 48)
        )
    axes.set_xlabel(shorten(x_label, 40))
    axes.set_ylabel("nats per record")
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(require("matplotlib.ticker", extra="report").MaxNLocator(integer=True))
    if len(steps) == 1:  # nothing to scale the axis by
        axes.set_xlim(steps[0] - 1, steps[0] + 1)
        axes.set_xticks([steps[0]])
    figure.legend(loc="outside upper left", ncols=3 if width >= 5 else 1)
    return figure


@_styled
def histogram_figure(
    edges: FloatArray,
    counts: Mapping[str, FloatArray],
    *,
    series: Mapping[str, int],
    x_label: str,
    width: float = WIDE,
) -> Figure:
    """Draw how a figure of texts is spread: real texts in grey, one panel per method.

    Parameters
    ----------
    edges : ndarray, shape (B + 1,)
        Bin edges, ascending.
    counts : mapping of str to ndarray, shape (B,)
        Texts, or pairs of them, per bin, `GOLDEN` among the names; each is scaled to the same area.
    series : mapping of str to int
        As `mop.report.palette.series_of` gives it for all of ``counts`` but `GOLDEN`.
    x_label : str
        What the bins are of.
    """
    density = {name: of / max(float(of.sum()), 1e-12) / np.diff(edges) for name, of in counts.items()}
    used = np.flatnonzero(np.sum(list(density.values()), axis=0) > 0.004 * max(d.max() for d in density.values()))
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, len(edges) - 1)
    methods = [name for name in counts if name != GOLDEN]
    columns = min(3 if width >= 5 else 1, len(methods))
    figure, panels = _panels(len(methods), columns, width, 1.75 if width >= 5 else 1.45)
    for name, axes in zip(methods, panels, strict=True):
        axes.stairs(density[GOLDEN], edges, fill=True, color=COLOURS["real"], alpha=0.35, linewidth=0)
        axes.stairs(density[name], edges, color=series_colour(series[name]), linewidth=1.6)
        axes.set_title(shorten(name, 34))
        axes.set_xlim(edges[first], edges[last])
        axes.set_yticks([])
        _quiet(axes, "left")
    figure.supxlabel(x_label, fontsize=8, color=COLOURS["muted"])
    return figure


@_styled
def shares_figure(
    shares: Mapping[str, Sequence[float]],
    rows: Sequence[str],
    *,
    series: Mapping[str, int],
    real: str = "real texts",
    width: float = WIDE,
) -> Figure:
    """Draw shares of labels or of options, a row each: `REAL` as grey bars, methods as marks.

    Parameters
    ----------
    shares : mapping of str to sequence of R floats
        `REAL` and methods to the share of each row, from 0 to 1; nan where it is not known.
    rows : sequence of str
        The R rows, of which the first `MOST_PERSONAS` are drawn.
    series : mapping of str to int
        As `mop.report.palette.series_of` gives it.
    real : str
        What the grey bars are.
    """
    rows = rows[:MOST_PERSONAS]
    n_columns = 4 if width >= 5 else 2
    figure = _figure(width, 0.75 + 0.3 * len(rows) + 0.18 * -(-len(shares) // n_columns))
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    for kind, of in shares.items():
        share = 100 * np.asarray(of[: len(rows)], dtype=np.float64)
        if kind == REAL:
            axes.barh(places, np.nan_to_num(share), height=0.55, color=COLOURS["real"], alpha=0.35, label=real)
            continue
        slot = series[kind]
        axes.plot(
            share, places, series_marker(slot), color=series_colour(slot), markersize=5.5, label=shorten(kind, 24)
        )
    axes.set_yticks(places, [shorten(name, 40 if width >= 5 else 20) for name in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of texts (%)")
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    _quiet(axes, "left", "bottom")
    figure.legend(loc="outside upper left", ncols=n_columns)
    return figure


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write each figure as PDF and as SVG, fit for a paper; the same figure gives the same bytes.

    ``figures`` are by file stem. The folder is made if it does not exist, and files of the same name are replaced; the
    files come back in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        for suffix, metadata in (("pdf", {"CreationDate": None}), ("svg", {"Date": None})):
            path = folder / f"{name}.{suffix}"
            buffer = io.BytesIO()
            with _style():
                figure.savefig(buffer, format=suffix, metadata=metadata)
            write_atomic(path, buffer.getvalue())
            paths.append(path)
    return paths


def themed_svg(figure: Figure, name: str, label: str) -> tuple[str, dict[str, str]]:
    """Return a figure as SVG for a page with light and dark colours, and the style rules it needs.

    Colours become the CSS variables of their role (``--series-1``); fonts become those of the
    page; style attributes become classes, so that a page can forbid inline styles; ids get the
    figure's name in front, so that several figures can live on one page. Only drawing elements
    pass.

    Parameters
    ----------
    figure : Figure
        As the functions above return it.
    name : str
        A word of letters, digits and hyphens; unique on the page.
    label : str
        What a reader who cannot see the figure is told.

    Returns
    -------
    svg : str
        An ``<svg>`` element.
    rules : dict of str to str
        Class name to declarations; equal names have equal declarations, whichever figure they come
        from.
    """
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    rules: dict[str, str] = {}
    clean = _clean(root, name, rules)
    clean.set("role", "img")
    clean.set("aria-label", printable(label))
    return ElementTree.tostring(clean, encoding="unicode"), rules


def _clean(element: ElementTree.Element, name: str, rules: dict[str, str]) -> ElementTree.Element:
    """Copy a drawing element without namespace, inline style and foreign children."""
    clean = ElementTree.Element(element.tag.rpartition("}")[2])
    clean.text = element.text if clean.tag in {"text", "tspan"} else None
    for key, value in element.attrib.items():
        _copy_attribute(clean, key.rpartition("}")[2], value, name, rules)
    for child in element:
        if child.tag.rpartition("}")[2] in _SVG_ELEMENTS:
            clean.append(_clean(child, name, rules))
    return clean


def _copy_attribute(clean: ElementTree.Element, key: str, value: str, name: str, rules: dict[str, str]) -> None:
    if key == "style":
        declarations = _themed(value)
        if declarations:
            # Named by content, hence the same in every figure and in every run.
            class_name = "s" + hashlib.sha256(declarations.encode()).hexdigest()[:8]
            rules[class_name] = declarations
            clean.set("class", class_name)
    elif key == "id":
        clean.set("id", f"{name}-{value}")
    elif key == "href":
        clean.set("href", f"#{name}-{value.removeprefix('#')}")
    elif key == "clip-path":
        clean.set(key, value.replace("url(#", f"url(#{name}-"))
    elif key in {"x", "y"} and clean.tag == "use":
        clean.set(key, f"{float(value):.2f}")
    elif key == "d":
        clean.set(key, re.sub(r"\d+\.\d+", lambda match: f"{float(match[0]):.3f}", " ".join(value.split())))
    elif key in {"viewBox", "x", "y", "width", "height", "transform", "cx", "cy", "r"} and (
        clean.tag != "svg" or key == "viewBox"
    ):
        clean.set(key, value)


_ROLE_OF_COLOUR = {colour: role for role, colour in COLOURS.items()}


def _themed(style: str) -> str:
    """Rewrite one style attribute: roles for colours, the page's font for ours."""
    kept = []
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if not key or key == "font-family":
            continue
        if key == "font":
            size = re.search(r"[\d.]+px", value)
            weight = "bold" if re.search(r"\b(bold|700)\b", value) else None
            kept += [f"font-size:{size[0]}"] if size else []
            kept += [f"font-weight:{weight}"] if weight else []
            continue
        role = _ROLE_OF_COLOUR.get(value)
        kept.append(f"{key}:var(--{role})" if role else f"{key}:{value}")
    return ";".join(kept)
