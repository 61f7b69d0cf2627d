"""Which of two methods is better: the difference of a figure with an interval that knows what the two share.

Methods answer the same questions, are compared with the same real texts and lose the same rows in the same
subsample. So errors are kept piece by piece, one piece for each text or subsample, and those of two methods are
subtracted before they are squared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.metrics.distances import interval

Floats = NDArray[np.float64]

MAIN = {"energy": -1, "fid_excess": -1, "mauve": 1, "kl_cosine": -1, "f1": 1, "valid_answers": 1, "total_variation": -1}
"""The figures that decide, and whether more (1) or less (-1) is better."""


def mean_errors(seeds: Sequence[Sequence[float]]) -> Floats:
    """Errors of the mean of a figure over seeds, from those of each: the questions are the same, the draws are not."""
    return np.asarray(np.mean([np.asarray(errors, dtype=np.float64) for errors in seeds], axis=0))


def difference(ours: float, theirs: float, errors: Floats, their_errors: Floats, *sds: float) -> dict[str, Any]:
    """Difference of two figures with its 95 % interval.

    Parameters
    ----------
    ours, theirs : float
    errors, their_errors : ndarray, shape (P,)
        Pieces whose squares sum to the variance of each. Of different numbers of texts they are taken as independent.
    *sds : float
        Standard deviations of what they do not share, such as MAUVE's clusters.

    Returns
    -------
    dict
        ``difference`` (ours minus theirs) and ``interval``.

    Examples
    --------
    Both are off by the same 0.3; what differs is known within 0.1.

    >>> found = difference(0.7, 0.5, np.array([0.3, 0.1]), np.array([0.3, 0.0]))
    >>> [round(end, 3) for end in (found["difference"], *found["interval"])]
    [0.2, 0.004, 0.396]
    """
    if len(errors) == len(their_errors):
        sd = float(np.linalg.norm(errors - their_errors))
    else:
        sd = math.hypot(float(np.linalg.norm(errors)), float(np.linalg.norm(their_errors)))
    return {"difference": ours - theirs, "interval": interval(ours - theirs, sd, *sds)}


def is_clear(found: Mapping[str, Any]) -> bool:
    """Whether the interval of a difference leaves out zero."""
    low, high = found["interval"]
    return bool(low > 0 or high < 0)


def clear_best(
    values: Mapping[str, float], errors: Mapping[str, Floats], better: int, sds: Mapping[str, float]
) -> str | None:
    """The method whose figure is best, if it is clearly better than every other; else None.

    Parameters
    ----------
    values, errors : mapping
        Method to figure and to its errors.
    better : int
        1 if more is better, -1 if less is.
    sds : mapping
        Method to the standard deviation of what it shares with no other.
    """
    if len(values) < 2:
        return None
    best = max(values, key=lambda name: better * values[name])
    reaches = (
        difference(values[best], value, errors[best], errors[name], sds.get(best, 0.0), sds.get(name, 0.0))
        for name, value in values.items()
        if name != best
    )
    return best if all(map(is_clear, reaches)) else None


def clear_winners(
    methods: Mapping[str, Mapping[str, Any]],
    errors: Mapping[str, Mapping[str, Floats]],
    of_clusters: Mapping[str, float],
) -> dict[str, str | None]:
    """The clearly best method on each main figure (`clear_best`); other real texts are no method.

    ``of_clusters`` is the standard deviation of the MAUVE of each method that its clusters cause.
    """
    best = {}
    for metric, better in MAIN.items():
        values = {m: float(row[metric]) for m, row in methods.items() if m != "floor" and metric in errors.get(m, {})}
        if values:
            sds = of_clusters if metric == "mauve" else {}
            best[metric] = clear_best(values, {name: errors[name][metric] for name in values}, better, sds)
    return best
