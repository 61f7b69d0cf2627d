"""Which components are scored for which records.

Every component is as likely to be scored for a record as any other, so no weights are needed to make up for
the choice. Letters as in `mop.mixture.cells`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mop.config import FitConfig
from mop.mixture.cells import Asked, Ints, Problem, ScoreCells
from mop.mixture.sums import diagonal_order
from mop.randomness import rng_of


class Design:
    """Deals components round by round, and has them scored.

    Random groups of training records are dealt the same components, which are scored for all of them, so that the
    prefix of a prompt is computed once for the group. All validation records get the same components. A record is
    never dealt a component twice.
    """

    def __init__(self, problem: Problem, score: ScoreCells, settings: FitConfig, seed: int) -> None:
        self.problem, self.settings, self.seed = problem, settings, seed
        self.n_personas, self.n_exemplars = len(problem.hg), len(problem.he)
        self.asked = Asked(problem, score)
        # Components dealt to each record so far, of training and of validation; and how far apart
        # groups begin in the order, which is what the first round dealt.
        self._dealt, self._dealt_valid, self._apart = 0, 0, 0

    def extend(self, *, share: float = 1.0) -> None:
        """Deal and score the components of a round.

        Parameters
        ----------
        share : float
            Of the usual number of components, in (0, 1]: less where a budget ends.
        """
        # All rounds go on in one order, so that a record meets nothing twice.
        rng = rng_of(self.seed, "proposal", 0)
        n_train, n_all = self.problem.n_train, self.n_personas * self.n_exemplars
        per_record = min(max(1, math.floor(share * self.settings.components_per_record)), n_all)
        per_valid = min(max(1, math.floor(share * self.settings.valid_components)), n_all)
        pairs = self._even(per_record, rng)
        order = diagonal_order(self.n_personas, self.n_exemplars, rng)
        drawn = order[(self._dealt_valid + np.arange(per_valid)) % n_all]
        self._dealt_valid += per_valid
        pairs |= {(int(i), int(c)) for i in range(n_train, len(self.problem.hx)) for c in drawn}
        self.asked.ask(self.asked.new(pairs))

    def expected_cells(self) -> int:
        """Cells that a round scores at the most."""
        n_valid = len(self.problem.hx) - self.problem.n_train
        n_all = self.n_personas * self.n_exemplars
        return self.problem.n_train * min(self.settings.components_per_record, n_all) + (
            n_valid * min(self.settings.valid_components, n_all)
        )

    # ------------------------------------------------------------------------------------- private

    def _even(self, each: int, rng: np.random.Generator) -> set[tuple[int, int]]:
        """Components dealt to random groups, to each what comes next, so that all occur equally often."""
        n_train, n_all = self.problem.n_train, self.n_personas * self.n_exemplars
        shared = max(1, min(self.settings.records_per_component, n_train))
        n_groups = max(1, round(n_train / shared))
        # Neighbours differ in persona and in exemplar, and a record gets neighbours, in later rounds the next ones.
        around = diagonal_order(self.n_personas, self.n_exemplars, rng)
        self._apart = self._apart or each
        begin = rng.integers(n_all) + self._dealt + np.arange(n_groups) * self._apart
        hands = around[(begin[:, None] + np.arange(each)) % n_all]
        order = rng.permutation(n_train)
        self._dealt += each
        return {(int(i), int(c)) for place, i in enumerate(order) for c in hands[place % n_groups]}


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
        axis = _principal_axis(centred)
        axis = axis * np.sign(axis[np.argmax(np.abs(axis))])
        order = rows[np.argsort((centred @ axis).round(9), kind="stable")]
        left = n // 2
        cut = len(rows) * left // n
        work += [(order[:cut], first, left), (order[cut:], first + left, n - left)]
    return groups


def _principal_axis(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Direction (D,) in which rows (n, D) differ most, of any length."""
    from scipy.linalg import eigh

    is_wide = len(centred) < centred.shape[1]
    gram = centred @ centred.T if is_wide else centred.T @ centred
    last = len(gram) - 1
    axis = eigh(gram, subset_by_index=[last, last])[1][:, 0]
    return np.asarray(centred.T @ axis if is_wide else axis)
