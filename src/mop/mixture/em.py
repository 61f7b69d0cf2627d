"""Weights of personas and exemplars from scored components: EM, and EM smoothed over contexts.

A component (k, j) weighs π_k(x) Ω_j(x). Every record i is scored under some components m, all components being equally
likely to be among them, and its value is

    log Σ_m w_m p_m - log Σ_m w_m

so that weight cannot be hidden on components that nobody scored; where everything is scored, that is
log Σ_c w_c p_c exactly. Letters as in `mop.mixture.cells`; U options of a factor (K personas or N exemplars).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mop.errors import DataError
from mop.metrics.bootstrap import share_errors
from mop.mixture.cells import Cells, Ints, Problem
from mop.mixture.imputation import Effects, Variances
from mop.mixture.kernel import Counts, KernelGate, cosines, mean_distance
from mop.mixture.sums import Floats, best_beta, clustered_error, log_sum_exp
from mop.randomness import derive_seed, rng_of
from mop.threads import one_thread
from mop.types import Progress

if TYPE_CHECKING:
    from mop.mixture.gate import Gate

PRIORS_FIXED = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
"""Records' worth of belief in equal weights, for weights that ignore the context."""
SLOPES = (0.0, 3.0, 10.0, 30.0)
"""Nats for a cosine of one between the contexts of a record and of an exemplar."""
PRIORS_LOCAL = (100.0, 30.0, 10.0, 3.0, 1.0)
"""Records' worth of belief in these, for weights near a context."""
BANDWIDTHS = (1.0, 0.3, 0.1)
"""Of the kernel over contexts, in mean distances (1 - cosine) between two of them."""
SMALLEST = 0.01
"""Nats per record that are not worth a departure from equal weights, or from weights that ignore the context."""
MOST_CELLS = 100_000
"""Cells of a whole table, records · K · N, above which nothing is filled in: it would take longer than fits do."""
LEAST_EXPLAINED = 0.75
"""Share of the variance within a record that scored cells must explain for the others to be filled in."""
N_STEPS, ACCURACY = 200, 1e-4
"""Steps of EM at the most; it ends when one gains less than so many nats per record."""


@dataclass
class FitResult:
    """Fitted weights and how they came about."""

    gate: KernelGate | Gate
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row per round (or epoch): bounds, full-sum values, cells and tokens so far."""
    chosen: str = ""
    """Which weights validation chose: a `Shape.name`."""
    uniform_tau: float = 1.0
    """Best single temperature under equal weights: the reference that has to be beaten."""
    n_cells: int = 0
    """Scores asked for."""
    n_tokens: int = 0
    """LM tokens of these scores."""
    stopped: str = ""
    """Why no further round was made."""
    gain: dict[str, Any] | None = None
    """See `Choice.gain`."""
    headroom: dict[str, Any] | None = None
    """See `mop.mixture.headroom.headroom`."""
    certificate: dict[str, Any] | None = None
    """See `mop.mixture.headroom.certificate`; None where no component was scored for all validation records."""
    unconditional: KernelGate | None = None
    """The best weights that ignore the context, fitted to the same cells: a reference."""
    best_component: dict[str, Any] | None = None
    """See `mop.mixture.headroom.best_component`."""
    n_records: int = 0
    """Records that took part; 0: all."""
    persona_errors: list[float] | None = None
    """(K,) standard errors of the log odds of mean persona weights; None where they are equal by choice or unknown."""


@dataclass(frozen=True)
class Shape:
    """How much weights may depart from equal ones; a point of the grid."""

    kind: str
    """``uniform``, ``unconditional`` (weights ignore the context) or ``context``."""
    fixed: float = np.inf
    """Records' worth of belief in equal weights."""
    slope: float = 0.0
    """s of `mop.mixture.kernel.KernelGate`."""
    local: float = np.inf
    """Records' worth of belief in weights without anchors; infinite: there are none."""
    bandwidth: float = 1.0
    """In mean distances."""

    @property
    def name(self) -> str:
        """As histories and reports call it."""
        return {"context": "weights by context"}.get(self.kind, self.kind)


class Scores:
    """Log-likelihoods of some records under their components, ready for sums.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
        These records.
    persona, exemplar : ndarray of int, shape (n, M)
        Components of each.
    log_lik : ndarray, shape (n, M)
        Nats; minus infinity where absent.
    """

    def __init__(self, problem: Problem, rows: Ints, persona: Ints, exemplar: Ints, log_lik: Floats) -> None:
        self.problem, self.rows, self.hx = problem, rows, problem.hx[rows]
        self.weight = problem.weight[rows] / problem.weight.mean()
        self.options = persona, exemplar
        if bool(np.isnan(log_lik).any() or np.isposinf(log_lik).any()):
            raise DataError("the fit met a score that is not finite; check the scores with: mop verify RUN")
        present = np.isfinite(log_lik)
        if not bool(present.any(axis=1).all()):
            raise DataError(
                f"{int((~present.any(axis=1)).sum())} of {len(rows)} records were scored under no component but "
                "themselves as exemplar; raise fit.components_per_record and fit.valid_components to 2 or more"
            )
        self.top = log_lik.max(axis=1)
        self.exposure = present.astype(np.float64)
        """(n, M) 1 where something was scored, else 0."""
        self.ratio = np.exp(log_lik - self.top[:, None])
        """(n, M) p, relative to the best component; 0 where nothing was scored."""

    @classmethod
    def of(cls, problem: Problem, cells: Cells, rows: Ints, tau: float) -> Scores:
        """What was scored of some records, at one temperature; cells are of all."""
        part = cells.of(rows)
        return cls(problem, rows, part.persona, part.exemplar, part.log_lik(tau, problem.betas))

    def sums(self, weight: Floats) -> tuple[Floats, Floats]:
        """Σ_m w_m p_m, relative to the best component, and Σ_m w_m of each record (n,), from weights (n, M).

        In the linear domain, since EM takes thousands of steps; `mop.mixture.sums.log_mixture` is the same in logs.
        """
        return (self.ratio * weight).sum(axis=1), (self.exposure * weight).sum(axis=1)

    def values(self, weight: Floats) -> Floats:
        """Log Σ_m w_m p_m - log Σ_m w_m of each record (n,), nats."""
        mix, norm = self.sums(weight)
        return np.asarray(np.log(mix) - np.log(norm) + self.top)

    def of_gate(self, gate: KernelGate) -> Floats:
        """The same under a gate, for its weights only."""
        own = self.problem.own[self.rows]
        return self.values(np.exp(gate.log_weight(self.hx, *self.options, own)))

    @cached_property
    def _slots(self) -> tuple[tuple[Counts, Ints], tuple[Counts, Ints]]:
        return self._slot(self.options[0]), self._slot(self.options[1])

    def _slot(self, option: Ints) -> tuple[Counts, Ints]:
        """Which sum over cells of one record and one option each cell (n, M) belongs to."""
        n_options = int(option.max()) + 1
        flat = np.arange(len(option))[:, None] * n_options + option
        kept, slot = np.unique(flat, return_inverse=True)
        row, column = np.divmod(kept, n_options)
        nothing = np.zeros(len(kept))
        return Counts(row, column, nothing, nothing), slot.reshape(-1)

    def counts(self, factor: int, weight: Floats, of_factor: Floats) -> Counts:
        """What every record says about the options of a factor, personas (0) or exemplars (1), at some weights.

        The numerator of an EM step, and the slope of what the second logarithm takes away.

        Parameters
        ----------
        weight : ndarray, shape (n, M)
            Of the cells.
        of_factor : ndarray, shape (n, M)
            What of it is this factor's.
        """
        where, slot = self._slots[factor]
        # r_m = w_m p_m / Σ w p, and d_m = (w_m / w_factor) / Σ w, each summed over the cells of an option
        mix, norm = self.sums(weight)
        expected = self.ratio * weight / mix[:, None]
        exposed = self.exposure * weight / of_factor / norm[:, None]
        sums = [
            np.asarray(np.bincount(slot, each.reshape(-1), len(where.row)), dtype=np.float64)
            for each in (expected, exposed)
        ]
        return Counts(where.row, where.column, *sums)

    def tilt(self, slope: float) -> Floats:
        """exp(s (cos(x_i, x_j) - 1)) of the cells, (n, M)."""
        if not slope:
            return np.ones(self.ratio.shape)
        return np.asarray(np.exp(slope * (self._cosine - 1.0)))

    @cached_property
    def cosines(self) -> Floats:
        """Of the contexts with each other, (n, n), at most 1."""
        return np.minimum(cosines(self.hx, self.hx), 1.0)

    @cached_property
    def _cosine(self) -> Floats:
        return np.take_along_axis(cosines(self.hx, self.problem.he), self.options[1], axis=1)


def fit_fixed(scores: Scores, prior: float, slope: float = 0.0, tau: float = 1.0) -> tuple[KernelGate, list[float]]:
    """Weights without anchors that maximise Σ_i ω_i value_i + prior (mean_k log π_k + mean_j log Ω_j).

    Parameters
    ----------
    prior : float
        Records' worth of belief in equal weights, above 0.
    slope : float
        Ω_j is multiplied by exp(s cos(x_i, x_j)) for record i.
    tau : float
        Temperature of the scores; the gate's.

    Returns
    -------
    gate : KernelGate
    path : list of float
        The sum after each step, nats; it never falls.

    Notes
    -----
    EM for the first logarithm of a value; the second enters with a minus, so it is bounded by its tangent, and each
    step, one factor at a time, raises the sum (Hunter and Lange 2004, on minorising and maximising).
    """
    problem, weight = scores.problem, scores.weight
    factors, options = [np.full(len(of), 1.0 / len(of)) for of in (problem.hg, problem.he)], scores.options
    tilt, path = scores.tilt(slope), [-np.inf]
    while True:
        here = factors[0][options[0]] * factors[1][options[1]] * tilt
        belief = sum(float(np.log(each).mean()) for each in factors)
        path.append(float(weight @ scores.values(here)) + prior * belief)
        if len(path) > N_STEPS or path[-1] - path[-2] < ACCURACY * weight.sum():
            return KernelGate.fixed(problem.hg, problem.he, tau, factors[0], factors[1], slope), path[1:]
        for f, factor in enumerate(factors):
            here = factors[0][options[0]] * factors[1][options[1]] * tilt
            found, n = scores.counts(f, here, factor[options[f]]), len(factor)
            # π_k = (Σ_i ω_i r_ik + prior / K) / (Σ_i ω_i d_ik + prior), then divided by their sum
            expected = np.bincount(found.column, found.expected * weight[found.row], n)
            exposed = np.bincount(found.column, found.exposed * weight[found.row], n)
            factors[f] = (expected + prior / n) / (exposed + prior)
            factors[f] = factors[f] / factors[f].sum()


def fit_local(scores: Scores, fixed: KernelGate, prior: float, bandwidth: float) -> KernelGate:
    """Weights near the contexts of records, from what these say of personas and exemplars when all have agreed.

    Parameters
    ----------
    prior : float
        Records' worth of belief in the fixed weights, above 0.
    bandwidth : float
        h of the kernel, in 1 - cosine.

    Notes
    -----
    Smoothed EM (Silverman, Jones, Wilson and Nychka 1990): an M step for every record from the responsibilities of
    those near it. No sum is known that each step raises; it ends when values move no more.
    """
    kappa = np.exp((scores.cosines - 1.0) / bandwidth) * scores.weight
    base = fixed.persona[None], np.atleast_2d(fixed.without_anchors(scores.hx))
    cells = [_at(b, o) for b, o in zip(base, scores.options, strict=True)]
    last = -np.inf
    for _ in range(N_STEPS):
        here = cells[0] * cells[1]
        counts = scores.counts(0, here, cells[0]), scores.counts(1, here, cells[1])
        value = float(scores.weight @ scores.values(here))
        if abs(value - last) < ACCURACY * scores.weight.sum():
            break
        last = value
        cells = [_at(c.local(kappa, b, prior), o) for c, b, o in zip(counts, base, scores.options, strict=True)]
    return replace(
        fixed, anchors=scores.hx, record_weight=scores.weight, of_persona=counts[0], of_exemplar=counts[1],
        prior=prior, bandwidth=bandwidth,
    )  # fmt: skip


def _at(weight: Floats, option: Ints) -> Floats:
    """Weights (n, U) or (1, U) of the options of cells (n, M)."""
    every = np.broadcast_to(weight, (len(option), weight.shape[1]))
    return np.asarray(np.take_along_axis(every, option, axis=1))


def fit_shape(scores: Scores, shape: Shape, tau: float, fixed: KernelGate | None = None) -> KernelGate:
    """Fit weights of one shape to some records; ``fixed``: what it would find without anchors."""
    problem = scores.problem
    if shape.kind == "uniform":
        return KernelGate.fixed(problem.hg, problem.he, tau)
    fixed = fixed or fit_fixed(scores, shape.fixed, shape.slope, tau)[0]
    if not np.isfinite(shape.local):
        return fixed
    return fit_local(scores, fixed, shape.local, shape.bandwidth * mean_distance(problem.hx))


def folds(problem: Problem, n_folds: int, seed: int) -> list[Ints]:
    """Split records into folds, each in ascending order; the same in every round. No more folds than clusters.

    Clusters, in random order, go whole to whichever fold has the fewest records.
    """
    cluster = problem.clusters
    size = np.bincount(cluster)
    fold_of, filled = np.zeros(len(size), dtype=np.int64), np.zeros(min(n_folds, len(size)))
    for number in rng_of(seed, "folds").permutation(len(size)):
        fold_of[number] = int(np.argmin(filled))
        filled[fold_of[number]] += size[number]
    return [np.flatnonzero(fold_of[cluster] == f) for f in range(len(filled))]


@dataclass(frozen=True)
class Choice:
    """The shape that cross-validation preferred, fitted to all records."""

    shape: Shape
    gate: KernelGate
    values: Floats
    """(n,) log-likelihood of each record, nats, under a fit that has not seen it, of a shape that was chosen without
    it: choosing the best of many adds nothing."""
    fold_gates: tuple[KernelGate, ...]
    """Fits of the chosen shape without one of the `folds` each."""
    others: dict[str, Floats]
    """Values of ``uniform`` weights and of the best that ignore the context, ``unconditional``, under fits that have
    not seen the record."""
    unconditional: KernelGate
    """Fitted to all records."""
    fitted_values: Floats
    """(n,) log-likelihood of each record under `gate`, which was fitted to it."""
    freest: Floats
    """(n,) values of weights that ignore the context, with the weakest belief in equal ones: the mean of what they are
    on records that a fit has seen and on others. One is too high and one too low by about as much."""
    refit: Callable[[Floats], Floats]
    """Other weights of the records (n,) to the mean persona weights (K,) of a fit of the chosen shape with these."""

    def gain(self, problem: Problem) -> dict[str, Any]:
        """What the weights gain over equal ones: ``kind`` of the shape, ``mean`` and ``standard_error`` of the gain.

        Nats per record, cross-validated. ``freest`` and ``freest_error`` are about what the best weights that
        ignore the context may gain (`freest`): what so many records leave open.
        """
        mean, error = mean_and_error(self.values - self.others["uniform"], problem)
        free, free_error = mean_and_error(self.freest - self.others["uniform"], problem)
        return {
            "kind": self.shape.kind,
            "mean": mean,
            "standard_error": error,
            "freest": free,
            "freest_error": free_error,
        }

    @one_thread()
    def persona_errors(self, problem: Problem, *, seed: int) -> list[float] | None:
        """See `FitResult.persona_errors`."""
        if self.shape.kind == "uniform":
            return None
        return share_errors(self.refit, problem.weight / problem.weight.mean(), problem.clusters, seed=seed)


@one_thread()
def choose(problem: Problem, cells: Cells, n_folds: int, *, seed: int, progress: Progress | None = None) -> Choice:
    """Cross-validate shapes, then fit the best to all records.

    Every record is judged by fits that have not seen it. The grid is gone through one setting after another: the belief
    in equal weights, what likeness counts for, then belief and bandwidth of weights near a context. Weights that
    ignore the context, and equal ones, are preferred unless they lose by more than a standard error and `SMALLEST`.
    """
    trial = _Trial(problem, cells, n_folds, seed, progress)
    trial.validate(Shape("uniform"))
    free = [Shape("unconditional", fixed) for fixed in PRIORS_FIXED]
    for shape in free:
        trial.validate(shape)
    best = max(free, key=trial.mean)
    if mean_distance(problem.hx) > 1e-5:
        likeness = [replace(best, kind="context", slope=slope) for slope in SLOPES[1:]]
        for shape in likeness:
            trial.validate(shape)
        start = max([best, *likeness], key=trial.mean)
        for bandwidth in BANDWIDTHS:
            for local in PRIORS_LOCAL:
                shape = replace(start, kind="context", local=local, bandwidth=bandwidth)
                trial.validate(shape)
                loss, error = mean_and_error(trial.values[start] - trial.values[shape], problem)
                if loss > 2 * error:
                    break  # clearly worse, and weaker beliefs more so
    return trial.choice()


class FilledIn:
    """Scores of some records as fits and judges see them: in small tables, what was not scored is filled in.

    The other cells get one draw of what the scored ones leave open (`mop.mixture.imputation`), where that is little.
    Variances are learned from all records, common effects from those alone that are filled in together, and
    every record has draws of its own, so that nobody is judged on the accidents of tables that the fit has seen.
    """

    def __init__(self, problem: Problem, cells: Cells, tau: float, *, seed: int) -> None:
        self.problem, self.cells, self.tau, self.seed = problem, cells, tau, derive_seed(seed, "filled-in")
        n, n_personas, n_exemplars = len(problem.hx), len(problem.hg), len(problem.he)
        self._variances: Variances | None = None
        """Of the effects; None where nothing is filled in."""
        n_all, n_known = n_personas * n_exemplars, cells.persona.shape[1]
        if max(n * n_all, n * n_known**2 // 100) > MOST_CELLS or cells.is_whole(problem):
            return
        self._every: tuple[Ints, Ints] = np.divmod(np.arange(n_all), n_exemplars)
        effects = self._effects(np.arange(n), tau)
        if effects.explained(*self._every, seed=self.seed) >= LEAST_EXPLAINED:
            self._variances = effects.variances

    @property
    def applies(self) -> bool:
        """Whether anything is filled in."""
        return self._variances is not None

    def _effects(self, rows: Ints, tau: float) -> Effects:
        part, n_personas = self.cells.of(rows), len(self.problem.hg)
        log_lik = part.log_lik(tau, self.problem.betas)
        return Effects(part.persona, part.exemplar, log_lik, n_personas, variances=self._variances)

    def scores(self, rows: Ints, tau: float | None = None) -> Scores:
        """Some records; each part is filled in by itself."""
        tau = tau or self.tau
        if not self.applies:
            return Scores.of(self.problem, self.cells, rows, tau)
        drawn = self._effects(rows, tau).draws(*self._every, seed=self.seed, n_draws=1, common=False, numbers=rows)
        log_lik = np.concatenate(list(drawn))
        persona, exemplar = (np.broadcast_to(each, log_lik.shape) for each in self._every)
        log_lik[exemplar == self.problem.own[rows][:, None]] = -np.inf
        return Scores(self.problem, rows, persona, exemplar, log_lik)


class _Trial:
    """Cross-validated values of the shapes tried so far, and the fits behind them."""

    def __init__(self, problem: Problem, cells: Cells, n_folds: int, seed: int, progress: Progress | None) -> None:
        self.problem, self.progress = problem, progress
        self.tau = best_single_tau(cells, problem.weight, problem.betas)[0]
        everyone = np.arange(len(problem.hx))
        self.folds = folds(problem, n_folds, seed)
        self.filled_in = FilledIn(problem, cells, self.tau, seed=seed)
        self.whole = self.filled_in.scores(everyone)
        self.parts = [
            (self.filled_in.scores(np.setdiff1d(everyone, fold)), self.filled_in.scores(fold)) for fold in self.folds
        ]
        self.n_trials = len(PRIORS_FIXED) + len(SLOPES) + len(PRIORS_LOCAL) * len(BANDWIDTHS)
        self.values: dict[Shape, Floats] = {}
        self.gates: dict[Shape, list[KernelGate]] = {}
        self._fixed: dict[tuple[int, float, float], KernelGate] = {}

    def validate(self, shape: Shape) -> None:
        """Fit a shape without each fold in turn, and judge that fold."""
        if self.progress is not None:
            self.progress("fit weights", len(self.values), self.n_trials)
        self.values[shape] = np.zeros(len(self.problem.hx))
        self.gates[shape] = []
        for f, (rest, fold) in enumerate(self.parts):
            key = f, shape.fixed, shape.slope
            if shape.kind != "uniform" and key not in self._fixed:
                self._fixed[key] = fit_fixed(rest, shape.fixed, shape.slope, self.tau)[0]
            gate = fit_shape(rest, shape, self.tau, self._fixed.get(key))
            self.values[shape][fold.rows] = fold.of_gate(gate)
            self.gates[shape].append(gate)

    def mean(self, shape: Shape) -> float:
        """Cross-validated log-likelihood per record, nats."""
        return mean_of(self.values[shape], self.problem)

    def best(self, rows: Ints, kind: str = "") -> Shape:
        """The shape that some records prefer, simpler kinds unless they lose by more than a standard error."""
        weight = self.problem.weight[rows]
        tried = {s: v[rows] for s, v in self.values.items() if kind in ("", s.kind)}
        winner = max(tried, key=lambda shape: float(weight @ tried[shape]))
        for simple in ("uniform", "unconditional"):
            rivals = [shape for shape in tried if shape.kind == simple]
            if rivals and simple != winner.kind:
                rival = max(rivals, key=lambda shape: float(weight @ tried[shape]))
                if not _is_clear(tried[winner] - tried[rival], self.problem, rows):
                    return rival
        return winner

    def choice(self) -> Choice:
        """Choose, fit to all records, and judge the choice by choosing without each fold in turn."""
        everyone = self.whole.rows
        shape, free = self.best(everyone), self.best(everyone, "unconditional")
        honest = np.zeros(len(everyone))
        others = {"uniform": self.values[Shape("uniform")], "unconditional": np.zeros(len(everyone))}
        for fold in self.folds:
            rest = np.setdiff1d(everyone, fold)
            honest[fold] = self.values[self.best(rest)][fold]
            others["unconditional"][fold] = self.values[self.best(rest, "unconditional")][fold]
        is_clear = _is_clear(honest - others["uniform"], self.problem, everyone)
        if shape.kind == "uniform" or not is_clear:
            shape, honest = Shape("uniform"), others["uniform"]
        gate = fit_shape(self.whole, shape, self.tau)
        freest = Shape("unconditional", PRIORS_FIXED[-1])
        fitted = self.whole.of_gate(fit_shape(self.whole, freest, self.tau))
        return Choice(
            shape, gate, honest, tuple(self.gates[shape]), others,
            fit_shape(self.whole, free, self.tau), self.whole.of_gate(gate),
            (fitted + self.values[freest]) / 2, partial(self._refit, shape),
        )  # fmt: skip

    def _refit(self, shape: Shape, weight: Floats) -> Floats:
        again = copy(self.whole)
        again.weight = weight
        return np.asarray(weight @ np.exp(fit_shape(again, shape, self.tau).log_pi(again.hx)) / weight.sum())


def _is_clear(gain: Floats, problem: Problem, rows: Ints) -> bool:
    """Whether a gain of some records exceeds a standard error, and what is worth having."""
    mean, error = mean_and_error(gain, problem, rows)
    return mean > max(error, SMALLEST)


def mean_of(values: Floats, problem: Problem) -> float:
    """Mean over records by survey weight."""
    return float(np.average(values, weights=problem.weight))


def mean_and_error(values: Floats, problem: Problem, rows: Ints | slice = slice(None)) -> tuple[float, float]:
    """Weighted mean over records, and its linearised standard error; a cluster counts as one observation."""
    share = problem.weight[rows] / problem.weight[rows].sum()
    mean = float(share @ values)
    return mean, clustered_error(share * (values - mean), problem.clusters[rows])


def best_single_tau(cells: Cells, weight: Floats, betas: tuple[float, ...]) -> tuple[float, float]:
    """The temperature that suits equal weights best, and their mean log-likelihood in nats."""
    share, log_n = weight / weight.sum(), np.log(cells.present.sum(axis=1))
    beta, value = best_beta(lambda beta: float((log_sum_exp(cells.log_lik(1.0 / beta, betas)) - log_n) @ share), betas)
    return 1.0 / beta, value
