"""A fitted mixture in one table: who there is, how much each weighs, how freely each writes, like whom."""

from __future__ import annotations

from typing import Any

import numpy as np

from mop.metrics.bootstrap import odds_interval
from mop.mixture.fitted import FittedMixture, persona_shares
from mop.shown import TableList

CONTEXTS = 100
"""Contexts over which it is found what prompts show most."""


def summary_of(fitted: FittedMixture, *, n_examples: int = 2) -> TableList[dict[str, Any]]:
    """One row for each persona, the heaviest first; asks no model.

    Parameters
    ----------
    fitted : FittedMixture
    n_examples : int
        Exemplars named for each.

    Returns
    -------
    TableList of dict
        ``persona`` (its key), ``weight`` (mean mixture weight over the contexts of the exemplars, no share of the
        population), ``weight_low`` and ``weight_high`` (95 %; None where unknown), ``temperature``, ``description``,
        ``examples``: responses that it was written from, or of the exemplars that its prompts show most.
    """
    weights = np.full(len(fitted.personas), np.nan)
    by_gate: list[list[int]] = [[] for _ in fitted.personas]
    hg, he = np.asarray(fitted.gate.hg), np.asarray(fitted.gate.he)
    if he.shape[1] == 2 * hg.shape[1]:  # the second half is of the contexts
        hx = he[:, hg.shape[1] :].astype(np.float32)
        weights = persona_shares(fitted, hx, np.array([record.weight for record in fitted.exemplars]))
        some = hx[:CONTEXTS]
        mean = fitted.mean_weight(some, np.full(len(some), -1)).reshape(len(weights), -1)
        by_gate = [np.argsort(-row, kind="stable").tolist() for row in mean]
    text = {record.key: record.response for record in fitted.exemplars}
    examples = [
        [text[key] for key in persona.sources if key in text][:n_examples]
        or [fitted.exemplars[j].response for j in rows[:n_examples]]
        for persona, rows in zip(fitted.personas, by_gate, strict=True)
    ]
    errors = fitted.info.get("persona_errors") or [None] * len(weights)
    rows: list[dict[str, Any]] = []
    for k, persona in enumerate(fitted.personas):
        low, high = (None, None) if errors[k] is None else odds_interval(float(weights[k]), errors[k])
        rows.append(
            {
                "persona": persona.key,
                "weight": float(weights[k]) if np.isfinite(weights[k]) else None,
                "weight_low": low,
                "weight_high": high,
                "temperature": float(fitted.temperatures[k]),
                "description": persona.description,
                "examples": examples[k],
            }
        )
    return TableList(sorted(rows, key=lambda row: -(row["weight"] or 0.0)))
