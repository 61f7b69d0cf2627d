"""Fill in the cells that were not scored, where the others of the same record say enough.

A record is scored under a few of the K · N components. What the others would have been is mostly known: within a
record, log-likelihoods are nearly the sum of an effect of the persona and one of the exemplar, and effects of different
personas go together. Letters as in `mop.mixture.cells`; F = 1 + K + N factors of a record.

At one node of the score curves, for record i and component (k, j):

    L_i(k, j) = r_i + g_ik + x_ij + d_kj + e_ikj
    g_i ~ N(a, S_g / u_i),  x_i ~ N(b, S_x / u_i),  d_kj ~ N(0, SD_CELL²),  e_ikj ~ N(0, v / u_i)

with a flat prior on r_i, and u_i ~ Gamma so that a record's departures together have Student's t: long
responses differ more. Fitted by EM: Rubin and Thayer 1982 for the factors, Liu and Rubin 1995 for the scales. Cells
that were not scored are left out, which is right because what was scored was chosen by scores alone (Rubin 1976).

Variances are learned from all records. Means are learned from those alone that are filled in together, and every
record has draws of its own, so that nobody is judged on tables that repeat the accidents of the tables that the fit
has seen.

Simplifications: S_g, S_x and v are learned at one temperature and are the same at others up to a factor, only means
are learned anew; and effects do not depend on the context, but for what a record's scored cells say of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.curve import weights as curve_weights
from mop.mixture.cells import Cells, Ints, Problem
from mop.mixture.sums import Floats
from mop.randomness import rng_of

MOST_CELLS = 100_000
"""Cells of a whole table, records · K · N, above which nothing is filled in: it would take longer than fits do."""
LEAST_EXPLAINED = 0.75
"""Share of the variance of unscored cells, within a record, that scored ones must explain."""
FREEDOM = 4.0
"""Degrees of freedom of the t distribution of records."""
SD_CELL = 0.3
"""Prior standard deviation of d_kj, nats."""
SHRINKAGE = 30.0
"""Records' worth of belief that factors are independent and equally large."""
FLAT = 1e4
"""Prior variance of r_i, nats²."""
N_STEPS, N_STEPS_MEANS = 20, 15
"""Steps of EM, for everything and for the means at further nodes."""


class Completion:
    """Fills in tables of records. Variances are learned once, from all of them; they say nothing of any weights.

    Parameters
    ----------
    problem : Problem
    cells : Cells
        Of all n records.
    tau : float
        Temperature at which variances are learned.
    seed : int
        Of the draws; a record's depend on it and its row, not on what else is filled in.
    """

    def __init__(self, problem: Problem, cells: Cells, *, tau: float, seed: int) -> None:
        self.problem, self.cells, self.seed = problem, cells, seed
        n_personas, n_exemplars = len(problem.hg), len(problem.he)
        self.applies = False
        """Whether scored cells say enough, and the table is neither complete nor larger than `MOST_CELLS`."""
        n_all = n_personas * n_exemplars
        if len(problem.hx) * n_all > MOST_CELLS:
            return  # and nothing of the size of the table is made
        self._allowed = np.arange(n_all) % n_exemplars != problem.own[:, None]
        if int(self._allowed.sum()) == cells.n_cells:
            return
        self._at_tau = curve_weights(1.0 / tau, problem.betas)
        self._whole = _Model.of(cells, problem.weight, n_personas, n_exemplars)
        self._whole.learn(cells.curves.astype(np.float64) @ self._at_tau)
        self.applies = self._whole.explained() >= LEAST_EXPLAINED

    def filled(self, rows: Ints) -> Cells:
        """Fill in the table of some records: scored cells as they are, the others one draw of what they may be.

        Parameters
        ----------
        rows : ndarray of int
            Records; means are learned from them alone.

        Returns
        -------
        Cells
            Every component but the record itself for ``rows``, nothing for other records.
        """
        problem, part = self.problem, self.cells.of(rows)
        n_personas, n_exemplars = len(problem.hg), len(problem.he)
        model = _Model.of(part, problem.weight[rows], n_personas, n_exemplars)
        model.learn_means(part.curves.astype(np.float64) @ self._at_tau, self._whole)
        noise = model.draw([rng_of(self.seed, "completion", row) for row in rows.tolist()])
        shape = self._allowed.shape
        found = np.zeros((*shape, len(problem.betas)), dtype=np.float32)
        for g in range(len(problem.betas)):
            found[rows, :, g] = model.filled(part.curves[..., g].astype(np.float64), noise)
        row, column = np.nonzero(part.present)
        found[rows[row], model.component[row, column]] = part.curves[row, column]
        present = np.zeros(shape, dtype=bool)
        present[rows] = self._allowed[rows]
        found[~present] = 0.0
        every = np.broadcast_to(np.arange(shape[1]), shape)
        persona, exemplar = np.divmod(every, n_exemplars)
        return Cells(persona, exemplar, found, present)


@dataclass
class _Model:
    """The model above for n records with M scored components each; factors in the order r, g, x."""

    persona: Ints
    """(n, M), as in `mop.mixture.cells.Cells`."""
    exemplar: Ints
    present: NDArray[np.bool_]
    weight: Floats
    """(n,) survey weights, mean 1."""
    loads: Floats
    """(n, M, F): 1 where a cell contains a factor, 0 for padding."""
    pairs: Floats
    """(n, F, F): how many cells of a record contain both factors."""
    n_personas: int
    n_exemplars: int
    precision: Floats
    """(F, F), inverse covariance of factors."""
    v: float
    scale: Floats
    """(n,) u_i."""
    mean: Floats
    """(F,) of factors: 0, a, b."""
    cell: Floats
    """(K·N,) d_kj."""
    spread: Floats
    """(n, F, F), covariance of a record's factors given its cells, times u_i."""
    rough: float = 1.0
    """Root mean square of e at the reference temperature."""

    @classmethod
    def of(cls, part: Cells, weight: Floats, n_personas: int, n_exemplars: int) -> _Model:
        """Begin with independent factors."""
        factors = 1 + n_personas + n_exemplars
        loads = np.zeros((*part.persona.shape, factors))
        row, column = np.nonzero(part.present)
        loads[row, column, 0] = 1.0
        loads[row, column, 1 + part.persona[row, column]] = 1.0
        loads[row, column, 1 + n_personas + part.exemplar[row, column]] = 1.0
        precision = np.eye(factors)
        precision[0, 0] = 1.0 / FLAT
        n = len(weight)
        model = cls(
            part.persona, part.exemplar, part.present, weight / weight.mean(),
            loads, np.einsum("nmf,nmg->nfg", loads, loads), n_personas, n_exemplars,
            precision, 0.3, np.ones(n), np.zeros(factors), np.zeros(n_personas * n_exemplars),
            np.zeros((n, factors, factors)),
        )  # fmt: skip
        model._condition()
        return model

    @property
    def component(self) -> Ints:
        """(n, M) in K·N."""
        return self.persona * self.n_exemplars + self.exemplar

    def learn(self, values: Floats) -> None:
        """Fit variances, means and scales to log-likelihoods (n, M) at one temperature."""
        n = len(values)
        blocks = slice(1, 1 + self.n_personas), slice(1 + self.n_personas, len(self.mean))
        for _ in range(N_STEPS):
            factors, rest = self._step(values)
            away = factors - self.mean
            moment = np.einsum("n,nf,ng->fg", self.weight * self.scale, away, away)
            moment += np.einsum("n,nfg->fg", self.weight, self.spread)
            self.precision = np.diag([1.0 / FLAT] + [0.0] * (len(moment) - 1))
            for block in blocks:
                own = moment[block, block]
                alike = np.trace(own) / len(own) / n
                own = (own + SHRINKAGE * alike * np.eye(len(own))) / (n + SHRINKAGE)
                self.precision[block, block] = np.linalg.inv(own)
            unsure = np.einsum("nfg,nfg->n", self.pairs, self.spread)
            total = self.weight @ (self.scale * (rest**2).sum(axis=1) + unsure)
            self.v = max(float(total / (self.weight @ self.present.sum(axis=1))), 1e-4)
            self._condition()

    def learn_means(self, values: Floats, like: _Model) -> None:
        """Fit means and scales, with the variances of another model."""
        self.precision, self.v = like.precision, like.v
        self._condition()
        for _ in range(N_STEPS):
            self._step(values)
        self.rough = self._roughness(self._factors(values)[1])

    def _condition(self) -> None:
        """Work out how much a record's cells leave open of its factors, after variances have changed."""
        self.spread = np.asarray(np.linalg.inv(self.precision + self.pairs / self.v), np.float64)

    def _step(self, values: Floats) -> tuple[Floats, Floats]:
        """Move scales and means, and return the factors and rests that they were moved by."""
        factors, rest = self._factors(values)
        away = factors - self.mean
        distance = (rest**2).sum(axis=1) / self.v
        distance += np.einsum("nf,fg,ng->n", away, self.precision, away)
        self.scale = (FREEDOM + self.present.sum(axis=1) - 1) / (FREEDOM + distance)
        self._update_means(factors, rest)
        return factors, rest

    def explained(self) -> float:
        """Share of the variance within a record's table about which its scored cells leave no doubt."""
        known = np.linalg.inv(self.precision)
        known[0, :] = known[:, 0] = 0.0  # r_i is the same in all cells
        return 1.0 - self._within(self.spread.mean(axis=0)) / self._within(known)

    def _within(self, covariance: NDArray[Any]) -> float:
        """Mean variance of a record's cells around their mean, given that of its factors (F, F)."""
        loads = self._of_all(np.eye(len(covariance))).T
        centred = loads - loads.mean(axis=0)
        total: float = np.einsum("cf,fg,cg->", centred, covariance, centred)
        return total / len(loads) + self.v

    def draw(self, rngs: Sequence[np.random.Generator]) -> Floats:
        """Departures (n, K·N) of what a cell may be from what it is expected to be; one generator for each record."""
        root, n_factors = np.linalg.cholesky(self.spread), len(self.mean)
        normal = np.stack([rng.standard_normal(n_factors + len(self.cell)) for rng in rngs])
        factors = np.einsum("nfg,ng->nf", root, normal[:, :n_factors])
        away: Floats = self._of_all(factors) + np.sqrt(self.v) * normal[:, n_factors:]
        return away / np.sqrt(self.scale)[:, None]

    def filled(self, values: Floats, noise: Floats) -> Floats:
        """Whole tables (n, K·N) from log-likelihoods (n, M) at any temperature."""
        for _ in range(N_STEPS_MEANS):
            factors, rest = self._factors(values)
            self._update_means(factors, rest)
        factors, rest = self._factors(values)
        found: Floats = self._of_all(factors) + self.cell
        return found + noise * (self._roughness(rest) / self.rough)

    def _of_all(self, factors: Floats) -> Floats:
        """Sums of the factors of every component, (n, K·N)."""
        g, x = np.split(factors[:, 1:], [self.n_personas], axis=1)
        return np.asarray((factors[:, :1] + g)[:, :, None] + x[:, None, :]).reshape(len(g), -1)

    def _factors(self, values: Floats) -> tuple[Floats, Floats]:
        """Expected factors (n, F) of every record, and what they leave of its cells (n, M)."""
        values = np.where(self.present, values - self.cell[self.component], 0.0)
        pull = np.einsum("nmf,nm->nf", self.loads, values) / self.v + self.precision @ self.mean
        factors = np.einsum("nfg,ng->nf", self.spread, pull)
        rest = values - np.einsum("nmf,nf->nm", self.loads, factors)
        return factors, rest

    def _update_means(self, factors: Floats, rest: Floats) -> None:
        weight = self.weight * self.scale
        self.mean = weight @ factors / weight.sum()
        self.mean[0] = 0.0
        each = np.where(self.present, weight[:, None] / self.v, 0.0)
        flat = self.component.reshape(-1)
        count = np.bincount(flat, each.reshape(-1), len(self.cell))
        left: Floats = each * (rest + self.cell[self.component])
        total = np.bincount(flat, left.reshape(-1), len(self.cell))
        self.cell = total / (count + 1.0 / SD_CELL**2)

    def _roughness(self, rest: Floats) -> float:
        return float(np.sqrt((rest**2).sum() / self.present.sum())) + 1e-12
