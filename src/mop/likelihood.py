"""How likely are given records under a fitted mixture: exactly where that is affordable, else estimated.

Letters: n records, m scored components, K personas, N exemplars, G nodes of the score curve.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.base import Scorer
from mop.curve import weights as curve_weights
from mop.curve import weights_derivative
from mop.errors import ConfigError
from mop.fitted import (
    FittedMixture,
    unconditional_mixture,
    uniform_mixture,
    with_temperatures,
)
from mop.mixture import (
    Estimate,
    Floats,
    dealing_order,
    estimate_log_mixture,
    log_mixture,
    log_sum_exp,
    spread_draw,
)
from mop.randomness import generator
from mop.score import Component, score_columns, score_table
from mop.store import Store
from mop.types import Progress, Record

logger = logging.getLogger(__name__)

SHARED = 6
"""Records that share their drawn components. Fewer share less of the prompts, and with them of the work; more
share the luck of the draw, which then does not average out over records."""


@dataclass(frozen=True)
class Table:
    """Records scored under m components each, and how these were drawn."""

    persona: NDArray[np.int64]
    """(n, m) with ``exemplar`` the components of each record; one may occur several times when drawn."""
    exemplar: NDArray[np.int64]
    """(n, m)"""
    curves: NDArray[np.float32]
    """(n, m, G) nats; meaningless where not allowed."""
    allowed: NDArray[np.bool_]
    """(n, m) False where the exemplar is the record itself."""
    n_tokens: NDArray[np.int64]
    """(n,) response tokens, end-of-turn included."""
    log_proposal: Floats | None
    """(n, m) log of the chance of each draw; None if these are all K × N components."""
    hx: NDArray[np.float32]
    """(n, D) context embeddings."""
    own: NDArray[np.int64]
    """(n,) row of the exemplar that is the record itself, -1 if none is."""
    weight: Floats
    """(n,) survey weights of the records."""
    betas: tuple[float, ...]
    group: NDArray[np.int64] | None = None
    """(n,) records with one number share their draws; None where nothing was drawn."""

    @property
    def n_components(self) -> int:
        """Components scored for one record, at the most."""
        return int(self.allowed.sum(axis=1).max())

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

    Every `SHARED` records get ``n_components`` draws of their own. All K × N components are scored,
    without any drawing, if they are no more than ``n_components``.

    Parameters
    ----------
    fitted : FittedMixture
    records : sequence of n Record
    hx : ndarray, shape (n, D)
        Embeddings of their contexts.
    scorer, store
        Only what the store lacks is scored.
    n_components : int
        Drawn for each record.
    seed : int
        Of the draws.
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
    if is_at_other_temperatures(fitted, scorer.betas):
        logger.warning(
            "%s scores at temperature %g only, and personas draw at others (%.2f to %.2f): all likelihoods "
            "are those at %g; use a scorer that knows every temperature for the mixture's own",
            scorer.name, 1 / scorer.betas[0], fitted.temperatures.min(), fitted.temperatures.max(),
            1 / scorer.betas[0],
        )  # fmt: skip
    n_exemplars = len(fitted.exemplars)
    n_all = len(fitted.personas) * n_exemplars
    own = fitted.own(records)
    log_proposal = group = None
    if n_all <= n_components:
        flat = np.broadcast_to(np.arange(n_all), (len(records), n_all))
    else:
        proposal = 0.5 / n_all + 0.5 * mean_weight(fitted.gate, hx, own)
        n_groups = -(-len(records) // SHARED)
        rng = generator(seed, "held-out")
        drawn = spread_draw(proposal, n_groups * n_components, rng)
        # In order and dealt in turn, so that the draws of a group are varied as well.
        place = dealing_order(len(fitted.personas), n_exemplars, rng)
        drawn = drawn[np.argsort(place[drawn], kind="stable")]
        group = np.arange(len(records)) % n_groups
        flat = drawn.reshape(n_components, n_groups).T[group]
        log_proposal = np.log(proposal[flat])
    persona, exemplar = np.divmod(flat, n_exemplars)
    scored = score_columns(
        records,
        [
            list(zip(*row, strict=True))
            for row in zip(persona.tolist(), exemplar.tolist(), strict=True)
        ],
        fitted.personas,
        fitted.exemplars,
        scorer=scorer,
        store=store,
        task=fitted.task,
        progress=progress,
    )
    return Table(
        persona=persona,
        exemplar=exemplar,
        curves=scored.curves,
        allowed=~scored.masked,
        n_tokens=scored.n_tokens,
        log_proposal=log_proposal,
        hx=hx,
        own=own,
        weight=np.array([record.weight for record in records]),
        betas=scorer.betas,
        group=group,
    )


def is_at_other_temperatures(fitted: FittedMixture, betas: Sequence[float]) -> bool:
    """Whether a scorer that knows one temperature alone cannot tell the likelihoods of this mixture."""
    return len(betas) == 1 and not np.allclose(fitted.temperatures * betas[0], 1.0, atol=1e-3)


def log_terms(table: Table, fitted: FittedMixture) -> tuple[Floats, Floats]:
    """Log-likelihoods at the personas' temperatures and log weights, both (n, m); -inf where not allowed."""
    nodes = np.stack([curve_weights(1.0 / tau, table.betas) for tau in fitted.temperatures])
    log_lik = np.einsum("nmg,nmg->nm", table.curves, nodes[table.persona])
    log_weight = fitted.log_weight(table.hx, table.persona, table.exemplar, table.own)
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


def error_of_mean(table: Table, standard_error: Floats) -> float:
    """Standard error of the weighted mean of estimates (n,).

    Records that share draws may err the same way, so their errors add up; those of others are independent.
    """
    share = standard_error * table.weight / table.weight.sum()
    if table.group is None:
        return float(share.sum())
    return float(np.sqrt(np.square(np.bincount(table.group, share)).sum()))


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
    np.add.at(posterior, (np.arange(len(share))[:, None], table.persona), share)
    return posterior


def _log_joint(table: Table, fitted: FittedMixture) -> Floats:
    """Log w_c p_c / q_c, (n, m); -inf where not allowed."""
    log_lik, log_weight = log_terms(table, fitted)
    log_proposal = 0.0 if table.log_proposal is None else table.log_proposal
    return np.where(table.allowed, log_lik + log_weight - log_proposal, -np.inf)


@dataclass(frozen=True)
class Terms:
    """What a likelihood adds up: log p of a record is the log-sum-exp of its row."""

    log_term: Floats
    """(n, m) nats; minus infinity where not allowed."""
    is_exact: bool
    """Whether these are all components; otherwise the columns are draws."""
    group: NDArray[np.int64] | None = None
    """(n,) see `Table`."""

    @property
    def log_mix(self) -> Floats:
        """(n,) nats."""
        return log_sum_exp(self.log_term)


def mixture_terms(table: Table, fitted: FittedMixture) -> Terms:
    """What `estimate` adds up."""
    log_term = _log_joint(table, fitted)
    if not table.is_exact:
        log_term = log_term - np.log(table.persona.shape[1])
    return Terms(log_term, table.is_exact, table.group)


def gain_interval(
    table: Table,
    fitted: FittedMixture,
    reference: FittedMixture,
    *,
    seed: int,
    n_resamples: int = 2_000,
) -> dict[str, Any]:
    """Gain of one mixture over another on the same records and components: see `gain_over`."""
    return gain_over(
        mixture_terms(table, fitted),
        mixture_terms(table, reference),
        n_tokens=table.n_tokens,
        weight=table.weight,
        shares_draws=True,
        seed=seed,
        n_resamples=n_resamples,
    )


def gain_over(
    ours: Terms,
    theirs: Terms,
    *,
    n_tokens: NDArray[np.int64],
    weight: Floats,
    shares_draws: bool,
    seed: int,
    n_resamples: int = 2_000,
) -> dict[str, Any]:
    """Gain in mean log-likelihood on the same records, with 95 % intervals.

    Records are resampled in pairs, and so are drawn components, because both are samples:
    an interval over records alone would be too narrow.

    Parameters
    ----------
    ours, theirs : Terms
        Rows are the same n records.
    n_tokens : ndarray, shape (n,)
    weight : ndarray, shape (n,)
        Survey weights.
    shares_draws : bool
        Whether the columns of both are the same draws.
    seed : int
    n_resamples : int

    Returns
    -------
    dict
        ``gain`` (nats per record), ``gain_interval`` [low, high], ``gain_per_token``,
        ``gain_per_token_interval``.

    Notes
    -----
    Source: the two-way ("pigeonhole") bootstrap, Owen 2007, arXiv 0712.1111; it is conservative.
    """
    rng = generator(seed, "gain-bootstrap")
    point, n = ours.log_mix - theirs.log_mix, len(weight)
    gains, per_token = [], []
    for start in range(0, n_resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, n_resamples - start)
        count = rng.multinomial(n, np.full(n, 1.0 / n), size=size).T * weight[:, None]  # (n, B)
        first, drawn = _resampled(ours, size, rng, None)
        second, _ = _resampled(theirs, size, rng, drawn if shares_draws else None)
        with np.errstate(invalid="ignore"):
            value = first - second
        known = np.isfinite(value)  # a resample may leave a record no component that it may use
        count = np.where(known, count, 0.0)
        total = (count * np.where(known, value, 0.0)).sum(axis=0)
        gains.append(total / count.sum(axis=0))
        per_token.append(total / (count * n_tokens[:, None]).sum(axis=0))
    interval, token_interval = (
        np.quantile(np.concatenate(values), [0.025, 0.975]).tolist()
        for values in (gains, per_token)
    )
    return {
        "gain": float(np.average(point, weights=weight)),
        "gain_interval": interval,
        "gain_per_token": float(point @ weight / (n_tokens @ weight)),
        "gain_per_token_interval": token_interval,
    }


_RESAMPLES_AT_ONCE = 250


def _resampled(
    terms: Terms, size: int, rng: np.random.Generator, count: Floats | None
) -> tuple[Floats, Floats | None]:
    """Log-likelihoods (n, B) under B resamples of the drawn components, and their counts (groups, m, B)."""
    if terms.is_exact:
        return np.broadcast_to(terms.log_mix[:, None], (len(terms.log_term), size)), None
    n, m = terms.log_term.shape
    group = np.zeros(n, dtype=np.int64) if terms.group is None else terms.group
    if count is None:
        shape, share = (int(group.max()) + 1, size), np.full(m, 1.0 / m)
        count = rng.multinomial(m, share, size=shape).transpose(0, 2, 1).astype(np.float64)
    top = terms.log_term.max(axis=1, keepdims=True)
    total = np.empty((n, size))
    for number, of in enumerate(count):
        rows = group == number
        total[rows] = np.exp(terms.log_term[rows] - top[rows]) @ of
    with np.errstate(divide="ignore"):
        return np.log(total) + top, count


def summarise(
    table: Table, fitted: FittedMixture, reference: FittedMixture, *, seed: int
) -> dict[str, Any]:
    """Mean log-likelihood per record of a mixture and of untrained gates, in nats, by survey weight.

    Returns
    -------
    dict
        ``kind``: ``exact``, or ``bound``: an estimate whose expectation is at most the true value;
        ``scored_at``: None, or the one temperature at which the scorer knows likelihoods where the
        mixture has others (all figures are then at that one); ``mop`` and ``mop-uniform`` (means), what
        `gain_interval` gives, ``standard_error`` of the mixture's mean as an estimate (0 if exact),
        ``n_records``, ``n_components``, ``is_exact``, and ``effective_components``, the median number
        that the estimates rest on.
    """
    ours, other = estimate(table, fitted), estimate(table, reference)
    share = table.weight / table.weight.sum()
    return {
        "kind": "exact" if table.is_exact else "bound",
        "scored_at": (
            1 / table.betas[0] if is_at_other_temperatures(fitted, table.betas) else None
        ),
        "mop": float(ours.log_mix @ share),
        "mop-uniform": float(other.log_mix @ share),
        **gain_interval(table, fitted, reference, seed=seed),
        "standard_error": error_of_mean(table, ours.standard_error),
        "n_records": len(ours.log_mix),
        "n_components": table.n_components,
        "is_exact": table.is_exact,
        "effective_components": float(np.median(ours.effective_components)),
    }


REFERENCES: dict[str, str] = {
    "mop-uniform": "uniform gates",
    "unconditional": "weights that ignore the context",
    "single-component": "the best persona with the best exemplar",
    "no-persona": "exemplars alone, weighted evenly",
    "no-exemplar": "personas alone, weighted evenly",
    "zero-shot": "neither persona nor exemplar",
}
"""What a fitted mixture is held against, and what each is."""


def references(
    fitted: FittedMixture,
    table: Table,
    records: Sequence[Record],
    *,
    scorer: Scorer,
    store: Store,
    n_components: int,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Likelihood of the same records under simpler models, and what the mixture gains over each.

    Uniform gates and unconditional weights come from the table. The others need scores of their own, for
    which at most ``n_components`` prompts per record are asked: the single component that did best in
    the fit, exemplars without a persona, personas without an exemplar, and neither. The last
    three, and after `refit_temperatures` all four, have the one temperature that suits these very
    records best, which is in their favour.

    Parameters
    ----------
    fitted : FittedMixture
    table : Table
        Of ``records``.
    records : sequence of n Record
    scorer, store
        Only what the store lacks is scored.
    n_components : int
        Of the exemplars alone, and of the personas alone; 0 leaves out all that needs scores.
    seed : int
    progress : callable, optional

    Returns
    -------
    dict
        A name in `REFERENCES` to ``log_lik`` (mean, nats per record), ``kind`` (``exact`` or
        ``bound``), ``temperature`` (None where each persona has its own) and what `gain_over`
        gives: the mixture's gain over the reference.
    """
    ours = mixture_terms(table, fitted)
    mixtures = {
        "mop-uniform": uniform_mixture(fitted),
        "unconditional": unconditional_mixture(fitted),
    }
    found: dict[str, tuple[Terms, bool, float | None]] = {
        name: (mixture_terms(table, mixture), True, None)
        for name, mixture in mixtures.items()
        if mixture is not None
    }
    for name, components, tau in _plain_components(fitted, n_components, seed):
        scored = score_table(
            records, components, fitted.personas, fitted.exemplars,
            scorer=scorer, store=store, task=fitted.task, stage="references", progress=progress,
        )  # fmt: skip
        allowed = ~scored.masked
        of_all = {"no-persona": len(fitted.exemplars), "no-exemplar": len(fitted.personas)}
        is_exact = len(components) == of_all.get(name, 1)
        if not bool(allowed.any(axis=1).all()):
            continue  # a record that may see nothing of this has no likelihood under it
        best = tau if tau is not None else _best_tau(scored.curves, allowed, table)
        terms = _even_terms(scored.curves, allowed, best, table.betas)
        found[name] = (Terms(terms, is_exact), False, best)
    share = table.weight / table.weight.sum()
    return {
        name: {
            "log_lik": float(terms.log_mix @ share),
            "kind": "exact" if terms.is_exact else "bound",
            "temperature": tau,
            **gain_over(
                ours, terms, n_tokens=table.n_tokens, weight=table.weight,
                shares_draws=shares, seed=seed,
            ),
        }
        for name, (terms, shares, tau) in found.items()
    }  # fmt: skip


def _plain_components(
    fitted: FittedMixture, n_components: int, seed: int
) -> list[tuple[str, list[Component], float | None]]:
    """Name, components and temperature (None: to be found) of the references that need scores."""
    if n_components < 1:
        return []
    found: list[tuple[str, list[Component], float | None]] = []
    single = fitted.info.get("best_component")
    if single is not None:
        found.append(("single-component", [(single["persona"], single["exemplar"])], single["tau"]))

    def some(n: int, purpose: str) -> list[int]:
        order = generator(seed, purpose).permutation(n)[:n_components]
        return [int(row) for row in np.sort(order)]

    found.append(
        ("no-persona", [(None, j) for j in some(len(fitted.exemplars), "exemplars")], None)
    )
    found.append(("no-exemplar", [(k, None) for k in some(len(fitted.personas), "personas")], None))
    return [*found, ("zero-shot", [(None, None)], None)]


def _even_terms(
    curves: NDArray[np.float32], allowed: NDArray[np.bool_], tau: float, betas: tuple[float, ...]
) -> Floats:
    """Log of an even share of each allowed component's likelihood, (n, m)."""
    log_lik = curves.astype(np.float64) @ curve_weights(1.0 / tau, betas)
    log_share = -np.log(allowed.sum(axis=1, keepdims=True))
    return np.where(allowed, log_lik + log_share, -np.inf)


def _best_tau(curves: NDArray[np.float32], allowed: NDArray[np.bool_], table: Table) -> float:
    """The temperature under which evenly weighted components explain the records best."""
    betas = table.betas
    grid = np.linspace(betas[0], betas[-1], 200) if len(betas) > 1 else np.array(betas)
    values = [
        log_sum_exp(_even_terms(curves, allowed, 1.0 / beta, betas)) @ table.weight for beta in grid
    ]
    return float(1.0 / grid[int(np.argmax(values))])


def refit_temperatures(
    fitted: FittedMixture, table: Table, *, spread: float = 0.05
) -> FittedMixture:
    """The same gates with temperatures that suit another language model.

    Parameters
    ----------
    fitted : FittedMixture
    table : Table
        A small sample of records, scored by the other model under components drawn from ``fitted``.
    spread : float
        Prior standard deviation of what moves a persona's log τ apart from the others'.

    Returns
    -------
    FittedMixture
        Every log τ is moved by a common amount and an own one, also of the weights that ignore the context;
        ``info`` has the refitted ``uniform_tau``, no ``temperatures`` (those of the fit), and no ``tau`` of
        the best component: it is found on the records that this is held against.

    Raises
    ------
    ConfigError
        If the scorer knows log-likelihoods at τ = 1 alone.
    """
    if len(table.betas) == 1:
        raise ConfigError(
            "temperatures cannot be refitted with a model that scores at temperature 1 alone; use "
            "a local model, or the temperatures as they are"
        )
    free = unconditional_mixture(fitted)
    offset = 0.0 if table.log_proposal is None else table.log_proposal
    even = np.where(table.allowed, np.broadcast_to(-offset, table.allowed.shape), -np.inf)
    grid = np.linspace(table.betas[0], table.betas[-1], 200)
    values = [
        log_sum_exp(even + table.curves @ curve_weights(float(beta), table.betas)) @ table.weight
        for beta in grid
    ]
    best = fitted.info.get("best_component")
    return replace(
        _moved_temperatures(fitted, table, spread),
        unconditional=None if free is None else _moved_temperatures(free, table, spread).gate,
        info={
            **fitted.info,
            "uniform_tau": float(1.0 / grid[int(np.argmax(values))]),
            "temperatures": None,
            "best_component": None if best is None else {**best, "tau": None},
        },
    )


def _moved_temperatures(fitted: FittedMixture, table: Table, spread: float) -> FittedMixture:
    from scipy.optimize import minimize

    betas = table.betas
    _, log_weight = log_terms(table, fitted)
    offset = 0.0 if table.log_proposal is None else table.log_proposal
    log_w = np.where(table.allowed, log_weight - offset, -np.inf)
    curves, persona = table.curves.astype(np.float64), table.persona
    share = table.weight / table.weight.sum()
    before = np.log(fitted.temperatures)
    low, high = -np.log(betas[-1]), -np.log(betas[0])

    def taus(x: Floats) -> Floats:
        return np.asarray(np.clip(before + x[0] + spread * x[1:], low, high), dtype=np.float64)

    def loss(x: Floats) -> tuple[float, Floats]:
        beta = np.exp(-taus(x))
        nodes, slopes = curve_weights(beta, betas), weights_derivative(beta, betas)  # (K, G)
        term = log_w + np.einsum("nmg,nmg->nm", curves, nodes[persona])
        log_mix = log_sum_exp(term)
        resp = np.exp(term - log_mix[:, None]) * share[:, None]
        slope = np.einsum("nmg,nmg->nm", curves, slopes[persona]) * -beta[persona]
        by_persona = np.bincount(persona.ravel(), (resp * slope).ravel(), minlength=len(before))
        n = len(share)
        gradient = np.concatenate([[-by_persona.sum()], -spread * by_persona + x[1:] / n])
        return float(0.5 * np.square(x[1:]).sum() / n - log_mix @ share), gradient

    found = minimize(loss, np.zeros(1 + len(before)), jac=True, method="L-BFGS-B")
    return with_temperatures(fitted, np.exp(taus(np.asarray(found.x))))
