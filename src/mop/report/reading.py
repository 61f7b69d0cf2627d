"""What a reader sees in the texts themselves: side by side, how long they are, and which labels they have.

Everything here counts what is there; nothing is estimated. Next comes `mop.report.page`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mop.metrics.words import words
from mop.report.palette import REAL
from mop.report.plots import GOLDEN
from mop.simulate.write import is_drawn
from mop.types import FloatArray, Record, Response

N_BESIDE = 8
"""Contexts that are shown side by side."""
N_BINS = 24
"""Bins of lengths, at most."""
MOST_LABELS = 12
"""More labels than that are no picture."""

Table = tuple[Sequence[str], Sequence[Sequence[object]]]
"""Titles of the columns, and rows of cells; shares are from 0 to 1."""


class Shares(NamedTuple):
    """What `mop.report.plots.shares_figure` draws."""

    what: str
    """What the rows are, such as "label";"""
    real: str
    """and the grey bars."""
    rows: list[str]
    of: dict[str, list[float]]
    """`REAL` and methods to the share of each row."""

    def table(self) -> Table:
        """The same as a table."""
        names = [self.real if kind == REAL else kind for kind in self.of]
        return turned(self.what, names, self.rows, list(self.of.values()))


def option_shares(closed: Mapping[str, Any], methods: Iterable[str]) -> Shares:
    """Shares of the answers to closed questions; see `mop.report.page.ReportData.closed`."""
    shares = closed["shares"]
    found = {REAL: shares[GOLDEN], **{name: shares[name] for name in methods if name in shares}}
    return Shares("answer", "real texts", [*closed["options"], "none of them"], found)


def side_by_side(records: Sequence[Record], responses: Mapping[str, Sequence[Response]]) -> list[dict[str, Any]]:
    """Put what people and methods wrote to the same contexts side by side.

    Parameters
    ----------
    records : sequence of Record
        Real answers; their keys are the ids of responses.
    responses : mapping of str to sequence of Response
        Of each method, those that were drawn.

    Returns
    -------
    list of dict
        `N_BESIDE` contexts at most, evenly spaced among those that most methods answered: ``context``, ``label``,
        `REAL` and each method to its text, and the names of methods whose text was ``cut``.
    """
    by_id = {name: {row.id: row for row in rows} for name, rows in responses.items()}
    have = [sum(record.key in of for of in by_id.values()) for record in records]
    answered = [record for record, n in zip(records, have, strict=True) if n == max(have) > 0]
    some = [answered[i * len(answered) // N_BESIDE] for i in range(N_BESIDE)] if answered else []
    return [
        {
            **{name: of[record.key].response for name, of in by_id.items() if record.key in of},
            "context": record.context,
            "label": record.label or "",
            REAL: record.response,
            "cut": [
                name for name, of in by_id.items() if record.key in of and of[record.key].finish_reason == "length"
            ],
        }
        for record in {record.key: record for record in some}.values()
    ]


def lengths(
    real: Sequence[str], responses: Iterable[Response]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]] | None:
    """Count the words of texts in bins that all sets share; the last bin takes what is longer.

    Returns
    -------
    edges : ndarray, shape (B + 1,)
        Whole numbers of words. None where there are no real texts, or no others.
    counts : dict of str to ndarray, shape (B,)
        `GOLDEN` and each method; what was not drawn, or is empty, has no length.
    """
    sizes = {GOLDEN: [len(words(text)) for text in real]}
    for row in responses:
        if is_drawn(row) and row.response.strip():
            sizes.setdefault(row.method, []).append(len(words(row.response)))
    if not sizes[GOLDEN] or len(sizes) < 2:
        return None
    top = int(np.ceil(max(np.quantile(of, 0.99) for of in sizes.values()))) + 1
    width = -(-top // N_BINS)
    edges = np.arange(0, top + width, width, dtype=np.float64)
    counts = {name: np.histogram(np.minimum(of, edges[-1] - 1), edges)[0].astype(float) for name, of in sizes.items()}
    return edges, counts


def bin_table(title: str, edges: FloatArray, counts: Mapping[str, FloatArray]) -> Table:
    """Shares of each set in the bins that hold a half per mille of any; whole numbers are those of `lengths`."""
    shares = np.array([of / max(float(of.sum()), 1e-12) for of in counts.values()])
    kept = np.flatnonzero(shares.max(axis=0) >= 0.0005)
    if np.all(edges == np.round(edges)) and len(edges) > 3:
        starts = edges.astype(int).tolist()
        ends = [f"{low}" if high == low + 1 else f"{low} to {high - 1}" for low, high in pairwise(starts)]
        ends[-1] = f"{starts[-2]} or more"
    else:
        ends = [f"{low:.2f} to {high:.2f}" for low, high in pairwise(edges.tolist())]
    names = ["real texts" if name == GOLDEN else name for name in counts]
    return turned(title, names, [ends[i] for i in kept], shares[:, kept].tolist())


def turned(title: str, columns: Sequence[str], rows: Sequence[str], values: Sequence[Sequence[object]]) -> Table:
    """Values by column as a table by row.

    Examples
    --------
    >>> turned("label", ["asked", "found"], ["bad", "good"], [[1, 2], [3, 4]])
    (['label', 'asked', 'found'], [['bad', 1, 3], ['good', 2, 4]])
    """
    return [title, *columns], [[row, *cells] for row, cells in zip(rows, zip(*values, strict=True), strict=True)]


def persona_labels(
    responses: Sequence[Response], personas: Sequence[str]
) -> tuple[list[str], NDArray[np.float64]] | None:
    """How many of mop's responses with each label each persona wrote, (L, K); None unless there are 2 to 12 labels."""
    own = [row for row in responses if row.method == "mop" and row.label is not None and is_drawn(row)]
    counts = Counter((row.label, row.persona) for row in own)
    labels = [str(label) for label, _ in Counter(row.label for row in own).most_common()]
    if not 2 <= len(labels) <= MOST_LABELS or not personas:
        return None
    return labels, np.array([[counts[label, key] for key in personas] for label in labels], dtype=np.float64)
