"""What weights and scores add up to: pure functions in the log domain, without a model and without state.

A component is one (persona, exemplar) pair. Letters: n records, C components.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mop.errors import DataError

Floats = NDArray[np.float64]


def log_sum_exp(values: NDArray[np.floating], axis: int = -1) -> Floats:
    """Log of a sum of exponentials, exact also far below the range of floats.

    Rows of minus infinity give minus infinity.

    Examples
    --------
    >>> bool(log_sum_exp(np.array([-1000.0, -1000.0])) == -1000.0 + np.log(2))
    True
    """
    top = np.max(values, axis=axis, keepdims=True)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.sum(np.exp(values - safe), axis=axis, dtype=np.float64))
    return np.asarray(total + np.squeeze(safe, axis=axis), dtype=np.float64)


def log_mixture(log_lik: NDArray[np.floating], log_weight: NDArray[np.floating]) -> Floats:
    """Log-likelihood of each record under the whole mixture, in nats.

    ::

        log p(y_i | x_i) = log Σ_c w_c(x_i) p_c(y_i)

    Parameters
    ----------
    log_lik : ndarray, shape (n, C)
        Log-likelihood of record i under component c, nats, summed over tokens; minus infinity where absent.
    log_weight : ndarray, shape (n, C) or (C,)
        Log mixing weight; ``exp`` sums to at most 1 over C. If it sums to less,
        because components were left out, the result is a lower bound.

    Raises
    ------
    DataError
        If the shapes do not agree.

    Notes
    -----
    Source: Bui et al. 2025, arXiv 2504.05019, the contextual mixture.

    Examples
    --------
    >>> log_lik = np.log([[0.2, 0.6]])
    >>> round(float(np.exp(log_mixture(log_lik, np.log([0.5, 0.5]))[0])), 4)
    0.4
    """
    if log_lik.ndim != 2 or log_weight.shape not in (log_lik.shape, log_lik.shape[1:]):
        raise DataError(
            f"log_lik {log_lik.shape} needs log_weight of its own shape or {log_lik.shape[1:]}, got {log_weight.shape}"
        )
    return log_sum_exp(log_lik + log_weight)


def log_ratio(log_lik: NDArray[np.floating], log_mix: Floats, record_weight: NDArray[np.floating]) -> Floats:
    """Log of d_c = mean_i p_c(i) / p(i), (C,): by how much component c alone beats a mixture p, on average.

    Parameters
    ----------
    log_lik : ndarray, shape (n, C)
    log_mix, record_weight : ndarray, shape (n,)

    Notes
    -----
    No weights v gain more than log max_c d_c over p: mean log(Σ v_c p_c / p) ≤ log mean(Σ v_c p_c / p) = log Σ v_c d_c.
    Source: Lindsay 1983 (the gradient function of a mixture), and Jensen.
    """
    log_share = np.log(record_weight / record_weight.sum())
    return log_sum_exp(log_share[:, None] + log_lik - log_mix[:, None], axis=0)


@dataclass(frozen=True)
class Unconditional:
    """The best weights that do not look at the context, with their certificate."""

    log_weight: Floats
    """(C,) log weights."""
    mean_log_lik: float
    """Nats per record at these weights."""
    slack: float
    """No other weighting of the same components can raise the mean by more than this many nats."""


def unconditional_weights(
    log_lik: NDArray[np.floating],
    *,
    record_weight: NDArray[np.floating] | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 5_000,
) -> Unconditional:
    """Maximum-likelihood weights of fixed components, certified.

    The problem is concave. EM raises the likelihood at every step, and stops when `log_ratio` bounds what is
    still to be gained by ``tolerance``.

    Parameters
    ----------
    log_lik : ndarray, shape (n, C)
        Nats.
    record_weight : ndarray, shape (n,), optional
        Survey weights, > 0.
    tolerance : float
        Nats per record.
    max_iterations : int
        At the limit the certificate still holds; it is only looser.

    Returns
    -------
    Unconditional

    Examples
    --------
    >>> best = unconditional_weights(np.log([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]))
    >>> best.slack < 1e-6
    True
    """
    log_lik = np.asarray(log_lik, dtype=np.float64)
    if log_lik.ndim != 2 or 0 in log_lik.shape:
        raise DataError(f"log_lik must be a non-empty table (n, C), got shape {log_lik.shape}")
    share = np.ones(len(log_lik)) if record_weight is None else np.asarray(record_weight, float)
    log_weight = np.full(log_lik.shape[1], -np.log(log_lik.shape[1]))
    for iteration in itertools.count():
        log_mix = log_mixture(log_lik, log_weight)
        log_d = log_ratio(log_lik, log_mix, share)
        slack = float(max(np.max(log_d), 0.0))
        if slack <= tolerance or iteration >= max_iterations:
            break
        log_weight = log_weight + log_d  # EM: the mean responsibility is w_c d_c
        log_weight -= log_sum_exp(log_weight)
    return Unconditional(log_weight, float(np.average(log_mix, weights=share)), slack)


def clustered_error(away: Floats, cluster: NDArray[np.int64]) -> float:
    """Linearised standard error of a weighted mean over records.

    Parameters
    ----------
    away : ndarray, shape (n,)
        Each record's share of the weight times its distance from the mean.
    cluster : ndarray of int, shape (n,)
        Records of one number count as one observation.

    Examples
    --------
    >>> round(clustered_error(np.array([1.0, 1.0, -1.0, -1.0]) / 4, np.array([0, 0, 1, 1])), 3)  # of -1 and 1
    1.0
    """
    sums = np.bincount(np.unique(cluster, return_inverse=True)[1].reshape(-1), away)
    return float(np.sqrt(np.square(sums).sum() * len(sums) / max(len(sums) - 1, 1)))


def best_beta(value: Callable[[float], float], betas: Sequence[float]) -> tuple[float, float]:
    """The inverse temperature β = 1/τ at which a function of it is largest, and its value there.

    Examined on a grid and refined around the best, within the range of ``betas``, the ascending nodes of score curves.

    Examples
    --------
    >>> beta, value = best_beta(lambda beta: -((beta - 1.3) ** 2), (0.5, 1.0, 2.0))
    >>> round(beta, 3)
    1.3
    """
    from scipy.optimize import minimize_scalar

    if len(betas) == 1:
        return betas[0], value(betas[0])
    grid = np.linspace(betas[0], betas[-1], 24)
    best = int(np.argmax([value(float(beta)) for beta in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = minimize_scalar(lambda beta: -value(float(beta)), bounds=around, method="bounded", options={"xatol": 1e-4})
    return float(found.x), -float(found.fun)


def draw(log_weight: NDArray[np.floating], uniform: NDArray[np.floating]) -> NDArray[np.int64]:
    """Draw one column per row by inverse CDF.

    Parameters
    ----------
    log_weight : ndarray, shape (n, C)
        Log weights, normalised or not; minus infinity is never drawn.
    uniform : ndarray, shape (n,)
        One uniform number in [0, 1) per row.

    Raises
    ------
    DataError
        If a row has no finite weight.

    Examples
    --------
    >>> draw(np.log([[0.25, 0.75], [0.25, 0.75]]), np.array([0.2, 0.3])).tolist()
    [0, 1]
    """
    top = np.max(log_weight, axis=1, keepdims=True)
    if not np.all(np.isfinite(top)):
        row = int(np.argmin(np.isfinite(top[:, 0])))
        raise DataError(f"row {row} of the weights has no finite entry; there is nothing to draw from")
    cumulative = np.cumsum(np.exp(np.asarray(log_weight, np.float64) - top), axis=1)
    target = uniform[:, None] * cumulative[:, -1:]
    return np.asarray(np.argmax(cumulative > target, axis=1), dtype=np.int64)


def spread_draw(weight: NDArray[np.floating], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw n components so that component c is expected exactly n·w_c times, spread as evenly as can be.

    Parameters
    ----------
    weight : ndarray, shape (C,)
        Non-negative weights, normalised or not.
    n : int

    Returns
    -------
    ndarray of int, shape (n,)
        In random order; a component may occur more than once.

    Notes
    -----
    Systematic sampling on a shuffled list: less variance than independent draws.

    Examples
    --------
    >>> sorted(spread_draw(np.ones(4), 4, np.random.default_rng(0)).tolist())
    [0, 1, 2, 3]
    """
    order = rng.permutation(len(weight))
    cumulative = np.cumsum(np.asarray(weight, np.float64)[order])
    points = (rng.random() + np.arange(n)) / n * cumulative[-1]
    hits = np.minimum(np.searchsorted(cumulative, points, side="right"), len(order) - 1)
    return np.asarray(rng.permutation(order[hits]), dtype=np.int64)


def diagonal_order(n_personas: int, n_exemplars: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return all components in an order in which neighbours differ in persona and in exemplar.

    Returns
    -------
    ndarray of int, shape (K·N,)
        Component (k, j) is k·N + j. Any K in a row, counted round, have different personas, or nearly so where the
        order begins anew, and any N different exemplars.

    Examples
    --------
    >>> order = diagonal_order(4, 6, np.random.default_rng(0))
    >>> len(set((order[:4] // 6).tolist())), len(set((order[:6] % 6).tolist()))
    (4, 6)
    """
    step = np.arange(n_personas * n_exemplars)
    # After as many steps as both have in common the diagonal would close: it moves on by one exemplar.
    exemplar = (step + step // math.lcm(n_personas, n_exemplars)) % n_exemplars
    persona = rng.permutation(n_personas)[step % n_personas]
    return np.asarray(persona * n_exemplars + rng.permutation(n_exemplars)[exemplar])
