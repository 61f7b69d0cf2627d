"""Draws of agents: a persona, then an exemplar, from the weights of a fitted mixture."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.config import SimulateConfig
from mop.errors import DataError
from mop.mixture.fitted import FittedMixture, with_exemplars
from mop.mixture.sums import Floats, draw, log_sum_exp
from mop.randomness import derive_seed, uniforms
from mop.types import Agent, Record

logger = logging.getLogger(__name__)


BLOCK = 65536
"""Exemplars that are looked at together."""


class Similar:
    """The exemplars most like one another, by the cosine of what the gates see of them.

    Parameters
    ----------
    vectors : ndarray, shape (N, D) or (N, 2D)
        See `mop.mixture.fitted.exemplar_vectors`.
    """

    def __init__(self, vectors: NDArray[Any]) -> None:
        self._vectors = np.asarray(vectors, dtype=np.float32)
        self._lengths = np.linalg.norm(self._vectors, axis=1) + np.float32(1e-12)
        self._found: dict[tuple[int, int], list[int]] = {}

    def to(self, exemplar: int, n: int, *, own: int = -1) -> list[int]:
        """Rows of the n exemplars most like one, the most similar first, without ``own``; all where there are fewer."""
        if (exemplar, n) not in self._found:
            vectors, one = self._vectors, self._vectors[exemplar]
            # One exemplar at a time: a product's last bits depend on its shape, a choice must not.
            parts = [vectors[start : start + BLOCK] @ one for start in range(0, len(vectors), BLOCK)]
            similar = np.concatenate(parts) / self._lengths
            similar[exemplar] = -np.inf
            # One to spare, for `own` may be among them; equal ones in the order of their rows.
            n_found = min(n + 1, len(similar) - 1)
            least = np.partition(similar, -n_found)[-n_found] if n_found else np.inf
            among = np.flatnonzero(similar >= least)
            self._found[exemplar, n] = among[np.argsort(-similar[among], kind="stable")][:n_found].tolist()
        return [row for row in self._found[exemplar, n] if row != own][:n]


def draw_agents(
    fitted: FittedMixture,
    hx: NDArray[np.float32],
    contexts: Sequence[Record],
    settings: SimulateConfig | None = None,
    *,
    seed: int,
    chunk: int = 64,
) -> list[tuple[Agent, ...]]:
    """Draw persona, then exemplars, for every context: the first two steps of the simulation.

    Parameters
    ----------
    fitted : FittedMixture
    hx : ndarray, shape (n, D)
        Context embeddings.
    contexts : sequence of n Record
        The draw for a context depends on (seed, its key) alone, with ``same_label`` on its label as
        well; its response is not looked at, except that a record never gets itself as exemplar.
    settings : SimulateConfig, optional
        By default the fitted mixture itself. Read are

        - ``agents_per_response``: L agents for one response (the paper's persona mixing at inference), drawn
          independently;
        - ``exemplars_per_prompt``, M, and ``exemplars_from``: from an agent's ``gates``, one after another
          without replacement, or one from them and the M - 1 that are most ``similar`` to it. All but the first are
          ours: the paper does not say how, and exemplars that have something in common tell a model more of a kind of
          text than exemplars of several kinds do;
        - ``tau_factor``, which multiplies the fitted temperatures. Ours: likelihood asks for higher temperatures than
          make sense to a reader, since a model is judged on real beginnings and writes on from its own;
        - ``same_label``: draw from the mixture given that the exemplar has the record's label, where at least two
          have it. Ours: the gates learn how much a label matters for the likelihood of a text, which is less than it
          matters to who wants texts of that label.
    seed : int
    chunk : int
        Contexts at a time; memory is chunk × N, with ``same_label`` a second copy of the exemplars' embeddings as well.

    Returns
    -------
    list of n tuples of L agents
        ``log_pi`` and ``log_omega`` of an agent add up to the log-probability of its persona and of its exemplars in
        their order. Where fewer exemplars may be shown than asked for, all of these are, and a warning is
        logged.

    Notes
    -----
    Source: Bui et al. 2025, arXiv 2504.05019, ancestral sampling.
    """
    if len(hx) != len(contexts):
        raise DataError(f"every context needs an embedding, got {len(contexts)} and {len(hx)}")
    settings = settings or SimulateConfig()
    if settings.same_label and (lapsed := _lapsed([record.label for record in contexts], labels(fitted))):
        logger.warning("%s", lapsed)
    wanted, are_similar = settings.exemplars_per_prompt, settings.exemplars_from == "similar"
    tau = fitted.temperatures * settings.tau_factor
    found: list[list[Agent]] = [[] for _ in contexts]
    for places, shown, mixture in pools(fitted, contexts, same_label=settings.same_label):
        people = [contexts[place] for place in places]
        own, own_of_all = mixture.own(people), fitted.own(people)
        similar = Similar(np.asarray(mixture.gate.he)) if are_similar else None
        for start in range(0, len(places), chunk):
            part = slice(start, start + chunk)
            some = list(places[part])
            log_pi = mixture.log_pi(hx[some])
            if mixture is not fitted:
                log_pi += _log_share(fitted, mixture, shown, hx[some], own_of_all[part], own[part])
                log_pi -= log_sum_exp(log_pi)[:, None]
            seeds = [derive_seed(seed, "agent", record.key) for record in people[part]]
            sizes = settings.agents_per_response, 1 if are_similar else wanted
            drawn = _draw_some(mixture, log_pi, hx[some], own[part], seeds, sizes)
            for personas, exemplars, log_k, log_j in drawn:
                for i, (place, k) in enumerate(zip(some, personas, strict=True)):
                    # Beyond 12 digits weights vary with the batch.
                    weights = round(float(log_k[i]), 12), round(float(log_j[i]), 12)
                    rows = [j for j in exemplars[i].tolist() if j >= 0]
                    if similar is not None:
                        rows += similar.to(rows[0], wanted - 1, own=int(own[start + i]))
                    exemplars_shown = tuple(shown[row] for row in rows)
                    found[place].append(Agent(int(k), exemplars_shown, float(tau[k]), *weights))
    n_short = sum(len(agents[0].exemplars) < wanted for agents in found)
    if n_short:
        logger.warning(
            "%d of %d prompts show fewer than %d exemplars, for no more may be shown there%s; give more exemplars, "
            "or lower exemplars_per_prompt",
            n_short, len(found), wanted, " (same_label)" if settings.same_label else "",
        )  # fmt: skip
    return [tuple(agents) for agents in found]


def _lapsed(asked: Sequence[str | None], known: Container[str]) -> str:
    """For which contexts ``same_label`` cannot hold, and why; empty if for none."""
    found = Counter(label for label in asked if label not in known)
    if found.total() == len(asked):
        return (
            "same_label changes nothing: no context has a label that at least two exemplars have; give records with "
            "labels (data.label names their column), or leave it off"
        )
    told = [
        f"{count} {'have no label' if label is None else f'of {label!r}, which fewer than two exemplars have'}"
        for label, count in found.most_common(5)
    ]
    more = f" and {len(found) - 5} labels more" if len(found) > 5 else ""
    said = f"same_label: {found.total()} of {len(asked)} contexts draw from all exemplars: {', '.join(told)}{more}"
    return said if found else ""


def _log_share(
    fitted: FittedMixture,
    part: FittedMixture,
    shown: Sequence[int],
    hx: NDArray[np.float32],
    own: NDArray[np.int64],
    own_of_part: NDArray[np.int64],
) -> Floats:
    """Log share of each persona's exemplar weight that is on those of a part, (n, K): log Σ_j Ω_kj over the part.

    A weight in the part is that in the whole, divided by this share: so one exemplar of the part tells it.
    """
    shape = len(hx), len(fitted.personas)
    persona = np.tile(np.arange(shape[1]), (shape[0], 1))
    one = np.repeat(np.where(own_of_part == 0, 1, 0)[:, None], shape[1], axis=1)
    whole = fitted.log_weight(hx, persona, np.asarray(shown)[one], own)
    return whole - part.log_weight(hx, persona, one, own_of_part)


def _draw_some(
    fitted: FittedMixture,
    log_pi: Floats,
    hx: NDArray[np.float32],
    own: NDArray[np.int64],
    seeds: Sequence[int],
    sizes: tuple[int, int],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]]:
    """Yield one agent for each context, as often as ``sizes`` = (agents, exemplars of each) says.

    Persona (n,), exemplars (n, exemplars) with -1 where there are no more, and the log-probabilities (n,) of both.
    """
    n_agents, n_exemplars = sizes
    rows = np.arange(len(hx))
    u = np.stack([uniforms(item, 0, n_agents * (1 + n_exemplars)) for item in seeds])
    for u_persona, *u_exemplars in np.split(u.T, n_agents):
        k = draw(log_pi, u_persona)
        exemplars, log_drawn = _draw_in_turn(fitted.log_omega(hx, k, own), u_exemplars)
        yield k, exemplars, log_pi[rows, k], log_drawn


def _draw_in_turn(log_weight: Floats, uniform: Sequence[Floats]) -> tuple[NDArray[np.int64], Floats]:
    """Draw m of N columns per row one after another, each from what is left: rows (n, m), log-probabilities (n,).

    In this order they have probability Π_i w_i / (1 - w_1 - … - w_{i-1}). Where none is left the column is -1.
    """
    drawn = np.full((len(log_weight), len(uniform)), -1, dtype=np.int64)
    log_drawn, left, some = np.zeros(len(log_weight)), log_weight, np.arange(len(log_weight))
    for turn, u in enumerate(uniform):
        if turn:
            left[some, drawn[some, turn - 1]] = -np.inf
            some = some[np.isfinite(left[some]).any(axis=1)]
            left[some] -= log_sum_exp(left[some])[:, None]
        j = draw(left[some], u[some])
        drawn[some, turn] = j
        log_drawn[some] += left[some, j]
    return drawn, log_drawn


def labels_of(fitted: FittedMixture) -> list[str]:
    """Labels of the records that a mixture was fitted to, and of its exemplars."""
    return sorted({*fitted.info.get("labels", ()), *(r.label for r in fitted.exemplars if r.label is not None)})


def labels(fitted: FittedMixture) -> dict[str, list[int]]:
    """Rows of the exemplars of each label that at least two have."""
    rows: dict[str, list[int]] = {}
    for row, exemplar in enumerate(fitted.exemplars):
        if exemplar.label is not None:
            rows.setdefault(exemplar.label, []).append(row)
    return {label: own for label, own in rows.items() if len(own) > 1}


def pools(
    fitted: FittedMixture, contexts: Sequence[Record], *, same_label: bool
) -> Iterator[tuple[Sequence[int], Sequence[int], FittedMixture]]:
    """Split contexts by the exemplars that they may be shown.

    All of them, or with ``same_label`` those of the context's own label where at least two have it.

    Yields
    ------
    places : sequence of int
        Which contexts.
    shown : sequence of int
        Which exemplars.
    mixture : FittedMixture
        Over these alone.
    """
    everything, rows_of = range(len(fitted.exemplars)), labels(fitted)
    if not same_label:
        yield range(len(contexts)), everything, fitted
        return
    places: dict[str | None, list[int]] = {}
    for place, record in enumerate(contexts):
        label = record.label if record.label in rows_of else None
        places.setdefault(label, []).append(place)
    for label, some in places.items():
        if label is None:
            yield some, everything, fitted
        else:
            yield some, rows_of[label], with_exemplars(fitted, rows_of[label])
