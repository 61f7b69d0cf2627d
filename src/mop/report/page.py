"""A finished run on one page: tables, figures and every response, in one HTML file.

The file asks nothing of a network. All that it shows comes in as one `ReportData`; nothing is read
from disk here but the package's own template. Text from data, personas and settings is treated as
hostile throughout (see ``docs/report.md``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mop.errors import ConfigError, require
from mop.report import plots
from mop.simulate.write import is_drawn
from mop.storage.run_folder import write_atomic
from mop.types import FloatArray, Response

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REAL = "real"
"""The kind of a map point that a person wrote."""
GOLDEN = "golden"
"""The histogram of real texts."""

MAX_POINT_CHARACTERS = 280
"""Longer texts are cut on the map (not in the list of responses); keeps 5,000 points within 1.5
MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapPoint:
    """One text on the map."""

    x: float
    y: float
    kind: str
    """``real``, or the name of the method that wrote it."""
    text: str
    label: str = ""
    """Class name, if the data has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonaRow:
    """A persona and what the fit made of it."""

    key: str
    description: str
    weight: float
    """Share of the population: mean gate weight over the contexts; all personas add up to 1."""
    temperature: float
    """τ after the fit."""
    size: int = 0
    """Records in the cluster it was written from; 0 if it was not written from one."""
    writer: str = "user"
    """``keywords``, ``llm`` or ``user``."""
    sources: Sequence[str] = ()
    """Texts (not keys) of the records that the writer was shown, nearest first."""
    doubts: Sequence[str] = ()
    """What looks wrong with the description."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExemplarUse:
    """A real record of the exemplar pool and how often it was shown to the model."""

    key: str
    context: str
    response: str
    uses: float
    """Draws in this run (or expected draws)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything a report can show. What is None or empty is left out of the page."""

    title: str
    """Headline of the page: the population, as "Film critics"."""
    task: str = "texts"
    """What was simulated, as a plural noun phrase: "film reviews"."""
    language_model: str = ""
    """The frozen language model, as the user named it."""
    scorer: str = ""
    """The model whose likelihoods the mixture was fitted to, if it is another one (a surrogate)."""
    encoder: str = ""
    """The sentence encoder, as the user named it."""
    created: str = ""
    """When, as text (UTC); empty keeps two renderings of one run identical."""
    n_records: int = 0
    """Real records that the mixture was fitted on."""
    judge: str = ""
    """The model under which ``sense`` was measured, as the user named it."""
    n_held_out: int = 0
    """Real records, kept out of the fit, that the held-out likelihood is from."""
    focus: str = "mop"
    """The method that the page is about, a key of ``methods``."""
    baseline: str = "zero-shot"
    """The method that the summary compares it with."""
    methods: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Method name to metric name to value, as in ``metrics.json``. ``NAME_interval`` holds [low,
    high] of metric NAME, ``NAME_spread`` its standard deviation over seeds; ``n`` the number of
    texts."""
    floor: str = "floor"
    """The key of ``methods`` (if there) that holds the same metrics for other real texts. It is
    never ranked."""
    held_out: Mapping[str, object] | None = None
    """Mean log-likelihood per held-out record in nats by method name, ``gain`` (first minus second
    method) and ``gain_interval`` [low, high], as in ``metrics.json``."""
    references: Sequence[Mapping[str, Any]] = ()
    """Simpler models and what the mixture gains over each: ``name``, ``what`` and the values of
    `mop.mixture.likelihood.references`."""
    fit_notes: Sequence[str] = ()
    """What the fit found out about itself, a sentence each."""
    map_points: Sequence[MapPoint] = ()
    """Real and simulated texts in one 2-D projection of their embeddings."""
    personas: Sequence[PersonaRow] = ()
    """All personas, in the order of the columns of ``gates``."""
    exemplars: Sequence[ExemplarUse] = ()
    """The whole exemplar pool, unused ones included: their share is part of the picture."""
    gate_groups: Sequence[str] = ()
    """Names of the rows of ``gates``: labels, or groups of contexts."""
    gates: FloatArray | None = None
    """Shape (G, K): mean π_k(x) over the contexts of each group; rows add up to 1."""
    history: Sequence[Mapping[str, float]] = ()
    """One entry per epoch or round of the fit: ``epoch`` or ``round``, and log-likelihoods in nats
    per record under the names of `SERIES`. Missing and nan values are gaps, other names are not drawn."""
    best_step: float | None = None
    """The epoch or round whose weights were kept."""
    histogram_edges: Sequence[float] = ()
    """Shape (B + 1,): bin edges of the cosine similarity within a set."""
    histograms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """``golden`` and each method to its B counts."""
    responses: Sequence[Response] = ()
    """The simulated responses, of one or several methods."""
    outcomes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Persona key to what became of its draws: ``draws``, ``failed``, ``refused``, ``empty``,
    ``cut``."""
    all_outcomes: Mapping[str, int] = field(default_factory=dict)
    """The same of all draws, where one that several personas wrote counts once; empty: not shown."""
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Heading to findings: rows left out, near copies, warnings of the fit. Doubts about personas
    are added."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """The resolved configuration, nested as in the file; seeds included."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package to version, and the Python and machine it ran on."""
    cost: Mapping[str, float | str] = field(default_factory=dict)
    """``lm_calls``, ``prompt_tokens``, ``generated_tokens``, ``seconds``; other names are shown as
    they are."""
    origins: Sequence[Mapping[str, str]] = ()
    """One mapping per model and data set: ``name``, ``kind``, ``revision``, ``licence``,
    ``source``."""
    command: str = ""
    """The command line that makes this run again."""


@dataclass(frozen=True, slots=True)
class MetricGuide:
    """What a reader needs to know about a metric."""

    title: str
    better: int
    """-1 if lower is better, 1 if higher, 0 if neither (a figure to compare with the floor)."""
    meaning: str
    table: str = "side"
    """``main`` (the first table, and all but shares in the figure), ``paper`` (what the paper reports) or ``side``."""
    is_share: bool = False
    """Shown in per cent."""


METRICS: Mapping[str, MetricGuide] = {
    "energy": MetricGuide(
        "Energy distance",
        -1,
        "Distance between the two clouds of texts, real and simulated, in meaning and variety. 0 is the same "
        "cloud; how many texts there are does not move it, but chance does, also below 0.",
        table="main",
    ),
    "fid_excess": MetricGuide(
        "FID excess",
        -1,
        "Another such distance, by centre and spread, worked out for endless texts, minus that of other real "
        "texts. 0 is as good as real texts.",
        table="main",
    ),
    "sense": MetricGuide(
        "Sense",
        0,
        "How probable a word is on average to a language model that sees only the question (nats per token). "
        "Well below real texts: garbled. Above them: smoother than people write.",
        table="main",
    ),
    "improbable": MetricGuide(
        "Improbable",
        0,
        "Share of texts that are less probable to that model than 99 in 100 real ones.",
        table="main",
        is_share=True,
    ),
    "fid": MetricGuide(
        "FID",
        -1,
        "The distance by centre and spread as it is at this number of texts: too high, and less so for sets "
        "of little variety.",
        table="paper",
    ),
    "mauve": MetricGuide(
        "MAUVE",
        1,
        "How much the two sets overlap, counting both what the simulation misses and what it makes "
        "up. Runs from 0 to 1.",
        table="paper",
    ),
    "kl_cosine": MetricGuide(
        "KL-cosine",
        -1,
        "Whether simulated texts differ among themselves as much as real ones do. 0 means the same "
        "variety; it looks at variety only, not at content.",
        table="paper",
    ),
    "mauve_star": MetricGuide("MAUVE*", 1, "MAUVE, smoothed for small samples."),
    "frontier_integral": MetricGuide("Frontier integral", -1, "A summary of the same curve as MAUVE."),
    "kl_cosine_reverse": MetricGuide("KL-cosine, reversed", -1, "KL-cosine with the two sides exchanged."),
    "distinct_1": MetricGuide("Distinct words", 0, "Share of all words that are different words.", is_share=True),
    "distinct_2": MetricGuide("Distinct pairs", 0, "Share of all word pairs that are different pairs.", is_share=True),
    "self_bleu_4": MetricGuide("Self-BLEU-4", 0, "How much the texts of a set repeat each other's phrases."),
    "mean_words": MetricGuide("Words per text", 0, "Mean length."),
    "refusals": MetricGuide("Refusals", -1, "Share of answers in which the model declines.", is_share=True),
    "empty": MetricGuide("Empty", -1, "Share of answers without any text.", is_share=True),
    "cut_share": MetricGuide("Cut", -1, "Share of answers cut at the length limit.", is_share=True),
    "near_copies": MetricGuide(
        "Near copies", -1, "Share of answers that repeat the example they were shown.", is_share=True
    ),
    "duplicates": MetricGuide("Duplicates", -1, "Share of answers that repeat an earlier one.", is_share=True),
    "n_received": MetricGuide("Texts written", 0, "How many texts the method gave, empty ones included."),
    "n": MetricGuide("Texts compared", 0, "Scores of different numbers of texts do not compare with each other."),
}
"""Known metrics in the order of the page; a metric that is not here is shown under its own name,
unranked."""

SERIES: Mapping[str, str] = {
    "train": "records it was fitted to",
    "crossed": "records kept aside",
    "crossed_uniform": "kept aside, uniform weights",
    "crossed_unconditional": "kept aside, same weights for every context",
    "train_bound": "training, lower bound",
    "valid": "validation, full sum",
    "valid_bound": "validation, lower bound",
}
"""What a fit can have in its ``history``, and what the figure calls it: in rounds (``crossed`` by
cross-validation), and by the paper's recipe."""

COSTS: Mapping[str, str] = {
    "lm_calls": "Language-model calls",
    "prompt_tokens": "Tokens read",
    "scored_tokens": "Tokens scored",
    "generated_tokens": "Tokens written",
    "server_calls": "Calls of servers",
    "repeated_calls": "Calls repeated",
    "server_tokens": "Tokens, as the servers count",
    "money": "Money, at your prices",
    "seconds": "Time",
}


def number(value: object) -> str:
    """Return a number as a reader wants it: three figures that matter, a true minus.

    Examples
    --------
    >>> [number(v) for v in (0.25984, 0.02264, 117.42, -2.5, 12345, 0.00004, float("nan"), True)]
    ['0.260', '0.0226', '117.4', '−2.50', '12,345', '<0.0001', '–', 'yes']
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace("-", "−")
    if not isinstance(value, float | np.floating):
        return str(value)
    value = float(value)
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if 0 < size < 0.00005:
        return "<0.0001" if value > 0 else ">−0.0001"
    decimals = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3
    if 0 < size < 0.0995:
        decimals = 4
    return f"{value:,.{decimals}f}".replace("-", "−")


def percent(share: float) -> str:
    """Return a share as a percentage.

    Examples
    --------
    >>> percent(0.0525), percent(0.4), percent(0.0001)
    ('5.2 %', '40 %', '<0.1 %')
    """
    if not math.isfinite(share):
        return "–"
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def duration(seconds: float) -> str:
    """Return a time in the two units that matter.

    Examples
    --------
    >>> duration(8.25), duration(335), duration(7384)
    ('8.2 s', '5 min 35 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    return f"{minutes} min {int(seconds) % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def summary(data: ReportData) -> tuple[str, str]:
    """Return two plain sentences: what was simulated, and how well.

    Examples
    --------
    >>> scores = {"mop": {"energy": 0.02}, "zero-shot": {"energy": 0.05}, "floor": {"energy": 0.0}}
    >>> what, result = summary(ReportData(title="Critics", task="film reviews", methods=scores))
    >>> what
    'Film reviews were simulated with a language model, itself left unchanged.'
    >>> result.partition("; ")[2]
    'the same model asked plainly reaches 0.0500, and other real texts reach 0.000. That is 60 % of the way.'
    """
    n = sum(row.method == data.focus and is_drawn(row) for row in data.responses)
    model = f"the language model {data.language_model}" if data.language_model else "a language model"
    what = f"{number(n)} {data.task}" if n else f"{data.task[:1].upper()}{data.task[1:]}"
    parts = []
    if data.personas:
        parts.append(f"{number(len(data.personas))} persona{'s' if len(data.personas) > 1 else ''}")
    if data.exemplars:
        parts.append(f"{number(len(data.exemplars))} real examples")
    how = f", steered by {' and '.join(parts)}" if parts else ""
    fitted = f" fitted to {number(data.n_records)} real records" if data.n_records and parts else ""
    fitted += f" by the likelihoods of {data.scorer}, a surrogate" if data.scorer and fitted else ""
    return f"{what} were simulated with {model}, itself left unchanged{how}{fitted}.", _headline(data)


def _headline(data: ReportData) -> str:
    for metric, scale in (
        ("energy", "a distance that is 0 for a perfect match with real texts"),
        ("fid", "a distance from real texts"),
    ):
        mine, plain, floor = (
            _value(data.methods.get(name, {}), metric) for name in (data.focus, data.baseline, data.floor)
        )
        if math.isnan(mine):
            continue
        rest = [f"the same model asked plainly reaches {number(plain)}"] if not math.isnan(plain) else []
        rest += [f"other real texts reach {number(floor)}"] if not math.isnan(floor) else []
        tail = "; " + ", and ".join(rest) if rest else ""
        way = way_closed(data.methods, data.focus, data.baseline, data.floor)
        share = f" That is {way}." if way else ""
        return f"On {_in_text(metric)}, {scale}, the simulation reaches {number(mine)}{tail}.{share}"
    return "It has not been compared with real texts yet."


def way_closed(
    methods: Mapping[str, Mapping[str, object]], mine: str = "mop", plain: str = "zero-shot", floor: str = "floor"
) -> str:
    """Say which share of the way from plain prompting to real texts a method has gone, by energy distance.

    Parameters
    ----------
    methods : mapping
        Method to figures, as in ``metrics.json``.
    mine, plain, floor : str
        Names of the three.

    Returns
    -------
    str
        With a 95 % interval (first order, from the intervals of the three) where there are any; empty
        where a figure is missing or plain prompting is no further from real texts than chance.

    Examples
    --------
    >>> rows = {"mop": {"energy": 0.02, "energy_interval": [0.018, 0.022]},
    ...         "zero-shot": {"energy": 0.05, "energy_interval": [0.05, 0.05]},
    ...         "floor": {"energy": 0.0, "energy_interval": [0.0, 0.0]}}
    >>> way_closed(rows)
    '60 % of the way (56 % to 64 %)'
    """
    figures = [methods.get(name, {}) for name in (mine, plain, floor)]
    ours, theirs, real = (_value(of, "energy") for of in figures)
    low, high = _interval(figures[1], "energy")
    if not theirs - real > max(0.0, (high - low) / 2 if math.isfinite(low) else 0.0):
        return ""
    share = (theirs - ours) / (theirs - real)
    if math.isnan(share):
        return ""
    reaches = [(high - low) / 2 for low, high in (_interval(of, "energy") for of in figures)]
    reach = math.hypot(reaches[0], (1 - share) * reaches[1], share * reaches[2]) / (theirs - real)
    said = f"{100 * share:.0f} % of the way".replace("-", "−")
    if math.isnan(reach):
        return said
    ends = [f"{100 * end:.0f} %".replace("-", "−") for end in (share - reach, share + reach)]
    return f"{said} ({' to '.join(ends)})"


def _in_text(metric: str) -> str:
    title = METRICS[metric].title
    return title if title.isupper() else title[:1].lower() + title[1:]


def _value(scores: Mapping[str, object], metric: str) -> float:
    """Return the value as a float, nan where there is none."""
    value = scores.get(metric)
    return float(value) if isinstance(value, int | float | np.integer | np.floating) else math.nan


def _interval(scores: Mapping[str, object], metric: str) -> tuple[float, float]:
    ends = scores.get(f"{metric}_interval")
    if isinstance(ends, Sequence | np.ndarray) and not isinstance(ends, str) and len(ends) == 2:
        return float(ends[0]), float(ends[1])
    return math.nan, math.nan


def _method_order(data: ReportData) -> list[str]:
    """Methods with the one the page is about first, the others as given; never the floor."""
    others = [name for name in data.methods if name not in {data.focus, data.floor}]
    return [name for name in (data.focus,) if name in data.methods] + others


def _metric_names(data: ReportData) -> list[str]:
    """Numeric metrics that occur, known ones first and in the order of `METRICS`."""
    found = dict.fromkeys(
        name
        for scores in data.methods.values()
        for name in scores
        if not name.endswith(("_interval", "_spread")) and not math.isnan(_value(scores, name))
    )
    return [name for name in METRICS if name in found] + [name for name in found if name not in METRICS]


def _guide(metric: str) -> MetricGuide:
    return METRICS.get(metric) or MetricGuide(metric.replace("_", " "), 0, "")


def _metric_table(data: ReportData, names: Sequence[str]) -> dict[str, Any] | None:
    """Rows and columns of a metric table, best values marked."""
    if not names:
        return None
    columns = [_guide(name) for name in names]
    methods = _method_order(data)
    table = np.array([[_value(data.methods[m], name) for name in names] for m in methods]).reshape(-1, len(names))
    rows = []
    for m, method in enumerate([*methods, *([data.floor] if data.floor in data.methods else [])]):
        scores = data.methods[method]
        cells = []
        for p, name in enumerate(names):
            low, high = _interval(scores, name)
            std = _value(scores, f"{name}_spread")
            spread = f"{number(low)} to {number(high)}" if not math.isnan(low) else ""
            if not spread and not math.isnan(std):
                spread = f"± {number(std)}"
            is_best = m < len(methods) > 1 and _is_best(table[:, p], m, columns[p].better)
            value = _value(scores, name)
            text = percent(value) if columns[p].is_share else number(scores.get(name))
            cells.append({"text": text, "spread": spread, "is_best": is_best})
        rows.append(
            {
                "name": method,
                "cells": cells,
                "is_floor": m >= len(methods),
                "is_focus": method == data.focus,
                "series": m % 6 + 1,
            }
        )
    return {"columns": columns, "rows": rows}


def _is_best(values: NDArray[Any], index: int, better: int) -> bool:
    if not better or math.isnan(values[index]) or np.isfinite(values).sum() < 2:
        return False
    best = np.nanmax(better * values)
    return bool(better * values[index] == best and np.nanmin(better * values) < best)


def _held_out(data: ReportData) -> dict[str, Any] | None:
    """Put the held-out comparison in figures and in words."""
    held_out = data.held_out
    if not held_out:
        return None
    names = [name for name in held_out if name != "gain" and not math.isnan(_value(held_out, name))]
    gain = _value(held_out, "gain")
    low, high = _interval(held_out, "gain")
    if math.isnan(low):
        verdict = ""
    elif low == high == 0:
        verdict = "The fit kept equal weights, so that there is nothing to gain."
    elif low > 0:
        verdict = "The interval lies above zero: fitted weights helped, beyond chance."
    elif high < 0:
        verdict = "The interval lies below zero: fitted weights did harm on texts that they had not seen."
    else:
        verdict = "The interval contains zero: fitted weights made no clear difference here."
    return {
        "values": [(name, number(_value(held_out, name))) for name in names],
        "gain": None if math.isnan(gain) else ("+" if gain > 0 else "") + number(gain),
        "interval": None if math.isnan(low) else f"{number(low)} to {number(high)}",
        "verdict": verdict,
        "references": [_reference_row(row) for row in data.references],
        "notes": data.fit_notes,
    }


def _reference_row(row: Mapping[str, Any]) -> dict[str, str]:
    """One simpler model, in text."""

    def signed(value: float) -> str:
        return ("+" if value > 0 else "") + number(value)

    low, high = _interval(row, "gain")
    return {
        "name": row["name"],
        "what": row["what"],
        "value": number(row["log_lik"]),
        "gain": signed(row["gain"]),
        "interval": "–" if math.isnan(low) else f"{signed(low)} to {signed(high)}",
        "per_token": signed(row["gain_per_token"]),
    }


def _key_figures(data: ReportData) -> list[dict[str, str]]:
    """Choose the few numbers at the top: value, what it is, and what to hold it against."""
    tiles = []
    n = sum(row.method == data.focus and is_drawn(row) for row in data.responses)
    if n:
        tiles.append((number(n), f"simulated {data.task}", f"by {data.focus}"))
    if data.personas:
        effective = _effective([row.weight for row in data.personas])
        tiles.append((number(len(data.personas)), "personas", f"as varied as {number(effective)} equally heavy ones"))
    for metric in ("energy", "fid_excess"):
        guide = METRICS[metric]
        mine = _value(data.methods.get(data.focus, {}), metric)
        if not math.isnan(mine):
            others = [
                f"{words} {number(_value(data.methods.get(name, {}), metric))}"
                for name, words in ((data.baseline, "asked plainly"), (data.floor, "other real texts"))
                if not math.isnan(_value(data.methods.get(name, {}), metric))
            ]
            arrow = "higher is better" if guide.better > 0 else "lower is better"
            tiles.append((number(mine), f"{guide.title}, {arrow}", " · ".join(others)))
    held_out = _held_out(data)
    if held_out and held_out["gain"] and _interval(data.held_out or {}, "gain") != (0.0, 0.0):
        note = f"interval {held_out['interval']}" if held_out["interval"] else ""
        tiles.append((held_out["gain"], "nats per held-out text, gained by the fit", note))
    return [{"value": value, "label": label, "note": note} for value, label, note in tiles]


def _effective(weights: Sequence[float]) -> float:
    """How many equal shares would be as varied: the exponential of the entropy."""
    shares = np.asarray(weights, dtype=np.float64)
    total = float(shares.sum())
    shares = shares[shares > 0] / total if total > 0 else shares[:0]
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0


def _exemplar_use(data: ReportData) -> dict[str, Any] | None:
    total = float(sum(row.uses for row in data.exemplars))
    if total <= 0:
        return None
    ranked = sorted(data.exemplars, key=lambda row: -row.uses)
    tenth = max(1, len(ranked) // 10)
    return {
        "top": [{"row": row, "share": row.uses / total, "bar": row.uses / ranked[0].uses} for row in ranked[:10]],
        "n": len(ranked),
        "used": sum(row.uses > 0 for row in ranked),
        "effective": _effective([row.uses for row in ranked]),
        "tenth": sum(row.uses for row in ranked[:tenth]) / total,
    }


def _kinds(data: ReportData) -> list[str]:
    """Kinds on the map in drawing order: real beneath, the method of the page on top."""
    found = dict.fromkeys(point.kind for point in data.map_points)
    others = [name for name in found if name not in {REAL, data.focus}]
    return [name for name in (REAL, *others, data.focus) if name in found]


def _series(data: ReportData) -> list[str]:
    """Return all that has a series colour, in colour order: one colour per method, page-wide."""
    known = _method_order(data)
    drawn = [name for name in (data.focus, *_kinds(data), *data.histograms) if name not in {REAL, GOLDEN, data.floor}]
    return list(dict.fromkeys([*known, *drawn]))


def draw_figures(data: ReportData, *, width: float = plots.WIDE) -> dict[str, Figure]:
    """Draw every figure that the data allows, as for a paper, by the name its file gets.

    Parameters
    ----------
    data : ReportData
        The run.
    width : float
        Inches; `mop.report.plots.WIDE` for a page, `mop.report.plots.NARROW` for one column.

    Returns
    -------
    dict of str to Figure
        ``metrics``, ``gain``, ``map``, ``weights``, ``exemplars``, ``gates``, ``history``,
        ``similarity``: those for which there is data. Give it to `mop.report.plots.save_figures` for
        files.
    """
    return _draw(data, width, {**_PAGE_FIGURES, "map": _draw_map_panels, "weights": _draw_weights})


def _draw(
    data: ReportData, width: float, makers: Mapping[str, Callable[[ReportData, float], Figure | None]]
) -> dict[str, Figure]:
    figures = {name: maker(data, width) for name, maker in makers.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


def _draw_metrics(data: ReportData, width: float) -> Figure | None:
    metrics = [name for name in _metric_names(data) if _guide(name).table == "main" and not _guide(name).is_share]
    methods = _method_order(data)
    if not metrics or not methods:
        return None
    arrows = {-1: " ↓", 0: "", 1: " ↑"}
    return plots.metric_figure(
        np.array([[_value(data.methods[m], p) for p in metrics] for m in methods]),
        np.array([[_interval(data.methods[m], p) for p in metrics] for m in methods]),
        np.array([_value(data.methods.get(data.floor, {}), p) for p in metrics]),
        methods,
        [_guide(p).title + arrows[_guide(p).better] for p in metrics],
        width=width,
    )


def _draw_gain(data: ReportData, width: float) -> Figure | None:
    gain = _value(data.held_out or {}, "gain")
    if not math.isfinite(gain):
        return None
    return plots.gain_figure(gain, *_interval(data.held_out or {}, "gain"), width=width)


def _draw_map(data: ReportData, width: float) -> Figure | None:
    if not data.map_points:
        return None
    places = np.array([(point.x, point.y) for point in data.map_points])
    kinds = [point.kind for point in data.map_points]
    return plots.map_figure(places, kinds, _kinds(data), series=_series(data), real=REAL, width=width)


def _draw_map_panels(data: ReportData, width: float) -> Figure | None:
    kinds = [point.kind for point in data.map_points]
    if set(kinds) <= {REAL}:
        return None
    places = np.array([(point.x, point.y) for point in data.map_points])
    return plots.map_panels_figure(places, kinds, series=_series(data), real=REAL, width=width)


def _draw_weights(data: ReportData, width: float) -> Figure | None:
    if not data.personas:
        return None
    return plots.weights_figure(
        np.array([row.weight for row in data.personas]),
        np.array([row.temperature for row in data.personas]),
        [row.description for row in data.personas],
        width=width,
    )


def _draw_exemplars(data: ReportData, width: float) -> Figure | None:
    uses = np.array([row.uses for row in data.exemplars], dtype=np.float64)
    return plots.usage_figure(uses, width=width) if uses.sum() > 0 else None


def _draw_gates(data: ReportData, width: float) -> Figure | None:
    if data.gates is None or not len(data.gates) or not data.personas:
        return None
    return plots.gates_figure(data.gates, data.gate_groups, [row.description for row in data.personas], width=width)


def _draw_history(data: ReportData, width: float) -> Figure | None:
    if not data.history:
        return None
    step = _step_name(data.history)
    series = {title: np.array([_value(row, name) for row in data.history]) for name, title in SERIES.items()}
    series = {name: values for name, values in series.items() if np.isfinite(values).any()}
    if not series:
        return None
    steps = np.array([_value(row, step) for row in data.history]) if step != "step" else np.arange(len(data.history))
    return plots.history_figure(steps.astype(np.float64), series, x_label=step, best=data.best_step, width=width)


def _step_name(history: Sequence[Mapping[str, float]]) -> str:
    return next((name for name in ("epoch", "round") if all(name in row for row in history)), "step")


def _draw_similarity(data: ReportData, width: float) -> Figure | None:
    has_edges = len(data.histogram_edges) > 1
    if not has_edges or GOLDEN not in data.histograms or len(data.histograms) < 2:
        return None
    series = _series(data)
    order = [GOLDEN, *(name for name in series if name in data.histograms)]
    counts = {name: np.asarray(data.histograms[name], dtype=np.float64) for name in order}
    edges = np.asarray(data.histogram_edges, dtype=np.float64)
    return plots.similarity_figure(edges, counts, series=series, real=GOLDEN, width=width)


_PAGE_FIGURES: Mapping[str, Callable[[ReportData, float], Figure | None]] = {
    "metrics": _draw_metrics,
    "gain": _draw_gain,
    "map": _draw_map,
    "exemplars": _draw_exemplars,
    "gates": _draw_gates,
    "history": _draw_history,
    "similarity": _draw_similarity,
}

_ALT: Mapping[str, str] = {
    "metrics": "Each method's score with its interval, one panel per metric; numbers in the table.",
    "gain": "Gain in held-out log-likelihood with its interval, against no gain; numbers above.",
    "map": "Map of real and simulated texts as points in the plane.",
    "exemplars": "Cumulative share of draws against the most used exemplars; key numbers above.",
    "gates": "Mean persona weights in per cent, personas down, groups of contexts across.",
    "history": "Log-likelihood over the course of the fit.",
    "similarity": "Similarity between texts of the same set, each method over the real texts.",
}
"""What a reader who cannot see a figure is told."""


def _embed_figures(data: ReportData) -> tuple[dict[str, list[tuple[str, Any]]], str]:
    """SVG of every figure of the page, wide and narrow, and the style rules they share."""
    markup = require("markupsafe", extra="report").Markup
    embedded: dict[str, list[tuple[str, Any]]] = {}
    rules: dict[str, str] = {}
    # The map has no letters in it, so one drawing serves every width.
    small = {name: maker for name, maker in _PAGE_FIGURES.items() if name != "map"}
    for form, width, makers in (("wide", plots.WIDE, _PAGE_FIGURES), ("narrow", plots.NARROW, small)):
        for name, figure in _draw(data, width, makers).items():
            svg, more = plots.themed_svg(figure, f"{name}-{form}", _ALT[name])
            embedded.setdefault(name, []).append((form if name != "map" else "any", markup(svg)))
            rules |= more
    return embedded, "".join(f".{name}{{{rules[name]}}}" for name in sorted(rules))


def _script_data(data: ReportData) -> dict[str, Any]:
    """Collect what the page's script needs: lists, never objects keyed by text from data."""
    kinds = _kinds(data)
    points: list[list[list[str]]] = [[] for _ in kinds]
    place = {kind: i for i, kind in enumerate(kinds)}
    for point in data.map_points:
        text = point.text.strip()
        cut = text if len(text) <= MAX_POINT_CHARACTERS else text[: MAX_POINT_CHARACTERS - 1] + "…"
        points[place[point.kind]].append([cut, point.label])
    persona_row = {row.key: i for i, row in enumerate(data.personas)}
    exemplar_row = {row.key: i for i, row in enumerate(data.exemplars)}
    shown = dict.fromkeys(row for response in data.responses for row in _exemplar_rows(response, exemplar_row))
    new_row = {row: i for i, row in enumerate(shown)}
    return {
        "kinds": kinds,
        "first": [REAL, data.focus, data.baseline],
        "points": points,
        "personas": [[row.key, row.description] for row in data.personas],
        "exemplars": [_exemplar_fields(data.exemplars[i]) for i in shown],
        "responses": [
            _response_fields(
                row, persona_row.get(row.persona or "", -1), [new_row[i] for i in _exemplar_rows(row, exemplar_row)]
            )
            for row in data.responses
        ],
    }


def _exemplar_fields(row: ExemplarUse) -> list[str]:
    return [row.key, row.context, row.response]


def _response_fields(row: Response, persona: int, exemplars: list[int]) -> list[object]:
    """Return one response in the order that ``report.js`` names."""
    return [
        row.id,
        row.method,
        row.context,
        row.response,
        row.label,
        persona,
        row.persona,
        exemplars,
        row.exemplar,
        _finite(row.temperature),
        _finite(math.exp(row.log_pi)),
        _finite(math.exp(row.log_omega)),
        row.finish_reason,
        row.n_tokens,
        str(row.seed),  # 64 bits do not fit the numbers of a browser
        row.model,
    ]


def _finite(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _exemplar_rows(response: Response, row_of: Mapping[str, int]) -> list[int]:
    """Rows of the exemplars that a response was shown; several keys are joined by a space."""
    if not response.exemplar:
        return []
    if response.exemplar in row_of:
        return [row_of[response.exemplar]]
    return [row_of[key] for key in response.exemplar.split(" ") if key in row_of]


def _json_for_script(value: object) -> str:
    """JSON that cannot end its script element, start a comment or break a line of script."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _printable(value: Any) -> Any:
    """Copy nested plain data with every string made printable."""
    if isinstance(value, str):
        return plots.printable(value)
    if isinstance(value, Mapping):
        return {_printable(str(key)): _printable(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: _printable(getattr(value, part.name)) for part in fields(value)})
    if isinstance(value, Sequence):
        return [_printable(item) for item in value]
    return value


def _flat(settings: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text)."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.") or [(f"{prefix}{key}", "{}")]
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            rows.append((f"{prefix}{key}", text))
    return rows


def _costs(data: ReportData) -> list[tuple[str, str]]:
    rows = []
    for name, value in data.cost.items():
        is_time = name == "seconds" and not isinstance(value, str)
        text = duration(float(value)) if is_time else number(value)
        rows.append((COSTS.get(name, name.replace("_", " ")), text))
    return rows


def _outcomes(data: ReportData) -> dict[str, Any] | None:
    """Table of draws by persona, if any of them was not an ordinary text."""
    columns = [name for name in OUTCOMES if any(row[name] for row in data.outcomes.values())]
    if not columns:
        return None
    rows = [
        (key or "no persona", [row["draws"], *(row[name] for name in columns)]) for key, row in data.outcomes.items()
    ]
    if data.all_outcomes:
        rows.append(("all", [data.all_outcomes[name] for name in ("draws", *columns)]))
    worst = [name for name in ("failed", "refused") if name in columns]
    return {"columns": ["draws", *(OUTCOMES[name] for name in columns)], "rows": rows, "is_lossy": bool(worst)}


OUTCOMES: Mapping[str, str] = {
    "failed": "failed",
    "refused": "refused",
    "empty": "empty",
    "cut": "cut at the length limit",
}
"""What a draw can become besides an ordinary text, and how that is called on the page."""


def _problems(data: ReportData) -> list[tuple[str, list[str]]]:
    found = [(heading, list(items)) for heading, items in data.problems.items() if items]
    doubtful = [f"{row.key}: {', '.join(row.doubts)} in “{row.description}”" for row in data.personas if row.doubts]
    return [*([("Doubtful personas", doubtful)] if doubtful else []), *found]


def _asset(name: str) -> str:
    return resources.files("mop.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the expression by which a content security policy admits exactly this text."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _check(data: ReportData) -> None:
    if data.gates is not None and np.shape(data.gates) != (len(data.gate_groups), len(data.personas)):
        raise ConfigError(
            "the gates of a report need one row per group and one column per persona: got "
            f"{np.shape(data.gates)} for {len(data.gate_groups)} groups and {len(data.personas)} "
            "personas; pass groups and personas of the same fit"
        )


def render_report(data: ReportData) -> str:
    """Return the report as one HTML document.

    Parameters
    ----------
    data : ReportData
        The run. Any text in it may be hostile.

    Returns
    -------
    str
        HTML that loads nothing; the same data gives the same text.

    Raises
    ------
    ConfigError
        If arrays in the data do not agree.
    MissingDependencyError
        If jinja2 or matplotlib is not installed.
    """
    _check(data)
    jinja2 = require("jinja2", extra="report")
    markup = require("markupsafe", extra="report").Markup
    data = _printable(data)
    figures, figure_rules = _embed_figures(data)
    style = _asset("report.css") + figure_rules
    script = _asset("report.js")
    # Nothing is marked safe in the template. These are the only strings that pass unescaped: our
    # own files, drawings built element by element, and JSON in which no markup can begin.
    trusted = {
        "style": markup(style),
        "script": markup(script),
        "script_data": markup(_json_for_script(_script_data(data))),
    }
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": percent, "short": plots.shorten}
    metrics = _metric_names(data)
    page: str = environment.from_string(_asset("report.html")).render(
        **trusted,
        data=data,
        policy=(
            f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        ),
        summary=summary(data),
        key_figures=_key_figures(data),
        figures=figures,
        tables={
            kind: _metric_table(data, [name for name in metrics if _guide(name).table == kind])
            for kind in ("main", "paper", "side")
        },
        held_out=_held_out(data),
        kinds=[(kind, "real" if kind == REAL else str(_series(data).index(kind) % 6 + 1)) for kind in _kinds(data)],
        n_points={kind: sum(point.kind == kind for point in data.map_points) for kind in _kinds(data)},
        personas=sorted(data.personas, key=lambda row: -row.weight),
        heaviest=max((row.weight for row in data.personas), default=1.0) or 1.0,
        exemplar_use=_exemplar_use(data),
        exemplar_text={row.key: row.response for row in data.exemplars},
        persona_text={row.key: row.description for row in data.personas},
        step=_step_name(data.history),
        outcomes=_outcomes(data),
        problems=_problems(data),
        settings=_flat(data.settings),
        costs=_costs(data),
        origin_columns=list(dict.fromkeys(name for origin in data.origins for name in origin)),
    )
    return page


def write_report(data: ReportData, path: Path) -> None:
    """Write the report; a reader sees the old file or the new one, never half of one.

    Parameters
    ----------
    data : ReportData
        The run.
    path : Path
        The HTML file; its folder must exist.

    Raises
    ------
    ConfigError, MissingDependencyError
        As `render_report`.
    ArtifactError
        If the file cannot be written.
    """
    write_atomic(path, render_report(data).encode())
