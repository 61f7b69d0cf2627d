"""What components that were not scored would have scored: drawn from what the scored ones say.

A record is scored under m of K · N components. The log of a mean over m draws is too low, by nats where log-likelihoods
within a record differ by nats, so the others are imputed, several times for held-out figures, once for a fit to small
tables (`mop.mixture.em.FilledIn`), and the full sum is taken.
Letters as in `mop.mixture.cells`; m scored components of a record, B imputations, J exemplars that somebody was
scored with.

For record i and component (k, j), at fixed temperatures:

    L_i(k, j) = r_i + β z_i(k, j) + a_k + b_j + s_i (g_ik + x_ij + e_ikj)
    a_k ~ N(0, v_a),  b_j ~ N(0, v_b),  g_ik ~ N(0, v_g),  x_ij ~ N(0, v_x),  e_ikj ~ N(0, v_e)

except that x of an exemplar that the record has not met is drawn from the departures of those that it has met, pooled
over records: they need not be normal. There is a flat prior on r_i; z is the log weight that the gates give, and s_i²
is inverse gamma with mean 1: the departures of a record together have Student's t. Which components are scored depends
on gates alone, so with z in the model the choice may be ignored (Rubin 1976). Variances are point estimates; all else
is drawn from its posterior, and results are pooled by Rubin's rules (1987).

Source: mixed-model equations (Henderson 1975); draws given some cells by correcting an unconditional draw (Matheron).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mop.mixture.cells import Ints
from mop.mixture.sums import Floats
from mop.randomness import rng_of

N_IMPUTATIONS = 16
"""B. Rubin's rules allow for their small number."""
N_LEARNT = 200
"""Records from which variances within records are learnt, at most; evenly spread over all."""
MOST_COMMON = 2_000
"""J above which exemplars have no effect common to all records: solving for it would take longer than scoring."""
N_STEPS = 2
"""Alternations between common effects and variances within records."""
N_COMMON = 8
"""Steps of EM for the variances of common effects in each: it is slow where these effects are large."""
FEWEST = 100
"""Scored cells below which effects of exemplars are drawn as normal."""
FLAT = 100.0
"""Prior variance of β."""


@dataclass(frozen=True)
class Variances:
    """v_a, v_b, v_g, v_x and v_e of the effects above, nats²."""

    persona: float
    exemplar: float
    own_persona: float
    own_exemplar: float
    cell: float
    freedom: float
    """Degrees of freedom of s_i², above 2."""


class Effects:
    """The model above, fitted to scored components.

    Parameters
    ----------
    persona, exemplar : ndarray of int, shape (n, m)
        Scored components of n records.
    log_lik : ndarray, shape (n, m)
        Nats; minus infinity for cells that do not count: absent ones, and all but the first of equal ones.
    n_personas : int
        K.
    z : ndarray, shape (n, m), optional
        Log weight of the component by the gates; None: equal weights.
    variances : Variances, optional
        Known ones, of the same records at other temperatures; None: learn them.
    """

    def __init__(
        self,
        persona: Ints,
        exemplar: Ints,
        log_lik: Floats,
        n_personas: int,
        *,
        z: Floats | None = None,
        variances: Variances | None = None,
    ) -> None:
        self.persona, self.exemplar, self.n_personas = persona, exemplar, n_personas
        self.used = used = np.isfinite(log_lik)
        self.log_lik = np.where(used, log_lik, 0.0)
        self.z = np.zeros(log_lik.shape) if z is None else z
        seen, place = np.unique(exemplar, return_inverse=True)
        if len(seen) > MOST_COMMON:
            seen, place = seen[:0], np.zeros(0, dtype=np.int64)
        self.exemplars: Ints = seen
        """(J,) with an effect common to all records."""
        self._place = place.reshape(exemplar.shape) if len(seen) else None
        both = used[:, :, None] & used[:, None, :]
        self._same_persona = both & (self.persona[:, :, None] == self.persona[:, None, :])
        self._same_exemplar = both & (self.exemplar[:, :, None] == self.exemplar[:, None, :])
        self.variances = variances or self._first_guess()
        for _ in range(N_STEPS):
            for _ in range(N_COMMON if variances is None else 1):
                self._solve_common(learns=variances is None)
            if variances is None:
                self._learn_within()

    def _first_guess(self) -> Variances:
        """Shares of the variance within records."""
        log_lik = np.where(self.used, self.log_lik, np.nan)
        several = self.used.sum(axis=1) > 1
        spread = float(np.nanvar(log_lik[several], axis=1, ddof=1).mean()) if several.any() else 1.0
        parts = np.array([0.05, 0.05, 0.1, 0.6, 0.2]) * max(spread, 1e-6)
        if not len(self.exemplars):
            parts[1] = 1e-12  # a record's own effect has it
        a, b, g, x, e = parts.tolist()
        return Variances(a, b, g, x, e, 10.0)

    @cached_property
    def _design(self) -> Any:
        """Sparse (n·m, 1 + K + J): z, persona and exemplar of every cell."""
        from scipy.sparse import csr_array, hstack

        n_cells = self.used.size
        cell, used = np.arange(n_cells), self.used.reshape(-1).astype(np.float64)
        parts = [csr_array((used * self.z.reshape(-1))[:, None])]
        for column, width in ((self.persona, self.n_personas), (self._place, len(self.exemplars))):
            if column is not None:
                parts.append(csr_array((used, (cell, column.reshape(-1))), shape=(n_cells, width)))
        return hstack(parts, format="csr")

    def _solve_common(self, *, learns: bool) -> None:
        """Posterior of β, a and b given the variances; then a step of EM for v_a and v_b."""
        from scipy.sparse import block_diag

        v, n_personas = self.variances, self.n_personas
        within = self._contrasts(self.variances)
        scale = self._scales(within)
        blocks = block_diag(list(within / scale[:, None, None]), format="csr")
        left = self._design.T @ blocks
        values = self.log_lik.reshape(-1)
        precision = np.asarray((left @ self._design).todense(), dtype=np.float64)
        own = np.concatenate(
            [[1.0 / FLAT], np.full(n_personas, 1.0 / v.persona), np.full(len(self.exemplars), 1.0 / v.exemplar)]
        )
        precision[np.diag_indices_from(precision)] += own
        self._covariance = np.linalg.inv(precision)
        self._common = self._covariance @ np.asarray(left @ values)
        self._residual = np.where(self.used, self.log_lik - (self._design @ self._common).reshape(self.used.shape), 0.0)
        if learns:
            squares = np.square(self._common) + np.diag(self._covariance)
            personas, exemplars = squares[1 : 1 + n_personas], squares[1 + n_personas :]
            self.variances = replace(
                v,
                persona=max(1e-9, float(personas.mean())),
                exemplar=max(1e-9, float(exemplars.mean())) if len(exemplars) else v.exemplar,
            )

    def _covariances(self, v: Variances, rows: Ints | slice = slice(None)) -> Floats:
        """(n, m, m) of a record's cells at s = 1; cells that are not there vary without end."""
        found = (
            v.own_persona * self._same_persona[rows]
            + v.own_exemplar * self._same_exemplar[rows]
            + v.cell * np.eye(self.used.shape[1])
        )
        missing = ~self.used[rows]
        found[missing, :] = 0.0
        found.transpose(0, 2, 1)[missing, :] = 0.0
        diagonal = np.einsum("nmm->nm", found)
        diagonal[missing] = 1.0
        return np.asarray(found)

    def _contrasts(self, v: Variances) -> Floats:
        """Precision of every record's cells with r_i taken out, (n, m, m): V⁻¹ − V⁻¹ 1 1ᵀ V⁻¹ / 1ᵀ V⁻¹ 1."""
        used = self.used.astype(np.float64)
        inverse = np.linalg.inv(self._covariances(v)) * (used[:, :, None] * used[:, None, :])
        pull = inverse.sum(axis=2)
        total = np.maximum(pull.sum(axis=1), 1e-300)
        return np.asarray(inverse - pull[:, :, None] * pull[:, None, :] / total[:, None, None])

    def _scales(self, within: Floats) -> Floats:
        """(n,) the value of s_i² whose inverse is expected, 1 before anything is known of the residuals."""
        if not hasattr(self, "_residual"):
            return np.ones(len(within))
        distance = np.einsum("ni,nij,nj->n", self._residual, within, self._residual)
        freedom = self.variances.freedom
        return np.asarray((freedom - 2 + distance) / (freedom + self.used.sum(axis=1) - 1))

    def _learn_within(self) -> None:
        """Maximise the likelihood of the residuals, s_i² and r_i integrated out, over v_g, v_x, v_e and freedom."""
        from scipy.optimize import minimize
        from scipy.special import gammaln

        n = len(self._residual)
        rows = np.unique(np.linspace(0, n - 1, min(n, N_LEARNT)).astype(np.int64))
        residual, v = self._residual[rows], self.variances

        def at(x: Floats) -> Variances:
            spread = np.exp(np.clip(x, -20.0, 9.0))
            return replace(
                v,
                own_persona=float(spread[0]),
                own_exemplar=float(spread[1]),
                cell=float(spread[2]),
                freedom=2.5 + float(spread[3]),
            )

        used = self.used[rows].astype(np.float64)
        both = np.stack([used, residual], axis=2)
        df = used.sum(axis=1) - 1.0

        def loss(x: Floats) -> float:
            here = at(x)
            covariance = self._covariances(here, rows)
            root = np.linalg.cholesky(covariance)
            # 1ᵀV⁻¹1, 1ᵀV⁻¹u and uᵀV⁻¹u; with r_i taken out the last is what a mean common to all cells leaves.
            form = both.transpose(0, 2, 1) @ np.linalg.solve(covariance, both)
            distance = form[:, 1, 1] - form[:, 0, 1] ** 2 / form[:, 0, 0]
            log_det = 2 * np.log(np.einsum("nmm->nm", root)).sum(axis=1) + np.log(form[:, 0, 0])
            nu, scale = here.freedom, here.freedom - 2
            value = 0.5 * log_det + 0.5 * df * np.log(scale) + gammaln(nu / 2)
            value += 0.5 * (nu + df) * np.log1p(distance / scale) - gammaln((nu + df) / 2)
            # Few records say nothing of the tails: a weak prior that they are those of ten degrees of freedom.
            return float(value.sum() + 0.02 * (x[3] - 2.0) ** 2)

        x0 = np.log([v.own_persona, v.own_exemplar, v.cell, v.freedom - 2.5])
        found = minimize(
            loss,
            x0,
            method="Nelder-Mead",
            options={
                "maxfev": 100,
                "xatol": 0.03,
                "fatol": 0.05,
                "initial_simplex": np.vstack([x0, x0 + 0.5 * np.eye(4)]),
            },
        )
        self.variances = at(np.asarray(found.x))

    @cached_property
    def _departures(self) -> Floats:
        """Of scored cells from their record's level, in the record's units, pooled: mean 0, variance 1."""
        used = self.used
        within = self._contrasts(self.variances)
        inverse = np.linalg.inv(self._covariances(self.variances)) * (used[:, :, None] & used[:, None, :])
        pull = inverse.sum(axis=2)
        level = (pull * self._residual).sum(axis=1) / np.maximum(pull.sum(axis=1), 1e-300)
        away, v = self._residual - level[:, None], self.variances
        # Divided by a spread that they have no part in: a share of their own variance would cut their tails.
        own = np.square(away) / (v.own_persona + v.own_exemplar + v.cell)
        n_used = used.sum(axis=1)[:, None]
        rest = self._scales(within)[:, None] * (v.freedom + n_used - 1) - own
        away /= np.sqrt(np.maximum(rest, 0.1 * v.freedom) / (v.freedom + n_used - 2))
        pooled = away[used & (used.sum(axis=1) > 2)[:, None]]
        if len(pooled) < FEWEST:
            return np.zeros(0)
        return np.asarray((pooled - pooled.mean()) / max(float(pooled.std()), 1e-12))

    def explained(self, persona: Ints, exemplar: Ints, *, seed: int) -> float:
        """Share of the variance within a record, but for common effects, that scored cells leave no doubt about.

        Two draws of a cell differ by twice the variance that is left. Components (C,) as in `draws`.
        """
        of_exemplar = np.zeros(1 + int(max(exemplar.max(), self.exemplar.max())))
        of_exemplar[self.exemplars] = self._common[1 + self.n_personas :]
        common = self._common[1 + persona] + of_exemplar[exemplar]
        own = [drawn - common for drawn in self.draws(persona, exemplar, seed=seed, n_draws=2, common=False)]
        left = sum(float((one - other).var()) / 2 for one, other in own)
        return 1.0 - left / max(sum(float(both.var(axis=1).mean()) for both in own), 1e-12)

    def draws(
        self,
        persona: Ints,
        exemplar: Ints,
        z: Iterable[Floats] | None = None,
        *,
        seed: int,
        n_draws: int = N_IMPUTATIONS,
        common: bool = True,
        numbers: Ints | None = None,
    ) -> Iterator[Floats]:
        """Log-likelihoods of chosen components of every record in turn, n_draws times.

        Parameters
        ----------
        persona, exemplar : ndarray of int, shape (C,)
            Components, the same for all records.
        z : iterable of n ndarrays, shape (C,), optional
            As in `Effects`, record by record.
        seed : int
            Draw b of record i depends on (seed, i), and on the common effects, drawn with (seed) alone.
        common : bool
            Whether common effects are drawn; else they are what is expected of them.
        numbers : ndarray of int, shape (n,), optional
            Of the records, instead of their place: what a record's draws depend on.

        Yields
        ------
        ndarray, shape (n_draws, C)
            Nats; scored cells as they are.
        """
        n, n_exemplars = len(self.persona), 1 + int(max(exemplar.max(), self.exemplar.max()))
        v, rng = self.variances, rng_of(seed, "imputation", "common")
        spread = float(common)
        root = np.linalg.cholesky(self._covariance)
        drawn = self._common + spread * (rng.standard_normal((n_draws, len(root))) @ root.T)
        slope, a = drawn[:, :1], drawn[:, 1 : 1 + self.n_personas]
        b = spread * np.sqrt(v.exemplar) * rng.standard_normal((n_draws, n_exemplars))
        b[:, self.exemplars] = drawn[:, 1 + self.n_personas :]
        number = persona * n_exemplars + exemplar
        order = np.argsort(number)
        within = self._contrasts(v)
        distance = np.einsum("ni,nij,nj->n", self._residual, within, self._residual)
        for i, z_i in enumerate(np.zeros((n, 1)) if z is None else z):
            use = self.used[i]
            k, j, y = (of[i, use] for of in (self.persona, self.exemplar, self.log_lik))
            rng = rng_of(seed, "imputation", i if numbers is None else int(numbers[i]))
            chi2 = rng.chisquare(v.freedom + use.sum() - 1, n_draws)
            s = np.sqrt((v.freedom - 2 + distance[i]) / chi2)[:, None]
            g = s * np.sqrt(v.own_persona) * rng.standard_normal((n_draws, self.n_personas))
            x = rng.standard_normal((n_draws, n_exemplars))
            # An exemplar that the record has not met departs as those that it has met.
            if len(self._departures):
                unseen = np.setdiff1d(np.arange(n_exemplars), j)
                x[:, unseen] = rng.choice(self._departures, size=(n_draws, len(unseen)))
            x *= s * np.sqrt(v.own_exemplar)
            e = s * np.sqrt(v.cell) * rng.standard_normal((n_draws, len(persona)))
            e_scored = s * np.sqrt(v.cell) * rng.standard_normal((n_draws, len(k)))
            rest = y - slope * self.z[i, use] - a[:, k] - b[:, j]
            covariance = self._covariances(v, np.array([i]))[0][np.ix_(use, use)]
            precision = np.linalg.inv(covariance)
            pull = precision.sum(axis=0)
            level = rest @ pull / pull.sum() + s[:, 0] * rng.standard_normal(n_draws) / np.sqrt(pull.sum())
            off = (rest - level[:, None] - g[:, k] - x[:, j] - e_scored) @ precision
            np.add.at(g.T, k, v.own_persona * off.T)
            np.add.at(x.T, j, v.own_exemplar * off.T)
            found = level[:, None] + slope * z_i + a[:, persona] + b[:, exemplar]
            found += g[:, persona] + x[:, exemplar] + e
            where = np.minimum(np.searchsorted(number, k * n_exemplars + j, sorter=order), len(order) - 1)
            hit = number[order[where]] == k * n_exemplars + j
            found[:, order[where[hit]]] = y[hit]
            yield found
