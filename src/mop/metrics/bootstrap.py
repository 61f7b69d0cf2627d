"""How sure shares are that were fitted to records: refits with the records weighted anew."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mop.metrics.distances import Z_95
from mop.randomness import rng_of

Floats = NDArray[np.float64]

N_AGAIN = 25
"""Refits: the error is then itself known within 15 %."""


def share_errors(
    refit: Callable[[Floats], Floats], weight: Floats, cluster: NDArray[np.int64], *, seed: int
) -> list[float]:
    """Standard errors of the log odds of K shares, by the Bayesian bootstrap (Rubin 1981).

    Parameters
    ----------
    refit : callable
        Weights of the records (n,) to the shares (K,) of a fit with these. It must fit until nothing moves: one step of
        EM from the fitted shares moves less, the more the options overlap, and would give too small an error.
    weight : ndarray, shape (n,)
        Survey weights.
    cluster : ndarray of int, shape (n,)
        Records of one number belong together: they are weighted alike.
    seed : int

    Returns
    -------
    list of K float

    Notes
    -----
    Each refit multiplies the weights of a cluster by an exponential random number and keeps their sum. What is not in
    it: how the options were written, and which shape of weights was chosen.
    """
    _, place = np.unique(cluster, return_inverse=True)
    odds = []
    for again in range(N_AGAIN):
        drawn = rng_of(seed, "share-errors", again).exponential(size=int(place.max()) + 1)[place] * weight
        share = np.clip(refit(drawn * (weight.sum() / drawn.sum())), 1e-12, 1 - 1e-12)
        odds.append(np.log(share / (1 - share)))
    return [float(error) for error in np.std(odds, axis=0, ddof=1)]


def odds_interval(share: float, error: float) -> list[float]:
    """95 % interval of a share from the standard error of its log odds.

    Examples
    --------
    >>> [round(end, 3) for end in odds_interval(0.2, 0.5)]
    [0.086, 0.4]
    """
    if not 0 < share < 1:
        return [share, share]
    odds = math.log(share / (1 - share))
    return [1 / (1 + math.exp(-odds + sign * Z_95 * error)) for sign in (1, -1)]
