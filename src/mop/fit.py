"""Learn gates and temperatures from scores of the frozen model.

Two ways to the same kind of result: `fit_paper` follows the paper's recipe, `fit_rounds`
is ours. Both ask for scores through one callable and never see a language model.
Letters: n records (train first, then validation), K personas, N exemplars, M scored
components of a record, G nodes of the score curve.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.base import Scorer
from mop.config import FitConfig
from mop.curve import weights as curve_weights
from mop.embed import Encoder, embed
from mop.errors import ConfigError, DataError
from mop.fitted import FittedMixture, context_text, exemplar_text
from mop.mixture import Floats, log_sum_exp, spread_draw
from mop.prompts import PROMPT_VERSION
from mop.randomness import derive_seed, generator
from mop.score import cell_scorer, own_exemplars
from mop.store import Store
from mop.types import Persona, Progress, Record

if TYPE_CHECKING:
    from torch import Tensor

    from mop.gate import Gate

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]

# Prior standard deviations of the biases, in nats. Chosen by 4-fold cross-validation on 72 training and
# validation records of Rotten Tomatoes (docs/log.md, 2026-11-23); no test or golden text was looked at.
SD_A, SD_DELTA, SD_V = 0.3, 0.1, 1.0

ScoreCells = Callable[[Ints, Ints, Ints], tuple[NDArray[np.float32], int]]
"""``(record, persona, exemplar)``, each (m,), to curves (m, G) in nats and the LM tokens newly spent."""


@dataclass(frozen=True)
class Problem:
    """All that the gates look at: embeddings, and which exemplar a record must not use."""

    hx: NDArray[np.float32]
    """(n, D) context embeddings, the training records first."""
    hg: NDArray[np.float32]
    """(K, D) persona embeddings."""
    he: NDArray[np.float32]
    """(N, D) exemplar embeddings."""
    own: Ints
    """(n,) row of the exemplar that is the record itself, -1 if none is."""
    weight: Floats
    """(n,) survey weights, > 0."""
    n_train: int
    """How many of the n records are for training; the others validate."""
    betas: tuple[float, ...]
    """Nodes of the score curves; one node means that temperatures cannot be learned."""

    def __post_init__(self) -> None:
        """Refuse what could only fail later and less clearly."""
        n = len(self.hx)
        if not 0 < self.n_train < n:
            raise DataError(
                f"fitting needs training and validation records, got {self.n_train} of {n} for "
                "training; give at least one of each"
            )
        if len(self.he) < 2 and bool(np.any(self.own >= 0)):
            raise DataError(
                "the only exemplar is one of the records, and a record never sees itself; "
                "give at least 2 exemplars"
            )
        if self.own.shape != (n,) or self.weight.shape != (n,):
            raise DataError(
                f"own and weight must have shape ({n},), got {self.own.shape}, {self.weight.shape}"
            )


@dataclass(frozen=True)
class Cells:
    """Scored components of some records, padded to M columns."""

    persona: Ints
    """(n, M)"""
    exemplar: Ints
    """(n, M)"""
    curves: NDArray[np.float32]
    """(n, M, G) nats; 0 where absent."""
    log_q: Floats
    """(n, M) log of the chance that the design scores this cell."""
    present: NDArray[np.bool_]
    """(n, M) False for padding."""

    def of(self, rows: Ints) -> Cells:
        """The cells of some records."""
        return Cells(
            self.persona[rows],
            self.exemplar[rows],
            self.curves[rows],
            self.log_q[rows],
            self.present[rows],
        )

    @property
    def n_cells(self) -> int:
        """Number of scored cells."""
        return int(self.present.sum())


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
    """LM tokens newly spent."""


def fit_mixture(
    personas: Sequence[Persona],
    exemplars: Sequence[Record],
    train: Sequence[Record],
    valid: Sequence[Record],
    *,
    encoder: Encoder,
    scorer: Scorer,
    store: Store,
    task: str,
    settings: FitConfig,
    seed: int,
    progress: Progress | None = None,
) -> FittedMixture:
    """Embed, score and fit: from texts to a mixture that can be simulated.

    Parameters
    ----------
    personas, exemplars : sequences of length K and N
    train, valid : sequences of Record
        A record may also be an exemplar; it never sees itself.
    encoder, scorer, store
        The frozen models, and where their answers are kept.
    task : str
        What a response is; part of every prompt.
    settings : FitConfig
        Its ``method`` decides between `fit_rounds` and `fit_paper`.
    seed : int
    progress : callable, optional

    Returns
    -------
    FittedMixture
        Its ``info`` has the history, the counts and what was chosen.
    """
    records = [*train, *valid]
    texts = [context_text(r) for r in records]
    texts += [p.description for p in personas] + [exemplar_text(e) for e in exemplars]
    vectors = embed(texts, encoder, store=store, progress=progress)
    hx, hg, he = np.split(vectors, [len(records), len(records) + len(personas)])
    problem = Problem(
        hx=hx,
        hg=hg,
        he=he,
        own=own_exemplars(records, exemplars),
        weight=np.array([r.weight for r in records]),
        n_train=len(train),
        betas=scorer.betas,
    )
    score = cell_scorer(
        records, personas, exemplars,
        scorer=scorer, store=store, task=task, stage="fit", progress=progress,
    )  # fmt: skip
    if len(scorer.betas) == 1:
        logger.warning(
            "%s scores at temperature %g only: the gates are fitted, temperatures are not, and every "
            "persona draws at %g",
            scorer.name,
            1 / scorer.betas[0],
            1 / scorer.betas[0],
        )
    fit = fit_paper if settings.method == "paper" else fit_rounds
    result = fit(problem, score, settings, seed=seed, progress=progress)
    result.gate.requires_grad_(False)
    info = {
        "lm": scorer.name,
        "score_identity": scorer.score_identity,
        "encoder_identity": encoder.identity,
        "prompt_version": PROMPT_VERSION,
        "betas": list(scorer.betas),
        "method": settings.method,
        "seed": seed,
        "chosen": result.chosen,
        "uniform_tau": result.uniform_tau,
        "n_cells": result.n_cells,
        "history": result.history,
    }
    return FittedMixture(tuple(personas), tuple(exemplars), result.gate, task, info)


# ---------------------------------------------------------------- ours: propose, score, fit in rounds


def fit_rounds(
    problem: Problem,
    score: ScoreCells,
    settings: FitConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> FitResult:
    """Fit in rounds: propose components, score them, fit gates and temperatures to all scores so far.

    Every record is scored under a random part of the K × N components. The gates are fitted
    on that part with importance weights, normalised over the scored part, so that weight
    cannot be hidden on components that nobody scored. Round 0 proposes evenly, later
    rounds half evenly and half from the average gate.

    Parameters
    ----------
    problem : Problem
    score : callable
        See `ScoreCells`.
    settings : FitConfig
    seed : int
        Of proposals and initial weights.
    progress : callable, optional
        Called as ``progress("fit rounds", round, n_rounds)``.

    Returns
    -------
    FitResult
        Of the candidate with the best cross-validated value among gates at several weight decays,
        unconditional weights and uniform gates, fitted to all records. ``valid`` in the history
        is that value: every record is judged by a fit that has not seen it.
    """
    design = _Design(problem, settings, seed)
    result: FitResult | None = None
    for round_ in range(settings.n_rounds):
        if progress is not None:
            progress("fit rounds", round_, settings.n_rounds)
        gate = result.gate if result is not None else None
        design.extend(score, gate, round_)
        previous = result
        result = _choose(problem, design.table(), settings, seed, progress)
        result.n_cells, result.n_tokens = design.n_cells, design.n_tokens
        result.history = (previous.history if previous else []) + [
            {
                "round": round_,
                **result.history[-1],
                "n_cells": design.n_cells,
            }
        ]
    if result is None:
        raise ConfigError(f"fit.n_rounds must be at least 1, got {settings.n_rounds}")
    if progress is not None:
        progress("fit rounds", settings.n_rounds, settings.n_rounds)
    return result


class _Design:
    """Which cells have been scored, and how likely it was that they would be."""

    def __init__(self, problem: Problem, settings: FitConfig, seed: int) -> None:
        self.problem, self.settings, self.seed = problem, settings, seed
        self.n_personas, self.n_exemplars = len(problem.hg), len(problem.he)
        self.proposals: list[tuple[Floats, float, float]] = []
        self.cells: dict[tuple[int, int], NDArray[np.float32]] = {}
        self.n_tokens = 0

    @property
    def n_cells(self) -> int:
        return len(self.cells)

    def extend(self, score: ScoreCells, gate: Gate | None, round_: int) -> None:
        """Propose components for a round and score the cells that are new."""
        from mop.gate import mean_weight

        problem, settings = self.problem, self.settings
        n_all = self.n_personas * self.n_exemplars
        proposal = np.full(n_all, 1.0 / n_all)
        if gate is not None:
            proposal = 0.5 * proposal + 0.5 * mean_weight(gate, problem.hx, problem.own)
        rng = generator(self.seed, "proposal", round_)
        n_train, n_valid = problem.n_train, len(problem.hx) - problem.n_train
        shared = max(1, min(settings.records_per_component, n_train))
        n_drawn = max(1, math.ceil(n_train * settings.components_per_record / shared))
        n_drawn_valid = settings.valid_components
        # In order, so that a component drawn again goes to other records, and a record's are spread out.
        drawn = np.sort(spread_draw(proposal, n_drawn, rng))
        drawn_valid = spread_draw(proposal, n_drawn_valid, rng)
        # A record meets each train component with the same probability, whatever it is.
        order = rng.permutation(n_train)
        pairs = {
            (int(order[(slot * shared + step) % n_train]), int(component))
            for slot, component in enumerate(drawn)
            for step in range(shared)
        }
        pairs |= {(n_train + row, int(c)) for row in range(n_valid) for c in drawn_valid}
        self.proposals.append((proposal, n_drawn * shared / n_train, n_drawn_valid))
        new = sorted(
            (c, i)
            for i, c in pairs
            if (i, c) not in self.cells and c % self.n_exemplars != problem.own[i]
        )
        if not new:
            return
        component, record = np.array(new, dtype=np.int64).T
        curves, tokens = score(record, component // self.n_exemplars, component % self.n_exemplars)
        self.n_tokens += tokens
        for i, c, curve in zip(record.tolist(), component.tolist(), curves, strict=True):
            self.cells[i, c] = curve

    def table(self) -> Cells:
        """All scored cells of all records, with the chance of each to be scored."""
        n_train, n = self.problem.n_train, len(self.problem.hx)
        # A cell is scored once, however often it is drawn: its chance to be drawn in any round counts.
        missed = np.ones((2, self.n_personas * self.n_exemplars))
        for proposal, *expected in self.proposals:
            for part in (0, 1):
                missed[part] *= 1.0 - np.minimum(1.0, proposal * expected[part])
        by_row: list[list[int]] = [[] for _ in range(n)]
        for i, c in sorted(self.cells):
            by_row[i].append(c)
        return pack_cells(
            by_row,
            lambda i, c: self.cells[i, c],
            np.log1p(-missed)[(np.arange(n) >= n_train).astype(int)],
            n_exemplars=self.n_exemplars,
            n_nodes=len(self.problem.betas),
        )


def pack_cells(
    components: list[list[int]],
    curve_of: Callable[[int, int], NDArray[np.float32]],
    log_chance: Floats,
    *,
    n_exemplars: int,
    n_nodes: int,
) -> Cells:
    """Put ragged lists of flat component numbers k·N + j into a padded table.

    Parameters
    ----------
    components : list of n lists
        Scored components of each record.
    curve_of : callable
        ``(row, component)`` to a curve (G,).
    log_chance : ndarray, shape (n, K·N)
        Log of the chance that the design scores each component for a record, at most 0.
    n_exemplars, n_nodes : int
        N and G.
    """
    n, width = len(components), max((len(row) for row in components), default=0)
    if width == 0:
        raise DataError("no component was scored for any record; raise fit.components_per_record")
    flat = np.zeros((n, width), dtype=np.int64)
    present = np.zeros((n, width), dtype=bool)
    curves = np.zeros((n, width, n_nodes), dtype=np.float32)
    for i, row in enumerate(components):
        flat[i, : len(row)] = row
        present[i, : len(row)] = True
        for m, c in enumerate(row):
            curves[i, m] = curve_of(i, c)
    return Cells(
        flat // n_exemplars,
        flat % n_exemplars,
        curves,
        np.take_along_axis(log_chance, flat, axis=1),
        present,
    )


# ------------------------------------------------------------------------------- one fit on fixed cells


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
    import torch

    from mop.curve import torch_weights

    persona, exemplar = torch.as_tensor(cells.persona), torch.as_tensor(cells.exemplar)
    nodes = torch_weights(torch.exp(-gate.log_tau), betas)  # (K, G)
    log_lik = (torch.as_tensor(cells.curves).double() * nodes[persona]).sum(-1)  # (n, M)
    log_w = gate.log_weight(hx, persona, exemplar, own) - torch.as_tensor(cells.log_q)
    log_w = log_w.masked_fill(~torch.as_tensor(cells.present), -torch.inf)
    return torch.logsumexp(log_w + log_lik, dim=1) - torch.logsumexp(log_w, dim=1)


def best_single_tau(cells: Cells, weight: Floats, betas: tuple[float, ...]) -> tuple[float, float]:
    """The temperature that suits uniform gates best, and its mean log-likelihood in nats.

    Examined on a fine grid of β and refined: the function of one variable is cheap.
    """
    if len(betas) == 1:
        return 1.0 / betas[0], float(_uniform_value(cells, weight, betas, betas[0]))
    grid = np.linspace(betas[0], betas[-1], 60)
    values = [_uniform_value(cells, weight, betas, float(b)) for b in grid]
    best = int(np.argmax(values))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    fine = np.linspace(low, high, 41)
    values = [_uniform_value(cells, weight, betas, float(b)) for b in fine]
    best = int(np.argmax(values))
    return float(1.0 / fine[best]), float(values[best])


def _uniform_value(cells: Cells, weight: Floats, betas: tuple[float, ...], beta: float) -> float:
    log_lik = cells.curves.astype(np.float64) @ curve_weights(beta, betas)
    log_w = np.where(cells.present, -cells.log_q, -np.inf)
    value = log_sum_exp(log_w + log_lik) - log_sum_exp(log_w)
    return float(np.sum(value * weight) / np.sum(weight))


def _choose(
    problem: Problem, cells: Cells, settings: FitConfig, seed: int, progress: Progress | None
) -> FitResult:
    """Cross-validate every candidate, then fit the best one to all records."""
    kinds = [("uniform", 0.0), ("unconditional", 0.0), *(("gates", d) for d in settings.decays)]
    n = len(problem.hx)
    order = generator(seed, "folds").permutation(n)
    folds = [np.sort(order[f :: settings.n_folds]) for f in range(settings.n_folds)]
    values = np.zeros((len(kinds), n))
    for f, fold in enumerate(folds):
        if progress is not None:
            progress("fit gates", f, len(folds) + 1)
        rest = np.setdiff1d(np.arange(n), fold)
        for c, (kind, decay) in enumerate(kinds):
            gate = _fit_gate(kind, decay, problem, cells, rest, settings, seed)
            values[c, fold] = _value(gate, problem, cells, fold)
    mean = values @ problem.weight / problem.weight.sum()
    best = int(np.argmax(mean))  # the first, simplest one wins a tie
    kind, decay = kinds[best]
    everyone = np.arange(n)
    gate = _fit_gate(kind, decay, problem, cells, everyone, settings, seed)
    if progress is not None:
        progress("fit gates", len(folds) + 1, len(folds) + 1)
    name = kind if kind != "gates" else f"gates, decay {decay:g}"
    row = {
        "train": float(np.average(_value(gate, problem, cells, everyone), weights=problem.weight)),
        "valid": float(mean[best]),
        "valid_uniform": float(mean[0]),
        "valid_unconditional": float(mean[1]),
        "chosen": name,
    }
    tau, _ = best_single_tau(cells, problem.weight, problem.betas)
    return FitResult(gate=gate, history=[row], chosen=name, uniform_tau=tau)


def _new_gate(problem: Problem, settings: FitConfig, tau: float, seed: int) -> Gate:
    import torch

    from mop.gate import Gate

    return Gate(
        torch.as_tensor(problem.hg),
        torch.as_tensor(problem.he),
        dim=settings.dim,
        seed=derive_seed(seed, "gate"),
        log_tau=math.log(tau),
    )


def _fit_gate(
    kind: str,
    decay: float,
    problem: Problem,
    cells: Cells,
    rows: Ints,
    settings: FitConfig,
    seed: int,
) -> Gate:
    """Fit one candidate to some records: Adam to convergence of the penalised likelihood."""
    import torch

    some = cells.of(rows)
    hx, own = torch.as_tensor(problem.hx[rows]), torch.as_tensor(problem.own[rows])
    weight = torch.as_tensor(problem.weight[rows] / problem.weight[rows].sum())
    tau, _ = best_single_tau(some, problem.weight[rows], problem.betas)
    gate = _new_gate(problem, settings, tau, seed)
    if kind == "uniform":
        return gate
    free: list[Tensor] = [gate.a, gate.delta, gate.v]
    if len(problem.betas) > 1:
        free.append(gate.log_tau)
    if kind == "gates":
        free += [gate.w_x, gate.w_g, gate.w_e]
    optimizer = torch.optim.Adam(free, lr=settings.learning_rate)
    best, stale = math.inf, 0
    for _ in range(settings.max_steps):
        optimizer.zero_grad()
        data = log_lik_of(gate, some, hx, own, problem.betas) @ weight
        loss = _penalty(gate, decay, settings, len(rows), math.log(tau)) - data
        loss.backward()  # type: ignore[no-untyped-call]
        if not bool(torch.isfinite(loss)):
            raise DataError(
                "the fit met a value that is not finite; check the scores with: mop verify"
            )
        optimizer.step()
        _keep_in_range(gate, problem.betas)
        current = float(loss.detach())
        best, stale = (current, 0) if current < best - 1e-4 else (best, stale + 1)
        if stale >= settings.patience:
            break
    return gate


def _value(gate: Gate, problem: Problem, cells: Cells, rows: Ints) -> Floats:
    """Log-likelihood of some records (len(rows),), nats."""
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


def _penalty(gate: Gate, decay: float, settings: FitConfig, n: int, log_tau: float) -> Tensor:
    """Minus log prior per record: gates towards zero, biases towards zero, log τ towards the common one."""
    weights = sum((w.square().sum() for w in (gate.w_g, gate.w_e)), gate.w_x.square().sum() * 0.0)
    biases = sum(
        (bias.square().sum() / sd**2 for bias, sd in ((gate.a, SD_A), (gate.delta, SD_DELTA))),
        gate.v.square().sum() / SD_V**2,
    )
    taus = (gate.log_tau - gate.log_tau.mean()).square().sum() / settings.tau_spread**2
    drift = (gate.log_tau.mean() - log_tau) ** 2
    return decay * weights + (0.5 * biases + 0.5 * taus + drift) / n


def _keep_in_range(gate: Gate, betas: tuple[float, ...]) -> None:
    """Temperatures stay where the curves were measured; beyond their ends an interpolation means nothing."""
    import torch

    if len(betas) > 1:
        with torch.no_grad():
            gate.log_tau.clamp_(-math.log(betas[-1]), -math.log(betas[0]))


def _state(gate: Gate) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in gate.state_dict().items()}


# ------------------------------------------------------------------------------------ the paper's recipe


def fit_paper(
    problem: Problem,
    score: ScoreCells,
    settings: FitConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> FitResult:
    """The paper's training: Adam on the sum over the M pairs that the gate likes best now.

    Each epoch takes, for every record, the M = ``top_m`` pairs with the largest π_k Ω_kj, scores
    those that are not scored yet, and makes one Adam step per batch on the log of the sum over
    just these pairs, a lower bound of log p(y|x).

    Returns
    -------
    FitResult
        The state of the epoch with the best *full-sum* validation estimate. The history has
        the bound (``train_bound``, ``valid_bound``) and the full-sum value (``valid``)
        of every epoch, since the bound can rise while the full value falls.

    Notes
    -----
    Source: Bui et al. 2025, arXiv 2504.05019, section 3 and appendix. Ours, because the paper
    leaves it open: the record's own exemplar is always masked (the paper masks at random),
    and training stops on the full-sum value. That value is the top pairs exactly plus an
    importance-sampling estimate of the rest from evenly drawn components.
    """
    import torch

    from mop.gate import Gate

    n, n_train, n_exemplars = len(problem.hx), problem.n_train, len(problem.he)
    gate = Gate(
        torch.as_tensor(problem.hg),
        torch.as_tensor(problem.he),
        dim=settings.dim,
        biases=False,
        seed=derive_seed(seed, "gate"),
        init_scale=1.0,
        log_tau=math.log(settings.start_tau if len(problem.betas) > 1 else 1 / problem.betas[0]),
    )
    cells: dict[tuple[int, int], NDArray[np.float32]] = {}
    spent = 0

    def score_new(pairs: list[tuple[int, int]]) -> None:
        nonlocal spent
        new = sorted({(c, i) for i, c in pairs if (i, c) not in cells})
        if not new:
            return
        component, record = np.array(new, dtype=np.int64).T
        curves, tokens = score(record, component // n_exemplars, component % n_exemplars)
        spent += tokens
        cells.update({(i, c): curve for (c, i), curve in zip(new, curves, strict=True)})

    rest = _even_components(problem, settings, seed)
    score_new(
        [(i, c) for i in range(n_train, n) for c in rest if c % n_exemplars != problem.own[i]]
    )
    free = [p for p in gate.parameters() if p.requires_grad]
    if len(problem.betas) == 1:
        free = [p for p in free if p is not gate.log_tau]
    optimizer = torch.optim.Adam(free, lr=settings.learning_rate)
    history: list[dict[str, Any]] = []
    best_value, best_state, stale = -math.inf, _state(gate), 0
    for epoch in range(settings.max_steps):
        if progress is not None:
            progress("fit epochs", epoch, settings.max_steps)
        top = _top_components(gate, problem, settings.top_m)
        score_new([(i, int(c)) for i in range(n) for c in top[i]])
        value = _full_sum(gate, problem, cells, top, rest)
        history.append(
            {
                "round": epoch,
                "train_bound": _bound(gate, problem, cells, top, slice(0, n_train)),
                "valid_bound": _bound(gate, problem, cells, top, slice(n_train, n)),
                "valid": value,
                "n_cells": len(cells),
            }
        )
        if value > best_value + 1e-4:
            best_value, best_state, stale = value, _state(gate), 0
        else:
            stale += 1
        if stale >= settings.patience:
            break
        order = generator(seed, "epoch", epoch).permutation(n_train)
        for start in range(0, n_train, settings.batch_size):
            rows = order[start : start + settings.batch_size]
            optimizer.zero_grad()
            weight = torch.as_tensor(problem.weight[rows])
            per_record = _top_sum(gate, problem, cells, top, rows)
            loss = -(per_record * weight).sum() / weight.sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            _keep_in_range(gate, problem.betas)
    gate.load_state_dict(best_state)
    return FitResult(gate, history, "paper", _single_tau(problem, cells, rest), len(cells), spent)


def _single_tau(
    problem: Problem, cells: dict[tuple[int, int], NDArray[np.float32]], rest: list[int]
) -> float:
    """The best single temperature of uniform gates, chosen on the validation records."""
    n_train, n_exemplars = problem.n_train, len(problem.he)
    n_all = len(problem.hg) * n_exemplars
    table = pack_cells(
        [[c for c in rest if c % n_exemplars != own] for own in problem.own[n_train:]],
        lambda i, c: cells[i + n_train, c],
        np.zeros((len(problem.hx) - n_train, n_all)),
        n_exemplars=n_exemplars,
        n_nodes=len(problem.betas),
    )
    return best_single_tau(table, problem.weight[n_train:], problem.betas)[0]


def _even_components(problem: Problem, settings: FitConfig, seed: int) -> list[int]:
    n_all = len(problem.hg) * len(problem.he)
    rng = generator(seed, "rest")
    return sorted(
        set(spread_draw(np.full(n_all, 1 / n_all), settings.valid_components, rng).tolist())
    )


def _top_components(gate: Gate, problem: Problem, m: int) -> Ints:
    """The m components with the largest π_k Ω_kj of every record, flat numbers (n, m)."""
    import torch

    n_personas, n_exemplars = len(problem.hg), len(problem.he)
    kept = []
    with torch.inference_mode():
        for start in range(0, len(problem.hx), 64):
            hx = torch.as_tensor(problem.hx[start : start + 64])
            own = torch.as_tensor(problem.own[start : start + 64])
            log_pi = gate.log_pi(hx)
            values, index = [], []
            for k in range(n_personas):  # the m best of every persona contain the m best of all
                log_omega = gate.log_omega(hx, torch.full((len(hx),), k), own)
                best = torch.topk(log_omega, min(m, n_exemplars), dim=1)
                values.append(best.values + log_pi[:, k : k + 1])
                index.append(best.indices + k * n_exemplars)
            # at most what every record may use: its own exemplar never counts
            most = min(m, n_personas * (n_exemplars - int(bool(np.any(problem.own >= 0)))))
            order = torch.topk(torch.cat(values, 1), most, dim=1).indices
            kept.append(torch.cat(index, 1).gather(1, order).numpy())
    return np.concatenate(kept).astype(np.int64)


def _top_sum(
    gate: Gate,
    problem: Problem,
    cells: dict[tuple[int, int], NDArray[np.float32]],
    top: Ints,
    rows: Ints,
) -> Tensor:
    """Log of the sum over the top components only: a lower bound of log p(y|x), (len(rows),) nats."""
    import torch

    from mop.curve import torch_weights

    n_exemplars = len(problem.he)
    curves = np.stack([[cells[int(i), int(c)] for c in top[i]] for i in rows])
    flat = torch.as_tensor(top[rows])
    persona = flat // n_exemplars
    nodes = torch_weights(torch.exp(-gate.log_tau), problem.betas)
    log_lik = (torch.as_tensor(curves).double() * nodes[persona]).sum(-1)
    log_w = gate.log_weight(
        torch.as_tensor(problem.hx[rows]),
        persona,
        flat % n_exemplars,
        torch.as_tensor(problem.own[rows]),
    )
    return torch.logsumexp(log_w + log_lik, dim=1)


def _bound(
    gate: Gate,
    problem: Problem,
    cells: dict[tuple[int, int], NDArray[np.float32]],
    top: Ints,
    rows: slice,
) -> float:
    import torch

    with torch.inference_mode():
        value = _top_sum(gate, problem, cells, top, np.arange(len(problem.hx))[rows]).numpy()
    return float(np.average(value, weights=problem.weight[rows]))


def _full_sum(
    gate: Gate,
    problem: Problem,
    cells: dict[tuple[int, int], NDArray[np.float32]],
    top: Ints,
    rest: list[int],
) -> float:
    """Mean validation log p(y|x): the top components exactly, the others estimated from ``rest``."""
    import torch

    n_train, n_exemplars = problem.n_train, len(problem.he)
    n_all = len(problem.hg) * n_exemplars
    values = []
    with torch.inference_mode():
        tau = gate.temperatures().numpy()
        nodes = np.stack([curve_weights(float(1 / t), problem.betas) for t in tau])
        for i in range(n_train, len(problem.hx)):
            exact = set(top[i].tolist())
            drawn = [c for c in rest if c not in exact and c % n_exemplars != problem.own[i]]
            components = np.array([*sorted(exact), *drawn])
            persona, exemplar = components // n_exemplars, components % n_exemplars
            log_w = gate.log_weight(
                torch.as_tensor(problem.hx[i : i + 1]),
                torch.as_tensor(persona)[None],
                torch.as_tensor(exemplar)[None],
                torch.as_tensor(problem.own[i : i + 1]),
            ).numpy()[0]
            # Evenly drawn components stand for n_all / len(rest) components each.
            scale = np.where(
                np.arange(len(components)) < len(exact), 0.0, math.log(n_all / len(rest))
            )
            log_lik = np.array(
                [cells[i, int(c)] @ nodes[k] for c, k in zip(components, persona, strict=True)]
            )
            values.append(float(log_sum_exp(log_w + log_lik + scale)))
    return float(np.average(values, weights=problem.weight[n_train:]))
