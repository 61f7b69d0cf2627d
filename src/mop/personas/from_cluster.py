"""What every persona writer needs of a cluster: its rows, its persona's key, and the `Persona` of a description.

Writers: `keyword_personas` (counts turned into a plain paragraph), `llm_personas` (a language
model summarises the records nearest each centre), `record_personas` and `random_personas`
(real texts in place of a persona, for ablations) and `read_personas` (a person wrote it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mop.errors import DataError
from mop.personas.cluster import Clustering
from mop.personas.doubts import FEW_RECORDS, doubts, doubts_in_order
from mop.types import Persona, Record

N_SOURCES = 10
"""Records nearest the centre that a writer looks at, and whose keys are kept; chosen to fit a small model's context."""


def members_of(records: Sequence[Record], clustering: Clustering) -> list[np.ndarray[Any, np.dtype[np.intp]]]:
    """Rows of every cluster, checked against the records."""
    if len(clustering.labels) != len(records):
        raise DataError(
            f"the clustering has labels for {len(clustering.labels)} records, but {len(records)} "
            "records were given; pass the records that were clustered, in the same order"
        )
    members = [np.flatnonzero(clustering.labels == k) for k in range(len(clustering.centres))]
    empty = [k for k, rows in enumerate(members) if not len(rows) or not len(clustering.nearest[k])]
    if empty:
        raise DataError(
            f"cluster {empty[0]} ({len(empty)} of {len(members)}) has no records; a persona needs "
            "at least one; cluster into fewer groups"
        )
    return members


def persona_key(k: int, n: int) -> str:
    """Key of the persona of cluster k of n."""
    return f"p{k:0{max(3, len(str(n - 1)))}d}"


def free_key(place: int, n: int, taken: set[str]) -> str:
    """Key of the persona at a place of n that was given without one; it is taken from then on."""
    key = next(key for k in range(place, place + n + 1) if (key := persona_key(k, n)) not in taken)
    taken.add(key)
    return key


def persona_of(k: int, description: str, records: Sequence[Record], clustering: Clustering, writer: str) -> Persona:
    """One checked persona of cluster k."""
    rows = clustering.nearest[k]
    shown = [records[int(i)] for i in rows[:N_SOURCES]]
    found = set(doubts(description, [record.response for record in shown]))
    if len(rows) < FEW_RECORDS:
        found.add("few-records")
    return Persona(
        key=persona_key(k, len(clustering.centres)),
        description=description,
        cluster=k,
        size=len(rows),
        sources=tuple(record.key for record in shown),
        writer=writer,
        doubts=doubts_in_order(found),
    )
