"""Planted populations whose true distances are known exactly, and how often a metric orders them right.

    python benchmarks/planted_metrics.py --n 200 --repeats 20

A population is four clouds of one shape in 384 dimensions, with variances as 1/j like those of
sentence embeddings (trace 0.95 in all). The others differ from it in one way: narrower, wider, only
the small axes narrower, moved, or with modes missing.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.metrics.distances import energy_distance, frechet, gaussian, within_distances
from mop.randomness import rng_of

D, N_GOLDEN, N_LARGE_AXES = 384, 5_000, 20
BETWEEN = 0.1
"""Part of the trace that lies between the four modes: AG News has 0.10 between its classes."""
CLEARLY = 4
"""Least true difference of a pair that counts, in standard deviations of what one draw of both says."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Planted:
    """A mixture of Gaussians with one diagonal covariance."""

    shares: Array
    """Shape (M,), sum 1."""
    centres: Array
    """Shape (M, D)."""
    variances: Array
    """Shape (D,), within each mode."""

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Texts of the population, shape (n, D)."""
        modes = rng.choice(len(self.shares), size=n, p=self.shares)
        return self.centres[modes] + rng.normal(size=(n, len(self.variances))) * np.sqrt(self.variances)

    def moments(self) -> tuple[Array, Array]:
        """Mean (D,) and covariance (D, D)."""
        mean = self.shares @ self.centres
        apart = self.centres - mean
        return mean, np.diag(self.variances) + (apart * self.shares[:, None]).T @ apart


def populations() -> dict[str, Planted]:
    """The real population and what goes wrong with it."""
    within = 1 / np.arange(1, D + 1)
    within *= (0.95 - BETWEEN) / within.sum()
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    centres = np.zeros((4, D))
    centres[:, [0, 2, 5]] = corners * math.sqrt(BETWEEN / 3)
    even = np.full(4, 0.25)
    moved = np.zeros(D)
    moved[5] = math.sqrt(0.071)
    small = np.where(np.arange(D) < N_LARGE_AXES, 1.0, 0.6) ** 2
    return {
        "real": Planted(even, centres, within),
        "narrow, 0.9": Planted(even, 0.9 * centres, 0.9**2 * within),
        "narrow, 0.8": Planted(even, 0.8 * centres, 0.8**2 * within),
        "narrow, 0.7": Planted(even, 0.7 * centres, 0.7**2 * within),
        "small axes, 0.6": Planted(even, centres, small * within),
        "wide, 1.1": Planted(even, 1.1 * centres, 1.1**2 * within),
        "wide, 1.2": Planted(even, 1.2 * centres, 1.2**2 * within),
        "wide, 1.3": Planted(even, 1.3 * centres, 1.3**2 * within),
        "moved": Planted(even, centres + moved, within),
        "one mode dropped": Planted(np.array([1, 1, 1, 0]) / 3, centres, within),
        "two modes dropped": Planted(np.array([1, 1, 0, 0]) / 2, centres, within),
    }


def true_fid(left: Planted, right: Planted) -> float:
    """Fréchet distance of the exact moments."""
    (m, a), (k, b) = left.moments(), right.moments()
    values, axes = np.linalg.eigh(a)
    root = (axes * np.sqrt(values)) @ axes.T
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b @ root), 0, None)).sum()
    return float(((m - k) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * shared)


def mean_distance(left: Planted, right: Planted) -> float:
    """E|x - y| of two independent texts, exactly.

    √q = (1/(2√π)) ∫ (1 - exp(-u q)) u^(-3/2) du, and E exp(-u |z|²) of a Gaussian is a product.
    """
    u = np.geomspace(1e-9, 1e9, 20_001)
    variances = left.variances + right.variances
    growth = 1 + 2 * u[:, None] * variances
    log_density = -0.5 * np.log(growth).sum(axis=1)
    mean = np.zeros(len(u))
    for share, centre in zip(left.shares, left.centres, strict=True):
        gaps = ((centre - right.centres) ** 2 / variances).T
        # u d² / (1 + 2 u v), per axis and mode
        pulled = (u[:, None] * variances / growth) @ gaps
        mean += share * np.exp(log_density[:, None] - pulled) @ right.shares
    curve = (1 - mean) / np.sqrt(u)  # du u^(-3/2) = d(log u) u^(-1/2)
    inner = ((curve[1:] + curve[:-1]) / 2 * np.diff(np.log(u))).sum()
    return float(inner + 2 * curve[0] + 2 * curve[-1]) / (2 * math.sqrt(math.pi))


def true_energy(left: Planted, right: Planted) -> float:
    """2 E|s - g| - E|s - s'| - E|g - g'|, exactly."""
    return 2 * mean_distance(left, right) - mean_distance(left, left) - mean_distance(right, right)


def planted_ranks(n: int, seed: int, n_repeats: int) -> dict[str, Any]:
    """How often two planted populations are told apart in the right order, from one draw of each.

    Parameters
    ----------
    n : int
        Texts per population and draw; the golden sample has 5,000.
    seed : int
        64-bit.
    n_repeats : int
        Draws of every population.

    Returns
    -------
    dict
        ``energy_rank``, ``fid_rank`` and ``plain_fid_rank``: share of (draw, pair) ordered right,
        over the pairs of populations whose true distances from the real one differ by at least
        `CLEARLY` standard deviations of the estimated difference, so that chance alone turns none
        around and bias shows (``plain_fid_rank``: over the pairs of ``fid_rank``).
        ``n_energy_pairs`` and ``n_fid_pairs``, out of 55. ``wrong``: metric to "nearer < farther"
        to share of draws in the wrong order. ``populations``: name to true values, and mean and
        standard deviation of the estimates.
    """
    planted = populations()
    real = planted["real"]
    golden = real.draw(N_GOLDEN, rng_of(seed, "golden"))
    moments, within = gaussian(golden), within_distances(golden)
    true = {
        "energy": {name: true_energy(real, p) for name, p in planted.items()},
        "fid": {name: true_fid(real, p) for name, p in planted.items()},
    }
    found: dict[str, dict[str, list[float]]] = {
        metric: {name: [] for name in planted} for metric in ("energy", "fid", "plain_fid")
    }
    for repeat in range(n_repeats):
        floor = frechet(moments, real.draw(n, rng_of(seed, "floor", repeat)), is_rough=True)
        for name, population in planted.items():
            texts = population.draw(n, rng_of(seed, name, repeat))
            own = frechet(moments, texts, is_rough=True)
            found["fid"][name].append(own.limit - floor.limit)
            found["plain_fid"][name].append(own.distance - floor.distance)
            energy = energy_distance(golden, texts, golden_within=within)
            found["energy"][name].append(energy.distance)
    result: dict[str, Any] = {"wrong": {}}
    for metric in ("energy", "fid"):
        values, estimates = true[metric], found[metric]
        pairs = [
            (a, b)
            for a, b in combinations(sorted(planted, key=values.__getitem__), 2)
            if values[b] - values[a] >= CLEARLY * np.std(np.subtract(estimates[b], estimates[a]))
            and not math.isclose(values[b], values[a], rel_tol=1e-3)
        ]
        result[f"n_{metric}_pairs"] = len(pairs)
        for of in ("energy",) if metric == "energy" else ("fid", "plain_fid"):
            right = {f"{a} < {b}": np.mean(np.less(found[of][a], found[of][b])) for a, b in pairs}
            result[f"{of}_rank"] = float(np.mean(list(right.values())))
            result["wrong"][of] = {pair: float(1 - x) for pair, x in right.items() if x < 1}
    result["populations"] = {
        name: {
            "true_energy": true["energy"][name],
            "true_fid": true["fid"][name],
            **{
                f"{metric}_{what}": float(of(estimates[name]))
                for metric, estimates in found.items()
                for what, of in (("mean", np.mean), ("sd", np.std))
            },
        }
        for name in planted
    }
    return result


def main() -> None:
    """Print the ranks and what they are made of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(json.dumps(planted_ranks(args.n, args.seed, args.repeats), indent=2))


if __name__ == "__main__":
    main()
