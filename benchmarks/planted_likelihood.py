"""A population whose every log-likelihood is planted, to see whether intervals of held-out figures hold the truth.

Effects of exemplars, personas and pairs differ from record to record as they do in real tables (standard deviation
within a record about 2.5 nats), records differ in level and in spread, and the gates know a part of the effects. The
truth of a repeat is the mean over many further records of its population, summed over all components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mop.evaluate.likelihood import Likelihood, Table, components_of, gain_over, lower_bound, mean_interval
from mop.mixture.fitted import FittedMixture, uniform_mixture
from mop.mixture.gate import Gate
from mop.mixture.sums import log_sum_exp
from mop.randomness import rng_of
from mop.types import Persona, Record

Floats = NDArray[np.float64]

N_PERSONAS, SIZE = 12, 8
SD_EXEMPLAR, SD_PERSONA, SD_PAIR = 2.1, 0.8, 0.7
SD_RECORD, SD_SPREAD = 6.0, 0.25
SLOPE = 0.6
"""What a nat of log weight is worth in log-likelihood."""
MEAN, RIVAL = -90.0, -3.0
"""Mean level of records, and beside it the mean log-likelihood of a rival that is known exactly."""


@dataclass(frozen=True)
class Population:
    """Gates, and what components are worth to everybody."""

    fitted: FittedMixture
    of_persona: Floats
    of_exemplar: Floats

    @classmethod
    def planted(cls, rng: np.random.Generator, n_exemplars: int) -> Population:
        """A population of its own for every repeat."""
        gate = Gate(_unit(rng, N_PERSONAS), _unit(rng, n_exemplars), dim=SIZE, seed=0, init_scale=1.0)
        with torch.no_grad():
            for weight in (gate.w_x, gate.w_g, gate.w_e):
                weight.copy_(torch.as_tensor(rng.normal(size=weight.shape) * 0.75))
        gate.requires_grad_(False)
        personas = tuple(Persona(key=f"p{k}", description=f"p{k}") for k in range(N_PERSONAS))
        exemplars = tuple(Record(key=f"e{j}", context="", response=f"e{j}") for j in range(n_exemplars))
        return cls(
            FittedMixture(personas, exemplars, gate, "", {"uniform_tau": 1.0}),
            0.3 * rng.normal(size=N_PERSONAS),
            0.5 * rng.normal(size=n_exemplars),
        )

    def draw(
        self, n: int, rng: np.random.Generator, *, n_groups: int = 0, alike: float = 0.2, skewness: float = 0.0
    ) -> tuple[NDArray[np.float32], Floats, Floats, Floats, NDArray[np.int64]]:
        """Contexts (n, D), log-likelihoods and log weights (n, C), the rival's log-likelihood (n,), groups (n,).

        With groups, the share ``alike`` of the variance of everything but pairs is common to a group. With ``skewness``
        effects of exemplars are gamma variables of that skewness, or mirrored ones, each record's own.
        """
        group = np.arange(n) if not n_groups else np.arange(n) % n_groups
        own, common = (np.sqrt(1 - alike), np.sqrt(alike)) if n_groups else (1.0, 0.0)

        def effect(*shape: int) -> Floats:
            shared = rng.normal(size=(group.max() + 1, *shape))[group] if common else 0.0
            return np.asarray(own * rng.normal(size=(n, *shape)) + common * shared)

        hx = effect(SIZE)
        hx = (hx / np.linalg.norm(hx, axis=1, keepdims=True)).astype(np.float32)
        log_weight = all_log_weights(self.fitted, hx)
        spread = np.exp(SD_SPREAD * rng.normal(size=n))[:, None, None]
        level = SD_RECORD * effect()
        away = SD_PERSONA * effect(N_PERSONAS)[:, :, None]
        of_exemplar = effect(len(self.fitted.exemplars))
        if skewness:
            shape = 4 / skewness**2
            of_exemplar = np.sign(skewness) * (rng.gamma(shape, size=of_exemplar.shape) - shape) / shape**0.5
        away = away + SD_EXEMPLAR * of_exemplar[:, None, :]
        away += SD_PAIR * rng.normal(size=away.shape)
        centred = log_weight - log_weight.mean(axis=1, keepdims=True)
        everybody = self.of_persona[:, None] + self.of_exemplar
        log_lik = MEAN + level[:, None] + SLOPE * centred
        log_lik += (spread * away + everybody).reshape(n, -1)
        rival = MEAN + level + RIVAL + 1.5 * effect()
        return hx, log_lik, log_weight, rival, group


def all_log_weights(fitted: FittedMixture, hx: NDArray[np.float32]) -> Floats:
    """Of every component, (n, K·N)."""
    n_all = N_PERSONAS * len(fitted.exemplars)
    flat = np.broadcast_to(np.arange(n_all), (len(hx), n_all))
    return fitted.log_weight(hx, *np.divmod(flat, len(fitted.exemplars)), np.full(len(hx), -1))


def _unit(rng: np.random.Generator, n: int) -> torch.Tensor:
    rows = rng.normal(size=(n, SIZE))
    return torch.as_tensor(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def repeat(
    n_components: int,
    seed: int,
    *,
    n: int = 60,
    n_groups: int = 0,
    n_exemplars: int = 300,
    n_truth: int = 2_400,
    skewness: float = 0.0,
) -> dict[str, float]:
    """One sample of records, scored under some components: estimates, intervals and the truth."""
    rng = rng_of(seed, "planted likelihood", n_components, n_groups, f"{skewness:g}")
    population = Population.planted(rng, n_exemplars)
    fitted, n_all = population.fitted, N_PERSONAS * n_exemplars

    def exact(log_lik: Floats, log_weight: Floats) -> tuple[Floats, Floats]:
        return log_sum_exp(log_lik + log_weight), log_sum_exp(log_lik) - np.log(n_all)

    truth = []
    for _ in range(max(1, n_truth // 300)):  # in parts, for memory
        _, log_lik, log_weight, rival, _ = population.draw(min(300, n_truth), rng, skewness=skewness)
        mop, even = exact(log_lik, log_weight)
        # A rival's mean is known, so the score needs no mean over levels, which differ most.
        over_rival = (mop - rival).mean()
        truth.append([MEAN + RIVAL + over_rival, (mop - even).mean(), over_rival])
    score, gain, over_rival = np.mean(truth, axis=0)
    hx, log_lik, log_weight, rival, group = population.draw(n, rng, n_groups=n_groups, skewness=skewness)
    own = np.full(n, -1)
    persona, exemplar, log_proposal = components_of(fitted, hx, own, n_components, seed=seed)
    flat = persona * n_exemplars + exemplar
    table = Table(
        persona=persona, exemplar=exemplar, curves=np.take_along_axis(log_lik, flat, 1)[:, :, None].astype(np.float32),
        present=np.ones(flat.shape, dtype=bool), n_tokens=np.full(n, 25), log_proposal=log_proposal,
        hx=hx, own=own, weight=np.ones(n), betas=(1.0,), cluster=group,
    )  # fmt: skip
    likelihood = Likelihood(table, fitted, seed=seed)
    ours, even = likelihood.values(fitted), likelihood.values(uniform_mixture(fitted))
    mop = mean_interval(ours, table.weight, table.cluster)
    gains = gain_over(ours, even, table)
    rivals = gain_over(ours, rival[None], table)
    of_sample = exact(log_lik, log_weight)
    return {
        "score": float(_holds(mop["interval"], score)),
        "gain": float(_holds(gains["gain_interval"], gain)),
        "rival": float(_holds(rivals["gain_interval"], over_rival)),
        "score_bias": mop["mean"] - float(of_sample[0].mean()),
        "gain_bias": gains["gain"] - float((of_sample[0] - of_sample[1]).mean()),
        "bound_bias": float((lower_bound(table, fitted) - of_sample[0]).mean()),
        "true_gain": gain,
    }


def _holds(interval: list[float], value: float) -> bool:
    return interval[0] <= value <= interval[1]


def coverage(n_components: int, *, n_repeats: int, seed: int = 0, **options: Any) -> dict[str, float]:
    """Means of `repeat` over repeats: shares of intervals that hold the truth, and biases in nats."""
    found = [repeat(n_components, seed + r, **options) for r in range(n_repeats)]
    return {name: float(np.mean([row[name] for row in found])) for name in found[0]}
