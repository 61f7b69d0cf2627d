"""Records that no component explains, and a persona proposed for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mop.backends.base import Scorer
from mop.backends.curve import weights as curve_weights
from mop.mixture.cells import Cells
from mop.mixture.score import score_cells
from mop.mixture.sums import Floats
from mop.personas.cluster import Clustering
from mop.personas.keywords import keyword_personas
from mop.storage.store import Store
from mop.types import Persona, Progress, Record

LISTED = 10
"""Records that are named, the least explained first."""
FEWEST = 3
"""Uncovered records from which a persona can be written."""


def coverage(
    records: Sequence[Record],
    cells: Cells,
    temperatures: Floats,
    *,
    n_examined: int,
    scorer: Scorer,
    store: Store,
    task: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Find the records that even the best component does not explain.

    A record is uncovered if no component that was scored for it makes it more probable than the plain
    model does, without persona and exemplar:

        max_c log p_c(y|x) / T  ≤  log p_0(y|x) / T

    with T response tokens, components at their personas' temperatures and the plain model at
    the single temperature that suits these records best.

    Parameters
    ----------
    records : sequence of n Record
        Those of the fit.
    cells : Cells
        Scored components of these records.
    temperatures : ndarray, shape (K,)
    n_examined : int
        Records looked at, evenly spaced; each needs one more score.
    scorer, store
        Only what the store lacks is scored.
    task : str
    progress : callable, optional

    Returns
    -------
    dict
        ``n_examined``, ``n_uncovered``; ``least``: the records explained least, each with ``key``,
        ``gap`` (left minus right side above, nats per token) and ``is_uncovered``, without texts,
        since this goes into the mixture, which people pass on; ``proposed``: the description of a
        persona for the uncovered ones, by the keywords writer, or None if they are fewer than 3.
    """
    rows = np.unique(np.linspace(0, len(records) - 1, min(n_examined, len(records))).astype(np.int64))
    some = [records[i] for i in rows]
    scores, _ = score_cells(
        some, [(i, None, None) for i in range(len(some))], [], [],
        scorer=scorer, store=store, task=task, stage="coverage", progress=progress,
    )  # fmt: skip
    n_tokens = np.array([score.n_tokens for score in scores])
    gap = component_gap(
        cells.of(rows), np.stack([score.log_lik for score in scores]), n_tokens, temperatures, tuple(scorer.betas)
    )
    order = np.argsort(gap, kind="stable")
    uncovered = [int(i) for i in order if gap[i] <= 0]
    return {
        "n_examined": len(rows),
        "n_uncovered": len(uncovered),
        "least": [
            {"key": some[i].key, "gap": float(gap[i]), "is_uncovered": bool(gap[i] <= 0)} for i in order[:LISTED]
        ],
        "proposed": None if len(uncovered) < FEWEST else propose_persona(some, uncovered).description,
    }


def component_gap(
    cells: Cells, plain: np.ndarray, n_tokens: np.ndarray, temperatures: Floats, betas: tuple[float, ...]
) -> Floats:
    """Log-likelihood per token of the best component above that of the plain model, (n,) nats.

    Parameters
    ----------
    cells : Cells
        Of n records.
    plain : ndarray, shape (n, G)
        Curves without persona and exemplar.
    n_tokens : ndarray, shape (n,)
    temperatures : ndarray, shape (K,)
    betas : tuple
        The G nodes.
    """
    nodes = np.stack([curve_weights(1.0 / tau, betas) for tau in temperatures])
    log_lik = np.einsum("nmg,nmg->nm", cells.curves.astype(np.float64), nodes[cells.persona])
    best = np.where(cells.present, log_lik, -np.inf).max(axis=1)
    grid = np.linspace(betas[0], betas[-1], 200) if len(betas) > 1 else np.array(betas)
    values = plain.astype(np.float64) @ np.stack([curve_weights(float(b), betas) for b in grid]).T
    return np.asarray((best - values[:, int(np.argmax(values.sum(axis=0)))]) / n_tokens)


def propose_persona(records: Sequence[Record], rows: Sequence[int]) -> Persona:
    """Describe some of the records by what sets them apart from the others, counted not guessed."""
    labels = np.ones(len(records), dtype=np.int64)
    labels[list(rows)] = 0
    others = np.flatnonzero(labels)
    groups = [np.array(rows, dtype=np.int64)] + ([others] if len(others) else [])
    clustering = Clustering(labels, np.zeros((len(groups), 1), dtype=np.float32), groups)
    return keyword_personas(records, clustering)[0]
