"""What a fit looks at: embeddings, and scored components of records in a padded table.

Letters: n records (train first, then validation), K personas, N exemplars, M scored
components of a record, G nodes of the score curve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mop.errors import DataError
from mop.mixture.sums import Floats

Ints = NDArray[np.int64]

ScoreCells = Callable[[Ints, Ints, Ints], tuple[NDArray[np.float32], int]]
"""``(record, persona, exemplar)``, each (m,), to curves (m, G) in nats and the LM tokens of these scores.

Tokens count whether or not they were newly spent, so that a budget means the same in a resumed fit."""


@dataclass(frozen=True)
class Problem:
    """All that the gates look at: embeddings, and which exemplar a record must not use."""

    hx: NDArray[np.float32]
    """(n, D) context embeddings, the training records first."""
    hg: NDArray[np.float32]
    """(K, D) persona embeddings."""
    he: NDArray[np.float32]
    """(N, D) or (N, 2D) exemplar embeddings; the last D columns are what contexts are similar to."""
    own: Ints
    """(n,) row of the exemplar that is the record itself, -1 if none is."""
    weight: Floats
    """(n,) survey weights, > 0."""
    n_train: int
    """How many of the n records are for training; the others validate."""
    betas: tuple[float, ...]
    """Nodes of the score curves; one node means that temperatures cannot be learned."""
    cluster: Ints | None = None
    """(n,) records of one number belong together and are never divided between folds; None: each by itself."""
    characters: Floats | None = None
    """(n,) in each record's response, by which budgets guess what scoring it costs; None: all alike."""

    @property
    def clusters(self) -> Ints:
        """(n,) `cluster`, from 0 without gaps; a number for each record where there is but one or none."""
        if self.cluster is None or bool((self.cluster == self.cluster[0]).all()):
            return np.arange(len(self.hx))
        return np.unique(self.cluster, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @property
    def cost(self) -> Floats:
        """(n,) what scoring a record costs, relative to the others."""
        return np.ones(len(self.hx)) if self.characters is None else self.characters + 1.0

    def __post_init__(self) -> None:
        """Refuse what could only fail later and less clearly."""
        n = len(self.hx)
        if not 0 < self.n_train < n:
            raise DataError(
                f"fitting needs training and validation records, got {self.n_train} of {n} for "
                "training; give at least one of each"
            )
        if len(self.he) < 2 and bool(np.any(self.own >= 0)):
            raise DataError(
                "the only exemplar is one of the records, and a record never sees itself; give at least 2 exemplars"
            )
        if self.own.shape != (n,) or self.weight.shape != (n,):
            raise DataError(f"own and weight must have shape ({n},), got {self.own.shape}, {self.weight.shape}")
        wrong = ~(np.isfinite(self.weight) & (self.weight > 0))
        if bool(wrong.any()):
            raise DataError(
                f"{int(wrong.sum())} of {n} records have a weight that is no finite number above 0, "
                f"the first {self.weight[wrong][0]:g}; give others, or leave these records out"
            )

    def of(self, rows: Ints) -> Problem:
        """The same about some of the records, ascending."""
        return replace(
            self,
            hx=self.hx[rows],
            own=self.own[rows],
            weight=self.weight[rows],
            cluster=None if self.cluster is None else self.cluster[rows],
            characters=None if self.characters is None else self.characters[rows],
            n_train=int((rows < self.n_train).sum()),
        )


@dataclass(frozen=True)
class Cells:
    """Scored components of some records, padded to M columns."""

    persona: Ints
    """(n, M)"""
    exemplar: Ints
    """(n, M)"""
    curves: NDArray[np.float32]
    """(n, M, G) nats; 0 where absent."""
    present: NDArray[np.bool_]
    """(n, M) False for padding."""

    def of(self, rows: Ints) -> Cells:
        """The cells of some records."""
        return Cells(self.persona[rows], self.exemplar[rows], self.curves[rows], self.present[rows])

    @property
    def n_cells(self) -> int:
        """Number of scored cells."""
        return int(self.present.sum())


def pack_cells(
    components: list[list[int]], curve_of: Callable[[int, int], NDArray[np.float32]], *, n_exemplars: int, n_nodes: int
) -> Cells:
    """Put ragged lists of flat component numbers k·N + j into a padded table.

    Parameters
    ----------
    components : list of n lists
        Scored components of each record.
    curve_of : callable
        ``(row, component)`` to a curve (G,).
    n_exemplars, n_nodes : int
        N and G.
    """
    n, width = len(components), max((len(row) for row in components), default=0)
    if width == 0:
        raise DataError("no component was scored for any record; raise fit.components_per_record")
    flat = np.zeros((n, width), dtype=np.int64)
    present = np.zeros((n, width), dtype=bool)
    curves = np.zeros((n, width, n_nodes), dtype=np.float32)
    for i, row in enumerate(components):
        flat[i, : len(row)] = row
        present[i, : len(row)] = True
        for m, c in enumerate(row):
            curves[i, m] = curve_of(i, c)
    return Cells(flat // n_exemplars, flat % n_exemplars, curves, present)
