"""The paper's recipe: Adam on the sum over the few components that the gate likes best now."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.curve import weights as curve_weights
from mop.config import FitConfig
from mop.errors import ConfigError
from mop.mixture.cells import Ints, Problem, ScoreCells, pack_cells
from mop.mixture.em import FitResult, best_single_tau
from mop.mixture.sums import log_sum_exp, spread_draw
from mop.randomness import derive_seed, rng_of
from mop.types import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from mop.mixture.gate import Gate


def fit_paper(
    problem: Problem,
    score: ScoreCells,
    settings: FitConfig,
    *,
    seed: int,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
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

    from mop.mixture.gate import Gate

    n, n_train, n_exemplars = len(problem.hx), problem.n_train, len(problem.he)
    gate = Gate(
        torch.as_tensor(problem.hg),
        torch.as_tensor(problem.he[:, : problem.hx.shape[1]]),  # without the exemplars' contexts
        dim=settings.dim,
        biases=False,
        seed=derive_seed(seed, "gate"),
        init_scale=1.0,
        log_tau=math.log(settings.start_tau if len(problem.betas) > 1 else 1 / problem.betas[0]),
    )
    asked, began = _Asked(score, problem, settings.max_lm_tokens), clock()
    cells = asked.cells
    rest = _even_components(problem, settings, seed)
    pays = asked.add((i, c) for i in range(n_train, n) for c in rest if c % n_exemplars != problem.own[i])
    free = [p for p in gate.parameters() if p.requires_grad]
    if len(problem.betas) == 1:
        free = [p for p in free if p is not gate.log_tau]
    optimizer = torch.optim.Adam(free, lr=settings.learning_rate)
    history: list[dict[str, Any]] = []
    best_value, best_state, best_epoch, stale = -math.inf, _state(gate), 0, 0
    stopped = f"max_steps {settings.max_steps} are done"
    for epoch in range(settings.max_steps):
        if progress is not None:
            progress("fit epochs", epoch, settings.max_steps)
        top = _top_components(gate, problem, settings.top_m)
        pays = pays and asked.add((i, int(c)) for i in range(n) for c in top[i])
        if not pays and not history:
            raise ConfigError(
                f"fit.max_lm_tokens is {settings.max_lm_tokens}, and {len(rest)} components of {n - n_train} "
                f"validation records, with {settings.top_m} of all {n}, take {asked.expected:.0f} or more tokens; "
                "raise it to some times that, lower fit.valid_components or fit.top_m, or set it to 0 for no limit"
            )
        early = _reason_to_stop(settings, asked, pays=pays, epoch=epoch, seconds=clock() - began)
        if early:
            stopped = early
            break
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
            best_value, best_state, best_epoch, stale = value, _state(gate), epoch, 0
        else:
            stale += 1
        if stale >= settings.patience:
            stopped = f"no better value in {settings.patience} epochs (patience)"
            break
        order = rng_of(seed, "epoch", epoch).permutation(n_train)
        for start in range(0, n_train, settings.batch_size):
            rows = order[start : start + settings.batch_size]
            optimizer.zero_grad()
            weight = torch.as_tensor(problem.weight[rows])
            per_record = _top_sum(gate, problem, cells, top, rows)
            loss = -(per_record * weight).sum() / weight.sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            keep_in_range(gate, problem.betas)
    gate.load_state_dict(best_state)
    history[-1]["kept_round"] = best_epoch
    uniform_tau = _single_tau(problem, cells, rest)
    return FitResult(gate, history, "paper", uniform_tau, len(cells), asked.n_tokens, stopped)


class _Asked:
    """Curves by (record, flat component) as they are asked for, each once, within ``max_lm_tokens``."""

    def __init__(self, score: ScoreCells, problem: Problem, budget: int) -> None:
        self._score, self._n_exemplars, self._budget = score, len(problem.he), budget
        self._cost, self._paid = problem.cost, 0.0
        self.cells: dict[tuple[int, int], NDArray[np.float32]] = {}
        self.n_tokens = 0
        self.expected = 0.0
        """Tokens in all that the last question would have brought it to."""

    def add(self, pairs: Iterable[tuple[int, int]]) -> bool:
        """Score what is not known yet, all of it; False, without scores, if the budget does not pay for that."""
        new = sorted({(c, i) for i, c in pairs if (i, c) not in self.cells})
        if new and self._budget:
            if not self.cells:  # what one costs is not known yet: look at a few
                self._ask(new[:: -(-len(new) // 16)])
                new = [(c, i) for c, i in new if (i, c) not in self.cells]
            more = float(sum(self._cost[i] for _, i in new))
            self.expected = self.n_tokens * (1 + more / self._paid)
            if self.expected > self._budget:
                return False
        if new:
            self._ask(new)
        return True

    def _ask(self, new: list[tuple[int, int]]) -> None:
        component, record = np.array(new, dtype=np.int64).T
        persona, exemplar = np.divmod(component, self._n_exemplars)
        curves, n_tokens = self._score(record, persona, exemplar)
        self.n_tokens += n_tokens
        self._paid += float(self._cost[record].sum())
        self.cells.update({(i, c): curve for (c, i), curve in zip(new, curves, strict=True)})


def _reason_to_stop(settings: FitConfig, asked: _Asked, *, pays: bool, epoch: int, seconds: float) -> str:
    """Why this epoch is not worth making; empty if it is."""
    if not pays:
        return f"{asked.n_tokens} of max_lm_tokens {settings.max_lm_tokens} are spent"
    most = 60 * settings.max_minutes
    if most and epoch and seconds * (1 + 1 / epoch) > most:
        return f"another epoch would exceed max_minutes {settings.max_minutes:g}"
    return ""


def keep_in_range(gate: Gate, betas: tuple[float, ...]) -> None:
    """Temperatures stay where the curves were measured; beyond their ends an interpolation means nothing."""
    import torch

    if len(betas) > 1:
        with torch.no_grad():
            gate.log_tau.clamp_(-math.log(betas[-1]), -math.log(betas[0]))


def _state(gate: Gate) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in gate.state_dict().items()}


def _single_tau(problem: Problem, cells: dict[tuple[int, int], NDArray[np.float32]], rest: list[int]) -> float:
    """The best single temperature of uniform gates, chosen on the validation records."""
    n_train, n_exemplars = problem.n_train, len(problem.he)
    table = pack_cells(
        [[c for c in rest if c % n_exemplars != own] for own in problem.own[n_train:]],
        lambda i, c: cells[i + n_train, c],
        n_exemplars=n_exemplars,
        n_nodes=len(problem.betas),
    )
    return best_single_tau(table, problem.weight[n_train:], problem.betas)[0]


def _even_components(problem: Problem, settings: FitConfig, seed: int) -> list[int]:
    n_all = len(problem.hg) * len(problem.he)
    rng = rng_of(seed, "rest")
    return sorted(set(spread_draw(np.full(n_all, 1 / n_all), settings.valid_components, rng).tolist()))


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
    gate: Gate, problem: Problem, cells: dict[tuple[int, int], NDArray[np.float32]], top: Ints, rows: Ints
) -> Tensor:
    """Log of the sum over the top components only: a lower bound of log p(y|x), (len(rows),) nats."""
    import torch

    from mop.backends.curve import torch_weights

    n_exemplars = len(problem.he)
    curves = np.stack([[cells[int(i), int(c)] for c in top[i]] for i in rows])
    flat = torch.as_tensor(top[rows])
    persona = flat // n_exemplars
    nodes = torch_weights(torch.exp(-gate.log_tau), problem.betas)
    log_lik = (torch.as_tensor(curves).double() * nodes[persona]).sum(-1)
    log_w = gate.log_weight(
        torch.as_tensor(problem.hx[rows]), persona, flat % n_exemplars, torch.as_tensor(problem.own[rows])
    )
    return torch.logsumexp(log_w + log_lik, dim=1)


def _bound(
    gate: Gate, problem: Problem, cells: dict[tuple[int, int], NDArray[np.float32]], top: Ints, rows: slice
) -> float:
    import torch

    with torch.inference_mode():
        value = _top_sum(gate, problem, cells, top, np.arange(len(problem.hx))[rows]).numpy()
    return float(np.average(value, weights=problem.weight[rows]))


def _full_sum(
    gate: Gate, problem: Problem, cells: dict[tuple[int, int], NDArray[np.float32]], top: Ints, rest: list[int]
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
            scale = np.where(np.arange(len(components)) < len(exact), 0.0, math.log(n_all / len(rest)))
            log_lik = np.array([cells[i, int(c)] @ nodes[k] for c, k in zip(components, persona, strict=True)])
            values.append(float(log_sum_exp(log_w + log_lik + scale)))
    return float(np.average(values, weights=problem.weight[n_train:]))
