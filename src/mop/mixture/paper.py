"""The paper's recipe: Adam on the sum over the few components that the gate likes best now."""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from mop.config import FitConfig
from mop.errors import ConfigError
from mop.mixture.cells import Asked, Ints, Problem, ScoreCells
from mop.mixture.em import FitResult, best_single_tau
from mop.mixture.sums import Floats, spread_draw
from mop.randomness import derive_seed, rng_of
from mop.threads import one_thread
from mop.types import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from mop.mixture.gate import Gate

# Source: Bui et al. 2025, arXiv 2504.05019, section 3 and appendix.
TOP_M = 4
"""M, components of a record in the sum that is maximised."""
N_EPOCHS, STEP_SIZE, START_TAU = 100, 1e-3, 0.6
"""Epochs of Adam, its step size, and the temperature before fitting."""
# Ours, where the paper leaves it open; chosen, not tuned.
DIM, BATCH, PATIENCE = 128, 32, 10
"""d, size of the space the gates work in; records of a step; epochs without a gain before it stops."""


def fit_paper(
    problem: Problem,
    score: ScoreCells,
    settings: FitConfig,
    *,
    seed: int,
    n_epochs: int = N_EPOCHS,
    progress: Progress | None = None,
) -> FitResult:
    """The paper's training: Adam on the sum over the M components that the gate likes best now.

    Each epoch takes, for every record, the `TOP_M` components with the largest π_k Ω_kj, scores
    those that are not scored yet, and makes one Adam step per batch on the log of the sum over
    just these components, a lower bound of log p(y|x).

    Returns
    -------
    FitResult
        The state of the epoch with the best *full-sum* validation estimate. The history has
        the bound (``train_bound``, ``valid_bound``) and the full-sum value (``valid``)
        of every epoch, since the bound can rise while the full value falls.

    Raises
    ------
    ConfigError
        If ``max_lm_tokens`` does not pay for the first epoch.

    Notes
    -----
    Source: Bui et al. 2025, arXiv 2504.05019, section 3 and appendix. Ours, because the paper
    leaves it open: the record's own exemplar is always masked (the paper masks at random),
    and training stops on the full-sum value. That value is the top components exactly plus an
    importance-sampling estimate of the rest from evenly drawn components.
    """
    import torch

    from mop.mixture.gate import Gate

    n, n_train, n_exemplars = len(problem.hx), problem.n_train, len(problem.he)
    gate = Gate(
        torch.as_tensor(problem.hg),
        torch.as_tensor(problem.he[:, : problem.hx.shape[1]]),  # without the exemplars' contexts
        dim=DIM,
        seed=derive_seed(seed, "gate"),
        init_scale=1.0,
        log_tau=math.log(START_TAU if len(problem.betas) > 1 else 1 / problem.betas[0]),
    )
    learned = [gate.w_x, gate.w_g, gate.w_e] + ([gate.log_tau] if len(problem.betas) > 1 else [])
    optimizer = torch.optim.Adam(learned, lr=STEP_SIZE)
    asked = _Budgeted(problem, score, settings.max_lm_tokens)
    n_all = len(problem.hg) * n_exemplars
    drawn = spread_draw(np.full(n_all, 1 / n_all), settings.valid_components, rng_of(seed, "rest"))
    rest = sorted(set(drawn.tolist()))
    even = [(i, c) for i in range(n_train, n) for c in rest if c % n_exemplars != problem.own[i]]
    pays = asked.pays_for(even)
    history: list[dict[str, Any]] = []
    best_value, best_state, best_epoch, stopped = -math.inf, gate.state_dict(), 0, f"{n_epochs} epochs are done"
    for epoch in range(n_epochs):
        if progress is not None:
            progress("fit epochs", epoch, n_epochs)
        top = _top_components(gate, problem)
        pays = pays and asked.pays_for((i, int(c)) for i in range(n) for c in top[i])
        if not pays and not history:
            raise ConfigError(
                f"fit.max_lm_tokens is {settings.max_lm_tokens}, and {len(rest)} components of {n - n_train} "
                f"validation records, with {TOP_M} of all {n}, take {asked.expected:.0f} or more tokens; "
                "raise it to some times that, lower fit.valid_components, or set it to 0 for no limit"
            )
        if not pays:
            stopped = f"{asked.n_tokens} of max_lm_tokens {settings.max_lm_tokens} are spent"
            break
        history.append({"round": epoch, **_values(gate, asked, top, rest), "n_cells": asked.n_cells})
        if history[-1]["valid"] > best_value + 1e-4:
            best_value, best_state, best_epoch = history[-1]["valid"], deepcopy(gate.state_dict()), epoch
        if epoch - best_epoch >= PATIENCE:
            stopped = f"no better value in {PATIENCE} epochs"
            break
        _epoch(gate, asked, optimizer, top, rng_of(seed, "epoch", epoch).permutation(n_train))
    gate.load_state_dict(best_state)
    history[-1]["kept_round"] = best_epoch
    valid = asked.table(even).of(np.arange(n_train, n))
    uniform_tau = best_single_tau(valid, problem.weight[n_train:], problem.betas)[0]
    return FitResult(gate.requires_grad_(False), history, "paper", uniform_tau, asked.n_cells, asked.n_tokens, stopped)


@one_thread()
def _epoch(gate: Gate, asked: Asked, optimizer: Any, top: Ints, order: Ints) -> None:
    """Pass once over the training records in this order."""
    import torch

    problem = asked.problem
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        optimizer.zero_grad()
        weight = torch.as_tensor(problem.weight[rows])
        loss = -(log_sum(gate, asked, rows, top[rows]) * weight).sum() / weight.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if len(problem.betas) > 1:  # where the curves were measured: beyond, an interpolation means nothing
            with torch.no_grad():
                gate.log_tau.clamp_(-math.log(problem.betas[-1]), -math.log(problem.betas[0]))


class _Budgeted(Asked):
    """Scores as they are asked for, within ``max_lm_tokens`` (0: no limit)."""

    def __init__(self, problem: Problem, score: ScoreCells, budget: int) -> None:
        super().__init__(problem, score)
        self._budget = budget
        self.expected = 0.0
        """Tokens in all that the last question would have brought it to."""

    def pays_for(self, pairs: Iterable[tuple[int, int]]) -> bool:
        """Score what is not known yet, all of it; False, without scores, if the budget does not pay for that."""
        new = self.new(pairs)
        if new and self._budget:
            if not self.curves:  # what one costs is not known yet: look at a few
                self.ask(new[:: -(-len(new) // 16)])
                new = self.new((i, c) for c, i in new)
            cost = self.problem.cost
            share = sum(cost[i] for _, i in new) / sum(cost[i] for i, _ in self.curves)
            self.expected = float(self.n_tokens * (1 + share))
            if self.expected > self._budget:
                return False
        self.ask(new)
        return True


@one_thread()
def _top_components(gate: Gate, problem: Problem) -> Ints:
    """The `TOP_M` components with the largest π_k Ω_kj of every record, flat numbers (n, M)."""
    import torch

    n_personas, n_exemplars = len(problem.hg), len(problem.he)
    # At most what every record may use: its own exemplar never counts.
    most = min(TOP_M, n_personas * (n_exemplars - int(bool(np.any(problem.own >= 0)))))
    kept = []
    with torch.inference_mode():
        for hx, own in zip(*(torch.split(torch.as_tensor(of), 64) for of in (problem.hx, problem.own)), strict=True):
            log_pi = gate.log_pi(hx)
            every = [log_pi[:, [k]] + gate.log_omega(hx, torch.full((len(hx),), k), own) for k in range(n_personas)]
            kept.append(torch.topk(torch.cat(every, dim=1), most, dim=1).indices.numpy())
    return np.concatenate(kept).astype(np.int64)


def log_sum(gate: Gate, asked: Asked, rows: Ints, component: Ints, offset: Floats | None = None) -> Tensor:
    """Log Σ_m π_k(x_i) Ω_kj(x_i) p(y_i | k, j) over some components (k, j) of some records, nats, (len(rows),).

    With fewer than all components it is a lower bound of log p(y|x).

    Parameters
    ----------
    rows : ndarray of int, shape (B,)
    component : ndarray of int, shape (B, M)
        k·N + j; scored, but for a record's own exemplar.
    offset : ndarray, shape (B, M), optional
        Log of how many components each stands for; minus infinity for those that do not count.
    """
    import torch

    from mop.backends.curve import torch_weights

    problem = asked.problem
    flat = torch.as_tensor(component)
    persona, exemplar = flat // asked.n_exemplars, flat % asked.n_exemplars
    nothing = np.zeros(len(problem.betas), dtype=np.float32)
    curves = np.stack(
        [[asked.curves.get((int(i), int(c)), nothing) for c in of] for i, of in zip(rows, component, strict=True)]
    )
    nodes = torch_weights(torch.exp(-gate.log_tau), problem.betas)
    log_lik = (torch.as_tensor(curves).double() * nodes[persona]).sum(-1)
    log_w = gate.log_weight(torch.as_tensor(problem.hx[rows]), persona, exemplar, torch.as_tensor(problem.own[rows]))
    return torch.logsumexp(log_w + log_lik + (0.0 if offset is None else torch.as_tensor(offset)), dim=1)


@one_thread()
def _values(gate: Gate, asked: Asked, top: Ints, rest: list[int]) -> dict[str, float]:
    """Mean bounds of both parts, and mean validation log p(y|x): the others are estimated from ``rest``."""
    import torch

    problem = asked.problem
    train, valid = np.split(np.arange(len(problem.hx)), [problem.n_train])
    drawn = np.tile(np.array(rest, dtype=np.int64), (len(valid), 1))
    # Evenly drawn components stand for K·N / len(rest) components each, but for those that are known exactly.
    stands_for = math.log(len(problem.hg) * len(problem.he) / len(rest))
    is_top = (drawn[:, :, None] == top[valid][:, None, :]).any(axis=2)
    offset = np.hstack([np.zeros(top[valid].shape), np.where(is_top, -np.inf, stands_for)])
    with torch.inference_mode():
        found = {
            "train_bound": (train, log_sum(gate, asked, train, top[train])),
            "valid_bound": (valid, log_sum(gate, asked, valid, top[valid])),
            "valid": (valid, log_sum(gate, asked, valid, np.hstack([top[valid], drawn]), offset)),
        }
    return {
        name: float(np.average(value.numpy(), weights=problem.weight[rows])) for name, (rows, value) in found.items()
    }
