"""What all personas under a prior lose where all are equally common, and gain where they are not.

    python benchmarks/planted_k.py

Every record has one persona, and the log-likelihood of a persona is standard normal, 2 nats higher for its own. Weights
are fitted as the product fits them (`mop.mixture.em.choose`), and judged on 4,000 other records.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mop.mixture.cells import Cells, Problem
from mop.mixture.em import choose
from mop.mixture.sums import log_sum_exp
from mop.randomness import rng_of

N_TEST = 4_000


def k_gain(shares: NDArray[np.float64], n: int, repeats: int, seed: int) -> float:
    """Mean held-out gain over even weights of weights fitted to n records, nats per record."""
    gains = []
    for repeat in range(repeats):
        rng = rng_of(seed, "planted-k", repeat)
        log_lik = rng.normal(size=(n + N_TEST, len(shares)))
        log_lik[np.arange(len(log_lik)), rng.choice(len(shares), p=shares, size=len(log_lik))] += 2
        same = np.ones((n, 2), dtype=np.float32)  # one context
        problem = Problem(
            hx=same,
            hg=np.ones((len(shares), 2), dtype=np.float32),
            he=np.ones((1, 2), dtype=np.float32),
            own=np.full(n, -1),
            weight=np.ones(n),
            n_train=n - n // 4,
            betas=(1.0,),
        )
        persona = np.tile(np.arange(len(shares)), (n, 1))
        cells = Cells(
            persona, np.zeros_like(persona), log_lik[:n, :, None].astype(np.float32), np.ones(persona.shape, dtype=bool)
        )
        weight = choose(problem, cells, 4, seed=repeat).gate.persona
        test = log_lik[n:]
        even = log_sum_exp(test) - np.log(len(shares))
        gains.append(float((log_sum_exp(test + np.log(weight)) - even).mean()))
    return float(np.mean(gains))


def k_loss(n: int = 100, n_personas: int = 24, repeats: int = 20, seed: int = 0) -> float:
    """Held-out loss of fitted weights to even ones where all personas are equally common, nats per record."""
    return -k_gain(np.full(n_personas, 1 / n_personas), n, repeats, seed)


def main() -> None:
    """Print losses and gains for three populations."""
    equal, few = np.full(24, 1 / 24), np.r_[np.full(4, 0.25), np.zeros(20)]
    zipf = 1 / np.arange(1, 25)
    for name, shares in (("24 equal", equal), ("Zipf", zipf / zipf.sum()), ("4 of 24", few)):
        for n in (100, 400):
            print(f"{name}, n = {n}: {k_gain(shares, n, 20, 0):+.3f} nats over even weights")
    print(f"k_loss: {k_loss():.4f}")


if __name__ == "__main__":
    main()
