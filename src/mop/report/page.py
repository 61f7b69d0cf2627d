"""A finished run on one page: tables, figures and every response, in one HTML file.

The file asks nothing of a network. All that it shows comes in as one `ReportData`; nothing is read
from disk here but the package's own template. Text from data, personas and settings is treated as
hostile throughout (see ``docs/report.md``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mop.errors import ConfigError
from mop.evaluate.samples import FLOOR
from mop.report import plots
from mop.report.document import effective, flat, html, number, printable
from mop.report.names import short_names
from mop.report.palette import REAL, series_of
from mop.report.plots import GOLDEN
from mop.report.reading import Shares, Table, bin_table, lengths, option_shares, persona_labels, turned
from mop.report.verdicts import closed_sentences, quality_sentence
from mop.simulate.write import is_drawn
from mop.storage.files import write_atomic
from mop.types import FloatArray, Response

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOP, PLAIN = "mop", "zero-shot"
"""The method that the page is about, and the one that the summary compares it with."""
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
    """Mixture weight, the share of simulated responses: mean over the contexts; all personas add up to 1. It is no
    share of a population."""
    weight_interval: Sequence[float] | None = None
    """95 % interval of the weight, [low, high]; None where weights were not fitted."""
    real_share: float | None = None
    """Share of real people who have the attributes that the description names; None if it names none."""
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
    source: str = ""
    """File or name of the data."""
    task: str = "texts"
    """What was simulated, as a plural noun phrase: "film reviews"."""
    language_model: str = ""
    """The frozen language model, as the user named it."""
    scorer: str = ""
    """The model whose likelihoods the mixture was fitted to, if it is another one (a surrogate)."""
    encoder: str = ""
    """The sentence encoder, as the user named it."""
    n_records: int = 0
    """Real records that the mixture was fitted on."""
    judge: str = ""
    """The model under which ``sense`` was measured, as the user named it."""
    n_held_out: int = 0
    """Real records, kept out of the fit, that the held-out likelihood is from."""
    methods: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Method name to metric name to value, as in ``metrics.json``. ``NAME_interval`` holds [low,
    high] of metric NAME, ``NAME_spread`` its standard deviation over seeds; ``n`` the number of
    texts. The page is about ``mop``, compares it with ``zero-shot`` and never ranks ``floor``, other real texts."""
    closed: Mapping[str, Any] | None = None
    """Of closed questions: ``options``, ``n_real`` answers that know them, and ``shares``: a method, ``floor`` or
    ``golden`` (real answers) to the share of each option, and last of what is none of them."""
    best: Mapping[str, str | None] | None = None
    """Metric to the method that is clearly the best on it, beyond a paired interval, which alone is marked; None: not
    known, the best values are marked."""
    respondents: Mapping[str, Any] | None = None
    """Draws whose persona contradicts the person who is asked; see `mop.evaluate.respondents.contradictions`."""
    side_by_side: Sequence[Mapping[str, Any]] = ()
    """The same questions answered by a person and by methods; see `mop.report.reading.side_by_side`."""
    held_out: Mapping[str, object] | None = None
    """Mean log-likelihood per held-out record in nats by method name, ``gain`` (first minus second
    method) and ``gain_interval`` [low, high], as in ``metrics.json``."""
    references: Sequence[Mapping[str, Any]] = ()
    """Simpler models and what the mixture gains over each: ``name``, ``what`` and the values of
    `mop.evaluate.likelihood.references`."""
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
    real: Sequence[str] = ()
    """What people answered to the same contexts."""
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
    table: str = "side"
    """``main`` (the first table, and all but shares in the figure), ``paper`` (what the paper reports) or ``side``."""
    is_share: bool = False
    """Shown in per cent."""


METRICS: Mapping[str, MetricGuide] = {
    "valid_answers": MetricGuide("Valid answers", 1, table="main", is_share=True),
    "total_variation": MetricGuide("Total variation", -1, table="main"),
    "energy": MetricGuide("Energy distance", -1, table="main"),
    "fid_excess": MetricGuide("FID excess", -1, table="main"),
    "sense": MetricGuide("Sense", 0, table="main"),
    "improbable": MetricGuide("Improbable", 0, table="main", is_share=True),
    "cut_share": MetricGuide("Cut", -1, is_share=True),
    "wrong_label": MetricGuide("Wrong label", -1, is_share=True),
    "fid": MetricGuide("FID", -1, table="paper"),
    "mauve": MetricGuide("MAUVE", 1, table="paper"),
    "kl_cosine": MetricGuide("KL-cosine", -1, table="paper"),
    "kl_cosine_reverse": MetricGuide("KL-cosine, reversed", -1),
    "f1": MetricGuide("F1", 1),
    "distinct_1": MetricGuide("Distinct words", 0, is_share=True),
    "distinct_2": MetricGuide("Distinct pairs", 0, is_share=True),
    "self_bleu_4": MetricGuide("Self-BLEU-4", 0),
    "mean_words": MetricGuide("Words per text", 0),
    "refusals": MetricGuide("Refusals", -1, is_share=True),
    "empty": MetricGuide("Empty", -1, is_share=True),
    "near_copies": MetricGuide("Near copies", -1, is_share=True),
    "duplicates": MetricGuide("Duplicates", -1, is_share=True),
    "n_received": MetricGuide("Texts written", 0),
    "n": MetricGuide("Texts compared", 0),
}
"""Known metrics in the order of the page; one that is not here is shown under its own name, unranked. What each means
is in ``templates/macros.html``."""

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

_COLOURS = {"crossed": 0, "crossed_uniform": 2, "crossed_unconditional": 4, "valid": 0, "valid_bound": 7}
"""Series of methods whose colour a line has: that of what it is about."""


def summary(data: ReportData) -> tuple[str, str]:
    """Return two plain sentences: what was simulated, and how well.

    Examples
    --------
    >>> scores = {"mop": {"energy": 0.02}, "zero-shot": {"energy": 0.05}, "floor": {"energy": 0.0}}
    >>> what, result = summary(ReportData(title="Critics", task="film reviews", methods=scores))
    >>> what
    'Film reviews were simulated with a language model, itself left unchanged.'
    >>> result.partition("real texts reach ")[2]
    '0.000. That is 60 % of the way from the one to the other.'
    """
    n = _n_simulated(data)
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
    rows, _, is_lost = next(iter(data.problems.get("Rows of the source", ())), "").partition(" rows left out")
    fitted += f" ({rows} rows of the source left out)" if is_lost else ""
    quality = quality_sentence(data.methods, is_closed=data.closed is not None)
    result = " ".join(filter(None, (*(closed_sentences(data.closed, data.methods) or [_headline(data)]), quality)))
    return f"{what} were simulated with {model}, itself left unchanged{how}{fitted}.", result


def _n_simulated(data: ReportData) -> int:
    return sum(row.method == MOP and is_drawn(row) for row in data.responses)


def _headline(data: ReportData) -> str:
    mine, plain, floor = (_value(data.methods.get(of, {}), "energy") for of in (MOP, PLAIN, FLOOR))
    if math.isnan(mine):
        return "" if data.methods else "It has not been compared with real texts yet."
    rest = [f"the same model asked plainly reaches {number(plain)}"] if not math.isnan(plain) else []
    rest += [f"other real texts reach {number(floor)}"] if not math.isnan(floor) else []
    tail = "; " + ", and ".join(rest) if rest else ""
    way = way_closed(data.methods)
    share = f" That is {way} from the one to the other." if way else ""
    return (
        "On energy distance, a distance that is 0 for a perfect match with real texts, the simulation reaches "
        f"{number(mine)}{tail}.{share}"
    )


def way_closed(methods: Mapping[str, Mapping[str, object]]) -> str:
    """Say which share of the way from plain prompting to real texts mop has gone, by energy distance.

    Parameters
    ----------
    methods : mapping
        Method to figures, as in ``metrics.json``.

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
    figures = [methods.get(name, {}) for name in (MOP, PLAIN, FLOOR)]
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
    others = [name for name in data.methods if name not in {MOP, FLOOR}]
    return [name for name in (MOP,) if name in data.methods] + others


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
    return METRICS.get(metric) or MetricGuide(metric.replace("_", " "), 0)


def titled(metric: str) -> str:
    """Title of a metric, with an arrow to its better end."""
    guide = _guide(metric)
    return guide.title + {-1: " ↓", 0: "", 1: " ↑"}[guide.better]


def best(methods: Mapping[str, Mapping[str, object]], metric: str) -> set[str]:
    """Methods with the best value of a ranked metric, if their intervals, where there are any, meet no other's.

    None where fewer than two have a value, or all are equal.

    Examples
    --------
    >>> best({"a": {"mauve": 0.5}, "b": {"mauve": 0.7}}, "mauve"), best({"a": {"mauve": 0.5}}, "mauve")
    ({'b'}, set())
    >>> best({"a": {"fid": 0.5, "fid_interval": [0.4, 0.6]}, "b": {"fid": 0.7, "fid_interval": [0.55, 0.8]}}, "fid")
    set()
    """
    values = {name: _guide(metric).better * _value(scores, metric) for name, scores in methods.items()}
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    others = [name for name, value in values.items() if value < max(values.values())]
    ends = {name: _interval(methods[name], metric) for name in values}
    ends = {name: of if math.isfinite(of[0]) else (_value(methods[name], metric),) * 2 for name, of in ends.items()}
    winners = values.keys() - others
    meet = any(max(ends[a][0], ends[b][0]) < min(ends[a][1], ends[b][1]) for a in winners for b in others)
    return set() if meet or not others else set(winners)


def _exemplar_use(data: ReportData) -> dict[str, Any] | None:
    total = sum(row.uses for row in data.exemplars)
    if total <= 0:
        return None
    ranked = sorted(data.exemplars, key=lambda row: -row.uses)
    return {
        "top": ranked[:10],
        "total": total,
        "used": sum(row.uses > 0 for row in ranked),
        "effective": effective([row.uses for row in ranked]),
        "tenth": sum(row.uses for row in ranked[: max(1, len(ranked) // 10)]) / total,
    }


def _kinds(data: ReportData) -> list[str]:
    """Kinds on the map in drawing order: real beneath, the method of the page on top."""
    found = dict.fromkeys(point.kind for point in data.map_points)
    others = [name for name in found if name not in {REAL, MOP}]
    return [name for name in (REAL, *others, MOP) if name in found]


def _series(data: ReportData) -> dict[str, int]:
    """Colour and marker of all methods, page-wide."""
    drawn = [*_method_order(data), *_kinds(data), *data.histograms, *(row.method for row in data.responses)]
    return series_of(name for name in drawn if name not in {GOLDEN, FLOOR})


def draw_figures(data: ReportData, *, width: float = plots.WIDE) -> dict[str, Figure]:
    """Draw every figure that the data allows, as for a paper, by the name its file gets.

    ``metrics``, ``exemplars``, ``history``, ``similarity``, ``lengths``, ``labels``, ``options``, ``gates``,
    ``persona-labels`` and ``map``; give them to `mop.report.plots.save_figures` for files. ``width`` is in inches.

    Raises
    ------
    ConfigError
        If arrays in the data do not agree.
    """
    found = _page_figures(data, _counted(data), width)
    places, kinds = _places(data)
    if not set(kinds) <= {REAL}:
        found["map"] = plots.map_panels_figure(places, kinds, series=_series(data), width=width)
    return found


class _Counted(NamedTuple):
    """What figures and tables count in the texts; found once for all of them."""

    sizes: tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]] | None
    written: tuple[list[str], NDArray[np.float64]] | None
    shares: dict[str, Shares]


def _counted(data: ReportData) -> _Counted:
    written = persona_labels(data.responses, [row.key for row in data.personas])
    return _Counted(lengths(data.real, data.responses), written, _shares(data))


def _page_figures(data: ReportData, counted: _Counted, width: float) -> dict[str, Figure]:
    """The figures of the page; its map, which has no letters, in one width for all."""
    _check(data)
    series, names = _series(data), short_names([row.description for row in data.personas])
    metrics = [name for name in _metric_names(data) if _guide(name).table == "main" and not _guide(name).is_share]
    methods = {name: data.methods[name] for name in _method_order(data)}
    uses = np.array([row.uses for row in data.exemplars], dtype=np.float64)
    found = {
        "metrics": score_figure(methods, data.methods.get(FLOOR, {}), metrics, series=series, width=width),
        "exemplars": plots.usage_figure(uses, width=width) if uses.sum() > 0 else None,
        "history": _history_figure(data, width),
        "similarity": _similarity_figure(data, width),
    }
    if (sizes := counted.sizes) is not None:
        found["lengths"] = plots.histogram_figure(*sizes, series=series, x_label="words of a text", width=width)
    for name, of in counted.shares.items():
        found[name] = plots.shares_figure(of.of, of.rows, series=series, real=of.real, width=width)
    if data.gates is not None and data.gates.size:
        found["gates"] = plots.gates_figure(data.gates, data.gate_groups, names, width=width)
    if counted.written is not None:
        labels, counts = counted.written
        shares_of = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        found["persona-labels"] = plots.gates_figure(shares_of, labels, names, width=width)
    if data.map_points and width == plots.WIDE:
        found["map"] = plots.map_figure(*_places(data), _kinds(data), series=_series(data), width=width)
    return {name: figure for name, figure in found.items() if figure is not None}


def _shares(data: ReportData) -> dict[str, Shares]:
    """Shares of labels and of options, by the name of their figure."""
    found: dict[str, Shares] = {}
    methods = _method_order(data)
    asked = Counter(row.label for row in data.responses if row.method == MOP and row.label is not None)
    labels = {name: of for name in methods if isinstance(of := data.methods[name].get("labels_found"), Mapping)}
    if len(asked) > 1 and labels:
        rows = [label for label, _ in asked.most_common()]
        shares = {name: [_value(of, label) for label in rows] for name, of in labels.items()}
        real = {REAL: [asked[label] / asked.total() for label in rows]}
        found["labels"] = Shares("label", "asked for", rows, real | shares)
    if data.closed is not None:
        found["options"] = option_shares(data.closed, methods)
    return found


def _tables(data: ReportData, counted: _Counted, names: Sequence[str]) -> dict[str, Table]:
    """What the figures draw, as tables, by their names."""
    found = {} if counted.sizes is None else {"lengths": bin_table("words", *counted.sizes)}
    found |= {name: of.table() for name, of in counted.shares.items()}
    if data.gates is not None and data.gates.size:
        found["gates"] = turned("persona", data.gate_groups, names, data.gates.tolist())
    if counted.written is not None:
        labels, written = counted.written
        found["persona-labels"] = turned("persona", labels, names, written.astype(int).tolist())
    if len(data.histogram_edges) >= 2 and data.histograms:
        counts = {name: np.asarray(of, dtype=np.float64) for name, of in data.histograms.items() if name != FLOOR}
        found["similarity"] = bin_table("similarity", np.asarray(data.histogram_edges), counts)
    steps = [name for name in SERIES if any(math.isfinite(_value(row, name)) for row in data.history)]
    if steps:
        step = _step_name(data.history)
        rounds = [number(int(row.get(step, i))) for i, row in enumerate(data.history)]
        values = [[number(_value(row, name)) for row in data.history] for name in steps]
        found["history"] = turned(step, [SERIES[name] for name in steps], rounds, values)
    return found


def score_figure(
    methods: Mapping[str, Mapping[str, object]],
    floor: Mapping[str, object],
    metrics: Sequence[str],
    *,
    series: Mapping[str, int],
    width: float,
) -> Figure | None:
    """Draw the figures of methods, with their intervals and those of other real texts; None if there are none."""
    if not methods or not metrics:
        return None
    return plots.metric_figure(
        np.array([[_value(scores, name) for name in metrics] for scores in methods.values()]),
        np.array([[_interval(scores, name) for name in metrics] for scores in methods.values()]),
        np.array([_value(floor, name) for name in metrics]),
        list(methods),
        [titled(name) for name in metrics],
        series=series,
        width=width,
    )


def _places(data: ReportData) -> tuple[NDArray[np.float64], list[str]]:
    """Places (N, 2) and kinds of the points of the map."""
    places = np.array([(point.x, point.y) for point in data.map_points], dtype=np.float64)
    return places.reshape(-1, 2), [point.kind for point in data.map_points]


def _history_figure(data: ReportData, width: float) -> Figure | None:
    found = {name: np.array([_value(row, name) for row in data.history]) for name in SERIES}
    found = {name: values for name, values in found.items() if np.isfinite(values).any()}
    if not found:
        return None
    series, colours = {SERIES[name]: of for name, of in found.items()}, [_COLOURS.get(name, 5) for name in found]
    step = _step_name(data.history)
    steps = np.array([row.get(step, i) for i, row in enumerate(data.history)], dtype=np.float64)
    return plots.history_figure(steps, series, x_label=step, colours=colours, best=data.best_step, width=width)


def _similarity_figure(data: ReportData, width: float) -> Figure | None:
    methods = [name for name in _series(data) if name in data.histograms]
    if len(data.histogram_edges) < 2 or GOLDEN not in data.histograms or not methods:
        return None
    counts = {name: np.asarray(data.histograms[name], dtype=np.float64) for name in (GOLDEN, *methods)}
    edges = np.asarray(data.histogram_edges, dtype=np.float64)
    x_label = "cosine similarity of two texts of the same set"
    return plots.histogram_figure(edges, counts, series=_series(data), x_label=x_label, width=width)


def _step_name(history: Sequence[Mapping[str, float]]) -> str:
    return next((name for name in ("epoch", "round") if all(name in row for row in history)), "step")


ALT: Mapping[str, str] = {
    "metrics": "Each method's score with its interval, one panel per metric; numbers in the table.",
    "map": "Map of real and simulated texts as points in the plane.",
    "exemplars": "Cumulative share of draws against the most used exemplars; key numbers above.",
    "gates": "Mean persona weights in per cent, personas down, groups of contexts across.",
    "history": "Log-likelihood over the course of the fit.",
    "similarity": "Similarity between texts of the same set, each method over the real texts.",
    "lengths": "How many words texts have, each method over the real texts; numbers in the table.",
    "labels": "Share of each label that was asked for, and that was found; numbers in the table.",
    "options": "Share of each answer among people and methods; numbers in the table.",
    "persona-labels": "Which persona wrote which share of the responses with each label; numbers in the table.",
}
"""What a reader who cannot see a figure is told."""


def _script_data(data: ReportData, names: Sequence[str]) -> dict[str, Any]:
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
        "first": [REAL, MOP, PLAIN],
        "points": points,
        "personas": [[row.key, row.description, name] for row, name in zip(data.personas, names, strict=True)],
        "exemplars": [[row.key, row.context, row.response] for row in (data.exemplars[i] for i in shown)],
        "responses": [
            _response_fields(
                row, persona_row.get(row.persona or "", -1), [new_row[i] for i in _exemplar_rows(row, exemplar_row)]
            )
            for row in data.responses
        ],
    }


def _response_fields(row: Response, persona: int, exemplars: list[int]) -> list[object]:
    """Return one response in the order that ``report.js`` names."""
    return [
        row.id, row.method, row.context, row.response, row.label, persona, row.persona, exemplars, row.exemplar,
        _finite(row.temperature), _finite(math.exp(row.log_pi)), _finite(math.exp(row.log_omega)), row.finish_reason,
        row.n_tokens, str(row.seed),  # 64 bits do not fit the numbers of a browser
        row.model,
    ]  # fmt: skip


def _finite(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _exemplar_rows(response: Response, row_of: Mapping[str, int]) -> list[int]:
    """Rows of the exemplars that a response was shown; several keys are joined by a space."""
    shown = response.exemplar or ""
    keys = [shown] if shown in row_of else shown.split(" ")
    return [row_of[key] for key in keys if key in row_of]


OUTCOMES = ("failed", "refused", "empty", "cut")
"""What a draw can become besides an ordinary text."""


def _problems(data: ReportData) -> list[tuple[str, list[str]]]:
    found = [(heading, list(items)) for heading, items in data.problems.items() if items]
    doubtful = [f"{row.key}: {', '.join(row.doubts)} in “{row.description}”" for row in data.personas if row.doubts]
    return [*([("Doubtful personas", doubtful)] if doubtful else []), *found]


def _check(data: ReportData) -> None:
    if data.gates is not None and np.shape(data.gates) != (len(data.gate_groups), len(data.personas)):
        raise ConfigError(
            "the gates of a report need one row per group and one column per persona: got "
            f"{np.shape(data.gates)} for {len(data.gate_groups)} groups and {len(data.personas)} "
            "personas; pass groups and personas of the same fit"
        )
    for name, counts in data.histograms.items():
        if len(data.histogram_edges) not in (0, len(counts) + 1):
            raise ConfigError(
                f"the histogram {name!r} of a report has {len(counts)} counts for {len(data.histogram_edges)} edges; "
                "it needs one fewer than edges; pass what one evaluation found"
            )


def render_report(data: ReportData) -> str:
    """Return the report as one HTML document that loads nothing; the same data gives the same text.

    Any text in the data may be hostile.

    Raises
    ------
    ConfigError
        If arrays in the data do not agree.
    MissingDependencyError
        If jinja2 or matplotlib is not installed.
    """
    data = printable(data)
    _check(data)
    metrics, kinds, methods = _metric_names(data), _kinds(data), _method_order(data)
    series, names = _series(data), short_names([row.description for row in data.personas])
    counted = _counted(data)
    return html(
        "report.html",
        lambda width: _page_figures(data, counted, width),
        ALT,
        script_data=_script_data(data, names),
        data=data,
        summary=summary(data),
        n_simulated=_n_simulated(data),
        methods=methods,
        guides={name: _guide(name) for name in (*METRICS, *metrics)},
        best={
            name: best({m: data.methods[m] for m in methods}, name) if data.best is None else {data.best.get(name)}
            for name in metrics
        },
        tables={kind: [name for name in metrics if _guide(name).table == kind] for kind in ("main", "paper", "side")},
        kinds=kinds,
        series=series,
        figure_tables=_tables(data, counted, names),
        names={row.key: name for row, name in zip(data.personas, names, strict=True)},
        n_points={kind: sum(point.kind == kind for point in data.map_points) for kind in kinds},
        exemplar_use=_exemplar_use(data),
        exemplar_text={row.key: row.response for row in data.exemplars},
        persona_text={row.key: row.description for row in data.personas},
        step=_step_name(data.history),
        outcomes=[name for name in OUTCOMES if any(row[name] for row in data.outcomes.values())],
        outcome_rows=sorted(data.outcomes.items(), key=lambda item: -sum(item[1][name] for name in OUTCOMES)),
        problems=_problems(data),
        settings=flat(data.settings),
    )


def write_report(data: ReportData, path: Path) -> None:
    """Write the report as an HTML file; a reader sees the old file or the new one, never half of one.

    Raises
    ------
    ConfigError, MissingDependencyError
        As `render_report`.
    ArtifactError
        If the file cannot be written.
    """
    write_atomic(path, render_report(data).encode())
