"""What weights could gain at most, whether the pool of exemplars is the target, and what that says of a fit.

Letters as in `mop.mixture.cells`; U options of weights: components (k, j), personas or exemplars.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mop.backends.curve import weights as curve_weights
from mop.mixture.cells import Cells, Ints, Problem
from mop.mixture.em import best_single_tau, folds
from mop.mixture.imputation import Effects
from mop.mixture.kernel import KernelGate
from mop.mixture.sums import Floats, best_beta, log_mixture, log_ratio, log_sum_exp, unconditional_weights
from mop.personas.cluster import similar_groups
from mop.randomness import derive_seed

PER_GROUP = 20
"""Records of a group of contexts, at least, on average."""
BELIEF = 3.0
"""Records' worth of belief in equal weights, where weights are judged on records that they have not seen."""
MOST_COMPONENTS = 20_000
"""K · N above which nothing is imputed for bounds."""
CHANCE = 0.05
"""Level of the two-sample test."""
SMALL = 0.1
"""Nats per record: a gain that is surely below counts as none."""


def headroom(problem: Problem, cells: Cells, n_folds: int, *, seed: int) -> dict[str, Any]:
    """Bounds on what weights could gain over equal ones, from scores alone.

    With r_i the posterior over U options under equal weights, r̄ its mean over the records of a group of contexts,

        mean over groups of KL(r̄ ‖ equal)  ≤  best gain  ≤  mean over groups of log max_u U r̄_u

    for all weights that are the same within a group. Left is Jensen's inequality at the weights r̄, right the same for
    log Σ_u w_u p_u / p. On the records at hand both hold exactly where everything was scored, so few
    records promise too much: the left side is therefore given *cross-validated*, r̄ from some
    folds and the gain on the others, which may be negative. The right side stays as it is, too high if anything.

    Contexts are a group each where `PER_GROUP` records share one on average; else they are divided into groups of about
    `PER_GROUP` like ones, and weights that change within a group may gain more. Of one factor, personas or exemplars,
    the other counts evenly. Where not all components are scored the others are imputed (`mop.mixture.imputation`), r is
    the mean over imputations, and there are no bounds for components; beyond `MOST_COMPONENTS` there are none at all.

    Returns
    -------
    dict
        ``n_groups``, ``is_whole``, and for ``components``, ``personas`` and ``exemplars`` each
        ``at_least`` and ``at_most`` (nats per record), or None.
    """
    groups = context_groups(problem)
    found: dict[str, Any] = {
        "n_groups": int(groups.max()) + 1, "is_whole": cells.is_whole(problem),
        "components": None, "personas": None, "exemplars": None,
    }  # fmt: skip
    if not found["is_whole"] and len(problem.hg) * len(problem.he) > MOST_COMPONENTS:
        return found
    fold_rows = folds(problem, n_folds, seed)
    for name, posterior in _posteriors(problem, cells, seed=seed).items():
        found[name] = _bounds(posterior, problem.weight / problem.weight.mean(), groups, fold_rows)
    return found


def _posteriors(problem: Problem, cells: Cells, *, seed: int) -> dict[str, Floats]:
    """Posterior (n, U) of every component, persona and exemplar under equal weights, mean over imputations.

    That of components only where nothing was imputed.
    """
    tau = best_single_tau(cells, problem.weight, problem.betas)[0]
    n_personas, n_exemplars = len(problem.hg), len(problem.he)
    log_lik, persona, exemplar = cells.log_lik(tau, problem.betas), cells.persona, cells.exemplar
    every = np.divmod(np.arange(n_personas * n_exemplars), n_exemplars)
    is_whole = cells.is_whole(problem)
    if is_whole:
        whole = np.full((len(log_lik), 1, len(every[0])), -np.inf)
        row, column = np.nonzero(cells.present)
        whole[row, 0, (persona * n_exemplars + exemplar)[row, column]] = log_lik[row, column]
    tables: Iterable[Floats] = (
        whole if is_whole
        else Effects(persona, exemplar, log_lik, n_personas).draws(*every, seed=derive_seed(seed, "headroom"))
    )  # fmt: skip
    shares = []
    for values, own in zip(tables, problem.own, strict=True):
        may = np.where((every[1] == own) & (own >= 0), -np.inf, values)
        shares.append(np.exp(may - log_sum_exp(may)[:, None]).mean(axis=0))
    posterior = np.stack(shares)
    of_both = posterior.reshape(-1, n_personas, n_exemplars)
    found = {"personas": of_both.sum(axis=2), "exemplars": of_both.sum(axis=1)}
    return {"components": posterior, **found} if is_whole else found


def headroom_lines(room: Mapping[str, Any] | None) -> list[str]:
    """What `headroom` found, a line each, for people; none of nothing."""
    return [
        f"{_groups(room['n_groups'])} of contexts: weights of {name} can gain at least {room[name]['at_least']:+.3f} "
        f"(cross-validated) and at most {room[name]['at_most']:.3f} nats per record over equal ones"
        for name in ("components", "personas", "exemplars")
        if room and room[name]
    ]


def _groups(n: int) -> str:
    return "One group" if n == 1 else f"{n} groups"


def context_groups(problem: Problem) -> Ints:
    """Group (n,) of each record's context, from 0."""
    n = len(problem.hx)
    _, equal = np.unique(problem.hx.round(5), axis=0, return_inverse=True)
    equal = equal.reshape(-1)
    if (equal.max() + 1) * PER_GROUP <= n:
        return np.asarray(equal, dtype=np.int64)
    return similar_groups(problem.hx, max(1, n // PER_GROUP))


def _bounds(posterior: Floats, weight: Floats, groups: Ints, fold_rows: list[Ints]) -> dict[str, float]:
    """Both sides for U options, from their posterior (n, U) under equal weights."""
    n_options, n_groups = posterior.shape[1], int(groups.max()) + 1

    def mean(rows: Ints, belief: float) -> Floats:
        """U r̄ of every group (n_groups, U), pulled towards 1."""
        total, count = np.zeros((n_groups, n_options)), np.zeros(n_groups)
        np.add.at(total, groups[rows], weight[rows, None] * posterior[rows])
        np.add.at(count, groups[rows], weight[rows])
        return np.asarray((n_options * total + belief) / np.maximum(count + belief, 1e-12)[:, None])

    share = np.bincount(groups, weight, n_groups) / weight.sum()
    everyone = np.arange(len(posterior))
    at_most = float(share @ np.log(mean(everyone, 0.0).max(axis=1)))
    gain = np.zeros(len(posterior))
    for fold in fold_rows:
        ratio = mean(np.setdiff1d(everyone, fold), BELIEF)
        gain[fold] = np.log((ratio[groups[fold]] * posterior[fold]).sum(axis=1))
    return {"at_least": float(np.average(gain, weights=weight)), "at_most": at_most}


RIGHT = "The pool already is the target: equal weights are right."
UNKNOWN = "Too few records to say what fitted weights could gain."


def fit_sentence(info: Mapping[str, Any]) -> str:
    """The first thing to say about a fit, from its ``info``.

    Weights are used where they gain more than a standard error on records that they have not seen; then they correct
    the pool. Else equal weights are right if the two-sample test was made and finds no difference, and the best weights
    that ignore the context gain less than `SMALL` for all that is known (two standard errors); else nobody knows.
    """
    gain = info["gain"]
    pool = info.get("pool")
    differs = pool is not None and pool["p_value"] < CHANCE
    if gain["kind"] != "uniform":
        how = "by context" if gain["kind"] == "context" else "the same for every context"
        why = f"; the pool is not the target (p = {pool['p_value']:.3f})" if pool and differs else ""
        return (
            f"The weights correct the pool: {how}, they gain {gain['mean']:+.2f} ± {gain['standard_error']:.2f} "
            f"nats per record over equal ones among the prompts scored, cross-validated{why}."
        )
    surely = gain["freest"] + 2 * gain["freest_error"]
    return RIGHT if pool is not None and surely < SMALL and not differs else UNKNOWN


def certificate(gate: KernelGate, problem: Problem, cells: Cells) -> dict[str, Any] | None:
    """Bound on what weights that ignore the context could still gain over a fit.

    About the components c that were scored for every validation record, no others. With w(x) the true weights of
    the fit, p_low(i) = Σ over the scored components of record i of w_c(x_i) p_c(i) is at most p(i). So by Jensen's
    inequality any fixed weighting v of these components gains

        mean log Σ_c v_c p_c(i) - mean log p(i)  ≤  mean log Σ_c v_c p_c(i) - mean log p_low(i)
                                                 ≤  log max_c mean_i p_c(i) / p_low(i)

    Where everything was scored p_low is p, and the bound is about all components. Else it is loose: what is not scored
    counts as impossible.

    Returns
    -------
    dict or None
        ``bound``: the middle term at the best weights plus what EM may have missed of it, nats per record, at
        least 0; ``n_records``, ``n_components``, ``n_all``; ``largest``: the components with the largest
        mean p_c / p_low as [persona, exemplar, ratio]. None where no component was scored for every
        validation record.
    """
    rows = np.arange(problem.n_train, len(problem.hx))
    n_exemplars, part = len(problem.he), cells.of(rows)
    flat = np.where(part.present, part.persona * n_exemplars + part.exemplar, -1)
    common = set(flat[0].tolist()).intersection(*(set(row.tolist()) for row in flat)) - {-1}
    if not common:
        return None
    columns = np.array(sorted(common))
    log_lik = part.log_lik(gate.temperatures(), problem.betas)
    log_weight = gate.log_weight(problem.hx[rows], part.persona, part.exemplar, problem.own[rows])
    low = log_mixture(log_lik, np.where(part.present, log_weight, -np.inf))
    place = np.stack([np.argmax(flat == c, axis=1) for c in columns], axis=1)
    common_log_lik, weight = np.take_along_axis(log_lik, place, axis=1), problem.weight[rows]
    log_d = log_ratio(common_log_lik, low, weight)
    best = unconditional_weights(common_log_lik, record_weight=weight)
    reached = best.mean_log_lik - float(np.average(low, weights=weight))
    first = np.argsort(-log_d, kind="stable")[:5]
    return {
        "bound": float(max(min(reached + best.slack, log_d.max()), 0.0)),
        "n_records": len(rows),
        "n_components": len(columns),
        "n_all": len(problem.hg) * n_exemplars,
        "largest": [
            [int(columns[c]) // n_exemplars, int(columns[c]) % n_exemplars, float(np.exp(log_d[c]))] for c in first
        ],
    }


def best_component(problem: Problem, cells: Cells) -> dict[str, Any]:
    """The component that explains the records best all alone, at its own best temperature.

    Only components scored for all validation records are compared, on these; if there are none, those
    scored for the most records.

    Returns
    -------
    dict
        ``persona``, ``exemplar`` (rows), ``tau``, ``n_records``, ``n_compared``: of how many it is the best.
    """
    n_exemplars, betas = len(problem.he), problem.betas
    part, weight = cells.of(np.arange(problem.n_train, len(problem.hx))), problem.weight[problem.n_train :]
    flat = np.where(part.present, part.persona * n_exemplars + part.exemplar, -1)
    component, count = np.unique(flat[flat >= 0], return_counts=True)
    compared = component[count == count.max()]

    def best_of(c: int) -> tuple[float, float]:
        """Its best β, and its mean log-likelihood there."""
        i, m = np.nonzero(flat == c)
        curve = weight[i] @ part.curves[i, m].astype(np.float64) / weight[i].sum()
        return best_beta(lambda beta: float(curve @ curve_weights(beta, betas)), betas)

    found = {int(c): best_of(c) for c in compared}
    best = max(found, key=lambda c: found[c][1])
    return {
        "persona": best // n_exemplars,
        "exemplar": best % n_exemplars,
        "tau": 1.0 / found[best][0],
        "n_records": int(count.max()),
        "n_compared": len(compared),
    }
