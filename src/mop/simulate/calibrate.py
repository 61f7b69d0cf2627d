"""Weights on drawn texts, so that together they are what a target is: a sample of real texts, or known margins.

A mixture is fitted to what a frozen model finds likely; what it then writes drifts from that. These weights correct
the population of the texts themselves, whatever the model does, and leave each text as it was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.errors import DataError
from mop.randomness import derive_seed, uniforms

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

N_FOLDS = 5
PENALTIES = tuple(10.0**power for power in (-5, -4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0))
"""Candidates of the inverse strength C of the ridge; the columns have unit variance."""
LEAST_SHARE = 0.05
"""Smallest effective sample size, of the number of draws: a ratio that wants less is tempered."""
NEAREST = 5
"""k of the coverage."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """How much more frequent each draw is among real texts than among draws."""

    weight: Floats
    """(n,) ≥ 0, mean 1 in each group."""
    penalty: float
    """C that was chosen."""
    exponent: float
    """Power of the ratio that was chosen, at most 1."""
    log_loss: float
    """Held-out nats per text of telling draws from real ones; log 2 = 0.693 where nobody can."""
    unmatched: int
    """Draws of groups without a real text; they keep weight 1."""


def effective_size(weight: Floats) -> float:
    """Kish's effective sample size, (Σ w)² / Σ w².

    Examples
    --------
    >>> effective_size(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    return float(weight.sum() ** 2 / np.square(weight).sum())


def divergence(weight: Floats) -> float:
    """KL divergence in nats of the weighted draws from the same draws with equal weights, Σ p log(n p)."""
    share = weight / weight.sum()
    some = share[share > 0]
    return float(some @ np.log(some * len(weight)))


def density_ratio(
    drawn: NDArray[Any],
    real: NDArray[Any],
    *,
    drawn_keys: Sequence[str],
    real_keys: Sequence[str],
    drawn_groups: Sequence[str] | None = None,
    real_groups: Sequence[str] | None = None,
    real_weight: Floats | None = None,
    seed: int = 0,
) -> Ratio:
    """Weights under which draws are distributed as real texts, by classifiers that tell the two apart.

    Parameters
    ----------
    drawn, real : ndarray, shapes (n, D) and (m, D)
        Features of both, such as embeddings, lengths, log-likelihoods per token; finite.
    drawn_keys, real_keys : sequence of str
        Names of the texts. The fold of a text depends on (seed, its name), so that the order makes no difference.
        Texts of one name are in one fold.
    drawn_groups, real_groups : sequence of str, optional
        A label, or a kind of context. The weights then match within each group, and the groups keep their shares.
    real_weight : ndarray, shape (m,), optional
        Survey weights.

    Returns
    -------
    Ratio
        Every weight comes from a classifier that did not see the text.

    Raises
    ------
    DataError
        If there are fewer than `N_FOLDS` texts of a kind, shapes disagree, or a feature is not finite.

    Notes
    -----
    Logistic regression with a ridge; odds between classes of equal size are a density ratio (Sugiyama, Suzuki and
    Kanamori 2012, *Density Ratio Estimation in Machine Learning*, chapter 4). The ridge and the power of the ratio
    minimise the held-out log-loss: of a classifier that is too sure of itself, a power below 1 is what is true.
    """
    x = _features(drawn, real)
    n, m = len(drawn), len(real)
    if min(n, m) < N_FOLDS:
        raise DataError(
            f"a density ratio needs {N_FOLDS} draws and as many real texts, got {n} and {m}; draw or give more"
        )
    groups = list(drawn_groups) if drawn_groups is not None else [""] * n
    groups_of_real = list(real_groups) if real_groups is not None else [""] * m
    of_real = np.ones(m) if real_weight is None else np.asarray(real_weight, dtype=np.float64)
    is_known, of_real = _matched(groups, groups_of_real, of_real)
    is_real = np.arange(n + m) >= n
    weight = np.concatenate([is_known / max(is_known.sum(), 1), of_real / of_real.sum()]) * (n + m) / 2
    names = [*(f"drawn {key}" for key in drawn_keys), *(f"real {key}" for key in real_keys)]
    fold = np.array([derive_seed(seed, "fold", name) % N_FOLDS for name in names])
    logits = _held_out(x, is_real, weight, fold)
    losses = [_log_loss(column, is_real, weight, 1.0) for column in logits.T]
    best = int(np.argmin(losses))
    exponent = _best_power(logits[:, best], is_real, weight)
    log_ratio = logits[:n, best]
    found = _in_groups(np.exp(_tempered(exponent * log_ratio)), groups, is_known)
    return Ratio(
        found, PENALTIES[best], exponent, _log_loss(logits[:, best], is_real, weight, exponent), int((~is_known).sum())
    )


def _features(drawn: NDArray[Any], real: NDArray[Any]) -> Floats:
    """Both below each other, every column with mean 0 and variance 1."""
    if drawn.ndim != 2 or real.ndim != 2 or drawn.shape[1] != real.shape[1]:
        raise DataError(f"draws and real texts need the same features, got shapes {drawn.shape} and {real.shape}")
    x = np.concatenate([drawn, real]).astype(np.float64)
    if not np.isfinite(x).all():
        row, column = (int(place) for place in np.argwhere(~np.isfinite(x))[0])
        raise DataError(f"feature {column} of text {row} is {x[row, column]}; features must be finite")
    spread = x.std(axis=0)
    return np.asarray((x - x.mean(axis=0)) / np.where(spread > 1e-12, spread, 1.0))


def _matched(groups: Sequence[str], groups_of_real: Sequence[str], of_real: Floats) -> tuple[NDArray[np.bool_], Floats]:
    """Which draws are of a group with real texts, and weights of those under which groups have the draws' shares."""
    drawn, real = np.asarray(groups), np.asarray(groups_of_real)
    is_known = np.isin(drawn, real)
    adjusted = np.zeros(len(real))
    for group in np.unique(drawn[is_known]):
        rows = real == group
        adjusted[rows] = of_real[rows] * (drawn == group).sum() / of_real[rows].sum()
    return is_known, adjusted


def _held_out(x: Floats, is_real: NDArray[np.bool_], weight: Floats, fold: Ints) -> Floats:
    """Log odds of being real, (n + m, candidates), each row by a classifier that was fitted without its fold."""
    from sklearn.linear_model import LogisticRegression

    logits = np.zeros((len(x), len(PENALTIES)))
    for one in np.unique(fold):
        train, held = (fold != one) & (weight > 0), fold == one
        of_class = np.array([weight[train & (is_real == kind)].sum() for kind in (False, True)])
        even = weight[train] / of_class[is_real[train].astype(int)] * train.sum() / 2
        for column, penalty in enumerate(PENALTIES):
            model = LogisticRegression(C=penalty, max_iter=1000, tol=1e-6)
            model.fit(x[train], is_real[train], sample_weight=even)
            logits[held, column] = model.decision_function(x[held])
    return logits


def _log_loss(logit: Floats, is_real: NDArray[np.bool_], weight: Floats, power: float) -> float:
    signed = np.where(is_real, logit, -logit) * power
    return float(weight @ np.logaddexp(0.0, -signed) / weight.sum())


def _best_power(logit: Floats, is_real: NDArray[np.bool_], weight: Floats) -> float:
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda power: _log_loss(logit, is_real, weight, power), bounds=(0.0, 1.0), method="bounded")
    return float(found.x)


def _tempered(log_ratio: Floats) -> Floats:
    """The ratio, or the largest power of it that leaves an effective sample of `LEAST_SHARE` of the draws."""
    from scipy.optimize import brentq

    centred = log_ratio - log_ratio.max()

    def excess(power: float) -> float:
        return effective_size(np.exp(power * centred)) - LEAST_SHARE * len(centred)

    return centred if excess(1.0) >= 0 else np.asarray(brentq(excess, 0.0, 1.0) * centred)


def _in_groups(weight: Floats, groups: Sequence[str], is_known: NDArray[np.bool_]) -> Floats:
    """Weights of mean 1 in every group; 1 where nothing is known."""
    found, names = np.ones(len(weight)), np.asarray(groups)
    for group in np.unique(names[is_known]):
        rows = names == group
        found[rows] = weight[rows] / weight[rows].mean()
    return found


def coverage(drawn: NDArray[Any], real: NDArray[Any]) -> float:
    """Share of real texts that have a draw nearer than their fifth-nearest real neighbour.

    Notes
    -----
    Naeem, Oh, Uh, Choi and Yoo 2020, *Reliable Fidelity and Diversity Metrics for Generative Models*, equation 4. About
    1 for draws of the same distribution, if they are not much fewer than the real texts; 0 for another language.
    """
    from scipy.spatial.distance import cdist

    k = min(NEAREST, len(real) - 1)
    among = np.sort(cdist(real, real), axis=1)[:, k]  # the text itself is at 0
    return float((cdist(real, drawn).min(axis=1) <= among).mean())


def pick(
    weight: Floats, n: int, *, keys: Sequence[str], strata: Sequence[str] | None = None, seed: int = 0
) -> list[int]:
    """Rows of exactly n texts without replacement, each with a probability in proportion to its weight.

    Parameters
    ----------
    weight : ndarray, shape (N,)
        A text of more than 1 / n of what is to be picked is taken for certain.
    n : int
    keys : sequence of N str
        The order of a text depends on (seed, its name) alone.
    strata : sequence of N str, optional
        Each keeps its share to within one text.

    Raises
    ------
    DataError
        If fewer than n texts have any weight.

    Notes
    -----
    Systematic sampling with unequal probabilities (Madow 1949) after a random order.
    """
    weight = np.asarray(weight, dtype=np.float64)
    if int((weight > 0).sum()) < n:
        raise DataError(
            f"{n} texts were asked for, and only {int((weight > 0).sum())} of {len(weight)} draws have any weight; "
            "draw more"
        )
    probability = inclusion(weight, n)
    shuffled = [derive_seed(seed, "pick", key) for key in keys]
    named = list(strata) if strata is not None else [""] * len(weight)
    order = sorted(range(len(weight)), key=lambda row: (named[row], shuffled[row]))
    ends = np.cumsum(probability[order])
    ends[-1] = n  # and not a rounding below it
    start = float(uniforms(derive_seed(seed, "pick"), 0, 1)[0])
    at = np.searchsorted(ends, start + np.arange(n), side="right")
    return sorted(order[place] for place in at.tolist())


def inclusion(weight: Floats, n: int) -> Floats:
    """Probabilities (N,) ≤ 1 in proportion to the weights, with sum n; those that would be above 1 are 1."""
    probability, is_sure = np.zeros(len(weight)), np.zeros(len(weight), dtype=bool)
    while True:
        rest = ~is_sure
        probability[rest] = (n - is_sure.sum()) * weight[rest] / weight[rest].sum() if n > is_sure.sum() else 0.0
        above = rest & (probability >= 1.0)
        if not above.any():
            return np.where(is_sure, 1.0, probability)
        is_sure |= above
