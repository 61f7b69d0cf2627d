"""Candidates for a mixture's weights, each fitted to the same scored cells, and the choice between them.

A candidate is uniform gates, weights that ignore the context, or gates at some weight decay,
each with a temperature per persona or a single one. All are fitted to convergence, so that a
result does not depend on a step size or on when somebody stopped. Letters as in `mop.cells`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mop.cells import Cells, Ints, Problem
from mop.config import FitConfig
from mop.curve import weights as curve_weights
from mop.errors import DataError
from mop.mixture import Floats, log_sum_exp, unconditional_weights
from mop.randomness import derive_seed, generator
from mop.types import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from mop.gate import Gate

# Prior standard deviations of the biases, in nats. Chosen by 4-fold cross-validation on 72 training and
# validation records of Rotten Tomatoes (docs/log.md, 2026-11-23); no test or golden text was looked at.
SD_A, SD_DELTA, SD_V = 0.3, 0.1, 1.0

TOLERANCE = 1e-5
"""Nats per record: a fit stops when a step gains less."""

SHRINKAGE = 4.0
"""Records' worth of belief that a component does as well as its persona and its exemplar do elsewhere."""


@dataclass(frozen=True)
class Candidate:
    """One way to weigh components."""

    kind: str
    """``uniform``, ``unconditional`` or ``gates``."""
    decay: float = 0.0
    """Weight decay, of gates."""
    is_single_tau: bool = False
    """One temperature for all personas."""

    @property
    def name(self) -> str:
        """As histories and reports call it."""
        name = f"gates, decay {self.decay:g}" if self.kind == "gates" else self.kind
        return f"{name}, one temperature" if self.is_single_tau else name


@dataclass
class FitResult:
    """A fitted gate and how it came about."""

    gate: Gate
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row per round (or epoch): bounds, full-sum values, cells and tokens so far."""
    chosen: str = ""
    """Which candidate validation chose: ``gates``, ``unconditional`` or ``uniform``, with its decay."""
    uniform_tau: float = 1.0
    """Best single temperature under uniform gates: the reference that has to be beaten."""
    n_cells: int = 0
    """Scores asked for."""
    n_tokens: int = 0
    """LM tokens of these scores."""
    stopped: str = ""
    """Why no further round was made."""
    certificate: dict[str, Any] | None = None
    """See `certificate`; None where no component was scored for all validation records."""
    temperatures: dict[str, Any] | None = None
    """See `temperature_report`; None with one persona or where scores are known at τ = 1 alone."""
    unconditional: Gate | None = None
    """The best weights that ignore the context, fitted to the same cells: a reference."""
    best_component: dict[str, Any] | None = None
    """The single component (``persona``, ``exemplar``, ``tau``) that does best alone."""
    cells: Cells | None = None
    """All that was scored."""


@dataclass(frozen=True)
class Choice:
    """The candidate that cross-validation preferred, fitted to all records."""

    candidate: Candidate
    gate: Gate
    values: Floats
    """(n,) log-likelihood of each record under a fit that has not seen it, nats."""
    fold_gates: tuple[Gate, ...]
    """The fits that `values` come from, one for each of the `folds`."""
    others: dict[str, Floats]
    """The same values of the references: ``uniform``, ``unconditional``, ``single_tau``, ``own_tau``."""
    unconditional: Gate
    """Fitted to all records."""


def log_lik_of(
    gate: Gate, cells: Cells, hx: Tensor, own: Tensor, betas: tuple[float, ...]
) -> Tensor:
    """Importance-weighted log-likelihood of each record, normalised over its scored components.

    log Σ_m (w_m/q_m) p_m − log Σ_m (w_m/q_m): where all components are scored this is
    log Σ_c w_c p_c exactly.

    Returns
    -------
    Tensor, shape (n,), nats
    """
    return _log_lik(gate, _Prepared.of(cells, hx, own, betas), is_context_free=False)


@dataclass(frozen=True)
class _Prepared:
    """Cells of some records as tensors, in the order in which they are used again and again."""

    hx: Tensor
    own: Tensor
    betas: tuple[float, ...]
    persona: Tensor
    """(n, M)"""
    exemplar: Tensor
    """(n, M)"""
    log_q: Tensor
    """(n, M), infinite where nothing was scored, so that the cell has no weight."""
    curves: Tensor
    """(P, G) of all P cells, persona by persona, so that each τ meets one block."""
    ends: list[int]
    """(K,) where the block of each persona ends."""
    place: Tensor
    """(n, M) row of ``curves`` of each cell."""

    @classmethod
    def of(cls, cells: Cells, hx: Tensor, own: Tensor, betas: tuple[float, ...]) -> _Prepared:
        import torch

        flat = cells.persona.reshape(-1)
        order = np.argsort(flat, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        count = np.bincount(flat)
        return cls(
            hx=hx,
            own=own,
            betas=betas,
            persona=torch.as_tensor(cells.persona),
            exemplar=torch.as_tensor(cells.exemplar),
            log_q=torch.as_tensor(np.where(cells.present, cells.log_q, np.inf)),
            curves=torch.as_tensor(
                cells.curves.reshape(-1, cells.curves.shape[-1])[order].astype(np.float64)
            ),
            ends=np.cumsum(count).tolist(),
            place=torch.as_tensor(place.reshape(cells.persona.shape)),
        )

    def log_lik(self, log_tau: Tensor) -> Tensor:
        """Log-likelihood of every cell at the temperatures (K,): (n, M) nats."""
        import torch

        from mop.curve import torch_weights

        beta = torch.exp(-log_tau)
        if len(self.betas) > 1:
            beta = beta.clamp(min(self.betas), max(self.betas))  # exp and log may round outwards
        nodes = torch_weights(beta, self.betas)
        starts = [0, *self.ends[:-1]]
        flat = torch.cat(
            [self.curves[a:b] @ nodes[k] for k, (a, b) in enumerate(zip(starts, self.ends, strict=True))]
        )  # fmt: skip
        return flat[self.place]


def _log_lik(gate: Gate, data: _Prepared, *, is_context_free: bool) -> Tensor:
    import torch

    if is_context_free:
        log_w = gate.context_free_log_weight(data.persona, data.exemplar, data.own)
    else:
        log_w = gate.log_weight(data.hx, data.persona, data.exemplar, data.own)
    log_w = log_w - data.log_q
    log_lik = data.log_lik(gate.log_tau)
    return torch.logsumexp(log_w + log_lik, dim=1) - torch.logsumexp(log_w, dim=1)


def best_single_tau(cells: Cells, weight: Floats, betas: tuple[float, ...]) -> tuple[float, float]:
    """The temperature that suits uniform gates best, and its mean log-likelihood in nats.

    Examined on a grid of β and refined: the function of one variable is cheap.
    """
    if len(betas) == 1:
        return 1.0 / betas[0], float(_uniform_values(cells, weight, betas, np.array(betas))[0])
    grid = np.linspace(betas[0], betas[-1], 40)
    best = int(np.argmax(_uniform_values(cells, weight, betas, grid)))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    fine = np.linspace(low, high, 61)
    values = _uniform_values(cells, weight, betas, fine)
    best = int(np.argmax(values))
    return float(1.0 / fine[best]), float(values[best])


def _uniform_values(cells: Cells, weight: Floats, betas: tuple[float, ...], at: Floats) -> Floats:
    """Mean log-likelihood under uniform gates at some β, (len(at),)."""
    log_w = np.where(cells.present, -cells.log_q, -np.inf)
    norm = log_sum_exp(log_w)
    curves = cells.curves.astype(np.float64)
    share = weight / weight.sum()
    return np.array(
        [
            (log_sum_exp(log_w + curves @ curve_weights(float(beta), betas)) - norm) @ share
            for beta in at
        ]
    )


# ------------------------------------------------------------------------------------- one candidate


def fit_candidate(
    candidate: Candidate,
    problem: Problem,
    cells: Cells,
    rows: Ints,
    settings: FitConfig,
    *,
    seed: int,
    start: Gate | None = None,
) -> Gate:
    """Maximise the penalised likelihood of some records under one candidate, to convergence.

    Parameters
    ----------
    candidate : Candidate
    problem : Problem
    cells : Cells
        Of all n records.
    rows : ndarray of int
        The records to fit to.
    settings : FitConfig
    seed : int
        Of the initial projections; the same seed gives the same start.
    start : Gate, optional
        A fit to the same records, to begin from: that of a stronger decay, as a rule.

    Returns
    -------
    Gate

    Raises
    ------
    DataError
        If a score is not finite.

    Notes
    -----
    L-BFGS (Liu and Nocedal 1989) with bounds, which keep temperatures where the curves were measured. The
    prior holds W_x near its random start: were it free, it could grow without end while W_g
    and W_e shrink, and their decay would mean nothing.
    """
    some = cells.of(rows)
    if not bool(np.isfinite(some.curves[some.present]).all()):
        raise DataError(
            "the fit met a score that is not finite; check the scores with: mop verify RUN"
        )
    tau, value = best_single_tau(some, problem.weight[rows], problem.betas)
    gate = new_gate(problem, settings, tau, seed)
    if candidate.kind == "uniform":
        return gate
    start_w_x = gate.w_x.detach().clone()
    if start is not None:
        gate.load_state_dict(start.state_dict())
    _maximise(
        gate, candidate, _Loss(problem, some, rows, settings, math.log(tau), value, start_w_x)
    )
    keep_in_range(gate, problem.betas)
    return gate


@dataclass(frozen=True)
class _Loss:
    """What is minimised: minus the mean log-likelihood above uniform gates, plus the prior per record."""

    problem: Problem
    some: Cells
    rows: Ints
    settings: FitConfig
    log_tau: float
    """Best single one of uniform gates; temperatures are drawn towards it."""
    value: float
    """Mean log-likelihood at it."""
    start_w_x: Tensor
    """Where the prior holds W_x."""

    def prepared(self) -> tuple[_Prepared, Tensor]:
        import torch

        problem, rows = self.problem, self.rows
        data = _Prepared.of(
            self.some,
            torch.as_tensor(problem.hx[rows]),
            torch.as_tensor(problem.own[rows]),
            problem.betas,
        )
        return data, torch.as_tensor(problem.weight[rows] / problem.weight[rows].sum())


def _maximise(gate: Gate, candidate: Candidate, loss: _Loss) -> None:
    """Move the free parameters of a gate to the optimum, in place."""
    import torch
    from scipy.optimize import minimize

    settings, betas = loss.settings, loss.problem.betas
    data, share = loss.prepared()
    has_taus = len(betas) > 1
    free: list[Tensor] = [gate.a, gate.delta, gate.v]
    if candidate.kind == "gates":
        free += [gate.w_x, gate.w_g, gate.w_e]
    n_taus = (1 if candidate.is_single_tau else len(gate.log_tau)) if has_taus else 0
    sizes = [p.numel() for p in free]

    def load(x: Floats) -> None:
        with torch.no_grad():
            at = 0
            for p, size in zip(free, sizes, strict=True):
                p.copy_(torch.from_numpy(x[at : at + size]).view_as(p))
                at += size
            if has_taus:
                gate.log_tau.copy_(torch.from_numpy(x[at:].copy()).expand(len(gate.log_tau)))

    def value_and_slope(x: Floats) -> tuple[float, Floats]:
        load(x)
        for p in (*free, gate.log_tau):
            p.grad = None
        fit = _log_lik(gate, data, is_context_free=candidate.kind != "gates") @ share
        total = _penalty(gate, candidate, loss) - (fit - loss.value)
        total.backward()  # type: ignore[no-untyped-call]
        slopes = [p.grad.numpy().reshape(-1) for p in free if p.grad is not None]
        if has_taus:
            taus = gate.log_tau.grad
            assert taus is not None
            slopes.append(taus.numpy() if n_taus > 1 else taus.numpy().sum(keepdims=True))
        return float(total.detach()), np.concatenate(slopes)

    start = [p.detach().numpy().reshape(-1) for p in free]
    if has_taus:
        taus = gate.log_tau.detach().numpy()
        start.append(taus.copy() if n_taus == len(taus) else taus.mean(keepdims=True))
    x0 = np.concatenate(start)
    low, high = -math.log(betas[-1]), -math.log(betas[0])
    bounds = [(None, None)] * sum(sizes) + [(low, high)] * n_taus
    found = minimize(
        value_and_slope,
        x0,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": settings.max_steps, "ftol": TOLERANCE, "gtol": 1e-6, "maxcor": 12},
    )
    load(np.asarray(found.x))


def _penalty(gate: Gate, candidate: Candidate, loss: _Loss) -> Tensor:
    """Minus log prior per record: gates near their start, biases near zero, log τ near the common one."""
    n, spread = len(loss.rows), loss.settings.tau_spread
    biases = sum(
        (bias.square().sum() / sd**2 for bias, sd in ((gate.a, SD_A), (gate.delta, SD_DELTA))),
        gate.v.square().sum() / SD_V**2,
    )
    taus = (gate.log_tau - gate.log_tau.mean()).square().sum() / spread**2
    drift = (gate.log_tau.mean() - loss.log_tau) ** 2
    total = (0.5 * biases + 0.5 * taus + drift) / n
    if candidate.kind == "gates":
        moved = (gate.w_x - loss.start_w_x).square().sum()
        total = total + candidate.decay * (
            gate.w_g.square().sum() + gate.w_e.square().sum() + moved
        )
    return total


def new_gate(problem: Problem, settings: FitConfig, tau: float, seed: int) -> Gate:
    """Uniform gates at one temperature, ready to be fitted."""
    import torch

    from mop.gate import Gate

    return Gate(
        torch.as_tensor(problem.hg),
        torch.as_tensor(problem.he),
        dim=settings.dim,
        seed=derive_seed(seed, "gate"),
        log_tau=math.log(tau),
    )


def keep_in_range(gate: Gate, betas: tuple[float, ...]) -> None:
    """Temperatures stay where the curves were measured; beyond their ends an interpolation means nothing."""
    import torch

    if len(betas) > 1:
        with torch.no_grad():
            gate.log_tau.clamp_(-math.log(betas[-1]), -math.log(betas[0]))


def values_of(gate: Gate, problem: Problem, cells: Cells, rows: Ints) -> Floats:
    """Log-likelihood of some records (len(rows),) from their scored cells, nats."""
    import torch

    with torch.inference_mode():
        value = log_lik_of(
            gate,
            cells.of(rows),
            torch.as_tensor(problem.hx[rows]),
            torch.as_tensor(problem.own[rows]),
            problem.betas,
        )
    return np.asarray(value.numpy(), dtype=np.float64)


# ---------------------------------------------------------------------------------------- the choice


def folds(n: int, n_folds: int, seed: int) -> list[Ints]:
    """Split n records into folds, each in ascending order; the same in every round."""
    order = generator(seed, "folds").permutation(n)
    return [np.sort(order[f::n_folds]).astype(np.int64) for f in range(n_folds)]


def choose(
    problem: Problem,
    cells: Cells,
    settings: FitConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> Choice:
    """Cross-validate the candidates, then fit the best one to all records.

    Every record is judged by a fit that has not seen it. Decays are tried from the strongest down, each
    from where the stronger one ended, until a weaker one validates worse. The winner is then
    tried with a single temperature; of equals the simpler candidate wins.
    """
    trial = _Trial(problem, cells, settings, seed, progress)
    uniform, unconditional = Candidate("uniform"), Candidate("unconditional")
    best, last = unconditional, unconditional
    trial.validate(uniform)
    trial.validate(unconditional, start=uniform)
    if trial.mean(uniform) >= trial.mean(unconditional):
        best = uniform
    for decay in sorted(settings.decays, reverse=True):
        gates = Candidate("gates", decay)
        trial.validate(gates, start=last)
        if trial.mean(gates) > trial.mean(best):
            best = gates
        elif last != unconditional:
            break
        last = gates
    others = {"uniform": trial.values[uniform], "unconditional": trial.values[unconditional]}
    if best != uniform and len(problem.betas) > 1 and len(problem.hg) > 1:
        single = replace(best, is_single_tau=True)
        trial.validate(single, start=best)
        others |= {"single_tau": trial.values[single], "own_tau": trial.values[best]}
        if trial.mean(single) >= trial.mean(best):
            best = single
    everyone = np.arange(len(problem.hx))
    free = fit_candidate(unconditional, problem, cells, everyone, settings, seed=seed)
    gate = free
    if best != unconditional:
        gate = fit_candidate(best, problem, cells, everyone, settings, seed=seed, start=free)
    if progress is not None:
        progress("fit gates", trial.n_trials, trial.n_trials)
    return Choice(best, gate, trial.values[best], tuple(trial.gates[best]), others, free)


class _Trial:
    """Cross-validated values of the candidates tried so far, and the fits behind them."""

    def __init__(
        self,
        problem: Problem,
        cells: Cells,
        settings: FitConfig,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self.problem, self.cells, self.settings = problem, cells, settings
        self.seed, self.progress = seed, progress
        self.folds = folds(len(problem.hx), settings.n_folds, seed)
        self.n_trials = 4 + len(settings.decays)
        self.values: dict[Candidate, Floats] = {}
        self.gates: dict[Candidate, list[Gate]] = {}

    def validate(self, candidate: Candidate, *, start: Candidate | None = None) -> None:
        """Fit a candidate without each fold in turn, and judge that fold."""
        if self.progress is not None:
            self.progress("fit gates", len(self.values), self.n_trials)
        everyone = np.arange(len(self.problem.hx))
        values, gates = np.zeros(len(everyone)), []
        for f, fold in enumerate(self.folds):
            gate = fit_candidate(
                candidate, self.problem, self.cells, np.setdiff1d(everyone, fold), self.settings,
                seed=self.seed, start=None if start is None else self.gates[start][f],
            )  # fmt: skip
            values[fold] = values_of(gate, self.problem, self.cells, fold)
            gates.append(gate)
        self.values[candidate], self.gates[candidate] = values, gates

    def mean(self, candidate: Candidate) -> float:
        """Cross-validated log-likelihood per record, nats."""
        return mean_of(self.values[candidate], self.problem)


def mean_of(values: Floats, problem: Problem) -> float:
    """Mean over records by survey weight."""
    return float(np.average(values, weights=problem.weight))


# -------------------------------------------------------------------------- what the fit can say of itself


def component_gains(gate: Gate, problem: Problem, cells: Cells) -> Floats:
    """How much better than the fitted mixture each component does on the records it was scored for.

    An estimate of d_c = mean_i p_c(i) / p(i), the derivative of the mean log-likelihood in the
    direction of component c: above 1, more weight on c would pay. Components that were scored
    for few records lean on the others of their persona and of their exemplar.

    Returns
    -------
    ndarray, shape (K·N,)
        Component (k, j) at k·N + j.

    Notes
    -----
    Source: Lindsay 1983, the gradient function of a mixture.
    """
    import torch

    n_personas, n_exemplars = len(problem.hg), len(problem.he)
    rows = np.arange(len(problem.hx))
    value = values_of(gate, problem, cells, rows)
    data = _Prepared.of(
        cells, torch.as_tensor(problem.hx), torch.as_tensor(problem.own), problem.betas
    )
    with torch.inference_mode():
        log_lik = data.log_lik(gate.log_tau).numpy()
    here = cells.present
    # One record must not decide alone: a ratio above e³ counts as e³.
    ratio = np.exp(np.minimum(log_lik - value[:, None], 3.0))[here]
    weight = np.broadcast_to(problem.weight[:, None] / problem.weight.mean(), here.shape)[here]
    shape = (n_personas, n_exemplars)
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (cells.persona[here], cells.exemplar[here]), ratio * weight)
    np.add.at(count, (cells.persona[here], cells.exemplar[here]), weight)

    def shrunk(total: Floats, count: Floats, towards: Floats | float) -> Floats:
        return np.asarray((total + SHRINKAGE * towards) / (count + SHRINKAGE))

    overall = float(total.sum() / count.sum())
    of_persona = shrunk(total.sum(axis=1), count.sum(axis=1), overall)
    of_exemplar = shrunk(total.sum(axis=0), count.sum(axis=0), overall)
    expected = of_persona[:, None] * of_exemplar[None, :] / overall
    return shrunk(total, count, expected).reshape(-1)


def certificate(gate: Gate, problem: Problem, cells: Cells) -> dict[str, Any] | None:
    """Bound on what weights that ignore the context could still gain over a fit.

    Looks at the components that were scored for every validation record, where no sampling is
    involved. With d_c = mean_i p_c(i) / p(i), no fixed weighting of these components can exceed the
    fit's mean log-likelihood by more than log max_c d_c, because by Jensen's inequality
    mean log(p_new / p) ≤ log mean(p_new / p) = log Σ_c w_c d_c.

    Returns
    -------
    dict or None
        ``bound`` (nats per record, at least 0), ``best_fixed``: what the best fixed weights do gain
        (below 0 if the fit is better; itself certified to ``best_fixed_slack``), ``n_records``,
        ``n_components``, ``largest``: the components with the largest d_c as [persona,
        exemplar, d_c]. None where no component was scored for every validation record.
    """
    import torch

    rows = np.arange(problem.n_train, len(problem.hx))
    n_exemplars = len(problem.he)
    flat = np.where(cells.present, cells.persona * n_exemplars + cells.exemplar, -1)[rows]
    common = set(flat[0].tolist()).intersection(*(set(row.tolist()) for row in flat)) - {-1}
    if not common:
        return None
    columns = np.array(sorted(common))
    order = np.argsort(flat, axis=1, kind="stable")
    found = np.stack(
        [o[np.searchsorted(row[o], columns)] for row, o in zip(flat, order, strict=True)]
    )
    some = cells.of(rows)
    data = _Prepared.of(
        some, torch.as_tensor(problem.hx[rows]), torch.as_tensor(problem.own[rows]), problem.betas
    )
    with torch.inference_mode():
        log_lik = np.take_along_axis(data.log_lik(gate.log_tau).numpy(), found, axis=1)
    weight = problem.weight[rows]
    value = values_of(gate, problem, cells, rows)
    log_share = np.log(weight / weight.sum())
    log_d = log_sum_exp(log_share[:, None] + log_lik - value[:, None], axis=0)
    best = unconditional_weights(log_lik, record_weight=weight)
    first = np.argsort(-log_d, kind="stable")[:5]
    return {
        "bound": float(max(log_d.max(), 0.0)),
        "best_fixed": float(best.mean_log_lik - np.average(value, weights=weight)),
        "best_fixed_slack": best.slack,
        "n_records": len(rows),
        "n_components": len(columns),
        "largest": [
            [int(columns[c]) // n_exemplars, int(columns[c]) % n_exemplars, float(np.exp(log_d[c]))]
            for c in first
        ],
    }


def temperature_report(
    choice: Choice, problem: Problem, cells: Cells, settings: FitConfig, *, seed: int
) -> dict[str, Any] | None:
    """Temperatures with their intervals, and whether one per persona is worth having.

    Returns
    -------
    dict or None
        ``intervals``: [low, high] of each persona's τ, 95 %, from the curvature of the penalised
        log-likelihood in log τ at the optimum, gates held fixed; ``gain_over_single``: cross-validated
        nats per record of a temperature per persona over a single one, with ``gain_interval`` from
        resampled records. None where there is nothing to compare.
    """
    if "own_tau" not in choice.others:
        return None
    difference = choice.others["own_tau"] - choice.others["single_tau"]
    low, high = paired_interval(difference, problem.weight, seed=derive_seed(seed, "tau-gain"))
    return {
        "is_single": choice.candidate.is_single_tau,
        "gain_over_single": mean_of(difference, problem),
        "gain_interval": [low, high],
        "intervals": tau_intervals(
            choice.gate, problem, cells, settings, is_single=choice.candidate.is_single_tau
        ),
    }


def tau_intervals(
    gate: Gate, problem: Problem, cells: Cells, settings: FitConfig, *, is_single: bool = False
) -> list[list[float]]:
    """95 % intervals of the temperatures, [[low, high]] × K.

    A normal approximation in log τ: the covariance is the inverse of the second derivatives of
    the penalised log-likelihood of all records, gates held fixed. With the prior on
    differences between personas, these are posterior intervals.
    """
    import torch

    data = _Prepared.of(
        cells, torch.as_tensor(problem.hx), torch.as_tensor(problem.own), problem.betas
    )
    weight = torch.as_tensor(problem.weight / problem.weight.mean())
    with torch.no_grad():
        log_w = gate.log_weight(data.hx, data.persona, data.exemplar, data.own) - data.log_q
    centre = gate.log_tau.detach()

    def negative(log_tau: Tensor) -> Tensor:
        taus = log_tau.expand(len(centre))
        value = torch.logsumexp(log_w + data.log_lik(taus), dim=1) @ weight
        spread = (taus - taus.mean()).square().sum() / settings.tau_spread**2
        return 0.5 * spread - value

    at = centre.mean()[None] if is_single else centre
    curvature = torch.autograd.functional.hessian(negative, at)  # type: ignore[no-untyped-call]
    values, axes = np.linalg.eigh(np.asarray(curvature.numpy(), np.float64))
    # A direction in which the likelihood does not bend is known as little as one record can tell.
    variance = np.square(axes) @ (1.0 / np.maximum(values, 1.0))
    low, high = 1.0 / problem.betas[-1], 1.0 / problem.betas[0]
    reach = 1.96 * np.sqrt(np.broadcast_to(variance, len(centre)))
    taus = np.exp(centre.numpy())
    return [
        [float(max(low, tau * np.exp(-r))), float(min(high, tau * np.exp(r)))]
        for tau, r in zip(taus, reach, strict=True)
    ]


def paired_interval(
    difference: Floats, weight: Floats, *, seed: int, n_resamples: int = 2_000
) -> tuple[float, float]:
    """95 % interval of a weighted mean difference, from resampled records."""
    rng = generator(seed, "paired")
    n = len(difference)
    means = np.empty(n_resamples)
    for b in range(n_resamples):
        count = np.bincount(rng.integers(n, size=n), minlength=n) * weight
        means[b] = count @ difference / count.sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def best_component(problem: Problem, cells: Cells) -> dict[str, Any]:
    """The component that explains the records best all alone, at its own best temperature.

    Only components scored for all validation records are compared, on these; if there are none, those
    scored for the most records.

    Returns
    -------
    dict
        ``persona``, ``exemplar`` (rows), ``tau``, ``n_records``.
    """
    n_exemplars, n_personas = len(problem.he), len(problem.hg)
    flat = np.where(cells.present, cells.persona * n_exemplars + cells.exemplar, -1)
    rows = np.arange(problem.n_train, len(problem.hx))
    count = np.bincount(flat[rows][flat[rows] >= 0], minlength=n_personas * n_exemplars)
    grid = np.linspace(problem.betas[0], problem.betas[-1], 60) if len(problem.betas) > 1 else (
        np.array(problem.betas)
    )  # fmt: skip
    nodes = np.stack([curve_weights(float(beta), problem.betas) for beta in grid])  # (B, G)
    best: tuple[float, int, int] = (-math.inf, 0, 0)
    for c in np.flatnonzero(count == count.max()).tolist():
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
    }
