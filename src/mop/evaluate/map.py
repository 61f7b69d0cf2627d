"""Embeddings of texts to places on one map: principal components, then t-SNE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mop.evaluate.samples import FLOOR, Evaluation, choice
from mop.metrics import distances
from mop.types import FloatArray


def projection(vectors: FloatArray, *, seed: int) -> NDArray[np.float64]:
    """Lay texts (n, D) out in the plane (n, 2) so that similar texts lie together; above 3,000 it takes minutes.

    Principal components first (50 at most, signs fixed), then t-SNE on them, started from the first
    two; up to 10 texts, the components themselves. Distances between far-apart groups mean nothing.

    Raises
    ------
    DataError
        If the vectors are not (n, D) with n of at least 2, or not finite.
    """
    centred, axes, _ = distances.principal_axes(vectors)
    components = centred @ axes[:, :50]
    n = len(components)
    plane = np.zeros((n, 2))
    plane[:, : min(2, components.shape[1])] = components[:, :2]
    spread = plane[:, 0].std()
    if n <= 10 or not spread:
        return plane
    from sklearn.manifold import TSNE

    start = (plane / spread * 1e-4).astype(np.float32)  # t-SNE unfolds badly from a start of larger spread
    tsne = TSNE(perplexity=min(30.0, (n - 1) / 3), init=start, random_state=seed % 2**32)
    return np.asarray(tsne.fit_transform(components.astype(np.float32)), dtype=np.float64)


def text_map(
    evaluation: Evaluation, *, seed: int, limit: int = 500
) -> dict[str, tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """Place real and synthetic texts on one map.

    Parameters
    ----------
    evaluation : Evaluation
    seed : int
        64-bit.
    limit : int
        Texts per set at most, at least 2; the choice is a function of (seed, row).

    Returns
    -------
    dict of str to (ndarray (m,), ndarray (m, 2))
        ``golden`` and each method, not the floor, to rows in the caller's numbering and places.
    """
    chosen = {name: choice(range(len(rows)), limit, seed) for name, rows in evaluation.rows.items() if name != FLOOR}
    stack = np.concatenate([evaluation.vectors[name][places] for name, places in chosen.items()])
    plane = projection(stack, seed=seed)
    ends = np.cumsum([len(places) for places in chosen.values()])[:-1]
    return {
        name: (evaluation.rows[name][places], part)
        for (name, places), part in zip(chosen.items(), np.split(plane, ends), strict=True)
    }
