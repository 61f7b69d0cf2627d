"""How likely are given records under a fitted mixture: exactly where that is affordable, else by imputation.

Letters: n records, M scored components, K personas, N exemplars, C components of a sum, B imputations, G nodes of the
score curve.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.base import Scorer
from mop.errors import ConfigError
from mop.mixture.cells import Cells
from mop.mixture.em import best_single_tau
from mop.mixture.fitted import FittedMixture, unconditional_mixture, uniform_mixture, with_temperatures
from mop.mixture.imputation import Effects, Variances
from mop.mixture.score import Component, Scoring, clusters, score_columns
from mop.mixture.sums import Floats, best_beta, clustered_error, log_mixture, log_sum_exp, spread_draw
from mop.randomness import derive_seed, rng_of
from mop.storage.store import Store
from mop.types import Progress, Record

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]

SHARED = 6
"""Records that share their drawn components. Fewer share less of the prompts, and with them of the work."""
AGAIN = 0.25
"""Share of the draws that show an exemplar drawn before under another persona: they tell what an exemplar is worth
to a record from what a component is."""
MOST_COMPONENTS = 20_000
"""C. Where there are more, so many are drawn, and stand for the others by their weights."""
_BLOCK = 64  # records whose weights are worked out together


@dataclass(frozen=True)
class Table(Cells):
    """Records scored under M components each, and how these were drawn; one may occur several times."""

    n_tokens: Ints
    """(n,) response tokens, end-of-turn included."""
    log_proposal: Floats | None
    """(n, M) log of the chance of each draw; None if these are all K × N components."""
    hx: NDArray[np.float32]
    """(n, D) context embeddings."""
    own: Ints
    """(n,) row of the exemplar that is the record itself, -1 if none is."""
    weight: Floats
    """(n,) survey weights of the records."""
    betas: tuple[float, ...]
    cluster: Ints
    """(n,) records of one number belong together (`Record.group`): an interval takes them as one."""

    @property
    def n_components(self) -> int:
        """Components scored for one record, at the most."""
        return int(self.present.sum(axis=1).max())

    @property
    def is_exact(self) -> bool:
        """Whether every component was scored."""
        return self.log_proposal is None

    @property
    def log_stands_for(self) -> Floats | float:
        """(n, M) log of how many components each drawn one stands for, times M; 0 where all are there."""
        return 0.0 if self.log_proposal is None else -self.log_proposal


def draw_components(weight: Floats, n_components: int, n_exemplars: int, rng: np.random.Generator) -> Ints:
    """Draw components half evenly and half by a mixture's weights, some of them with an exemplar drawn before.

    Parameters
    ----------
    weight : ndarray, shape (K·N,)
        Chance of each component (k, j), at k·N + j.
    n_components : int
        m.
    n_exemplars : int
        N.
    rng : numpy Generator

    Returns
    -------
    ndarray of int, shape (m,)
        Each by itself drawn with these chances; one may occur twice.
    """
    n_again = int(AGAIN * n_components) if len(weight) > n_exemplars else 0
    first = spread_draw(weight, n_components - n_again, rng)
    exemplar = rng.permutation(first)[:n_again] % n_exemplars
    given = weight.reshape(-1, n_exemplars)[:, exemplar]
    persona = np.argmax(np.cumsum(given, axis=0) > rng.random(len(exemplar)) * given.sum(axis=0), axis=0)
    return np.concatenate([first, persona * n_exemplars + exemplar]).astype(np.int64)


def components_of(
    fitted: FittedMixture, hx: NDArray[np.float32], own: Ints, n_components: int, *, seed: int
) -> tuple[Ints, Ints, Floats | None]:
    """Components that each record is to be scored under: all of them, or as many as asked for.

    Returns
    -------
    persona, exemplar : ndarray of int, shape (n, m)
    log_proposal : ndarray, shape (n, m), or None
        Log chance of each draw, half even and half the mean weight of the `SHARED` records that have these draws
        in common; None where nothing is drawn.
    """
    n, n_exemplars = len(hx), len(fitted.exemplars)
    n_all = len(fitted.personas) * n_exemplars
    if n_all <= n_components:
        return *np.divmod(np.broadcast_to(np.arange(n_all), (n, n_all)), n_exemplars), None
    flat = np.empty((n, n_components), dtype=np.int64)
    log_proposal = np.empty(flat.shape)
    n_groups = -(-n // SHARED)
    for g in range(n_groups):
        rows = np.arange(g, n, n_groups)
        weight = 0.5 / n_all + 0.5 * fitted.mean_weight(hx[rows], own[rows])
        rng = rng_of(seed, "held-out", g)
        flat[rows] = draw_components(weight, n_components, n_exemplars, rng)
        alone = rows[(flat[rows] % n_exemplars == own[rows, None]).all(axis=1)] if n_exemplars > 1 else rows[:0]
        flat[alone, -1] = (own[alone] + 1) % n_exemplars  # one alone, itself, would leave no likelihood
        log_proposal[rows] = np.log(weight[flat[rows]])
    return *np.divmod(flat, n_exemplars), log_proposal


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
    """Score records under components drawn half evenly and half from the gates' weights.

    Every `SHARED` records get ``n_components`` draws of their own. All K × N components are scored,
    without any drawing, if they are no more than ``n_components``.

    Parameters
    ----------
    fitted : FittedMixture
    records : sequence of n Record
    hx : ndarray, shape (n, D)
        Embeddings of their contexts.
    scorer, store
        Only what is not in the store is scored.
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
        If ``n_components`` is below 2, and there are more components.
    """
    n_all = len(fitted.personas) * len(fitted.exemplars)
    if n_components < min(2, n_all):
        raise ConfigError(
            f"the number of components to score must be at least 2, got {n_components}: one alone does not tell "
            "how much they differ"
        )
    if is_at_other_temperatures(fitted, scorer.betas):
        logger.warning(
            "%s scores at temperature %g only, and personas draw at others (%.2f to %.2f): all likelihoods "
            "are those at %g; use a scorer that knows every temperature for the mixture's own",
            scorer.name, 1 / scorer.betas[0], fitted.temperatures.min(), fitted.temperatures.max(),
            1 / scorer.betas[0],
        )  # fmt: skip
    own = fitted.own(records)
    persona, exemplar, log_proposal = components_of(fitted, hx, own, n_components, seed=seed)
    scored = score_columns(
        records,
        [list(zip(*row, strict=True)) for row in zip(persona.tolist(), exemplar.tolist(), strict=True)],
        _scoring(fitted, scorer, store, progress),
    )
    return Table(
        persona=persona,
        exemplar=exemplar,
        curves=scored.curves,
        present=scored.present,
        n_tokens=scored.n_tokens,
        log_proposal=log_proposal,
        hx=hx,
        own=own,
        weight=np.array([record.weight for record in records]),
        betas=scorer.betas,
        cluster=clusters(records),
    )


def _scoring(fitted: FittedMixture, scorer: Scorer, store: Store, progress: Progress | None) -> Scoring:
    personas, exemplars = fitted.personas, fitted.exemplars
    return Scoring(
        personas=personas, exemplars=exemplars, scorer=scorer, store=store, task=fitted.task, progress=progress
    )


def is_at_other_temperatures(fitted: FittedMixture, betas: Sequence[float]) -> bool:
    """Whether a scorer that knows one temperature alone cannot tell the likelihoods of this mixture."""
    return len(betas) == 1 and not np.allclose(fitted.temperatures * betas[0], 1.0, atol=1e-3)


def log_terms(table: Table, fitted: FittedMixture) -> tuple[Floats, Floats]:
    """Log-likelihoods at the personas' temperatures, -inf where absent, and log weights, both (n, M)."""
    log_weight = fitted.log_weight(table.hx, table.persona, table.exemplar, table.own)
    return table.log_lik(fitted.temperatures, table.betas), log_weight


def component_posterior(table: Table, fitted: FittedMixture) -> Floats:
    """Posterior of each scored component given the text, (n, M); rows sum to 1.

    Drawn components stand for those that were not drawn, by their importance weights.
    """
    log_lik, log_weight = log_terms(table, fitted)
    log_joint = log_lik + log_weight + table.log_stands_for
    return np.asarray(np.exp(log_joint - log_sum_exp(log_joint)[:, None]))


def lower_bound(table: Table, fitted: FittedMixture) -> Floats:
    """Log of the importance-weighted mean over the scored components (n,), nats.

    Its expectation is below log p(y|x) by Jensen's inequality, and it grows with M: an exact figure of
    mixtures of M prompts. The exact value where all were scored.
    """
    log_lik, log_weight = log_terms(table, fitted)
    log_m = 0.0 if table.is_exact else np.log(table.persona.shape[1])
    return log_mixture(log_lik, log_weight + table.log_stands_for - log_m)


class Likelihood:
    """Log-likelihoods of the records of a table under mixtures of the same personas and exemplars.

    Parameters
    ----------
    table : Table
    fitted : FittedMixture
        Its gates are a covariate of what was not scored (see `mop.mixture.imputation`), for all mixtures.
    seed : int
        Of the imputations; mixtures share their random numbers.
    """

    def __init__(self, table: Table, fitted: FittedMixture, *, seed: int) -> None:
        self.table, self.fitted, self.seed = table, fitted, derive_seed(seed, "likelihood")

    @cached_property
    def _variances(self) -> Variances:
        """Learnt at the fitted mixture's temperatures, for all mixtures."""
        return self._effects(self.fitted, None).variances

    def _effects(self, mixture: FittedMixture, variances: Variances | None) -> Effects:
        table, n_personas = self.table, len(self.fitted.personas)
        log_lik, _ = log_terms(table, mixture)
        _, log_weight = log_terms(table, self.fitted)
        used = _first(table.persona * len(self.fitted.exemplars) + table.exemplar)
        return Effects(
            table.persona,
            table.exemplar,
            np.where(used, log_lik, -np.inf),
            n_personas,
            z=self._covariate(log_weight, self._centre[:, None]),
            variances=variances,
        )

    @cached_property
    def _components(self) -> tuple[Ints, Ints, float | Floats]:
        """Persona and exemplar (C,) of the sum's terms, and the log of what each counts."""
        n_exemplars = len(self.fitted.exemplars)
        n_all = len(self.fitted.personas) * n_exemplars
        if n_all <= MOST_COMPONENTS:
            return *np.divmod(np.arange(n_all), n_exemplars), 0.0
        weight = 0.5 / n_all + 0.5 * self.fitted.mean_weight(self.table.hx, self.table.own)
        drawn = spread_draw(weight, MOST_COMPONENTS, rng_of(self.seed, "components"))
        drawn, times = np.unique(drawn, return_counts=True)
        return *np.divmod(drawn, n_exemplars), np.log(times / (weight[drawn] * MOST_COMPONENTS))

    def _rows(self, mixture: FittedMixture) -> Iterator[Floats]:
        """Log weights (C,) of the sum's terms, record by record."""
        persona, exemplar, _ = self._components
        table = self.table
        for start in range(0, len(table.hx), _BLOCK):
            hx, own = table.hx[start : start + _BLOCK], table.own[start : start + _BLOCK]
            shape = (len(hx), 1)
            yield from mixture.log_weight(hx, np.tile(persona, shape), np.tile(exemplar, shape), own)

    @cached_property
    def _centre(self) -> Floats:
        """Mean log weight of each record's terms by the fitted gates, (n,); what has no weight counts as 0."""
        return np.array([np.where(np.isfinite(row), row, 0.0).mean() for row in self._rows(self.fitted)])

    def _covariate(self, log_weight: Floats, centre: Floats) -> Floats:
        """Covariate of the imputation; a weight of 0 says no more than a very small one."""
        return np.asarray(np.maximum(log_weight - centre, -50.0))

    def _terms(self, mixture: FittedMixture) -> tuple[Ints, Iterator[tuple[Floats, Floats]]]:
        """Persona of the sum's terms, and of each record in turn their log p (B, C) and log weight (C,)."""
        table = self.table
        if table.is_exact:
            log_lik, log_weight = log_terms(table, mixture)
            return table.persona[0], zip(log_lik[:, None, :], log_weight, strict=True)
        persona, exemplar, offset = self._components
        effects = self._effects(mixture, self._variances)
        rows = zip(self._rows(self.fitted), self._centre, strict=True)
        z = (self._covariate(row, centre) for row, centre in rows)
        drawn = effects.draws(persona, exemplar, z, seed=self.seed)
        return persona, zip(drawn, (row + offset for row in self._rows(mixture)), strict=True)

    @cached_property
    def ours(self) -> Floats:
        """`values` under the fitted mixture itself."""
        return self.values(self.fitted)

    def values(self, mixture: FittedMixture) -> Floats:
        """Log p(y|x) of every record, once for each imputation: (B, n) nats, B = 1 where exact."""
        return np.stack([log_mixture(*term) for term in self._terms(mixture)[1]], axis=1)

    def persona_posterior(self, mixture: FittedMixture) -> Floats:
        """Posterior of each persona given the text, (n, K); rows sum to 1. Mean over imputations."""
        persona, terms = self._terms(mixture)
        posterior = np.zeros((len(self.table.hx), len(mixture.personas)))
        for i, (log_lik, log_weight) in enumerate(terms):
            share = np.exp(log_lik + log_weight - log_mixture(log_lik, log_weight)[:, None]).mean(axis=0)
            posterior[i] = np.bincount(persona, share, minlength=posterior.shape[1])
        return posterior


def _first(number: Ints) -> NDArray[np.bool_]:
    """Whether each entry (n, m) is the first of its value in its row."""
    found = np.zeros(number.shape, dtype=bool)
    for row, of in zip(found, number, strict=True):
        row[np.unique(of, return_index=True)[1]] = True
    return found


def mean_interval(values: Floats, weight: Floats, cluster: Ints, *, size: Floats | None = None) -> dict[str, Any]:
    """Weighted mean over records with its standard error and 95 % interval.

    Parameters
    ----------
    values : ndarray, shape (B, n) or (n,)
        Of every record, once for each imputation.
    weight : ndarray, shape (n,)
        Survey weights.
    cluster : ndarray of int, shape (n,)
        Records that belong together count as one observation.
    size : ndarray, shape (n,), optional
        If given, the ratio Σ w·value / Σ w·size is asked for: tokens, for a figure per token.

    Returns
    -------
    dict
        ``mean``, ``standard_error``, ``interval`` [low, high]; the latter None for one cluster.

    Notes
    -----
    Linearised ratio with totals of clusters, t quantiles; the variance between imputations by Rubin's rules
    (1987), with his degrees of freedom where they are fewer. On planted truth they are on the safe side for gains
    of one mixture over another, which share their imputations (docs/log.md). One cluster alone has no
    interval and no error: both are None.
    """
    from scipy.stats import t

    values = np.atleast_2d(values)
    n_draws = len(values)
    size = np.ones(len(weight)) if size is None else np.asarray(size, dtype=np.float64)
    share = weight / float(weight @ size)
    means = values @ share
    mean = float(means.mean())
    n_clusters = len(np.unique(cluster))
    if n_clusters < 2:
        return {"mean": mean, "standard_error": None, "interval": None}
    away = share * (values - means[:, None] * size)
    within = float(np.mean([clustered_error(row, cluster) ** 2 for row in away]))
    between = float(means.var(ddof=1)) * (1 + 1 / n_draws) if n_draws > 1 else 0.0
    freedom = n_clusters - 1.0
    if between > 0:
        freedom = min(freedom, (n_draws - 1) * (1 + within / between) ** 2)
    error = float(np.sqrt(within + between))
    reach = float(t.ppf(0.975, freedom)) * error
    return {"mean": mean, "standard_error": error, "interval": [mean - reach, mean + reach]}


def gain_over(ours: Floats, theirs: Floats, table: Table) -> dict[str, Any]:
    """Gain in mean log-likelihood on the same records, with 95 % intervals over records and imputations.

    Parameters
    ----------
    ours, theirs : ndarray, shape (B, n) or (1, n)
        See `Likelihood.values`.
    table : Table
        Of these records.

    Returns
    -------
    dict
        ``gain`` (nats per record), ``gain_interval`` [low, high], ``gain_per_token``,
        ``gain_per_token_interval``.
    """
    difference = ours - theirs
    found = mean_interval(difference, table.weight, table.cluster)
    tokens = mean_interval(difference, table.weight, table.cluster, size=table.n_tokens.astype(np.float64))
    return {
        "gain": found["mean"],
        "gain_interval": found["interval"],
        "gain_per_token": tokens["mean"],
        "gain_per_token_interval": tokens["interval"],
    }


def summarise(likelihood: Likelihood) -> dict[str, Any]:
    """Mean log-likelihood per record of a mixture and of equal weights, in nats, by survey weight.

    Returns
    -------
    dict
        ``kind``: ``exact`` or ``estimate``;
        ``scored_at``: None, or the one temperature at which the scorer knows likelihoods where the
        mixture has others (all figures are then at that one); ``mop`` and ``mop-uniform`` (means), ``mop_interval``
        and ``standard_error`` of the first (over records and imputations), ``lower_bound`` (of the mixture's mean,
        from scored components alone), what `gain_over` gives, ``n_records``, ``n_clusters``, ``n_components``,
        ``is_exact``.
    """
    table, fitted, ours = likelihood.table, likelihood.fitted, likelihood.ours
    other = likelihood.values(uniform_mixture(fitted))
    mop = mean_interval(ours, table.weight, table.cluster)
    return {
        "kind": "exact" if table.is_exact else "estimate",
        "scored_at": (1 / table.betas[0] if is_at_other_temperatures(fitted, table.betas) else None),
        "mop": mop["mean"],
        "mop_interval": mop["interval"],
        "standard_error": mop["standard_error"],
        "lower_bound": float(np.average(lower_bound(table, fitted), weights=table.weight)),
        "mop-uniform": mean_interval(other, table.weight, table.cluster)["mean"],
        **gain_over(ours, other, table),
        "n_records": len(table.hx),
        "n_clusters": len(np.unique(table.cluster)),
        "n_components": table.n_components,
        "is_exact": table.is_exact,
    }


REFERENCES: dict[str, str] = {
    "mop-uniform": "equal weights",
    "unconditional": "weights that ignore the context",
    "single-component": "one persona with one exemplar: the best of those scored for all validation records",
    "no-persona": "exemplars alone, weighted evenly",
    "no-exemplar": "personas alone, weighted evenly",
    "zero-shot": "neither persona nor exemplar",
}
"""What a fitted mixture is compared with, and what each is."""


def reference_name(name: str, row: Mapping[str, Any]) -> str:
    """What a reference is called where people read: the same in the terminal and in the report.

    Examples
    --------
    >>> reference_name("mop-uniform", {}), reference_name("single-component", {"best_of": 8})
    ('equal weights', 'best of 8 components')
    """
    if name == "single-component":
        return f"best of {row['best_of']} components" if row.get("best_of") else "best component"
    return {"mop-uniform": "equal weights", "unconditional": "context ignored"}.get(name, name)


def references(
    likelihood: Likelihood,
    records: Sequence[Record],
    *,
    scorer: Scorer,
    store: Store,
    plain: bool = True,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Likelihood of the same records under simpler models, and what the mixture gains over each.

    Uniform gates and unconditional weights come from the table. The others need scores of their own, of as many
    prompts per record as the table has, and what was not scored is imputed in the same way: the single component
    that did best in the fit, all exemplars without a persona, all personas without an exemplar, and neither. The last
    three, and after `refit_temperatures` all four, have the one temperature that suits these very
    records best, which is in their favour.

    Parameters
    ----------
    likelihood : Likelihood
        Of the fitted mixture, on a table of ``records``.
    records : sequence of n Record
    scorer, store
        Only what is not in the store is scored.
    plain : bool
        Whether to score the last four.
    progress : callable, optional

    Returns
    -------
    dict
        A name in `REFERENCES` to ``log_lik`` (mean, nats per record), ``kind`` (``exact`` or
        ``estimate``), ``temperature`` (None where each persona has its own), ``n_components`` (prompts scored per
        record) and what `gain_over` gives: the mixture's gain over the reference. The single component has ``best_of``:
        of how many it is the best, None where that is not known.
    """
    table, fitted, seed = likelihood.table, likelihood.fitted, likelihood.seed
    mixtures = {"mop-uniform": uniform_mixture(fitted), "unconditional": unconditional_mixture(fitted)}
    scoring = replace(_scoring(fitted, scorer, store, progress), stage="references")
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, theirs: Floats, tau: float | None, n_components: int, is_exact: bool) -> None:
        found[name] = {
            "log_lik": float(np.average(theirs.mean(axis=0), weights=table.weight)),
            "kind": "exact" if is_exact else "estimate",
            "temperature": tau,
            "n_components": n_components,
            **gain_over(likelihood.ours, theirs, table),
        }

    for name, mixture in mixtures.items():
        if mixture is not None:
            add(name, likelihood.values(mixture), None, table.n_components, table.is_exact)
    for name, components, tau in _plain_components(fitted, len(records), table.n_components, seed) if plain else ():
        scored = score_columns(records, components, scoring)
        if not bool(scored.present.any(axis=1).all()):
            continue  # a record that may see nothing of this has no likelihood under it
        # Of one factor alone, the rows of its options: as if they were the exemplars of one persona.
        rows = np.array([[max(k or 0, j or 0) for k, j in of] for of in components])
        cells = Cells(np.zeros_like(rows), rows, scored.curves, scored.present)
        best = tau if tau is not None else best_single_tau(cells, table.weight, table.betas)[0]
        n_all = {"no-persona": len(fitted.exemplars), "no-exemplar": len(fitted.personas)}.get(name, 1)
        own = table.own if name == "no-persona" else np.full(len(rows), -1)
        theirs = _even_values(cells, cells.log_lik(best, table.betas), n_all, own, seed)
        add(name, theirs, best, rows.shape[1], rows.shape[1] == n_all)
    if "single-component" in found:
        found["single-component"]["best_of"] = fitted.info["best_component"].get("n_compared")
    return found


def _plain_components(
    fitted: FittedMixture, n: int, n_components: int, seed: int
) -> list[tuple[str, list[list[Component]], float | None]]:
    """Name, components of each record, and temperature (None: to be found) of the references that need scores."""
    found: list[tuple[str, list[list[Component]], float | None]] = []
    single = fitted.info.get("best_component")
    if single is not None:
        one: list[Component] = [(single["persona"], single["exemplar"])]
        found.append(("single-component", [one] * n, single["tau"]))

    def some(n_all: int, purpose: str) -> list[list[int]]:
        n_groups = -(-n // SHARED)
        drawn = [np.sort(rng_of(seed, purpose, g).permutation(n_all)[:n_components]).tolist() for g in range(n_groups)]
        return [drawn[i % n_groups] for i in range(n)]

    exemplars, personas = (some(len(fitted.exemplars), "exemplars"), some(len(fitted.personas), "personas"))
    nothing: list[Component] = [(None, None)]
    return [
        *found,
        ("no-persona", [[(None, j) for j in of] for of in exemplars], None),
        ("no-exemplar", [[(k, None) for k in of] for of in personas], None),
        ("zero-shot", [nothing] * n, None),
    ]


def _even_values(cells: Cells, log_lik: Floats, n_all: int, own: Ints, seed: int) -> Floats:
    """Log of the even mean over all n_all prompts but the own one, some scored: (B, n), B = 1 where all were."""
    if log_lik.shape[1] == n_all:
        return np.asarray(log_sum_exp(log_lik) - np.log(cells.present.sum(axis=1)))[None]
    effects, every = Effects(cells.persona, cells.exemplar, log_lik, 1), np.arange(n_all)
    drawn = effects.draws(np.zeros_like(every), every, seed=derive_seed(seed, "references"))
    values = [log_sum_exp(np.where(every == j, -np.inf, of)) for of, j in zip(drawn, own, strict=True)]
    return np.asarray(np.stack(values, axis=1) - np.log(n_all - (own >= 0)))


def refit_temperatures(fitted: FittedMixture, table: Table) -> FittedMixture:
    """The same gates with temperatures that suit another language model.

    Parameters
    ----------
    fitted : FittedMixture
    table : Table
        A small sample of records, scored by the other model under components drawn from ``fitted``.

    Returns
    -------
    FittedMixture
        All τ are multiplied by one factor, those of the weights that ignore the context by one of their own;
        ``info`` has the refitted ``uniform_tau``, and no ``tau`` of the
        best component: it is found on the records that this is compared on.

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

    def even(beta: float) -> float:
        return float(log_sum_exp(table.log_lik(1.0 / beta, table.betas) + table.log_stands_for) @ table.weight)

    best = fitted.info.get("best_component")
    return replace(
        _moved_temperatures(fitted, table),
        unconditional=None if free is None else _moved_temperatures(free, table).gate,
        info={
            **fitted.info,
            "uniform_tau": 1.0 / best_beta(even, table.betas)[0],
            "best_component": None if best is None else {**best, "tau": None},
        },
    )


def _moved_temperatures(fitted: FittedMixture, table: Table) -> FittedMixture:
    """The mixture with all temperatures multiplied by one factor, within what scores are kept for."""
    betas = table.betas
    relative = fitted.temperatures / np.exp(np.log(fitted.temperatures).mean())
    log_weight = log_terms(table, fitted)[1] + table.log_stands_for

    def moved(beta: float) -> Floats:
        return np.asarray(np.clip(relative / beta, 1 / betas[-1], 1 / betas[0]))

    def value(beta: float) -> float:
        return float(log_mixture(table.log_lik(moved(beta), betas), log_weight) @ table.weight)

    return with_temperatures(fitted, moved(best_beta(value, betas)[0]))
