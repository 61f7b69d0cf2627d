"""Personas that a language model writes from the records nearest to each centre."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mop.backends.base import Fallible, Generator
from mop.errors import BackendError, ConfigError
from mop.prompts import persona_prompt
from mop.randomness import derive_seed
from mop.storage.store import Store, generation_key
from mop.types import Branch, Decoding, GenerateRequest, Generation, Persona, Progress, Prompt, Record

if TYPE_CHECKING:
    from mop.personas.cluster import Clustering
from mop.personas.doubts import SHOWN_CHARACTERS, doubts, doubts_in_order, mark_duplicates
from mop.personas.writers import check_counts, members_of, persona_of

logger = logging.getLogger(__name__)


N_TRIES = 3


# --------------------------------------------------------------------------- other writers


def llm_personas(
    records: Sequence[Record],
    clustering: Clustering,
    generator: Generator,
    *,
    seed: int,
    task: str = "",
    n_sources: int = 10,
    store: Store | None = None,
    temperature: float = 0.7,
    max_tokens: int = 160,
    progress: Progress | None = None,
) -> list[Persona]:
    """Let a language model describe every cluster from the records nearest its centre.

    Parameters
    ----------
    records, clustering
        As in `keyword_personas`.
    task : str
        What the responses are, in one line; empty if unknown.
    generator : Generator
        The model that writes.
    seed : int
        Seed of the run; try t of cluster k uses a seed of its own.
    n_sources : int
        Records shown per cluster, nearest the centre first. Together they have `SHOWN_CHARACTERS`
        characters; a record longer than its share is shown up to there, followed by "…", and the
        number of such records is logged.
    store : Store or None
        Where drawn texts are kept, so that the same call draws nothing twice.
    temperature : float
        Of the draw, > 0.
    max_tokens : int
        A description still going on there is cut, and then in doubt as ``unfinished``.
    progress : Progress or None
        Called as ``progress("personas, try 1", done, total)``.

    Returns
    -------
    list of K Persona
        ``writer="llm"``; `Persona.doubts` says what still looks wrong.

    Raises
    ------
    DataError
        If the clustering does not fit the records.
    ConfigError
        If a number is below 1 or the temperature not positive.
    BackendError
        If the model wrote nothing at all for a cluster, `N_TRIES` times.

    Notes
    -----
    Source: Bui et al. 2025, arXiv 2504.05019, which summarises the records nearest each centre.
    Ours: the checks; and a doubtful text is drawn up to
    `N_TRIES` times, of which the one with the fewest doubts is kept, the first of equals.
    """
    check_counts(n_sources=n_sources, max_tokens=max_tokens)
    if not temperature > 0:
        raise ConfigError(
            f"the temperature of the persona writer is {temperature}; it must be above 0; give one such as 0.7"
        )
    members = members_of(records, clustering)
    shown = [[records[i].response for i in clustering.nearest[k][:n_sources]] for k in range(len(members))]
    share = SHOWN_CHARACTERS // n_sources
    n_cut = sum(len(text) > share for texts in shown for text in texts)
    if n_cut:
        logger.info("%d long records are shown up to character %d", n_cut, share)
    prompts = [persona_prompt([t if len(t) <= share else t[:share] + "…" for t in texts], task) for texts in shown]
    best: dict[int, Persona] = {}
    reason = ""
    for attempt in range(N_TRIES):
        due = [k for k in range(len(members)) if k not in best or best[k].doubts]
        requests = [
            GenerateRequest((Branch(prompts[k], temperature),), derive_seed(seed, "personas", k, attempt)) for k in due
        ]
        drawn = generate_cached(generator, requests, Decoding(max_tokens=max_tokens), store)
        for n_done, (i, generation) in enumerate(drawn, start=1):
            k = due[i]
            if progress is not None:
                progress(f"personas, try {attempt + 1}", n_done, len(due))
            text = generation.text.strip()
            if not text:
                continue
            persona = persona_of(k, text, records, clustering, n_sources, len(members[k]), "llm")
            if "copied" in doubts(text, _request(prompts[k])):
                persona = replace(persona, doubts=doubts_in_order({*persona.doubts, "copied"}))
            if k not in best or len(persona.doubts) < len(best[k].doubts):
                best[k] = persona
        if isinstance(generator, Fallible) and generator.failures and not reason:
            reason = f" (its first failure: {generator.failures[min(generator.failures)].message})"
    blank = [k for k in range(len(members)) if k not in best]
    if blank:
        raise BackendError(
            f"the persona writer {generator.name!r} wrote nothing for cluster {blank[0]} "
            f"({len(blank)} of {len(members)} clusters) in {N_TRIES} tries{reason}; a description of a few "
            "sentences is needed; use another model or seed, or the writer 'keywords'"
        )
    return mark_duplicates([best[k] for k in range(len(members))])


def _request(prompt: Prompt) -> list[str]:
    """Return our own words in a prompt; small models recite them."""
    return [part.text for turn in prompt.turns for part in turn.segments if not part.is_data]


def generate_cached(
    generator: Generator, requests: Sequence[GenerateRequest], decoding: Decoding, store: Store | None
) -> Iterator[tuple[int, Generation]]:
    """Draw every request once, unless the store has it already.

    Parameters
    ----------
    generator : Generator
    requests : sequence of GenerateRequest
    decoding : Decoding
    store : Store or None
        None keeps nothing.

    Yields
    ------
    index, generation : int, Generation
        What the store has comes first, the rest as it is finished and kept.
    """
    keys = [generation_key(generator.generate_identity, r, decoding) for r in requests]
    known = store.get_generations(keys, stage="personas") if store is not None else {}
    yield from ((i, known[key]) for i, key in enumerate(keys) if key in known)
    due = [i for i, key in enumerate(keys) if key not in known]
    for batch in generator.generate([requests[i] for i in due], decoding) if due else ():
        finished = [(due[j], generation) for j, generation in batch]
        if store is not None:
            store.put_generations([(keys[i], drawn) for i, drawn in finished], stage="personas")
        yield from finished
