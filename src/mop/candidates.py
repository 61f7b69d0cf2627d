"""Candidates for a mixture's weights, each fitted to the same scored cells, and the choice between them.

A candidate is uniform gates, weights that ignore the context, weights by similarity to it, or gates at some
weight decay, each with a temperature per persona or a single one. All are fitted to convergence, so that a
result does not depend on a step size or on when somebody stopped. Letters as in `mop.cells`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mop.cells import Cells, Ints, Problem
from mop.completion import Completion
from mop.config import FitConfig
from mop.curve import weights as curve_weights
from mop.errors import DataError
from mop.mixture import Floats, log_sum_exp, unconditional_weights
from mop.randomness import derive_seed, generator
from mop.types import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from mop.gate import Gate

# Prior standard deviations of the biases, in nats, at width 1: what 72 records support (docs/log.md, 2026-11-23).
SD_A, SD_DELTA, SD_V = 0.3, 0.1, 1.0

SD_SIMILARITY = 10.0
"""Prior standard deviation of the two factors on similarities, in nats for a cosine of one."""

SIMILAR_AXES = 32
"""Principal axes of the embeddings in which similarity is measured, at most a quarter of the gate's dimensions."""

WIDTHS = (1.0, 3.0, 10.0)
"""Factors on these that are tried, narrowest first: more records support freer weights."""

TOLERANCE, PATIENCE = 5e-4, 10
"""A fit stops when so many steps together gain less than so many nats per record. A single step says
little: the first one of L-BFGS is tiny wherever the slope is small."""

_SMALL = 2_000_000
"""Numbers in a tensor below which one thread is faster than several."""

CLEARLY = 3.0
"""Standard errors over records by which a candidate must lose to be given up."""

SHRINKAGE = 4.0
"""Records' worth of belief that a component does as well as its persona and its exemplar do elsewhere."""


@dataclass(frozen=True)
class Candidate:
    """One way to weigh components."""

    kind: str
    """``uniform``, ``unconditional``, ``similar`` (personas and exemplars are weighed by how similar they are to
    the context, and by biases) or ``gates``."""
    decay: float = 0.0
    """Weight decay, of gates."""
    width: float = 1.0
    """Factor on the prior standard deviations of the biases."""
    is_single_tau: bool = False
    """One temperature for all personas."""

    @property
    def sees_context(self) -> bool:
        """Whether weights depend on the context."""
        return self.kind in ("similar", "gates")

    @property
    def name(self) -> str:
        """As histories and reports call it."""
        longer = {"gates": f"gates, decay {self.decay:g}", "similar": "weights by similarity"}
        name = longer.get(self.kind, self.kind)
        name = name if self.width == 1 else f"{name}, width {self.width:g}"
        return f"{name}, one temperature" if self.is_single_tau else name


@dataclass
class FitResult:
    """A fitted gate and how it came about."""

    gate: Gate
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row per round (or epoch): bounds, full-sum values, cells and tokens so far."""
    chosen: str = ""
    """Which candidate validation chose: the `Candidate.name` of one of its kinds."""
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
    rows: Ints | None = None
    """The records that `cells` are of, rows of the problem; None: all of them."""


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
    fitted_values: Floats
    """(n,) log-likelihood of each record under `gate`, which was fitted to it."""
    is_filled_in: bool
    """Whether tables were filled in for it (see `mop.completion`)."""


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
    return _log_lik(gate, _Scores.of(cells, hx, own, betas))


@dataclass(frozen=True)
class _Scores:
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
    def of(cls, cells: Cells, hx: Tensor, own: Tensor, betas: tuple[float, ...]) -> _Scores:
        import torch

        flat = cells.persona.reshape(-1)
        order = np.argsort(flat, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
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
            ends=np.cumsum(np.bincount(flat)).tolist(),
            place=torch.as_tensor(place.reshape(cells.persona.shape)),
        )

    def log_lik(self, log_tau: Tensor) -> Tensor:
        """Log-likelihood of every cell at the temperatures (K,): (n, M) nats."""
        import torch

        from mop.curve import torch_weights

        beta = torch.exp(-log_tau)
        if len(self.betas) > 1:
            # Where the curves end, so do the temperatures that a fit may try.
            beta = beta.clamp(min(self.betas), max(self.betas))
        nodes = torch_weights(beta, self.betas)
        starts = [0, *self.ends[:-1]]
        blocks = zip(starts, self.ends, strict=True)
        flat = torch.cat([self.curves[a:b] @ nodes[k] for k, (a, b) in enumerate(blocks)])
        return flat[self.place]


def _log_lik(gate: Gate, scores: _Scores) -> Tensor:
    log_w = gate.log_weight(scores.hx, scores.persona, scores.exemplar, scores.own)
    return _normalised(log_w, scores, gate.log_tau)


def _normalised(log_w: Tensor, scores: _Scores, log_tau: Tensor) -> Tensor:
    import torch

    log_w = log_w - scores.log_q
    log_lik = scores.log_lik(log_tau)
    return torch.logsumexp(log_w + log_lik, dim=1) - torch.logsumexp(log_w, dim=1)


class Part:
    """Some records with their scored cells, made ready once for all candidates.

    Parameters
    ----------
    problem : Problem
    cells : Cells
        Of all n records.
    rows : ndarray of int
        The records of this part.
    """

    def __init__(self, problem: Problem, cells: Cells, rows: Ints) -> None:
        self.problem, self.rows, self.cells = problem, rows, cells.of(rows)
        self.weight = problem.weight[rows]

    @cached_property
    def scores(self) -> _Scores:
        """As tensors."""
        import torch

        problem, rows = self.problem, self.rows
        return _Scores.of(
            self.cells,
            torch.as_tensor(problem.hx[rows]),
            torch.as_tensor(problem.own[rows]),
            problem.betas,
        )

    @cached_property
    def single_tau(self) -> tuple[float, float]:
        """See `best_single_tau`."""
        return best_single_tau(self.cells, self.weight, self.problem.betas)

    def values(self, gate: Gate) -> Floats:
        """Log-likelihood of each record under a gate (len(rows),), nats."""
        import torch

        with torch.inference_mode():
            value = _log_lik(gate, self.scores)
        return np.asarray(value.numpy(), dtype=np.float64)


class FilledIn:
    """Parts of some records as fits and judges see them: filled in where `mop.completion` can, else as scored."""

    def __init__(self, problem: Problem, cells: Cells, settings: FitConfig, *, seed: int) -> None:
        self.problem, self.cells = problem, cells
        self._completion = None
        if settings.completion:
            tau, _ = best_single_tau(cells, problem.weight, problem.betas)
            completion = Completion(problem, cells, tau=tau, seed=seed)
            self._completion = completion if completion.applies else None

    def part(self, rows: Ints) -> Part:
        """Some records; each part is filled in by itself."""
        cells = self.cells if self._completion is None else self._completion.filled(rows)
        return Part(self.problem, cells, rows)

    @property
    def applies(self) -> bool:
        """Whether anything is filled in."""
        return self._completion is not None


def best_single_tau(cells: Cells, weight: Floats, betas: tuple[float, ...]) -> tuple[float, float]:
    """The temperature that suits uniform gates best, and its mean log-likelihood in nats.

    Examined on a grid of β and refined around the best: the function of one variable is cheap.
    """
    from scipy.optimize import minimize_scalar

    log_w = np.where(cells.present, -cells.log_q, -np.inf)
    norm, share = log_sum_exp(log_w), weight / weight.sum()

    def value(beta: float) -> float:
        log_lik = cells.curves @ curve_weights(beta, betas)
        return float((log_sum_exp(log_w + log_lik) - norm) @ share)

    if len(betas) == 1:
        return 1.0 / betas[0], value(betas[0])
    grid = np.linspace(betas[0], betas[-1], 24)
    best = int(np.argmax([value(float(beta)) for beta in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = minimize_scalar(
        lambda beta: -value(float(beta)), bounds=around, method="bounded", options={"xatol": 1e-4}
    )
    return 1.0 / float(found.x), -float(found.fun)


# ------------------------------------------------------------------------------------- one candidate


def fit_candidate(
    candidate: Candidate, part: Part, settings: FitConfig, *, seed: int, start: Gate | None = None
) -> Gate:
    """Maximise the penalised likelihood of some records under one candidate, to convergence.

    Parameters
    ----------
    candidate : Candidate
    part : Part
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
    L-BFGS (Liu and Nocedal 1989). The prior holds W_x near its start (random rows, and principal axes): were
    it free, it could grow without end while W_g and W_e shrink, and their decay would mean nothing.
    """
    if not bool(np.isfinite(part.cells.curves[part.cells.present]).all()):
        raise DataError(
            "the fit met a score that is not finite; check the scores with: mop verify RUN"
        )
    gate = new_gate(part.problem, settings, part.single_tau[0], seed)
    if candidate.kind == "uniform":
        return gate
    start_w_x = gate.w_x.detach().clone()
    if start is not None:
        gate.load_state_dict(start.state_dict())
    _maximise(gate, candidate, part, settings, start_w_x)
    keep_in_range(gate, part.problem.betas)
    return gate


def _within(gate: Gate, bases: tuple[Tensor, Tensor, Tensor]) -> Gate:
    """Return the same gate in coordinates of the spans of contexts, personas and exemplars.

    A projection acts on these spans alone, so a fit need not move it in other directions, and
    the fit is that of all coordinates exactly.
    """
    import copy

    import torch

    of_x, of_g, of_e = bases
    small = copy.deepcopy(gate)
    with torch.no_grad():
        small.hg, small.he = gate.hg @ of_g, gate.he @ of_e
        for name, basis in (("w_x", of_x), ("w_g", of_g), ("w_e", of_e), ("v", of_e)):
            setattr(small, name, torch.nn.Parameter(getattr(gate, name) @ basis))
    return small


def _take_over(gate: Gate, small: Gate, bases: tuple[Tensor, Tensor, Tensor]) -> None:
    """Move a gate to where its counterpart in the spans is, in place."""
    import torch

    of_x, of_g, of_e = bases
    with torch.no_grad():
        for name in ("a", "delta", "log_tau"):
            getattr(gate, name).copy_(getattr(small, name))
        for name, basis in (("w_x", of_x), ("w_g", of_g), ("w_e", of_e), ("v", of_e)):
            here = getattr(gate, name)
            here += (getattr(small, name) - here @ basis) @ basis.T


@dataclass(frozen=True)
class _Block:
    """A parameter in the optimiser's coordinates: departures from its centre in prior standard deviations."""

    parameter: Tensor
    centre: Tensor | float
    scale: float
    direction: Tensor | None = None
    """If given, the parameter moves along it only, and has one coordinate."""

    @property
    def size(self) -> int:
        """How many coordinates."""
        return self.parameter.numel() if self.direction is None else 1

    def put(self, x: Tensor) -> None:
        """Set the parameter to where the coordinates say."""
        step = x.view_as(self.parameter) if self.direction is None else x * self.direction
        self.parameter.copy_(self.centre + self.scale * step)

    def position(self) -> Tensor:
        """Coordinates of where the parameter is, or of the nearest place that it can be at."""
        step = (self.parameter.detach() - self.centre) / self.scale
        if self.direction is None:
            return step.reshape(-1)
        return (step * self.direction).sum()[None] / self.direction.square().sum()

    def slope(self) -> Tensor:
        """Of the loss, from the gradient of the fit."""
        import torch

        grad = self.parameter.grad
        if grad is None:
            return torch.zeros(self.size, dtype=torch.float64)
        along = grad.reshape(-1) if self.direction is None else (grad * self.direction).sum()[None]
        return -self.scale * along


def _free_blocks(
    candidate: Candidate, gate: Gate, start_w_x: Tensor, problem: Problem
) -> list[_Block]:
    """What a candidate lets move, of a gate that is in the spans of the embeddings."""
    import torch

    of_x, of_g, of_e = map(torch.from_numpy, problem.bases)
    blocks = [
        _Block(gate.a, 0.0, SD_A * candidate.width),
        _Block(gate.delta, 0.0, SD_DELTA * candidate.width),
        _Block(gate.v, 0.0, SD_V * candidate.width),
    ]
    if candidate.kind == "similar":
        axes = axes_of(start_w_x, problem)
        n_text = len(of_e) - len(of_x)
        blocks += [
            _Block(gate.w_g, 0.0, SD_SIMILARITY, axes @ of_g),
            _Block(gate.w_e, 0.0, SD_SIMILARITY, axes @ of_e[n_text:]),
        ]
    if candidate.kind == "gates":
        scale = 1.0 / math.sqrt(2 * candidate.decay)
        blocks += [
            _Block(gate.w_x, start_w_x @ of_x, scale),
            _Block(gate.w_g, 0.0, scale),
            _Block(gate.w_e, 0.0, scale),
        ]
    return blocks


def _maximise(
    gate: Gate, candidate: Candidate, part: Part, settings: FitConfig, start_w_x: Tensor
) -> None:
    """Move the free parameters of a gate to the optimum, in place.

    The search runs in the spans of the embeddings (`Problem.bases`). What the optimiser sees is each
    parameter in units of its prior standard deviation, and the temperatures as a common one
    and departures from it: so it needs far fewer steps.
    """
    import torch
    from scipy.optimize import minimize

    n, weight = len(part.rows), torch.as_tensor(part.weight / part.weight.sum())
    of_x, of_g, of_e = map(torch.from_numpy, part.problem.bases)
    whole, bases = gate, (of_x, of_g, of_e)
    gate = _within(whole, bases)
    hx = part.scores.hx.double() @ bases[0]
    free = _free_blocks(candidate, gate, start_w_x, part.problem)
    ends = np.cumsum([block.size for block in free]).tolist()
    log_tau0, n_taus = math.log(part.single_tau[0]), 0
    if len(part.problem.betas) > 1:
        n_taus = 1 if candidate.is_single_tau else 1 + len(gate.log_tau)

    def load(x: Tensor) -> None:
        with torch.no_grad():
            for block, end in zip(free, ends, strict=True):
                block.put(x[end - block.size : end])
            if n_taus:
                common, own = x[ends[-1]], x[ends[-1] + 1 :]
                gate.log_tau.copy_((log_tau0 + common + settings.tau_spread * own).expand(len(gate.log_tau))
                                   if n_taus > 1 else (log_tau0 + common).expand(len(gate.log_tau)))  # fmt: skip

    def value_and_slope(x: Floats) -> tuple[float, Floats]:
        at = torch.from_numpy(x)
        load(at)
        gate.zero_grad()
        scores = part.scores
        if candidate.sees_context:
            log_w = gate.log_weight(
                hx, scores.persona, scores.exemplar, scores.own, dtype=torch.float32
            )
        else:
            log_w = gate.context_free_log_weight(scores.persona, scores.exemplar, scores.own)
        fit = _normalised(log_w, scores, gate.log_tau) @ weight
        fit.backward()  # type: ignore[no-untyped-call]
        slopes = [block.slope() for block in free]
        if n_taus and gate.log_tau.grad is not None:
            slopes.append(-gate.log_tau.grad.sum()[None])
            if n_taus > 1:
                slopes.append(-gate.log_tau.grad * settings.tau_spread)
        slope = torch.cat(slopes) + at / n
        prior = 0.5 * float(at.square().sum()) / n
        # Measured from uniform gates, so that the tolerance is one of gains, not of text lengths.
        return prior + part.single_tau[1] - float(fit.detach()), slope.numpy()

    x0 = torch.cat(
        [block.position() for block in free]
        + [_units(gate.log_tau.detach() - log_tau0, n_taus, settings.tau_spread)]
    )
    losses: list[float] = []

    def enough(intermediate_result: Any) -> None:
        losses.append(float(intermediate_result.fun))
        if len(losses) > PATIENCE and losses[-1 - PATIENCE] - losses[-1] < TOLERANCE:
            raise StopIteration

    with _few_threads(part):
        found = minimize(
            value_and_slope,
            x0.numpy(),
            jac=True,
            method="L-BFGS-B",
            callback=enough,
            options={"maxiter": settings.max_steps, "ftol": 0.0, "gtol": 1e-6, "maxcor": 10},
        )
    load(torch.from_numpy(np.asarray(found.x)))
    _take_over(whole, gate, bases)


@contextmanager
def _few_threads(part: Part) -> Iterator[None]:
    """One thread for torch unless its tensors are large, and one for the optimiser's own vectors.

    Threads of the two libraries wait for each other: two made a fit five times slower (docs/log.md, 2026-11-26).
    """
    import torch
    from threadpoolctl import threadpool_limits

    n_threads = torch.get_num_threads()
    largest = len(part.rows) * max(len(part.problem.he), part.cells.persona.shape[1])
    with threadpool_limits({"openblas": 1}):
        if largest < _SMALL:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)


def _units(departure: Tensor, n_taus: int, spread: float) -> Tensor:
    """Departures of log τ (K,) from the start as common part and the personas' own, in prior units."""
    import torch

    common = departure.mean()[None]
    own = (departure - common) / spread
    return torch.cat([common, own]) if n_taus > 1 else common[:n_taus]


def new_gate(problem: Problem, settings: FitConfig, tau: float, seed: int) -> Gate:
    """Uniform gates at one temperature, ready to be fitted.

    The last rows of W_x are the `SIMILAR_AXES`, the others random.
    """
    import torch

    from mop.gate import Gate

    gate = Gate(
        torch.as_tensor(problem.hg),
        torch.as_tensor(problem.he),
        dim=settings.dim,
        seed=derive_seed(seed, "gate"),
        log_tau=math.log(tau),
    )
    axes = problem.axes[: n_axes(problem, settings.dim)]
    with torch.no_grad():
        gate.w_x[settings.dim - len(axes) :] = torch.from_numpy(axes)
    return gate


def n_axes(problem: Problem, dim: int) -> int:
    """How many rows of W_x (dim, D) are principal axes; 0 if there are none, or too few rows."""
    return min(SIMILAR_AXES, dim // 4, len(problem.axes))


def axes_of(w_x: Tensor, problem: Problem) -> Tensor:
    """W_x with nothing but the axes that `new_gate` put into its last rows, (d, D)."""
    import torch

    is_axis = torch.arange(len(w_x)) >= len(w_x) - n_axes(problem, len(w_x))
    return w_x * is_axis[:, None]


def keep_in_range(gate: Gate, betas: tuple[float, ...]) -> None:
    """Temperatures stay where the curves were measured; beyond their ends an interpolation means nothing."""
    import torch

    if len(betas) > 1:
        with torch.no_grad():
            gate.log_tau.clamp_(-math.log(betas[-1]), -math.log(betas[0]))


def values_of(gate: Gate, problem: Problem, cells: Cells, rows: Ints) -> Floats:
    """Log-likelihood of some records (len(rows),) from their scored cells, nats."""
    return Part(problem, cells, rows).values(gate)


# ---------------------------------------------------------------------------------------- the choice


def folds(n: int, n_folds: int, seed: int) -> list[Ints]:
    """Split n records into folds, each in ascending order; the same in every round. At most n of them."""
    n_folds = min(n_folds, n)
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

    Every record is judged by a fit that has not seen it. Priors of the biases are tried from the narrowest
    up, then weights by similarity, then gates with decays from the strongest down, each from where the one before
    ended, until one is clearly worse than the best: a small loss says little, for the next may win. The winner is
    then tried with a single temperature; of equals the simpler candidate wins.
    """
    filled_in = FilledIn(problem, cells, settings, seed=seed)
    trial = _Trial(filled_in, settings, seed, progress)
    uniform = Candidate("uniform")
    trial.validate(uniform)
    best = last = unconditional = _unconditional(trial, uniform)
    if trial.mean(uniform) >= trial.mean(unconditional):
        best = uniform
    similar = Candidate("similar", width=unconditional.width)
    has_axes = n_axes(problem, settings.dim) > 0
    if has_axes and trial.validate(similar, start=unconditional, rival=best):
        best = max(best, similar, key=trial.mean)
    for decay in sorted(settings.decays, reverse=True):
        gates = Candidate("gates", decay, unconditional.width)
        if not trial.validate(gates, start=last, rival=best):
            break
        if trial.mean(gates) > trial.mean(best):
            best = gates
        last = gates
    others = {"uniform": trial.values[uniform], "unconditional": trial.values[unconditional]}
    if best != uniform and len(problem.betas) > 1 and len(problem.hg) > 1:
        single = replace(best, is_single_tau=True)
        trial.validate(single, start=best)
        others |= {"single_tau": trial.values[single], "own_tau": trial.values[best]}
        if trial.mean(single) >= trial.mean(best):
            best = single
    everyone = filled_in.part(np.arange(len(problem.hx)))
    free = fit_candidate(unconditional, everyone, settings, seed=seed)
    gate = free
    if best != unconditional:
        gate = fit_candidate(best, everyone, settings, seed=seed, start=free)
    if progress is not None:
        progress("fit gates", trial.n_trials, trial.n_trials)
    return Choice(
        best,
        gate,
        trial.values[best],
        tuple(trial.gates[best]),
        others,
        free,
        everyone.values(gate),
        filled_in.applies,
    )


def _unconditional(trial: _Trial, start: Candidate) -> Candidate:
    """Weights that ignore the context, with the best of the `WIDTHS`."""
    last, best = start, Candidate("unconditional", width=WIDTHS[0])
    for width in WIDTHS:
        wider = Candidate("unconditional", width=width)
        if not trial.validate(wider, start=last, rival=best):
            break
        best = max(best, wider, key=trial.mean)
        last = wider
    return best


class _Trial:
    """Cross-validated values of the candidates tried so far, and the fits behind them."""

    def __init__(
        self,
        filled_in: FilledIn,
        settings: FitConfig,
        seed: int,
        progress: Progress | None,
    ) -> None:
        problem = filled_in.problem
        self.problem, self.settings, self.seed, self.progress = problem, settings, seed, progress
        everyone = np.arange(len(problem.hx))
        self.parts = [
            (filled_in.part(np.setdiff1d(everyone, fold)), filled_in.part(fold))
            for fold in folds(len(problem.hx), settings.n_folds, seed)
        ]
        self.n_trials = 3 + len(WIDTHS) + len(settings.decays)
        self.values: dict[Candidate, Floats] = {}
        self.gates: dict[Candidate, list[Gate]] = {}

    def validate(
        self,
        candidate: Candidate,
        *,
        start: Candidate | None = None,
        rival: Candidate | None = None,
    ) -> bool:
        """Fit a candidate without each fold in turn, and judge that fold.

        Given up, and False returned, once the folds so far show that it is clearly worse than its rival.
        """
        if self.progress is not None:
            self.progress("fit gates", len(self.values), self.n_trials)
        values, gates = np.zeros(len(self.problem.hx)), []
        for f, (rest, fold) in enumerate(self.parts):
            begin = None if start is None else self.gates[start][f]
            gate = fit_candidate(candidate, rest, self.settings, seed=self.seed, start=begin)
            values[fold.rows] = fold.values(gate)
            gates.append(gate)
            if rival in self.values and self._is_clearly_worse(values, rival, f + 1):
                return False
        self.values[candidate], self.gates[candidate] = values, gates
        return True

    def _is_clearly_worse(self, values: Floats, rival: Candidate, n_folds: int) -> bool:
        """Whether the records of the first folds lose against a rival by more than chance would have it.

        The bound is `CLEARLY` standard errors once all folds are in, and more before, as many as
        O'Brien and Fleming (1979) ask for when a trial is looked at several times.
        """
        seen = np.concatenate([fold.rows for _, fold in self.parts[:n_folds]])
        weight = self.problem.weight[seen] / self.problem.weight[seen].sum()
        difference = values[seen] - self.values[rival][seen]
        mean = float(weight @ difference)
        error = math.sqrt(float(weight**2 @ (difference - mean) ** 2))
        return mean < -CLEARLY * math.sqrt(len(self.parts) / n_folds) * error

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
    everyone = Part(problem, cells, rows)
    value = everyone.values(gate)
    with torch.inference_mode():
        log_lik = everyone.scores.log_lik(gate.log_tau).numpy()
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
    part = Part(problem, cells, rows)
    with torch.inference_mode():
        log_lik = np.take_along_axis(part.scores.log_lik(gate.log_tau).numpy(), found, axis=1)
    weight, value = part.weight, part.values(gate)
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
        resampled records; ``single_tau``: the best single temperature under the fitted gates. None where
        there is nothing to compare.
    """
    if "own_tau" not in choice.others:
        return None
    difference = choice.others["own_tau"] - choice.others["single_tau"]
    low, high = paired_interval(difference, problem.weight, seed=derive_seed(seed, "tau-gain"))
    return {
        "is_single": choice.candidate.is_single_tau,
        "gain_over_single": mean_of(difference, problem),
        "gain_interval": [low, high],
        "single_tau": _common_tau(choice.gate, Part(problem, cells, np.arange(len(problem.hx)))),
        "intervals": tau_intervals(
            choice.gate, problem, cells, settings, is_single=choice.candidate.is_single_tau
        ),
    }


def _common_tau(gate: Gate, part: Part) -> float:
    """The one temperature that suits fitted gates best."""
    import torch
    from scipy.optimize import minimize_scalar

    scores, weight = part.scores, torch.as_tensor(part.weight)
    with torch.inference_mode():
        log_w = gate.log_weight(scores.hx, scores.persona, scores.exemplar, scores.own)

        def loss(log_tau: float) -> float:
            taus = torch.full_like(gate.log_tau, log_tau)
            return -float(_normalised(log_w, scores, taus) @ weight)

        centre = float(gate.log_tau.mean())
        found = minimize_scalar(
            loss, bounds=(centre - 0.5, centre + 0.5), method="bounded", options={"xatol": 1e-4}
        )
    low, high = 1.0 / part.problem.betas[-1], 1.0 / part.problem.betas[0]
    return float(np.clip(np.exp(found.x), low, high))


def tau_intervals(
    gate: Gate, problem: Problem, cells: Cells, settings: FitConfig, *, is_single: bool = False
) -> list[list[float]]:
    """95 % intervals of the temperatures, [[low, high]] × K.

    A normal approximation in log τ: the covariance is the inverse of the second derivatives of
    the penalised log-likelihood of all records, gates held fixed. With the prior on
    differences between personas, these are posterior intervals.
    """
    import torch

    scores = Part(problem, cells, np.arange(len(problem.hx))).scores
    weight = torch.as_tensor(problem.weight / problem.weight.mean())
    with torch.no_grad():
        log_w = gate.log_weight(scores.hx, scores.persona, scores.exemplar, scores.own)
        log_w = log_w - scores.log_q
    centre = gate.log_tau.detach()

    def negative(log_tau: Tensor) -> Tensor:
        taus = log_tau.expand(len(centre))
        value = torch.logsumexp(log_w + scores.log_lik(taus), dim=1) @ weight
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
