"""Personas that a language model writes from the records nearest to each centre."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from mop.backends.ask import Drawing, draw_requests
from mop.backends.base import Failure
from mop.errors import BackendError
from mop.personas.cluster import Clustering
from mop.personas.doubts import SHOWN_CHARACTERS, doubts, doubts_in_order, mark_duplicates
from mop.personas.from_cluster import N_SOURCES, members_of, persona_of
from mop.prompts import persona_prompt
from mop.randomness import derive_seed
from mop.types import Branch, Decoding, GenerateRequest, Persona, Prompt, Record

logger = logging.getLogger(__name__)

N_TRIES = 3
"""Draws for one description; chosen, not tuned."""
TEMPERATURE = 0.7
MAX_TOKENS = 160
"""A description that is still going on there is cut, and then in doubt as ``unfinished``."""


def llm_personas(records: Sequence[Record], clustering: Clustering, drawing: Drawing) -> list[Persona]:
    """Let a language model describe every cluster from the `N_SOURCES` records nearest its centre.

    Parameters
    ----------
    records, clustering
        As in `mop.personas.keywords.keyword_personas`. The records shown have `SHOWN_CHARACTERS` characters together;
        a record longer than its share is shown up to there, followed by "…", and the number of such records is
        logged.
    drawing : Drawing
        The model that writes, what the responses are, the store, the seed of the run: try t of cluster k has a seed
        of its own. Length cap and temperature are `MAX_TOKENS` and `TEMPERATURE`.

    Returns
    -------
    list of K Persona
        ``writer="llm"``; `Persona.doubts` says what still looks wrong.

    Raises
    ------
    DataError
        If the clustering does not fit the records.
    BackendError
        If the model leaves a request out, or wrote nothing at all for a cluster, `N_TRIES` times.

    Notes
    -----
    Source: Bui et al. 2025, arXiv 2504.05019, which summarises the records nearest each centre.
    Ours: the checks; and a doubtful text is drawn up to `N_TRIES` times, of which the one with the
    fewest doubts is kept, the first of equals.
    """
    members = members_of(records, clustering)
    shown = [[records[i].response for i in clustering.nearest[k][:N_SOURCES]] for k in range(len(members))]
    share = SHOWN_CHARACTERS // N_SOURCES
    n_cut = sum(len(text) > share for texts in shown for text in texts)
    if n_cut:
        logger.info("%d long records are shown up to character %d", n_cut, share)
    prompts = [
        persona_prompt([t if len(t) <= share else t[:share] + "…" for t in texts], drawing.task) for texts in shown
    ]
    short = replace(drawing, decoding=Decoding(max_tokens=MAX_TOKENS))
    best: dict[int, Persona] = {}
    reason = ""
    for attempt in range(N_TRIES):
        due = [k for k in range(len(members)) if k not in best or best[k].doubts]
        requests = [
            GenerateRequest((Branch(prompts[k], TEMPERATURE),), derive_seed(drawing.seed, "personas", k, attempt))
            for k in due
        ]
        drawn = draw_requests(requests, short, stage="personas")
        for k, result in zip(due, drawn, strict=True):
            if isinstance(result, Failure):
                reason = reason or f" (its first failure: {result.message})"
                continue
            text = result.text.strip()
            if not text:
                continue
            persona = persona_of(k, text, records, clustering, "llm")
            if "copied" in doubts(text, _request(prompts[k])):
                persona = replace(persona, doubts=doubts_in_order({*persona.doubts, "copied"}))
            if k not in best or len(persona.doubts) < len(best[k].doubts):
                best[k] = persona
    blank = [k for k in range(len(members)) if k not in best]
    if blank:
        raise BackendError(
            f"the persona writer {drawing.generator.name!r} wrote nothing for cluster {blank[0]} "
            f"({len(blank)} of {len(members)} clusters) in {N_TRIES} tries{reason}; a description of a few "
            "sentences is needed; use another model or seed, or the writer 'keywords'"
        )
    return mark_duplicates([best[k] for k in range(len(members))])


def _request(prompt: Prompt) -> list[str]:
    """Return our own words in a prompt; small models recite them."""
    return [part.text for turn in prompt.turns for part in turn.segments if not part.is_data]
