"""Personas for comparison: raw records, and clusters drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

from mop.errors import ConfigError
from mop.personas.cluster import Clustering
from mop.personas.from_cluster import members_of, persona_key
from mop.randomness import rng_of
from mop.types import Persona, Record


def record_personas(records: Sequence[Record], clustering: Clustering) -> list[Persona]:
    """Take the response nearest each centre for a persona: the ablation without a writer.

    Parameters
    ----------
    records, clustering
        As in `keyword_personas`.

    Returns
    -------
    list of K Persona
        ``writer="record"``; not checked, since a record is no description.

    Raises
    ------
    DataError
        If the clustering does not fit the records.
    """
    members = members_of(records, clustering)
    return [
        Persona(
            key=persona_key(k, len(members)),
            description=records[int(clustering.nearest[k][0])].response,
            cluster=k,
            size=len(rows),
            sources=(records[int(clustering.nearest[k][0])].key,),
            writer="record",
        )
        for k, rows in enumerate(members)
    ]


def random_personas(records: Sequence[Record], n_personas: int, *, seed: int) -> list[Persona]:
    """Draw responses of different wording at random for personas: the ablation without clusters.

    Parameters
    ----------
    records : sequence of n Record
    n_personas : int
        K, at least 1 and at most the number of different non-blank responses.
    seed : int
        Seed of the run.

    Returns
    -------
    list of K Persona
        ``writer="random"``, without cluster.

    Raises
    ------
    ConfigError
        If ``n_personas`` is out of range.

    Examples
    --------
    >>> records = [Record(key=str(i), context="", response=f"Text {i}.") for i in range(9)]
    >>> [persona.key for persona in random_personas(records, 2, seed=0)]
    ['p000', 'p001']
    """
    different = {record.response.strip(): record for record in reversed(records) if record.response.strip()}
    pool = list(reversed(different.values()))
    if not 1 <= n_personas <= len(pool):
        raise ConfigError(
            f"{n_personas} random personas were asked for; the records have {len(pool)} different "
            f"responses, so ask for 1 to {len(pool)}"
        )
    rows = rng_of(seed, "personas", "random").choice(len(pool), size=n_personas, replace=False)
    return [
        Persona(
            key=persona_key(k, n_personas), description=pool[row].response, sources=(pool[row].key,), writer="random"
        )
        for k, row in enumerate(rows)
    ]
