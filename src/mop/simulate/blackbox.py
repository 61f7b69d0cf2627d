"""Persona weights for a model without likelihoods: match embeddings of its samples to the population.

Where a model gives no log-probabilities, its mixture cannot be fitted by likelihood. What can be
done is to draw some responses per persona, embed them, and find the mixture of personas whose
embeddings are distributed most like those of real responses. That is a surrogate: it sees what the
encoder sees, weighs whole personas only (no contexts, exemplars or temperatures), and must be
called a surrogate wherever its weights are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mop.errors import DataError
from mop.randomness import rng_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHRINKAGES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
"""Strengths of the pull towards the prior that validation chooses from; the kernel is between 0 and 1."""

N_SPLITS = 20
"""Halvings that validate them."""

_BLOCK = 2048  # rows of a kernel matrix in memory at a time


class WeightMatch(NamedTuple):
    """What `match_weights` found."""

    weights: Floats
    """Shape (K,), ≥ 0, sum 1."""
    mmd2: float
    """Squared maximum mean discrepancy between the weighted samples and the target; about 0 if they
    match."""
    mmd2_uniform: float
    """The same with equal weights, for comparison."""
    shrinkage: float
    """λ, how strongly the weights were pulled towards the prior."""
    bandwidth: float
    """Width of the Gaussian kernel, in units of embedding distance."""
    within: Floats
    """A, shape (K, K): mean kernel between the samples of two personas."""
    across: Floats
    """b, shape (K,): mean kernel between a persona's samples and the targets."""
    target: float
    """c: mean kernel between targets."""

    def at(self, weights: Floats) -> float:
        """Squared maximum mean discrepancy at other weights (K,)."""
        return _mmd2(weights, self.within, self.across, self.target)


def match_weights(
    sample_embeddings_by_persona: Sequence[NDArray[np.float32] | Floats],
    target_embeddings: NDArray[np.float32] | Floats,
    *,
    contexts: Sequence[Ints] | None = None,
    target_weights: Floats | None = None,
    bandwidth: float | None = None,
    prior: Floats | None = None,
    shrinkage: float | None = None,
    seed: int = 0,
) -> WeightMatch:
    """Find persona weights under which a model's samples are distributed like the population.

    Parameters
    ----------
    sample_embeddings_by_persona : sequence of K arrays, each of shape (n_k, D)
        Embeddings of responses drawn under each persona; n_k ≥ 2.
    target_embeddings : ndarray, shape (n, D)
        Embeddings of real responses; n ≥ 2.
    contexts : sequence of K arrays of int, each of shape (n_k,), optional
        Which context each sample answers, where personas were asked the same ones. Two samples of one
        context are alike for that alone, so they are not compared. Each its own if None.
    target_weights : ndarray, shape (n,), optional
        Survey weights ≥ 0; equal if None.
    bandwidth : float, optional
        Width σ of the kernel exp(-|a - b|² / 2σ²); the median distance between targets if None.
    prior : ndarray, shape (K,), optional
        Weights w0 to fall back on where samples say little; equal if None.
    shrinkage : float, optional
        λ ≥ 0; chosen from `SHRINKAGES` by validation if None.
    seed : int
        Of the halvings that validate.

    Returns
    -------
    WeightMatch

    Raises
    ------
    DataError
        If there are too few rows, the sizes differ, or a value is not finite.

    Notes
    -----
    Minimised over the simplex is the squared maximum mean discrepancy ::

        w' A w - 2 w' b + c,   A_kl = mean k(s, s'), b_k = mean k(s, t), c = mean k(t, t')

    with s from persona k, s' from persona l and t from the target; a text is never compared with
    itself, nor with one of the same context, so all three are unbiased and small sample sizes do not
    favour one persona. With few samples, or personas that write alike, its minimum follows the noise:
    added is λ |w - w0|², with the λ whose weights, found on one half of samples and targets, match
    the other half best, on average over `N_SPLITS` halvings. (A half has less to go by than the
    whole, so λ errs towards the prior.) With fewer than 4 rows anywhere nothing can be validated, and
    λ is the strongest. Source: kernel mean matching (Huang et al. 2006; Gretton et al. 2012 for the
    unbiased estimate), here with one weight per persona instead of one per sample. The programme is
    made convex by lifting negative eigenvalues of A, which noise can produce, to zero, and solved as a
    non-negative least-squares problem.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> left, right = rng.normal(-1, 0.3, (200, 2)), rng.normal(1, 0.3, (200, 2))
    >>> target = np.concatenate([rng.normal(-1, 0.3, (320, 2)), rng.normal(1, 0.3, (80, 2))])
    >>> match_weights([left, right], target).weights.round(1).tolist()
    [0.8, 0.2]
    """
    samples = [_checked(array, f"persona {k}") for k, array in enumerate(sample_embeddings_by_persona)]
    target = _checked(target_embeddings, "the target")
    if not samples or any(array.shape[1] != target.shape[1] for array in samples):
        raise DataError(
            f"samples of {len(samples)} personas have the sizes {[a.shape for a in samples]} and "
            "the target "
            f"{target.shape}; at least one persona and one embedding size throughout are needed; "
            "embed all texts "
            "with one encoder"
        )
    sizes = [len(array) for array in samples]
    if contexts is None:
        asked = _each_its_own(sizes)
    else:
        asked = [np.asarray(own, dtype=np.int64) for own in contexts]
        if [own.shape for own in asked] != [(size,) for size in sizes]:
            raise DataError(
                f"contexts have the shapes {[own.shape for own in asked]}, samples the numbers {sizes}; a "
                "number of its context is needed for each sample"
            )
    share = _shares(target_weights, len(target), "target_weights")
    width = _median_distance(target) if bandwidth is None else bandwidth
    if not (np.isfinite(width) and width > 0):
        raise DataError(
            f"the kernel width is {width}; it must be above 0; give bandwidth, or targets that are not all alike"
        )
    n_personas = len(samples)
    uniform, centre = _shares(None, n_personas, ""), _shares(prior, n_personas, "prior")
    if shrinkage is None:
        shrinkage = _validated(samples, asked, target, share, width, centre, seed)
    a, b = _moments(samples, asked, target, share, width)
    c = _mean_kernel(target, target, share, share, width, is_same=True)
    weights = _shrunk(a, b, centre, shrinkage)
    return WeightMatch(weights, _mmd2(weights, a, b, c), _mmd2(uniform, a, b, c), shrinkage, float(width), a, b, c)


def _validated(
    samples: Sequence[Floats],
    asked: Sequence[Ints],
    target: Floats,
    share: Floats,
    width: float,
    prior: Floats,
    seed: int,
) -> float:
    """The λ whose weights match unseen halves best; the strongest of equals."""
    if min(len(target), *map(len, samples)) < 4:
        return SHRINKAGES[-1]
    loss = np.zeros(len(SHRINKAGES))
    for split in range(N_SPLITS):
        orders = [rng_of(seed, "halves", split).permutation(len(array)) for array in samples]
        order = rng_of(seed, "target halves", split).permutation(len(target))
        fitted, unseen = (
            _moments(
                [array[own[half::2]] for array, own in zip(samples, orders, strict=True)],
                [array[own[half::2]] for array, own in zip(asked, orders, strict=True)],
                target[order[half::2]],
                share[order[half::2]] / share[order[half::2]].sum(),
                width,
            )
            for half in (0, 1)
        )
        for i, strength in enumerate(SHRINKAGES):
            loss[i] += _mmd2(_shrunk(*fitted, prior, strength), *unseen, 0.0)
    return SHRINKAGES[len(loss) - 1 - int(np.argmin(loss[::-1]))]


def _shrunk(a: Floats, b: Floats, prior: Floats, strength: float) -> Floats:
    return _on_simplex(a + strength * np.eye(len(b)), b + strength * prior)


def _moments(
    samples: Sequence[Floats], asked: Sequence[Ints], target: Floats, share: Floats, width: float
) -> tuple[Floats, Floats]:
    """Return A (K, K), over pairs that answer different contexts, and b (K,)."""
    sizes = np.array([len(array) for array in samples])
    x, owner = np.concatenate(samples), np.repeat(np.arange(len(sizes)), sizes)
    context = np.concatenate(asked)
    starts = np.cumsum(sizes) - sizes
    a, b = np.zeros((len(sizes), len(sizes))), np.zeros(len(sizes))
    pairs = np.zeros_like(a)
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        differ = (context[rows, None] != context).astype(np.float64)
        kernel = _kernel(x[rows], x, width) * differ
        np.add.at(a, owner[rows], np.add.reduceat(kernel, starts, axis=1))
        np.add.at(pairs, owner[rows], np.add.reduceat(differ, starts, axis=1))
        np.add.at(b, owner[rows], _kernel(x[rows], target, width) @ share)
    if not pairs.all():  # too few contexts to leave any out
        return _moments(samples, _each_its_own(sizes), target, share, width)
    return a / pairs, b / sizes


def _each_its_own(sizes: Sequence[int] | Ints) -> list[Ints]:
    return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])


def _mmd2(w: Floats, a: Floats, b: Floats, c: float) -> float:
    return float(w @ a @ w - 2.0 * w @ b + c)


def _on_simplex(a: Floats, b: Floats) -> Floats:
    """Minimise w'Aw - 2w'b over w ≥ 0 with sum 1, A symmetric."""
    from scipy.optimize import nnls

    values, vectors = np.linalg.eigh(a)
    # The smallest eigenvalues are lifted a little above zero, which keeps the root invertible.
    values = np.maximum(values, 1e-9 * max(values[-1], 1e-12))
    root = np.sqrt(values)[:, None] * vectors.T
    right = (vectors.T @ b) / np.sqrt(values)
    # A heavy row holds the sum at 1; scaled to the problem, since nnls works with one tolerance.
    heavy = 1e4 * np.sqrt(values[-1])
    weights, _ = nnls(np.vstack([root, np.full((1, len(b)), heavy)]), np.append(right, heavy), maxiter=100 * len(b))
    result: Floats = weights / weights.sum()
    return result


def _mean_kernel(x: Floats, y: Floats, wx: Floats, wy: Floats, width: float, *, is_same: bool = False) -> float:
    """Weighted mean of the Gaussian kernel over pairs; over pairs of different rows if x is y."""
    total = 0.0
    for start in range(0, len(x), _BLOCK):
        kernel = _kernel(x[start : start + _BLOCK], y, width)
        if is_same:
            kernel[np.arange(len(kernel)), np.arange(start, start + len(kernel))] = 0.0
        total += float(wx[start : start + _BLOCK] @ kernel @ wy)
    return total / (1.0 - float(wx @ wy)) if is_same else total


def _kernel(x: Floats, y: Floats, width: float) -> Floats:
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2.0 * x @ y.T
    kernel: Floats = np.exp(-np.maximum(squared, 0.0) / (2.0 * width**2))
    return kernel


def _median_distance(x: Floats) -> float:
    """Median distance between different rows; of every third row or so where there are many."""
    some = x[:: max(1, len(x) // 1000)]
    squared = (some**2).sum(1)[:, None] + (some**2).sum(1)[None, :] - 2.0 * some @ some.T
    return float(np.sqrt(np.median(np.maximum(squared[np.triu_indices(len(some), 1)], 0.0))))


def _checked(array: NDArray[np.float32] | Floats, what: str) -> Floats:
    result = np.asarray(array, dtype=np.float64)
    if result.ndim != 2 or len(result) < 2 or not np.isfinite(result).all():
        raise DataError(
            f"embeddings of {what} have shape {result.shape}; finite numbers in at least 2 rows "
            "and any number of "
            "columns are needed; draw more responses"
        )
    return result


def _shares(weights: Floats | None, n: int, what: str) -> Floats:
    """Weights (n,) with sum 1, equal ones if None."""
    result = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if result.shape != (n,) or not (np.isfinite(result).all() and (result >= 0).all() and result.sum() > 0):
        raise DataError(
            f"{what} must be {n} finite numbers of at least 0, of which one is above 0, got the shape {result.shape} "
            f"and the sum {result.sum()}"
        )
    return np.asarray(result / result.sum())
