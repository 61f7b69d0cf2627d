"""Which components are scored for which records.

Every component is as likely to be scored for a record as any other, so no weights are needed to make up for
the choice. Letters as in `mop.mixture.cells`.
"""

from __future__ import annotations

import math

import numpy as np

from mop.config import FitConfig
from mop.mixture.cells import Asked, Problem, ScoreCells
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
        # Whoever was dealt only himself gets one more: without a score a record has no likelihood.
        own, met = self.problem.own, {i for i, _ in self.asked.curves}
        met |= {i for i, c in pairs if c % self.n_exemplars != own[i]}
        pairs |= {(i, int(own[i] + 1) % self.n_exemplars) for i in range(len(own)) if i not in met}
        self.asked.ask(self.asked.new(pairs))

    def expected_cells(self) -> int:
        """Cells that a round scores at the most."""
        n_valid = len(self.problem.hx) - self.problem.n_train
        n_all = self.n_personas * self.n_exemplars
        return self.problem.n_train * min(self.settings.components_per_record, n_all) + (
            n_valid * min(self.settings.valid_components, n_all)
        )

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
