"""Two samples of texts, as vectors or as words, to numbers that say how far apart they are.

Pure functions: vectors are sentence embeddings of responses alone, never of contexts. Which
sample is compared with which, and how sure a figure is, is decided in `mop.evaluate.samples`.
Definitions, alternatives and limits: ``docs/metrics.md``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mop.errors import DataError
from mop.randomness import derive_seed, rng_of, uniforms
from mop.types import FloatArray

Shown = str | Sequence[str] | None
"""What a text was written from: one text, several, or none."""

N_BINS = 100
"""Equal bins on [-1, 1] of a cosine histogram; 50 to 400 bins move KL-cosine by under 2 %."""
ALL_PAIRS_UP_TO = 2_000
"""Up to so many texts every pair is used; above, a fixed number of random pairs."""
N_RANDOM_PAIRS = 200_000
MAUVE_ADVISED = 1_000
"""Fewer texts a side give an optimistic MAUVE (its authors advise 5,000); chosen, not tuned."""
PCA_SHARE = 0.9
"""Share of the variance that MAUVE keeps before it clusters."""
MAUVE_SCALE, MAUVE_WEIGHTS = 5.0, 25
"""c of its divergences, and points on its curve: everyone's choice."""
Z_95 = 1.96
"""Half-width of a 95 % interval in standard deviations of a normal variable."""
BLOCK = 4_000_000
"""Distances held at once: 32 MB."""
RESOLVED_FROM = 1e-3
"""In mean eigenvalues: below, the eigenvalues of a sample say nothing of its population's."""


MOST_POOL, N_PERMUTATIONS = 1_000, 999
"""Texts of either side that a two-sample test looks at, and relabellings of them."""


class DoubtfulMetricWarning(UserWarning):
    """A metric could be computed, but the samples are too small to read much into it."""


@dataclass(frozen=True, slots=True, eq=False)
class Gaussian:
    """The moments of one sample, as the Fréchet distance needs them."""

    mean: NDArray[np.float64]
    """Shape (D,)."""
    root: NDArray[np.float64]
    """Shape (D, D): symmetric square root of the sample covariance (divisor n - 1)."""
    variances: NDArray[np.float64]
    """Shape (D,): eigenvalues of the covariance, ascending, at least 0."""

    @property
    def trace(self) -> float:
        """Trace of the covariance."""
        return float(self.variances.sum())


class Frechet(NamedTuple):
    """Fréchet distance of a sample, as it is and as it would be without sampling."""

    distance: float
    """At least 0; falls with the size of the sample, faster for a wide one than for a narrow one."""
    limit: float
    """Estimate for endless texts; may be below 0 by chance."""


class Energy(NamedTuple):
    """Energy distance with its 95 % interval for two populations."""

    distance: float
    """0 in the mean for equal populations, so it may be slightly below 0."""
    low: float
    high: float


class KLCosine(NamedTuple):
    """KL-cosine in both directions, nats."""

    golden_synthetic: float
    """KL(golden ‖ synthetic): large where real texts have similarities that are missing from synthetic ones."""
    synthetic_golden: float
    """KL(synthetic ‖ golden)."""


def interval(value: float, *sds: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """95 % interval around a figure: value ± 1.96 (Σ sd²)^(1/2), within the range of the figure.

    Parameters
    ----------
    value : float
    *sds : float
        Standard deviations of its independent errors.
    low, high : float
        Least and most that the figure can be.

    Returns
    -------
    list of float
        Low and high end.

    Examples
    --------
    >>> interval(0.5, 0.03, 0.04), interval(0.5, 1.0, low=0.0)
    ([0.402, 0.598], [0.0, 2.46])
    """
    reach = Z_95 * math.hypot(*sds)
    return [max(low, value - reach), min(high, value + reach)]


def _vectors(name: str, values: FloatArray) -> NDArray[np.float64]:
    """Float64 rows, or a sentence about what is wrong with them."""
    rows: NDArray[Any] = np.asarray(values)
    if rows.ndim != 2 or rows.shape[0] < 2 or rows.shape[1] < 1:
        raise DataError(
            f"the {name} vectors have shape {rows.shape}; a metric needs two-dimensional (n, D) "
            "vectors with n of at least 2; embed more texts"
        )
    if rows.dtype.kind not in "fiu":
        raise DataError(
            f"the {name} vectors have the type {rows.dtype}; they must be real numbers; "
            "pass what mop.backends.encoder.embed returns"
        )
    rows = np.asarray(rows, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise DataError(
            f"{bad.size} of the {name} vectors, shape {rows.shape}, hold nan or infinity (first: row {bad[0]}); "
            "they must be finite numbers; look at the texts and the encoder"
        )
    return rows


def _both(golden: FloatArray, synthetic: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two checked samples of one dimension."""
    left, right = _vectors("golden", golden), _vectors("synthetic", synthetic)
    if left.shape[1] != right.shape[1]:
        raise DataError(
            f"the golden vectors have shape {left.shape} and the synthetic ones {right.shape}; "
            "both need the same number of columns; embed both with one encoder"
        )
    return left, right


def _unit(name: str, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    zeros = np.flatnonzero(norms[:, 0] == 0)
    if zeros.size:
        raise DataError(
            f"{zeros.size} of the {name} vectors, shape {rows.shape}, are all zeros (first: row "
            f"{zeros[0]}); a cosine needs a direction; leave out the texts that have none"
        )
    return np.asarray(rows / norms)


def scaled_weight(weight: FloatArray | None, n: int, *, name: str = "given") -> NDArray[np.float64] | None:
    """Scale survey weights to a mean of 1; None where they are even.

    Parameters
    ----------
    weight : ndarray, shape (n,), optional
        At least 0, two or more above 0.
    n : int
        Number of texts.
    name : str
        What to call the sample in an error message.

    Returns
    -------
    ndarray, shape (n,), or None

    Raises
    ------
    DataError
        If there is not one finite weight of at least 0 per text, or fewer than two are above 0.

    Examples
    --------
    >>> scaled_weight(np.array([1.0, 3.0]), 2), scaled_weight(np.array([5.0, 5.0]), 2)
    (array([0.5, 1.5]), None)
    """
    if weight is None:
        return None
    values = np.asarray(weight, np.float64)
    good = np.isfinite(values) & (values >= 0)
    if values.shape != (n,) or not good.all() or (values > 0).sum() < 2:
        raise DataError(
            f"the {name} weights have shape {values.shape} for {n} texts, {int((~good).sum())} of "
            f"them negative or not finite and {int((values > 0).sum())} above 0; pass "
            "one weight of at least 0 per text, two or more above 0, or none to weight evenly"
        )
    return None if (values == values[0]).all() else values * (n / values.sum())


def _moments(
    rows: NDArray[np.float64], weight: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean, and X with XᵀX the covariance: divisor n - 1, or W - Σw²/W of weights that sum to W."""
    if weight is None:
        mean = rows.mean(axis=0)
        return mean, (rows - mean) / math.sqrt(len(rows) - 1)
    total = weight.sum()
    mean = weight @ rows / total
    divisor = total - (weight**2).sum() / total
    return mean, (rows - mean) * np.sqrt(weight / divisor)[:, None]


def gaussian(vectors: FloatArray, *, weight: FloatArray | None = None) -> Gaussian:
    """Fit a Gaussian to a sample (n, D); its weights (n,) count by their ratios alone.

    Raises
    ------
    DataError
        If the sample or its weights cannot be used.
    """
    rows = _vectors("golden", vectors)
    mean, centred = _moments(rows, scaled_weight(weight, len(rows), name="golden"))
    values, axes = np.linalg.eigh(centred.T @ centred)  # S = V diag(λ) Vᵀ, root = V diag(λ^½) Vᵀ
    values = np.clip(values, 0, None)  # rounding leaves the zeros of a rank-poor sample below 0
    return Gaussian(mean, (axes * np.sqrt(values)) @ axes.T, values)


def frechet(
    golden: Gaussian, synthetic: FloatArray, *, weight: FloatArray | None = None, is_rough: bool = False
) -> Frechet:
    """Fréchet distance between a fitted Gaussian and the Gaussian of a sample, and its limit.

    Parameters
    ----------
    golden : Gaussian
        From `gaussian`; fitted once, used for every sample.
    synthetic : ndarray, shape (n, D)
    weight : ndarray, shape (n,), optional
        Survey weights; only their ratios count.
    is_rough : bool
        About seven digits, in half the time: for the many distances behind an interval.

    Returns
    -------
    Frechet
        |m_g - m_s|² + tr(S_g + S_s - 2 (S_g S_s)^(1/2)), at least 0, and the same without the
        sampling error of m_s and S_s. That of the golden side stays in both.

    Raises
    ------
    DataError
        If the sample or its weights cannot be used, or the Gaussian has another dimension.

    Notes
    -----
    tr (S_g S_s)^(1/2) is the sum of the singular values of X A, with A = S_g^(1/2) and any X with
    XᵀX = S_s. Taking X as the centred sample (or its triangular factor) squares nothing, so the
    distance of a sample from itself is 0 to rounding, also with n < D. The rough way squares.

    For the limit, |m_g - m_s|² loses tr S_s / n, and the sum of roots is that of the population, as
    `_population_roots` finds it.
    """
    rows = _vectors("synthetic", synthetic)
    if rows.shape[1] != golden.mean.shape[0]:
        raise DataError(
            f"the golden Gaussian has dimension {golden.mean.shape[0]} and the synthetic vectors "
            f"have shape {rows.shape}; both need one dimension; embed both with one encoder"
        )
    even = scaled_weight(weight, len(rows), name="synthetic")
    if even is not None:
        rows, even = rows[even > 0], scaled_weight(even[even > 0], int((even > 0).sum()))
    mean, centred = _moments(rows, even)  # centred is X, with XᵀX = S_s
    trace = float(np.vdot(centred, centred))  # tr S_s
    if is_rough:  # values: eigenvalues of A S_s A = (X A)ᵀ X A
        both = centred @ golden.root
        small = both @ both.T if both.shape[0] < both.shape[1] else both.T @ both
        values = np.clip(np.linalg.eigvalsh(small), 0, None)
    else:
        if centred.shape[0] > centred.shape[1]:
            centred = np.asarray(np.linalg.qr(centred, mode="r"))
        values = np.linalg.svd(centred @ golden.root, compute_uv=False) ** 2
    gap = golden.mean - mean
    apart = float(gap @ gap) + golden.trace + trace  # |m_g - m_s|² + tr S_g + tr S_s
    share = 1 / len(rows) if even is None else float((even**2).sum()) / len(rows) ** 2  # 1/n, or Σw²/W²
    roots = _population_roots(values, len(rows), golden.variances**2, even)
    return Frechet(max(0.0, apart - 2 * float(np.sqrt(values).sum())), apart - trace * share - 2 * roots)


def _population_roots(
    values: NDArray[np.float64], n: int, shape: NDArray[np.float64], weight: NDArray[np.float64] | None
) -> float:
    """Σ τ^(1/2) over the eigenvalues τ of a population, from those of a sample of n texts.

    With φ(m) = Σ τ / (1 + τ m), Σ τ^(1/2) = (1/π) ∫ φ(m) m^(-1/2) dm over m > 0. The law of
    Marchenko and Pastur ties φ to the sample (Silverstein and Bai 1995): for any t > 0 and
    s = Σ λ/(λ + t) / (n - 1), m = (1 - s)/t has φ(m) = (n - 1) t s/(1 - s). With weights of mean 1,
    m = s/(e t) and φ = (n - 1) t e, where e solves mean(w e/(1 + w e)) = s; even weights give the
    former. Small t, that is, large m, lies beyond what few texts resolve: there τ takes the golden
    shape, c S_g², with c such that φ(m) joins.
    """
    freedom = n - 1
    if not values.max() > 0:
        return 0.0
    t = np.geomspace(values.max() * 1e4, RESOLVED_FROM * values.sum() / freedom, 1_000)  # m ascends
    s = (values[:, None] / (values[:, None] + t)).sum(axis=0) / freedom
    if weight is None:
        e = s / (1 - s)
    else:  # mean(w e / (1 + w e)) = s, solved for e on a grid
        tried = np.geomspace(s[0] / 2, 1e6, 600)
        found = [float(np.mean(weight * x / (1 + weight * x))) for x in tried]
        e = np.exp(np.interp(s, found, np.log(tried)))
    root, phi = np.sqrt(s / (e * t)), freedom * t * e
    # ∫ φ(m) m^(-1/2) dm = 2 ∫ φ d(m^(1/2)): φ is flat below the first m, trapezoids between.
    seen = 2 * phi[0] * root[0] + ((phi[1:] + phi[:-1]) * np.diff(root)).sum()
    # Beyond the last m: τm = c S_g², log c by bisection so that Σ τm/(1 + τm) = mφ(m) joins.
    low, high = -700.0, 700.0
    relative = shape / max(shape.max(), 1e-300)
    for _ in range(60):
        middle = (low + high) / 2
        joined = math.exp(middle) * relative
        low, high = (middle, high) if (joined / (1 + joined)).sum() < freedom * s[-1] else (low, middle)
    joined = np.sqrt(joined)  # 2 ∫ τ/(1 + τx²) dx from m^(1/2) on is 2 τ^(1/2) arctan(1/(τm)^(1/2))
    unseen = 2 * (joined * np.arctan2(1, joined)).sum() / root[-1]
    return float(seen + unseen) / math.pi


def fid(golden: FloatArray, synthetic: FloatArray) -> float:
    """Fréchet distance between two samples of embeddings, each seen as one Gaussian.

    Lower is better, 0 for equal moments. Two samples of one population are not at 0: the distance
    falls with n, and a narrow sample is favoured; `frechet` has the limit that is not.

    Parameters
    ----------
    golden, synthetic : ndarray, shape (n, D) and (m, D)
        n and m of at least 2.

    Returns
    -------
    float
        At least 0; unscaled.

    Raises
    ------
    DataError
        If a sample is not (n, D) with n of at least 2, not finite, or of another dimension.

    Warns
    -----
    DoubtfulMetricWarning
        If a sample has fewer rows than columns: its covariance is then singular.

    Examples
    --------
    >>> square = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(fid(square, square + [3.0, 4.0]), 6)
    25.0
    """
    left, right = _both(golden, synthetic)
    if min(len(left), len(right)) < left.shape[1]:
        warnings.warn(
            f"FID from {len(left)} golden and {len(right)} synthetic texts in {left.shape[1]} dimensions is dominated "
            "by sample size, which favours the narrower set; read the energy distance or the limit of frechet",
            DoubtfulMetricWarning,
            stacklevel=2,
        )
    return frechet(gaussian(left), right).distance


def within_distances(vectors: FloatArray, *, weight: FloatArray | None = None) -> NDArray[np.float64]:
    """Σ_j w_j |x_i - x_j| for each text i of a sample (n, D), shape (n,), with weights of mean 1.

    Raises
    ------
    DataError
        If the sample or its weights cannot be used.
    """
    rows = _vectors("golden", vectors)
    return _summed_distances(rows, rows, scaled_weight(weight, len(rows), name="golden"), is_same=True)


def _summed_distances(
    rows: NDArray[np.float64], others: NDArray[np.float64], weight: NDArray[np.float64] | None, *, is_same: bool = False
) -> NDArray[np.float64]:
    """Σ_j w_j |row_i - other_j| for each row, a block of rows at a time."""
    squares = np.einsum("nd,nd->n", others, others)
    summed = np.empty(len(rows))
    step = max(1, BLOCK // len(others))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        apart = block @ others.T  # |x - y|² = |x|² - 2 xᵀy + |y|²
        apart *= -2
        apart += squares
        apart += np.einsum("nd,nd->n", block, block)[:, None]
        np.sqrt(np.clip(apart, 0, None, out=apart), out=apart)
        if is_same:  # rounding leaves the distance of a text from itself above 0
            apart[np.arange(len(block)), start + np.arange(len(block))] = 0
        summed[start : start + step] = apart.sum(axis=1) if weight is None else apart @ weight
    return summed


def _left_out(
    cross: NDArray[np.float64], within: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[float, float, NDArray[np.float64]]:
    """Mean distance to the other sample, mean distance within, and the jackknife errors.

    The errors (n,) are those of 2 cross - within when each text of this sample is left out in turn.
    """
    n = len(weight)
    weight = weight * (n / weight.sum())
    total, squares = weight.sum(), (weight**2).sum()
    far, near = weight @ cross, weight @ within  # Σ w_i E|s_i - g| and Σ_i w_i Σ_j w_j |s_i - s_j|
    # A pair within is of two different texts; where one has all the weight there is none.
    apart, inside = far / total, near / (total**2 - squares) if total**2 - squares > 1e-9 * total else 0.0
    # Without text i: W - w_i for W, and its row and column leave the sum of pairs.
    pairs = (total - weight) ** 2 - (squares - weight**2)
    # A sample of two has no pair left when one is out; its own spread then counts as 0.
    inside_without = np.divide(near - 2 * weight * within, pairs, out=np.full(n, inside), where=pairs > 1e-9 * total)
    others = np.divide(far - weight * cross, total - weight, out=np.full(n, apart), where=total - weight > 1e-9 * total)
    without = 2 * others - inside_without
    return float(apart), float(inside), math.sqrt((n - 1) / n) * (without.mean() - without)


def energy_distance(
    golden: FloatArray,
    synthetic: FloatArray,
    *,
    golden_weight: FloatArray | None = None,
    synthetic_weight: FloatArray | None = None,
    golden_within: NDArray[np.float64] | None = None,
) -> Energy:
    """Energy distance between two samples of embeddings, unbiased, with its interval.

    Lower is better, 0 only for equal populations. Its mean does not depend on how many texts there
    are, nor on how varied they are.

    Parameters
    ----------
    golden, synthetic : ndarray, shape (n, D) and (m, D)
        n and m of at least 2. Memory stays bounded, time grows with (n + m)².
    golden_weight, synthetic_weight : ndarray, shape (n,) and (m,), optional
        Survey weights; only their ratios count.
    golden_within : ndarray, shape (n,), optional
        From `within_distances` with the same weights, where one golden sample serves often.

    Returns
    -------
    Energy
        2 E|s - g| - E|s - s'| - E|g - g'| with Euclidean distances, in the unit of the vectors, and
        its 95 % interval for the two populations.

    Raises
    ------
    DataError
        If a sample or its weights cannot be used.

    Notes
    -----
    Source: Székely and Rizzo 2013. No text is paired with itself (U-statistic): with weights,
    E|s - s'| is Σ_{i≠j} w_i w_j |s_i - s_j| / (W² - Σ w²). The interval is ± 1.96 errors of the
    jackknife that leaves out each text of either sample in turn, in closed form from row sums
    (Arvesen 1969). For equal populations, where the statistic is degenerate, it is too long.

    Examples
    --------
    >>> found = energy_distance(np.array([[0.0], [2.0]]), np.array([[5.0], [7.0]]))
    >>> round(found.distance, 6)  # 2 * 5 - 2 - 2
    6.0
    """
    weights = golden_weight, synthetic_weight
    distance, errors = energy_errors(golden, synthetic, *weights, golden_within=golden_within)
    return Energy(distance, *interval(distance, float(np.linalg.norm(errors))))


def energy_errors(
    golden: FloatArray,
    synthetic: FloatArray,
    golden_weight: FloatArray | None = None,
    synthetic_weight: FloatArray | None = None,
    *,
    golden_within: NDArray[np.float64] | None = None,
) -> tuple[float, NDArray[np.float64]]:
    """The distance of `energy_distance`, and what each synthetic, then each golden text adds to its error (m + n,).

    Their squares sum to the variance. Errors of two methods that were compared with the same golden texts can be
    subtracted.
    """
    real, ours = _both(golden, synthetic)
    left = scaled_weight(golden_weight, len(real), name="golden")
    right = scaled_weight(synthetic_weight, len(ours), name="synthetic")
    even_left = np.ones(len(real)) if left is None else left
    even_right = np.ones(len(ours)) if right is None else right
    if golden_within is None:
        golden_within = _summed_distances(real, real, left, is_same=True)
    apart, inside, errors = _left_out(
        _summed_distances(ours, real, left) / even_left.sum(),
        _summed_distances(ours, ours, right, is_same=True),
        even_right,
    )
    _, golden_inside, golden_errors = _left_out(
        _summed_distances(real, ours, right) / even_right.sum(), golden_within, even_left
    )
    distance = 2 * apart - inside - golden_inside  # 2 E|s - g| - E|s - s'| - E|g - g'|
    return distance, np.concatenate([errors, golden_errors])


def two_samples(
    pool: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    *,
    cluster: NDArray[np.int64] | None = None,
    seed: int,
) -> dict[str, Any]:
    """Test whether two sets of responses are samples of one population, by their embeddings.

    Parameters
    ----------
    pool : ndarray, shape (N, D)
        Responses of the exemplars.
    target : ndarray, shape (n, D)
        Responses that are to be simulated.
    weight : ndarray, shape (n,)
        Survey weights of these.
    cluster : ndarray of int, shape (N + n,), optional
        Texts of one number belong together: a relabelling moves them together, or among each other where a cluster
        has texts on both sides. None: each by itself.
    seed : int
        Of the permutations, and of the choice of at most `MOST_POOL` texts of each.

    Returns
    -------
    dict
        ``distance``: see `energy_distance`; ``p_value``: share of `N_PERMUTATIONS` relabellings with
        at least as large a value; ``n_pool``, ``n_target``.

    Notes
    -----
    Source: Székely and Rizzo 2013.
    """
    rng = rng_of(seed, "two-samples")
    cluster = np.arange(len(pool) + len(target)) if cluster is None else cluster
    of_pool, of_target = (np.sort(rng.permutation(len(side))[:MOST_POOL]) for side in (pool, target))
    cluster = np.concatenate([cluster[of_pool], cluster[len(pool) + of_target]])
    pool, target, weight = pool[of_pool], target[of_target], weight[of_target]
    both = np.concatenate([pool, target]).astype(np.float64)
    square = np.square(both).sum(axis=1)
    between = np.sqrt(np.maximum(square[:, None] + square - 2 * both @ both.T, 0.0))
    np.fill_diagonal(between, 0.0)
    share = np.concatenate([np.full(len(pool), 1 / len(pool)), -weight / weight.sum()])
    observed = -float(share @ between @ share)
    number = np.unique(cluster, return_inverse=True)[1].reshape(-1)
    is_pool = np.arange(len(share)) < len(pool)
    straddles = (np.bincount(number, is_pool) > 0) & (np.bincount(number, ~is_pool) > 0)
    apart = np.flatnonzero(~straddles[number])
    on_both = [np.flatnonzero(number == c) for c in np.flatnonzero(straddles)]
    shuffled = np.empty((N_PERMUTATIONS, len(share)))
    for row in shuffled:
        # Whole clusters in random order, and their texts in random order: the first of them are called the pool.
        order = np.lexsort((rng.random(len(apart)), rng.permutation(number.max() + 1)[number[apart]]))
        row[apart[order]] = share[apart]
        for rows in on_both:
            row[rows] = share[rng.permutation(rows)]
    values = -np.einsum("bi,bi->b", shuffled @ between, shuffled)
    n_larger = int((values >= observed - 1e-12).sum())
    return {
        "distance": energy_distance(target, pool, golden_weight=weight).distance,
        "p_value": (1 + n_larger) / (1 + N_PERMUTATIONS),
        "n_pool": len(pool),
        "n_target": len(target),
    }


def principal_axes(vectors: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Principal axes of a sample (n, D), largest variance first, with a sign that does not depend on luck.

    Returns
    -------
    centred : ndarray, shape (n, D)
    axes : ndarray, shape (D, D)
        One axis per column; its entry of largest size is positive.
    variances : ndarray, shape (D,)
        Descending, at least 0.

    Raises
    ------
    DataError
        If the sample cannot be used.
    """
    rows = _vectors("given", vectors)
    centred = rows - rows.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / (len(rows) - 1))
    variances, axes = np.clip(variances[::-1], 0, None), axes[:, ::-1]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return centred, axes * np.sign(largest), variances


def _spread_starts(rows: NDArray[np.float32], n_clusters: int, draw: np.random.Generator) -> NDArray[np.float32]:
    """First centres by k-means++: each further one is a row drawn by its squared distance.

    One candidate a step, as first published. scikit-learn tries several, which at 500 clusters
    takes seven times as long as the steps that follow and lowers the inertia by 2 % (AG News).
    """
    norms = np.einsum("nd,nd->n", rows, rows)
    chosen = [int(draw.integers(len(rows)))]
    nearest = np.full(len(rows), np.inf)
    for _ in range(n_clusters - 1):
        newest = rows[chosen[-1]]
        nearest = np.minimum(nearest, np.maximum(norms - 2 * rows @ newest + newest @ newest, 0))
        nearest[chosen[-1]] = 0
        summed = np.cumsum(nearest)
        # All rows may coincide with a centre already; then any row is as good as another.
        target = draw.random() * summed[-1]
        chosen.append(min(int(np.searchsorted(summed, target, side="right")), len(rows) - 1))
    return rows[chosen]


def joint_clusters(
    synthetic: FloatArray, golden: FloatArray, *, seeds: Sequence[int]
) -> tuple[list[tuple[NDArray[np.intp], NDArray[np.intp]]], int]:
    """Cluster both samples together, once per seed, as MAUVE does.

    Parameters
    ----------
    synthetic, golden : ndarray, shape (n, D) and (m, D)
    seeds : sequence of int
        One k-means run (best of 5 starts) each.

    Returns
    -------
    memberships : list of (ndarray (n,), ndarray (m,))
        For each seed the clusters of the synthetic and of the golden rows.
    n_clusters : int
        A tenth of the smaller sample, rounded, at least 2.

    Raises
    ------
    DataError
        If a sample cannot be used.

    Notes
    -----
    Source: Pillutla et al. 2021 and 2023. Rows are scaled to unit length, the stack is projected
    on its principal axes up to the one at which they hold 0.9 of the variance, unwhitened. k-means
    is scikit-learn's from our k-means++ starts; the authors' package uses random starts.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    right, left = _both(golden, synthetic)
    stack = np.concatenate([_unit("synthetic", left), _unit("golden", right)])
    n_clusters = max(2, round(min(len(left), len(right)) / 10))
    centred, axes, variances = principal_axes(stack)
    total = variances.sum()
    kept = int(np.searchsorted(np.cumsum(variances), PCA_SHARE * total)) + 1 if total else 1
    reduced = (centred @ axes[:, :kept]).astype(np.float32)
    memberships = []
    for seed in seeds:
        starts = [_spread_starts(reduced, n_clusters, rng_of(seed, "mauve k-means", start)) for start in range(5)]
        with warnings.catch_warnings():
            # Repeated texts can leave fewer distinct points than clusters. An empty cluster
            # holds no mass on either side, so nothing follows from it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = [KMeans(n_clusters, init=centres, n_init=1, max_iter=500).fit(reduced) for centres in starts]
        labels = min(fitted, key=lambda model: model.inertia_).labels_  # the first of equals
        memberships.append((labels[: len(left)], labels[len(left) :]))
    return memberships, n_clusters


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(p ‖ q) along the last axis, nats, with 0 log 0 = 0; q is positive wherever p is."""
    safe_p, safe_q = np.where(p > 0, p, 1.0), np.where(p > 0, q, 1.0)
    return np.asarray((p * np.log(safe_p / safe_q)).sum(axis=-1))


def _area(curve: NDArray[np.float64]) -> float:
    """Mean of the two trapezoid areas under the curve, y over x and x over y."""
    areas = []
    for points in (curve, curve[:, ::-1]):
        # Ties go to the larger other coordinate first. Otherwise equal histograms, all of whose
        # points lie at (1, 1), could be joined to the end point (1, 0) too early and score 0.75.
        x, y = points[np.lexsort((-points[:, 1], points[:, 0]))].T
        areas.append(float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum()))
    return min(1.0, sum(areas) / 2)


def mauve_of_counts(synthetic_counts: NDArray[Any], golden_counts: NDArray[Any]) -> float:
    """MAUVE from the number of texts of each side in each cluster.

    Parameters
    ----------
    synthetic_counts, golden_counts : ndarray, shape (n_clusters,)
        At least 0, each with a positive sum.

    Returns
    -------
    float
        0 to 1, higher is better; 0.00407 where no cluster is shared.

    Raises
    ------
    DataError
        If the counts differ in shape, are negative or empty.

    Notes
    -----
    Source: Pillutla et al. 2021. Deviation: ties are broken so that equal histograms score 1.

    Examples
    --------
    >>> round(mauve_of_counts(np.array([5, 5]), np.array([5, 5])), 6)
    1.0
    >>> round(mauve_of_counts(np.array([9, 0]), np.array([0, 9])), 5)
    0.00407
    """
    p, q = np.asarray(synthetic_counts, np.float64), np.asarray(golden_counts, np.float64)
    if p.ndim != 1 or p.shape != q.shape or min(p.min(initial=0), q.min(initial=0)) < 0:
        raise DataError(
            f"cluster counts have shapes {p.shape} and {q.shape} and a least value of "
            f"{min(p.min(initial=0), q.min(initial=0)):g}; they must be two equally long lists of "
            "numbers of at least 0; count both samples over the same clusters"
        )
    if not (p.sum() > 0 and q.sum() > 0):
        raise DataError(
            f"cluster counts sum to {p.sum():g} and {q.sum():g}; MAUVE needs texts on both sides; pass positive sums"
        )
    p, q = p / p.sum(), q / q.sum()
    # The curve: (exp(-c KL(q ‖ r)), exp(-c KL(p ‖ r))) for r = w p + (1 - w) q, from (1, 0) to (0, 1).
    w = np.linspace(1e-6, 1 - 1e-6, MAUVE_WEIGHTS)[:, None]
    r = w * p + (1 - w) * q
    inner = np.exp(-MAUVE_SCALE * np.stack([_kl(q, r), _kl(p, r)], axis=1))
    return _area(np.concatenate([[[1.0, 0.0]], inner, [[0.0, 1.0]]]))


def mauve(synthetic: FloatArray, golden: FloatArray, *, seed: int = 25) -> float:
    """MAUVE between two samples of embeddings: one number for both kinds of error.

    Parameters
    ----------
    synthetic, golden : ndarray, shape (n, D) and (m, D)
        n and m of at least 2.
    seed : int
        Seed of k-means. The score moves by 0.003 to 0.01 with it: report several.

    Returns
    -------
    float
        0 to 1, higher is better.

    Raises
    ------
    DataError
        If a sample cannot be used.

    Warns
    -----
    DoubtfulMetricWarning
        With fewer than 1,000 texts a side: the score is then too high.

    Notes
    -----
    Steps in `joint_clusters` and `mauve_of_counts`. Deviation: the features are sentence
    embeddings, not the last hidden state of GPT-2 large.
    """
    memberships, k = joint_clusters(synthetic, golden, seeds=[seed])
    if min(len(synthetic), len(golden)) < MAUVE_ADVISED:
        warnings.warn(
            f"MAUVE from {len(synthetic)} synthetic and {len(golden)} golden texts is optimistic; at least "
            f"{MAUVE_ADVISED:,} a side are advised; compare it only at equal n and with other real texts",
            DoubtfulMetricWarning,
            stacklevel=2,
        )
    ours, theirs = memberships[0]
    return mauve_of_counts(np.bincount(ours, minlength=k), np.bincount(theirs, minlength=k))


def pair_bins(vectors: FloatArray, *, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Histogram bins of the cosines between texts of one sample (n, D).

    All pairs up to 2,000 texts, else 200,000 random ones, chosen by the seed.

    Returns
    -------
    first, second : ndarray, shape (n_pairs,)
        The rows of each pair, never equal.
    bins : ndarray, shape (n_pairs,)
        0 to `N_BINS` - 1, equal bins on [-1, 1].

    Raises
    ------
    DataError
        If the sample cannot be used, or a row is zero.
    """
    rows = _unit("given", _vectors("given", vectors))
    n = len(rows)
    if n <= ALL_PAIRS_UP_TO:
        first, second = np.triu_indices(n, 1)
        cosines = (rows @ rows.T)[first, second]
    else:
        draws = uniforms(derive_seed(seed, "cosine pairs"), 0, 2 * N_RANDOM_PAIRS)
        first = (draws[0::2] * n).astype(np.intp)
        second = (draws[1::2] * (n - 1)).astype(np.intp)
        second += second >= first  # skips the text itself
        cosines = np.empty(N_RANDOM_PAIRS)
        for start in range(0, N_RANDOM_PAIRS, 8_192):  # both sides of all pairs would take gigabytes
            part = slice(start, start + 8_192)
            cosines[part] = np.einsum("nd,nd->n", rows[first[part]], rows[second[part]])
    # Rounding puts the cosine of two equal rows on either side of 1; both belong to the last bin.
    bins = np.clip(np.floor((cosines + 1) / 2 * N_BINS), 0, N_BINS - 1).astype(np.intp)
    return first, second, bins


def count_pairs(
    first: NDArray[np.intp], second: NDArray[np.intp], bins: NDArray[np.intp], weight: NDArray[np.float64] | None
) -> NDArray[Any]:
    """Pairs per bin; with weights, a pair counts by the product of its two, in all as many."""
    if weight is None:
        return np.bincount(bins, minlength=N_BINS)
    both = weight[first] * weight[second]
    # Pairs drawn at random may all weigh nothing; then they count for nothing.
    return np.bincount(bins, both * (len(bins) / max(both.sum(), 1e-300)), minlength=N_BINS)


def cosine_histogram(vectors: FloatArray, *, seed: int, weight: FloatArray | None = None) -> NDArray[Any]:
    """Count the cosines between pairs of texts of one sample (n, D), as `pair_bins` chooses them.

    Returns
    -------
    ndarray, shape (N_BINS,)
        Pairs per bin, from cosine -1 to 1: whole numbers without weights.

    Raises
    ------
    DataError
        As `pair_bins`.

    Examples
    --------
    >>> counts = cosine_histogram(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), seed=0)
    >>> int(counts[50]), int(counts[99]), int(counts.sum())
    (2, 1, 3)
    """
    even = scaled_weight(weight, len(vectors))
    return count_pairs(*pair_bins(vectors, seed=seed), even)


def kl_of_histograms(golden: NDArray[Any], synthetic: NDArray[Any]) -> KLCosine:
    """KL divergence between two histograms (n_bins,), both directions, 0.5 added to every count so that it is finite.

    Examples
    --------
    >>> kl = kl_of_histograms(np.array([1, 0]), np.array([0, 1]))
    >>> [round(value, 4) for value in kl]  # 0.75 log 3 + 0.25 log (1/3)
    [0.5493, 0.5493]
    """
    p, q = (np.asarray(golden) + 0.5), (np.asarray(synthetic) + 0.5)
    p, q = p / p.sum(), q / q.sum()
    return KLCosine(max(0.0, float(_kl(p, q))), max(0.0, float(_kl(q, p))))


def kl_cosine(golden: FloatArray, synthetic: FloatArray, *, seed: int) -> KLCosine:
    """How differently two samples spread: the KL divergence of their cosine histograms.

    Pairs are formed within each sample. It sees spread, not content: never read it alone.

    Parameters
    ----------
    golden, synthetic : ndarray, shape (n, D) and (m, D)
        n and m of at least 2.
    seed : int
        See `pair_bins`; the same for both samples.

    Returns
    -------
    KLCosine
        KL(golden ‖ synthetic), the headline, and the other direction; nats.

    Raises
    ------
    DataError
        If a sample cannot be used, or has a zero row.

    Notes
    -----
    The paper names the measure without pairs, bins, smoothing or direction; these are ours.
    """
    left, right = _both(golden, synthetic)
    return kl_of_histograms(cosine_histogram(left, seed=seed), cosine_histogram(right, seed=seed))
