"""How many personas a population needs: grown and pruned by held-out likelihood.

Letters: n records, K candidate personas, J exemplars of a record, G nodes of the score curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mop.candidates import best_single_tau, folds
from mop.cells import Cells, Ints, Problem, ScoreCells
from mop.config import FitConfig
from mop.curve import weights as curve_weights
from mop.design import similar_groups
from mop.errors import ConfigError
from mop.mixture import Floats, log_sum_exp, unconditional_weights
from mop.randomness import generator

EXEMPLARS = 2
"""J, exemplars of each record under which all candidates are compared. Chosen, not tuned."""
TRIED = 3
"""Candidates with the largest d_k that are tried at each step of growth."""
SURE = 1.0
"""Standard errors that a gain must exceed to count: a persona more has to be worth it."""
ACCURACY = 1e-3
"""Nats per record by which a gain must exceed that: weights are worked out to a tenth of it."""


@dataclass(frozen=True)
class Selection:
    """The personas that are worth having."""

    kept: tuple[int, ...]
    """Rows of the candidates, ascending."""
    path: tuple[dict[str, Any], ...]
    """One row per step: ``persona`` (row), ``step`` (grow or prune), ``valid`` (nats per record, held
    out), ``gain`` with its ``standard_error``."""
    n_cells: int = 0
    """Scores asked for."""
    n_tokens: int = 0
    """LM tokens of these scores."""


def choose_personas(
    problem: Problem, score: ScoreCells, settings: FitConfig, *, seed: int
) -> Selection:
    """Score all candidate personas on common exemplars, then grow and prune.

    Records with similar contexts are grouped; each group gets `EXEMPLARS` exemplars, and every record
    is scored under each candidate with these, so that candidates are compared like with like.

    Parameters
    ----------
    problem : Problem
        With all K candidates.
    score : callable
        See `mop.cells.ScoreCells`.
    settings : FitConfig
        Its ``records_per_component`` and ``n_folds``.
    seed : int

    Returns
    -------
    Selection

    Raises
    ------
    ConfigError
        If the scores would take more than half of ``max_lm_tokens``: the fit needs some as well.
    """
    n, n_personas, n_exemplars = len(problem.hx), len(problem.hg), len(problem.he)
    groups = similar_groups(problem.hx, max(1, n // max(1, settings.records_per_component)))
    rng = generator(seed, "persona-exemplars")
    shown = np.stack(
        [rng.permutation(n_exemplars)[: EXEMPLARS + 1] for _ in range(int(groups.max()) + 1)]
    )
    row, column, exemplar = [], [], []
    for i in range(n):
        allowed = [int(j) for j in shown[groups[i]] if j != problem.own[i]][:EXEMPLARS]
        for m, j in enumerate(allowed):
            row += [i] * n_personas
            column += [m * n_personas + k for k in range(n_personas)]
            exemplar += [j] * n_personas
    rows, columns = np.array(row, dtype=np.int64), np.array(column, dtype=np.int64)
    persona, shown_rows = columns % n_personas, np.array(exemplar, dtype=np.int64)
    order = np.lexsort((rows, shown_rows, persona))
    if settings.max_lm_tokens:
        some = order[
            np.unique(np.linspace(0, len(order) - 1, min(len(order), 16)).astype(np.int64))
        ]
        n_looked = score(rows[some], persona[some], shown_rows[some])[1]
        expected = n_looked * problem.cost[rows].sum() / problem.cost[rows[some]].sum()
        if 2 * expected > settings.max_lm_tokens:
            raise ConfigError(
                f"fit.max_lm_tokens is {settings.max_lm_tokens}, and choosing among {n_personas} personas takes "
                f"about {expected:.0f} tokens, and the fit as many or more; raise it, lower "
                "personas.max_personas, or give personas.n_personas a number"
            )
    found, n_tokens = score(rows[order], persona[order], shown_rows[order])
    shape = (n, n_personas * min(EXEMPLARS, n_exemplars))
    curves = np.zeros((*shape, len(problem.betas)), dtype=np.float32)
    present = np.zeros(shape, dtype=bool)
    curves[rows[order], columns[order]] = found
    present[rows, columns] = True
    cells = Cells(
        np.broadcast_to(np.arange(shape[1]) % n_personas, shape).copy(),
        np.zeros(shape, dtype=np.int64),
        curves,
        np.zeros(shape),
        present,
    )
    tau, _ = best_single_tau(cells, problem.weight, problem.betas)
    log_lik = curves.astype(np.float64) @ curve_weights(1.0 / tau, problem.betas)
    log_lik = np.where(present, log_lik, -np.inf).reshape(n, -1, n_personas)
    of_persona = (
        log_sum_exp(log_lik, axis=1) - np.log(present[:, ::n_personas].sum(axis=1))[:, None]
    )
    selection = grow_and_prune(
        of_persona, folds(n, settings.n_folds, seed), record_weight=problem.weight
    )
    return replace(selection, n_cells=len(order), n_tokens=n_tokens)


def grow_and_prune(
    log_lik: Floats, fold_rows: Sequence[Ints], *, record_weight: Floats
) -> Selection:
    """Choose columns whose mixture explains held-out records best, as few as will do.

    Starts from the best single column. Grows by one column at a time, taken from those with the
    largest d_k = mean_i p_k(i) / p(i), as long as the cross-validated gain exceeds its standard
    error; then takes columns away as long as the loss is within its standard error.

    Parameters
    ----------
    log_lik : ndarray, shape (n, K)
        Log-likelihood of record i under persona k, nats.
    fold_rows : sequence of ndarray of int
        Rows of each fold; together all n.
    record_weight : ndarray, shape (n,)

    Returns
    -------
    Selection
    """
    judge = _Judge(log_lik, fold_rows, record_weight / record_weight.sum())
    n_columns = log_lik.shape[1]
    first = int(np.argmax(judge.share @ log_lik))
    kept, path = [first], [judge.step("grow", first, [first], None)]
    while len(kept) < n_columns:
        promising = [k for k in judge.by_gain(kept) if k not in kept][:TRIED]
        best = max(promising, key=lambda k: judge.mean([*kept, k]))
        gain, error = judge.gain([*kept, best], kept)
        if gain <= SURE * error + ACCURACY:
            break
        path.append(judge.step("grow", best, [*kept, best], kept))
        kept.append(best)
    while len(kept) > 1:
        without = {k: [other for other in kept if other != k] for k in kept}
        least = max(kept, key=lambda k: judge.mean(without[k]))
        loss, error = judge.gain(kept, without[least])
        if loss > SURE * error + ACCURACY:
            break
        path.append(judge.step("prune", least, without[least], kept))
        kept = without[least]
    return Selection(tuple(sorted(kept)), tuple(path))


class _Judge:
    """Cross-validated values of sets of columns, each worked out once."""

    def __init__(self, log_lik: Floats, fold_rows: Sequence[Ints], share: Floats) -> None:
        self.log_lik, self.fold_rows, self.share = log_lik, fold_rows, share
        self._values: dict[tuple[int, ...], Floats] = {}

    def values(self, columns: Sequence[int]) -> Floats:
        """Held-out log-likelihood of every record (n,) under the best weights of some columns."""
        key = tuple(sorted(columns))
        if key not in self._values:
            table, values = self.log_lik[:, list(key)], np.zeros(len(self.log_lik))
            for fold in self.fold_rows:
                rest = np.setdiff1d(np.arange(len(table)), fold)
                best = unconditional_weights(
                    table[rest],
                    record_weight=self.share[rest],
                    tolerance=ACCURACY / 10,
                    max_iterations=500,
                )
                values[fold] = log_sum_exp(table[fold] + best.log_weight)
            self._values[key] = values
        return self._values[key]

    def mean(self, columns: Sequence[int]) -> float:
        """Nats per record."""
        return float(self.values(columns) @ self.share)

    def gain(self, columns: Sequence[int], other: Sequence[int]) -> tuple[float, float]:
        """Mean gain of one set over another, and its standard error."""
        difference = self.values(columns) - self.values(other)
        mean = float(difference @ self.share)
        return mean, float(np.sqrt(np.square((difference - mean) * self.share).sum()))

    def by_gain(self, columns: Sequence[int]) -> list[int]:
        """All columns, the one with the largest d_k first."""
        best = unconditional_weights(
            self.log_lik[:, list(columns)], record_weight=self.share, tolerance=ACCURACY / 10
        )
        log_mix = log_sum_exp(self.log_lik[:, list(columns)] + best.log_weight)
        log_d = log_sum_exp(np.log(self.share)[:, None] + self.log_lik - log_mix[:, None], axis=0)
        return [int(k) for k in np.argsort(-log_d, kind="stable")]

    def step(
        self, step: str, persona: int, columns: Sequence[int], other: Sequence[int] | None
    ) -> dict[str, Any]:
        row: dict[str, Any] = {"step": step, "persona": persona, "valid": self.mean(columns)}
        if other is None:
            return row
        gain, error = self.gain(columns, other)
        return {**row, "gain": gain, "standard_error": error}
