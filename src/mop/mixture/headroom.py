"""What weights could gain at most, whether the pool of exemplars is the target, and what that says of a fit.

Letters as in `mop.mixture.cells`; U options of weights: components (k, j), personas or exemplars.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.curve import weights as curve_weights
from mop.metrics.distances import energy_distance
from mop.mixture.cells import Cells, Ints, Problem
from mop.mixture.design import similar_groups
from mop.mixture.em import Scores, best_single_tau, folds
from mop.mixture.imputation import Effects
from mop.mixture.kernel import KernelGate
from mop.mixture.sums import Floats, log_sum_exp, unconditional_weights
from mop.randomness import derive_seed, rng_of

PER_GROUP = 20
"""Records of a group of contexts, at least, on average."""
BELIEF = 3.0
"""Records' worth of belief in equal weights, where weights are judged on records that they have not seen."""
MOST_COMPONENTS = 20_000
"""K · N above which nothing is imputed for bounds."""
MOST_POOL = 1_000
"""Texts of either side that a two-sample test looks at."""
N_PERMUTATIONS = 999
CHANCE = 0.05
"""Level of the two-sample test."""
SMALL = 0.1
"""Nats per record: a gain that is surely below counts as none."""


# ------------------------------------------------------------------------------ before anything is fitted


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
    tau = best_single_tau(cells, problem.weight, problem.betas)[0]
    scores = Scores.of(problem, cells, np.arange(len(problem.hx)), tau)
    groups = context_groups(problem)
    n_personas, n_exemplars = len(problem.hg), len(problem.he)
    n_all = n_personas * n_exemplars
    is_whole = cells.is_whole(problem)
    found: dict[str, Any] = {
        "n_groups": int(groups.max()) + 1, "is_whole": is_whole,
        "components": None, "personas": None, "exemplars": None,
    }  # fmt: skip
    if is_whole:
        posterior = np.zeros((len(scores.rows), n_all))
        share = scores.ratio / scores.ratio.sum(axis=1, keepdims=True)
        np.add.at(posterior, (scores.rows[:, None], cells.persona * n_exemplars + cells.exemplar), share)
        table = posterior.reshape(-1, n_personas, n_exemplars)
        of = {"components": posterior, "personas": table.sum(axis=2), "exemplars": table.sum(axis=1)}
    elif n_all <= MOST_COMPONENTS:
        of = _imputed_posteriors(problem, cells, tau, seed=seed)
    else:
        of = {}
    fold_rows = folds(problem, n_folds, seed)
    for name, posterior in of.items():
        found[name] = _bounds(posterior, scores.weight, groups, fold_rows)
    return found


def _imputed_posteriors(problem: Problem, cells: Cells, tau: float, *, seed: int) -> dict[str, Floats]:
    """Posterior of every persona (n, K) and exemplar (n, N) under equal weights, mean over imputations."""
    n, n_personas, n_exemplars = len(problem.hx), len(problem.hg), len(problem.he)
    persona, exemplar = np.divmod(np.arange(n_personas * n_exemplars), n_exemplars)
    effects = Effects(cells.persona, cells.exemplar, cells.log_lik(tau, problem.betas), n_personas)
    drawn = effects.draws(persona, exemplar, seed=derive_seed(seed, "headroom"))
    found = {"personas": np.zeros((n, n_personas)), "exemplars": np.zeros((n, n_exemplars))}
    for i, values in enumerate(drawn):
        if problem.own[i] >= 0:
            values[:, exemplar == problem.own[i]] = -np.inf
        share = np.exp(values - log_sum_exp(values)[:, None]).mean(axis=0)
        table = share.reshape(n_personas, n_exemplars)
        found["personas"][i], found["exemplars"][i] = table.sum(axis=1), table.sum(axis=0)
    return found


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


def two_samples(
    pool: NDArray[np.float32], target: NDArray[np.float32], weight: Floats, *, cluster: Ints | None = None, seed: int
) -> dict[str, Any]:
    """Test whether two sets of responses are samples of one population, by their embeddings.

    Parameters
    ----------
    pool : ndarray, shape (N, D)
        Responses of the exemplars.
    target : ndarray, shape (n, D)
        Responses that are to be simulated.
    weight : ndarray, shape (n,)
        Survey weights of these.
    cluster : ndarray of int, shape (N + n,), optional
        Texts of one number belong together: a relabelling moves them together, or among each other where a cluster
        has texts on both sides. None: each by itself.
    seed : int
        Of the permutations, and of the choice of at most `MOST_POOL` texts of each.

    Returns
    -------
    dict
        ``distance``: see `mop.metrics.energy_distance`; ``p_value``: share of `N_PERMUTATIONS` relabellings with
        at least as large a value; ``n_pool``, ``n_target``.

    Notes
    -----
    Source: Székely and Rizzo 2013.
    """
    rng = rng_of(seed, "two-samples")
    cluster = np.arange(len(pool) + len(target)) if cluster is None else cluster
    of_pool, of_target = (np.sort(rng.permutation(len(side))[:MOST_POOL]) for side in (pool, target))
    cluster = np.concatenate([cluster[of_pool], cluster[len(pool) + of_target]])
    pool, target, weight = pool[of_pool], target[of_target], weight[of_target]
    both = np.concatenate([pool, target]).astype(np.float64)
    square = np.square(both).sum(axis=1)
    between = np.sqrt(np.maximum(square[:, None] + square - 2 * both @ both.T, 0.0))
    np.fill_diagonal(between, 0.0)
    share = np.concatenate([np.full(len(pool), 1 / len(pool)), -weight / weight.sum()])
    observed = -float(share @ between @ share)
    number = np.unique(cluster, return_inverse=True)[1].reshape(-1)
    is_pool = np.arange(len(share)) < len(pool)
    straddles = (np.bincount(number, is_pool) > 0) & (np.bincount(number, ~is_pool) > 0)
    apart = np.flatnonzero(~straddles[number])
    on_both = [np.flatnonzero(number == c) for c in np.flatnonzero(straddles)]
    shuffled = np.empty((N_PERMUTATIONS, len(share)))
    for row in shuffled:
        # Whole clusters in random order, and their texts in random order: the first of them are called the pool.
        order = np.lexsort((rng.random(len(apart)), rng.permutation(number.max() + 1)[number[apart]]))
        row[apart[order]] = share[apart]
        for rows in on_both:
            row[rows] = share[rng.permutation(rows)]
    values = -np.einsum("bi,bi->b", shuffled @ between, shuffled)
    n_larger = int((values >= observed - 1e-12).sum())
    return {
        "distance": energy_distance(target, pool, golden_weight=weight).distance,
        "p_value": (1 + n_larger) / (1 + N_PERMUTATIONS),
        "n_pool": len(pool),
        "n_target": len(target),
    }


# ---------------------------------------------------------------------------------------- after the fit

RIGHT = "The pool already is the target: equal weights are right."
UNKNOWN = "Not enough records to say."


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
    low = log_sum_exp(log_lik + np.where(part.present, log_weight, -np.inf))
    order = np.argsort(flat, axis=1, kind="stable")
    found = np.stack([o[np.searchsorted(row[o], columns)] for row, o in zip(flat, order, strict=True)])
    common_log_lik = np.take_along_axis(log_lik, found, axis=1)
    weight = problem.weight[rows]
    log_share = np.log(weight / weight.sum())
    log_d = log_sum_exp(log_share[:, None] + common_log_lik - low[:, None], axis=0)
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
    n_exemplars, n_personas = len(problem.he), len(problem.hg)
    flat = np.where(cells.present, cells.persona * n_exemplars + cells.exemplar, -1)
    rows = np.arange(problem.n_train, len(problem.hx))
    count = np.bincount(flat[rows][flat[rows] >= 0], minlength=n_personas * n_exemplars)
    grid = np.linspace(problem.betas[0], problem.betas[-1], 60) if len(problem.betas) > 1 else (
        np.array(problem.betas)
    )  # fmt: skip
    nodes = np.stack([curve_weights(float(beta), problem.betas) for beta in grid])  # (B, G)
    best: tuple[float, int, int] = (-np.inf, 0, 0)
    compared = np.flatnonzero(count == count.max()).tolist()
    for c in compared:
        i, m = np.nonzero(flat[rows] == c)
        weight = problem.weight[rows][i]
        mean = weight @ cells.curves[rows[i], m].astype(np.float64) / weight.sum()
        at = int(np.argmax(nodes @ mean))
        best = max(best, (float(nodes[at] @ mean), -c, at))
    c, at = -best[1], best[2]
    return {
        "persona": c // n_exemplars,
        "exemplar": c % n_exemplars,
        "tau": float(1.0 / grid[at]),
        "n_records": int(count.max()),
        "n_compared": len(compared),
    }
