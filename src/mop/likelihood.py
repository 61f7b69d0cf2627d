"""How likely are given records under a fitted mixture: exactly where that is affordable, else estimated.

Letters: n records, m scored components, K personas, N exemplars, G nodes of the score curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.base import Scorer
from mop.curve import weights as curve_weights
from mop.errors import ConfigError
from mop.fitted import FittedMixture
from mop.mixture import (
    Estimate,
    Floats,
    estimate_log_mixture,
    log_mixture,
    log_sum_exp,
    spread_draw,
)
from mop.randomness import generator
from mop.score import score_table
from mop.store import Store
from mop.types import Progress, Record


@dataclass(frozen=True)
class Table:
    """Records scored under the same m components, and how these were drawn."""

    components: tuple[tuple[int, int], ...]
    """m pairs (persona, exemplar); one may occur several times when drawn."""
    curves: NDArray[np.float32]
    """(n, m, G) nats; meaningless where not allowed."""
    allowed: NDArray[np.bool_]
    """(n, m) False where the exemplar is the record itself."""
    n_tokens: NDArray[np.int64]
    """(n,) response tokens, end-of-turn included."""
    log_proposal: Floats | None
    """(m,) log probability of each draw; None if these are all K × N components."""
    hx: NDArray[np.float32]
    """(n, D) context embeddings."""
    own: NDArray[np.int64]
    """(n,) row of the exemplar that is the record itself, -1 if none is."""
    weight: Floats
    """(n,) survey weights of the records."""
    betas: tuple[float, ...]

    @property
    def is_exact(self) -> bool:
        """Whether every component was scored."""
        return self.log_proposal is None


def score_for_likelihood(
    fitted: FittedMixture,
    records: Sequence[Record],
    hx: NDArray[np.float32],
    *,
    scorer: Scorer,
    store: Store,
    n_components: int,
    seed: int,
    progress: Progress | None = None,
) -> Table:
    """Score records under components drawn half evenly and half from the gates' average weights.

    All K × N components are scored, without any drawing, if they are no more than ``n_components``.

    Parameters
    ----------
    fitted : FittedMixture
    records : sequence of n Record
    hx : ndarray, shape (n, D)
        Embeddings of their contexts.
    scorer, store
        Only what the store lacks is scored.
    n_components : int
        m.
    seed : int
        Of the draw.
    progress : callable, optional

    Returns
    -------
    Table

    Raises
    ------
    ConfigError
        If ``n_components`` is below 1.
    """
    from mop.gate import mean_weight

    if n_components < 1:
        raise ConfigError(
            f"the number of components to score must be at least 1, got {n_components}"
        )
    n_exemplars = len(fitted.exemplars)
    n_all = len(fitted.personas) * n_exemplars
    own = fitted.own(records)
    if n_all <= n_components:
        flat = np.arange(n_all)
        log_proposal = None
    else:
        proposal = 0.5 / n_all + 0.5 * mean_weight(fitted.gate, hx, own)
        flat = np.sort(spread_draw(proposal, n_components, generator(seed, "held-out")))
        log_proposal = np.log(proposal[flat])
    components = tuple((int(c) // n_exemplars, int(c) % n_exemplars) for c in flat)
    scored = score_table(
        records,
        components,
        fitted.personas,
        fitted.exemplars,
        scorer=scorer,
        store=store,
        task=fitted.task,
        progress=progress,
    )
    return Table(
        components=components,
        curves=scored.curves,
        allowed=~scored.masked,
        n_tokens=scored.n_tokens,
        log_proposal=log_proposal,
        hx=hx,
        own=own,
        weight=np.array([record.weight for record in records]),
        betas=scorer.betas,
    )


def log_terms(table: Table, fitted: FittedMixture) -> tuple[Floats, Floats]:
    """Log-likelihoods at the personas' temperatures and log weights, both (n, m); -inf where not allowed."""
    nodes = np.stack([curve_weights(1.0 / tau, table.betas) for tau in fitted.temperatures])
    persona = np.array([k for k, _ in table.components])
    log_lik = np.einsum("nmg,mg->nm", table.curves.astype(np.float64), nodes[persona])
    log_weight = fitted.log_weight(table.hx, table.components, table.own)
    return np.where(table.allowed, log_lik, -np.inf), log_weight


def estimate(table: Table, fitted: FittedMixture) -> Estimate:
    """Log p(y|x) of every record under a mixture with the same personas and exemplars.

    Returns
    -------
    Estimate
        With standard error 0 if the table holds all components.
    """
    log_lik, log_weight = log_terms(table, fitted)
    if table.log_proposal is not None:
        return estimate_log_mixture(log_lik, log_weight, table.log_proposal, allowed=table.allowed)
    weight = np.where(table.allowed, log_weight, -np.inf)
    resp = log_lik + weight - log_mixture(log_lik, weight)[:, None]
    return Estimate(
        log_mixture(log_lik, weight), np.zeros(len(resp)), 1.0 / np.square(np.exp(resp)).sum(axis=1)
    )


def component_posterior(table: Table, fitted: FittedMixture) -> Floats:
    """Posterior of each scored component given the text, (n, m); rows sum to 1.

    Drawn components stand for those that were not drawn, by their importance weights.
    """
    log_term = _log_joint(table, fitted)
    share = np.exp(log_term - log_term.max(axis=1, keepdims=True))
    return np.asarray(share / share.sum(axis=1, keepdims=True))


def persona_posterior(table: Table, fitted: FittedMixture) -> Floats:
    """Posterior of each persona given the text, (n, K); rows sum to 1. Estimated where the table is."""
    share = component_posterior(table, fitted)
    posterior = np.zeros((len(share), len(fitted.personas)))
    for column, (persona, _) in enumerate(table.components):
        posterior[:, persona] += share[:, column]
    return posterior


def _log_joint(table: Table, fitted: FittedMixture) -> Floats:
    """Log w_c p_c / q_c, (n, m); -inf where not allowed."""
    log_lik, log_weight = log_terms(table, fitted)
    log_proposal = 0.0 if table.log_proposal is None else table.log_proposal
    return np.where(table.allowed, log_lik + log_weight - log_proposal, -np.inf)


def gain_interval(
    table: Table,
    fitted: FittedMixture,
    reference: FittedMixture,
    *,
    seed: int,
    n_resamples: int = 2_000,
) -> dict[str, Any]:
    """Gain of one mixture over another on the same records and components, with a 95 % interval.

    Records are resampled in pairs, and so are the drawn components, because both are
    samples: an interval over records alone would be too narrow.

    Returns
    -------
    dict
        ``gain`` (nats per record), ``gain_interval`` [low, high], ``gain_per_token``.

    Notes
    -----
    Source: the two-way ("pigeonhole") bootstrap, Owen 2007, arXiv 0712.1111; it is conservative.
    """
    terms = [_log_joint(table, mixture) for mixture in (fitted, reference)]
    n, m = terms[0].shape
    point = log_sum_exp(terms[0]) - log_sum_exp(terms[1])
    rng = generator(seed, "gain-bootstrap")
    values = np.empty(n_resamples)
    for b in range(n_resamples):
        rows = rng.integers(n, size=n)
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = np.bincount(rng.integers(m, size=m), minlength=m)
            log_count = np.log(np.ones(m) if table.is_exact else drawn)
            first, second = (log_sum_exp(term[rows] + log_count) for term in terms)
            value = first - second
        known = np.isfinite(value)  # a resample may leave a record no component that it may use
        values[b] = np.average(value[known], weights=table.weight[rows][known])
    low, high = np.quantile(values, [0.025, 0.975])
    return {
        "gain": float(np.average(point, weights=table.weight)),
        "gain_interval": [float(low), float(high)],
        "gain_per_token": float(point @ table.weight / (table.n_tokens @ table.weight)),
    }


def summarise(
    table: Table, fitted: FittedMixture, reference: FittedMixture, *, seed: int
) -> dict[str, Any]:
    """Mean log-likelihood per record of a mixture and of untrained gates, in nats, by survey weight.

    Returns
    -------
    dict
        ``mop`` and ``mop-uniform`` (means), what `gain_interval` gives, ``standard_error`` of the
        mixture's mean as an estimate (0 if exact), ``n_records``, ``n_components``, ``is_exact``,
        and ``effective_components``, the median number that the estimates rest on.
    """
    ours, other = estimate(table, fitted), estimate(table, reference)
    share = table.weight / table.weight.sum()
    return {
        "mop": float(ours.log_mix @ share),
        "mop-uniform": float(other.log_mix @ share),
        **gain_interval(table, fitted, reference, seed=seed),
        "standard_error": float(np.sqrt(np.square(ours.standard_error * share).sum())),
        "n_records": len(ours.log_mix),
        "n_components": len(table.components),
        "is_exact": table.is_exact,
        "effective_components": float(np.median(ours.effective_components)),
    }
