"""A population whose mixture is known: every score is arithmetic, no language model is involved."""

from dataclasses import dataclass

import numpy as np
import torch

from mop.backends.curve import BETAS
from mop.mixture.cells import Problem
from mop.mixture.gate import Gate


def unit(rng, n, d):
    v = rng.normal(size=(n, d))
    return (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)


@dataclass
class Planted:
    """Responses are outcomes 0..V-1; component c gives outcome v the logit ``logits[c, v]``."""

    problem: Problem
    gate: Gate
    logits: np.ndarray
    outcomes: np.ndarray
    calls: list

    def curve(self, i, c):
        z = self.logits[c]
        beta = np.array(BETAS)
        return (beta * z[self.outcomes[i]] - np.log(np.exp(beta[:, None] * z).sum(1))).astype(np.float32)

    def score(self, record, persona, exemplar):
        n = len(self.problem.he)
        self.calls.append(len(record))
        assert not np.any((self.problem.own[record] == exemplar) & (self.problem.own[record] >= 0))
        curves = [self.curve(i, k * n + j) for i, k, j in zip(record, persona, exemplar, strict=True)]
        return np.stack(curves), len(record)

    def log_lik(self, gate, rows):
        """True log p(y|x) under a gate, by full enumeration, (len(rows),)."""
        n_k, n_j = len(self.problem.hg), len(self.problem.he)
        flat = np.tile(np.arange(n_k * n_j), (len(rows), 1))
        arrays = self.problem.hx[rows], flat // n_j, flat % n_j, self.problem.own[rows]
        if isinstance(gate, Gate):
            with torch.inference_mode():
                log_w = gate.log_weight(*map(torch.as_tensor, arrays)).numpy()
                tau = gate.temperatures().numpy()
        else:
            log_w, tau = gate.log_weight(*arrays), gate.temperatures()
        z = self.logits / np.repeat(tau, n_j)[:, None]
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        terms = log_w + log_p[:, self.outcomes[rows]].T
        return np.log(np.exp(terms).sum(1))


def plant(
    *, n=800, n_train=600, n_personas=3, n_exemplars=4, n_outcomes=12, strength=3.0, seed=0, own=False, blocks=False
):
    rng = np.random.default_rng(seed)
    d = 6
    hx, hg, he = unit(rng, n, d), unit(rng, n_personas, d), unit(rng, n_exemplars, d)
    gate = Gate(torch.as_tensor(hg), torch.as_tensor(he), dim=4, seed=seed, init_scale=1.0)
    gate.requires_grad_(False)
    with torch.no_grad():
        for weight in (gate.w_x, gate.w_g, gate.w_e):
            weight.mul_(strength)
        gate.log_tau.copy_(torch.log(torch.linspace(0.6, 1.6, n_personas, dtype=torch.float64)))
    logits = rng.normal(0, 2.0, (n_personas * n_exemplars, n_outcomes))
    if blocks:  # each persona has words of its own, so that its temperature shows in the data
        block = np.arange(n_outcomes) * n_personas // n_outcomes
        logits[block[None] != np.repeat(np.arange(n_personas), n_exemplars)[:, None]] -= 12.0
    problem = Problem(
        hx=hx, hg=hg, he=he,
        own=np.array([i % n_exemplars if own and i % 7 == 0 else -1 for i in range(n)]),
        weight=np.ones(n), n_train=n_train, betas=BETAS,
    )  # fmt: skip
    planted = Planted(problem, gate, logits, np.zeros(n, int), [])
    for i in range(n):
        hx_i = torch.as_tensor(hx[i : i + 1])
        flat = torch.arange(n_personas * n_exemplars)[None]
        mine = torch.as_tensor(problem.own[i : i + 1])
        with torch.inference_mode():
            weight = gate.log_weight(hx_i, flat // n_exemplars, flat % n_exemplars, mine).exp().numpy()[0]
        c = rng.choice(len(weight), p=weight / weight.sum())
        z = logits[c] / float(gate.temperatures()[c // n_exemplars])
        planted.outcomes[i] = rng.choice(n_outcomes, p=np.exp(z) / np.exp(z).sum())
    return planted
