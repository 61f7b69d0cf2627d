"""Vectors to clusters and the rows nearest to each centre, from which personas are written."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mop.errors import ConfigError, DataError
from mop.randomness import derive_seed
from mop.types import FloatArray

N_STARTS = 4
"""Runs of k-means from different starts, of which the best counts; chosen, not tuned."""


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """K groups of rows, the largest first; none is empty."""

    labels: NDArray[np.int64]
    """Shape (n,), 0 to K - 1."""
    centres: NDArray[np.float32]
    """Shape (K, D), the mean of each group."""
    nearest: list[NDArray[np.int64]]
    """K arrays; rows of the group, the nearest to its centre first, equally near ones in order."""


def cluster(vectors: FloatArray, n_clusters: int, *, seed: int) -> Clustering:
    """Group vectors by k-means with the k-means++ start.

    Parameters
    ----------
    vectors : ndarray, shape (n, D)
        As `mop.backends.encoder.embed` returns them. For unit vectors the squared distance is
        2 - 2 · cosine, so groups are of like direction.
    n_clusters : int
        K, at most the number of different vectors.
    seed : int
        The same seed gives the same groups, on any number of cores.

    Returns
    -------
    Clustering

    Raises
    ------
    ConfigError
        If ``n_clusters`` is below 1 or there are not so many groups in the data.
    DataError
        If ``vectors`` have a wrong shape or a value that is not finite.
    """
    _check_vectors(vectors)
    n_distinct = len({row.tobytes() for row in vectors})
    if not 1 <= n_clusters <= n_distinct:
        raise _too_many(n_clusters, len(vectors), n_distinct)
    labels = _k_means(vectors, n_clusters, seed)
    labels, n_found = _largest_first(labels)
    if n_found < n_clusters:  # vectors that differ by rounding alone
        raise _too_many(n_clusters, len(vectors), n_found)
    centres = np.empty((n_clusters, vectors.shape[1]), dtype=np.float32)
    nearest = []
    for k in range(n_clusters):
        rows = np.flatnonzero(labels == k)
        members = vectors[rows].astype(np.float64)
        centre = members.mean(axis=0)
        distance = np.linalg.norm(members - centre, axis=1)
        nearest.append(rows[np.argsort(distance, kind="stable")])
        centres[k] = centre
    return Clustering(labels=labels, centres=centres, nearest=nearest)


def _k_means(vectors: FloatArray, n_clusters: int, seed: int) -> NDArray[np.int64]:
    """Return the labels of scikit-learn's k-means, shape (n,)."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    model = KMeans(n_clusters, n_init=N_STARTS, random_state=derive_seed(seed, "cluster") % 2**32)
    # On several threads sums are formed in the order in which threads finish.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # Fewer groups than asked for is an error of ours, raised by the caller.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(vectors)
    return np.asarray(model.labels_, dtype=np.int64)


def _largest_first(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Renumber the groups by falling size, ties by first row; also return how many there are."""
    _, first, inverse, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[inverse].astype(np.int64), len(order)


def _check_vectors(vectors: FloatArray) -> None:
    """Refuse what no distance can be taken of."""
    if vectors.ndim != 2 or vectors.shape[0] == 0 or vectors.shape[1] == 0:
        raise DataError(
            f"vectors have the shape {vectors.shape}; expected (n, D), neither of them 0; "
            f"pass what mop.backends.encoder.embed returns"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(vectors)} vectors hold a value that is not finite, the first is "
            f"row {bad[0]}; expected finite numbers; check the encoder"
        )


def _too_many(n_clusters: int, n_rows: int, n_groups: int) -> ConfigError:
    """Say how many clusters could be had."""
    return ConfigError(
        f"{n_clusters} clusters were asked for, but the {n_rows} vectors form only {n_groups} "
        f"different groups; choose a number from 1 to {n_groups}"
    )


def similar_groups(vectors: NDArray[np.float32], n_groups: int) -> NDArray[np.int64]:
    """Divide rows into groups of nearly equal size whose vectors are alike.

    Each cut is across the direction in which the rows at hand differ most.

    Parameters
    ----------
    vectors : ndarray, shape (n, D)
    n_groups : int
        At least 1, at most n.

    Returns
    -------
    ndarray of int, shape (n,)
        Group of each row, 0 to n_groups - 1.

    Examples
    --------
    >>> similar_groups(np.array([[0.0], [5.0], [0.1], [5.1]]), 2).tolist()
    [0, 1, 0, 1]
    """
    if n_groups == 1:
        return np.zeros(len(vectors), dtype=np.int64)
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    axis *= np.sign(axis[np.argmax(np.abs(axis))])
    order, left = np.argsort((centred @ axis).round(9), kind="stable"), n_groups // 2
    first, others = np.split(order, [len(order) * left // n_groups])
    groups = np.empty(len(vectors), dtype=np.int64)
    groups[first] = similar_groups(vectors[first], left)
    groups[others] = left + similar_groups(vectors[others], n_groups - left)
    return groups
