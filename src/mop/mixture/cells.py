"""What a fit looks at: embeddings, and scored components of records in a padded table.

Letters: n records (train first, then validation), K personas, N exemplars, M scored
components of a record, G nodes of the score curve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mop.backends.curve import weights as curve_weights
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

    def log_lik(self, temperatures: float | Floats, betas: tuple[float, ...]) -> Floats:
        """Log-likelihoods (n, M) at one temperature or each persona's own (K,), nats; minus infinity where absent."""
        nodes = curve_weights(1.0 / np.asarray(temperatures), betas)  # (G,) or (K, G)
        curves = self.curves.astype(np.float64)
        found = curves @ nodes if nodes.ndim == 1 else np.einsum("nmg,nmg->nm", curves, nodes[self.persona])
        return np.where(self.present, found, -np.inf)

    def is_whole(self, problem: Problem) -> bool:
        """Whether every record was scored under all components but itself."""
        n_each = len(problem.hg) * (len(problem.he) - (problem.own >= 0))
        return bool((self.present.sum(axis=1) == n_each).all())


class Asked:
    """Scores asked for so far, each once; component (k, j) has the number c = k·N + j."""

    def __init__(self, problem: Problem, score: ScoreCells) -> None:
        self.problem, self.score, self.n_exemplars = problem, score, len(problem.he)
        self.curves: dict[tuple[int, int], NDArray[np.float32]] = {}
        """(G,) nats of each (record, component)."""
        self.n_tokens = 0
        """LM tokens of these scores."""

    @property
    def n_cells(self) -> int:
        """Number of scored cells."""
        return len(self.curves)

    def new(self, pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Of some (record, component), those to ask for, as (component, record): no record sees itself."""
        own, n = self.problem.own, self.n_exemplars
        return sorted({(c, i) for i, c in pairs if (i, c) not in self.curves and c % n != own[i]})

    def ask(self, new: Sequence[tuple[int, int]]) -> None:
        """Score some of `new`."""
        if not new:
            return
        component, record = np.array(new, dtype=np.int64).T
        curves, n_tokens = self.score(record, *np.divmod(component, self.n_exemplars))
        self.n_tokens += n_tokens
        self.curves.update({(i, c): curve for (c, i), curve in zip(new, curves, strict=True)})

    def table(self, pairs: Iterable[tuple[int, int]] | None = None) -> Cells:
        """The scores of some (record, component), by default all, as a table of all n records."""
        keys = np.array(sorted(self.curves if pairs is None else pairs), dtype=np.int64).reshape(-1, 2)
        if not len(keys):
            raise DataError("no component was scored for any record; raise fit.components_per_record")
        row, component = keys.T
        count = np.bincount(row, minlength=len(self.problem.hx))
        column = np.arange(len(row)) - (np.cumsum(count) - count)[row]
        shape = (len(count), int(count.max()))
        flat = np.zeros(shape, dtype=np.int64)
        curves = np.zeros((*shape, len(self.problem.betas)), dtype=np.float32)
        present = np.zeros(shape, dtype=bool)
        flat[row, column] = component
        present[row, column] = True
        curves[row, column] = np.stack([self.curves[i, c] for i, c in keys.tolist()])
        return Cells(flat // self.n_exemplars, flat % self.n_exemplars, curves, present)
