"""Controls: plain prompting, random exemplars, random personas; no method, no learning.

They share MoP's prompts, so that what a rival or MoP gains over them is not a matter of wording.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mop.errors import ConfigError
from mop.randomness import rng_of
from mop.types import Agent, Record


def few_shot_agents(
    contexts: Sequence[Record],
    own: NDArray[np.int64],
    n_exemplars: int,
    *,
    tau: float,
    seed: int,
    n_shots: int = 1,
    method: str = "few-shot",
) -> list[Agent]:
    """Show random exemplars, different ones in one prompt, never the record itself.

    Parameters
    ----------
    contexts : sequence of Record, length n
        The draw for a context is a function of (seed, method, its key) alone.
    own : ndarray, shape (n,)
        Row of the exemplar that is the record itself, -1 if none is; see `mop.data.own.own_exemplars`.
    n_exemplars : int
        N, rows to draw from.
    tau : float
        Temperature.
    seed : int
        Of the run.
    n_shots : int
        k, exemplars in a prompt.
    method : str
        Part of the seed.

    Returns
    -------
    list of n Agent
        ``log_omega`` is the log-probability of the draw, in its order.

    Raises
    ------
    ConfigError
        If there are too few exemplars.
    """
    least = n_exemplars - int(np.any(own >= 0))
    if not 1 <= n_shots <= least:
        raise ConfigError(
            f"{method} shows {n_shots} exemplars and may choose from {least}; show 1 to {least}, or give more exemplars"
        )
    agents = []
    for record, mine in zip(contexts, own.tolist(), strict=True):
        rows = n_exemplars - (mine >= 0)
        rng = rng_of(seed, method, record.key)
        drawn = [int(rng.integers(rows))] if n_shots == 1 else rng.choice(rows, n_shots, replace=False).tolist()
        # All exemplars but the record itself.
        chosen = tuple(row + (0 <= mine <= row) for row in drawn)
        log_omega = -math.fsum(math.log(rows - i) for i in range(n_shots))
        agents.append(Agent(None, chosen, tau, 0.0, log_omega))
    return agents


def persona_only_agents(
    contexts: Sequence[Record], n_personas: int, *, tau: float, seed: int, method: str = "persona-only"
) -> list[Agent]:
    """Let a random persona answer each context, without an exemplar; parameters as above."""
    return [
        Agent(int(rng_of(seed, method, record.key).integers(n_personas)), (), tau, -math.log(n_personas))
        for record in contexts
    ]
