"""Which components are scored for which records, and how likely it was that they would be.

Unscored components enter a fit through importance weights, so the chance of every cell to be
scored must be known exactly. Letters as in `mop.cells`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mop.cells import Cells, Ints, Problem, ScoreCells
from mop.config import FitConfig
from mop.errors import DataError
from mop.mixture import Floats, diagonal_order, inclusion_chances, varied_draw
from mop.randomness import generator

if TYPE_CHECKING:
    from mop.gate import Gate

EVEN, GATE, GAINS, SIMILAR = 0.4, 0.25, 0.2, 0.15
"""Shares of a later round's proposal: every component alike, the gates' weights, the components with the
largest d_c of the certificate, exemplars whose context is near the records'. Chosen, not tuned."""

NEAR = 0.05
"""Softmax temperature of the cosine between context and exemplar in the last of these."""


class Design:
    """Proposes components round by round, has them scored, and keeps count of the chances.

    Even rounds deal evenly drawn components to random groups of records, each round others. Aimed rounds deal to
    groups of records with similar contexts, by a mixture of the four proposals above. A group's
    components are scored for all its records, so that the prefix of a prompt is computed
    once for the group. All validation records get the same components.
    """

    def __init__(self, problem: Problem, settings: FitConfig, seed: int) -> None:
        self.problem, self.settings, self.seed = problem, settings, seed
        self.n_personas, self.n_exemplars = len(problem.hg), len(problem.he)
        self.cells: dict[tuple[int, int], NDArray[np.float32]] = {}
        self.n_tokens = 0
        # Components that even rounds have dealt to each record so far, of training and of validation; and how far
        # apart groups begin in the order, which is what the first of these rounds dealt.
        self._dealt, self._dealt_valid, self._apart = 0, 0, 0
        # One entry per round: the group of each record, and log(1 - chance) of (group, component).
        self._missed: list[tuple[Ints, Floats]] = []

    @property
    def n_cells(self) -> int:
        """Number of scored cells."""
        return len(self.cells)

    def extend(
        self,
        score: ScoreCells,
        gate: Gate | None,
        round_: int,
        *,
        gains: Floats | None = None,
        share: float = 1.0,
    ) -> None:
        """Propose components for a round and score the cells that are new.

        Parameters
        ----------
        score : callable
        gate : Gate, optional
            The fit so far, which the round is aimed by; without one the round is even.
        round_ : int
            Number of the round; part of the seed of an aimed one.
        gains : ndarray, shape (K·N,), optional
            Estimated d_c of every component (see `mop.candidates.component_gains`).
        share : float
            Of the usual number of components, in (0, 1]: less where a budget ends.
        """
        # Even rounds go on in one order, so that a record meets nothing twice.
        rng = generator(self.seed, "proposal", round_ if gate is not None else 0)
        n_train = self.problem.n_train
        per_record = max(1, math.floor(share * self.settings.components_per_record))
        per_valid = max(1, math.floor(share * self.settings.valid_components))
        if gate is None:
            groups, chances, pairs = self._even(per_record, rng)
        else:
            groups, chances, pairs = self._aimed(per_record, gate, gains, rng)
        valid = np.arange(n_train, len(self.problem.hx))
        if gate is None:
            order = diagonal_order(self.n_personas, self.n_exemplars, rng)
            drawn = order[(self._dealt_valid + np.arange(min(per_valid, len(order)))) % len(order)]
            chance = np.full(len(order), _chance_of_rest(len(drawn), self._dealt_valid, len(order)))
            self._dealt_valid += len(drawn)
        else:
            chance = inclusion_chances(self._proposal(valid, gate, gains), per_valid)
            drawn = self._varied(chance, per_valid, rng)
        pairs |= {(int(i), int(c)) for i in valid for c in drawn}
        groups = np.concatenate([groups, np.full(len(valid), len(chances), dtype=np.int64)])
        with np.errstate(divide="ignore"):
            missed = np.log1p(-np.minimum(np.vstack([chances, chance]), 1.0))
        self._missed.append((groups, missed))
        self._score(score, pairs)

    def expected_cells(self) -> int:
        """Cells that a round scores at the most."""
        n_valid = len(self.problem.hx) - self.problem.n_train
        n_all = self.n_personas * self.n_exemplars
        return self.problem.n_train * min(self.settings.components_per_record, n_all) + (
            n_valid * min(self.settings.valid_components, n_all)
        )

    def table(self) -> Cells:
        """All scored cells of all records, with the chance of each to be scored in any round."""
        n = len(self.problem.hx)
        keys = np.array(sorted(self.cells), dtype=np.int64).reshape(-1, 2)
        if not len(keys):
            raise DataError(
                "no component was scored for any record; raise fit.components_per_record"
            )
        row, component = keys.T
        count = np.bincount(row, minlength=n)
        column = np.arange(len(row)) - (np.cumsum(count) - count)[row]
        log_missed = np.zeros(len(row))
        for groups, missed in self._missed:
            log_missed += missed[groups[row], component]
        shape = (n, int(count.max()))
        flat, log_q = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        curves = np.zeros((*shape, len(self.problem.betas)), dtype=np.float32)
        present = np.zeros(shape, dtype=bool)
        flat[row, column] = component
        present[row, column] = True
        log_q[row, column] = np.log(-np.expm1(log_missed))
        curves[row, column] = np.stack([self.cells[i, c] for i, c in keys.tolist()])
        return Cells(flat // self.n_exemplars, flat % self.n_exemplars, curves, log_q, present)

    # ------------------------------------------------------------------------------------- private

    def _even(
        self, per_record: int, rng: np.random.Generator
    ) -> tuple[Ints, Floats, set[tuple[int, int]]]:
        """Components dealt to random groups, to each what comes next, so that all occur equally often."""
        n_train, n_all = self.problem.n_train, self.n_personas * self.n_exemplars
        shared = max(1, min(self.settings.records_per_component, n_train))
        n_groups, each = max(1, round(n_train / shared)), min(per_record, n_all)
        # Neighbours differ in persona and in exemplar, and a record gets neighbours, in later rounds the next ones.
        around = diagonal_order(self.n_personas, self.n_exemplars, rng)
        self._apart = self._apart or each
        begin = rng.integers(n_all) + self._dealt + np.arange(n_groups) * self._apart
        hands = around[(begin[:, None] + np.arange(each)) % n_all]
        order = rng.permutation(n_train)
        pairs = {(int(i), int(c)) for place, i in enumerate(order) for c in hands[place % n_groups]}
        # A record meets each component with the same probability, whatever it is.
        chance = _chance_of_rest(each, self._dealt, n_all)
        self._dealt += each
        return np.zeros(n_train, dtype=np.int64), np.full((1, n_all), chance), pairs

    def _aimed(
        self, per_record: int, gate: Gate, gains: Floats | None, rng: np.random.Generator
    ) -> tuple[Ints, Floats, set[tuple[int, int]]]:
        """Components drawn for each group of similar records by the mixture of proposals."""
        n_train = self.problem.n_train
        shared = max(1, min(self.settings.records_per_component, n_train))
        groups = similar_groups(self.problem.hx[:n_train], max(1, n_train // shared))
        chances, pairs = [], set()
        for g in range(int(groups.max()) + 1):
            rows = np.flatnonzero(groups == g)
            chance = inclusion_chances(self._proposal(rows, gate, gains), per_record)
            drawn = self._varied(chance, per_record, rng)
            chances.append(chance)
            pairs |= {(int(i), int(c)) for i in rows for c in drawn}
        return groups, np.stack(chances), pairs

    def _varied(self, chance: Floats, n: int, rng: np.random.Generator) -> Ints:
        """At most n different components with these chances."""
        n = min(n, len(chance))
        return varied_draw(chance, n, self.n_personas, self.n_exemplars, rng)

    def _proposal(self, rows: Ints, gate: Gate, gains: Floats | None) -> Floats:
        """Probability of each component, (K·N,), for some records."""
        from mop.gate import mean_weight

        n_all = self.n_personas * self.n_exemplars
        even = np.full(n_all, 1.0 / n_all)
        hx = self.problem.hx[rows]
        gate_weight = mean_weight(gate, hx, self.problem.own[rows])
        best = even
        if gains is not None and bool((gains > 1).any()):
            best = np.maximum(gains - 1.0, 0.0)
            best = best / best.sum()
        logits = (hx @ self.problem.he[:, -hx.shape[1] :].T).astype(np.float64) / NEAR
        near = np.exp(logits - logits.max(axis=1, keepdims=True))
        near = (near / near.sum(axis=1, keepdims=True)).mean(axis=0)
        similar = np.tile(near / self.n_personas, self.n_personas)
        return EVEN * even + GATE * gate_weight + GAINS * best + SIMILAR * similar

    def _score(self, score: ScoreCells, pairs: set[tuple[int, int]]) -> None:
        own, n_exemplars = self.problem.own, self.n_exemplars
        new = sorted(
            (c, i) for i, c in pairs if (i, c) not in self.cells and c % n_exemplars != own[i]
        )
        if not new:
            return
        component, record = np.array(new, dtype=np.int64).T
        curves, tokens = score(record, component // n_exemplars, component % n_exemplars)
        self.n_tokens += tokens
        for i, c, curve in zip(record.tolist(), component.tolist(), curves, strict=True):
            self.cells[i, c] = curve


def _chance_of_rest(n: int, before: int, n_all: int) -> float:
    """Chance that a component is among the next n of a random order, if it was not among those before."""
    return min(1.0, n / max(n_all - before, 1))


def similar_groups(vectors: NDArray[np.float32], n_groups: int) -> Ints:
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
    groups = np.zeros(len(vectors), dtype=np.int64)
    work = [(np.arange(len(vectors)), 0, n_groups)]
    while work:
        rows, first, n = work.pop()
        if n == 1:
            groups[rows] = first
            continue
        some = vectors[rows].astype(np.float64)
        centred = some - some.mean(axis=0)
        axis = np.linalg.svd(centred, full_matrices=False)[2][0]
        axis = axis * np.sign(axis[np.argmax(np.abs(axis))])
        order = rows[np.argsort((centred @ axis).round(9), kind="stable")]
        left = n // 2
        cut = len(rows) * left // n
        work += [(order[:cut], first, left), (order[cut:], first + left, n - left)]
    return groups
