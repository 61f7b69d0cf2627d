"""Exemplars to personas, by whoever the settings name: the way of a run and of `MixtureOfPersonas.fit` alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mop.backends.ask import Drawing
from mop.backends.base import Generator
from mop.backends.encoder import TextEncoder, embed
from mop.config import PersonaConfig
from mop.errors import ConfigError
from mop.personas.ablations import random_personas, record_personas
from mop.personas.cluster import cluster
from mop.personas.files import read_personas
from mop.personas.keywords import keyword_personas
from mop.personas.llm import llm_personas
from mop.storage.store import Store
from mop.types import Persona, Progress, Record

logger = logging.getLogger(__name__)


def write_personas(
    exemplars: Sequence[Record],
    settings: PersonaConfig,
    *,
    encoder: TextEncoder,
    lm: Callable[[], Generator],
    store: Store,
    task: str,
    seed: int,
    progress: Progress | None = None,
) -> list[Persona]:
    """Cluster the exemplars and describe each cluster, or read the user's personas.

    Exemplars are in neither the records that weights are fitted to nor those that a fit is judged on: a persona
    written from a record would predict this record too well.

    Parameters
    ----------
    exemplars : sequence of Record
        Records that prompts may show.
    settings : PersonaConfig
    encoder : TextEncoder
        Of the clustered embeddings.
    lm : callable
        Opens the language model, which only the writer ``llm`` needs.
    store : Store
        Keeps embeddings and what the language model wrote.
    task, seed, progress
        As for `mop.mixture.fit.fit_mixture`.

    Returns
    -------
    list of K Persona

    Raises
    ------
    ConfigError
        If there are fewer different exemplars than personas.
    DataError
        If the user's file holds no personas.
    """
    if settings.path is not None:
        return read_personas(Path(settings.path).expanduser())
    vectors = embed([record.response for record in exemplars], encoder, store=store, progress=progress)
    n_distinct = len(np.unique(vectors.round(5), axis=0))
    k = settings.n_clusters(n_distinct)
    if k > n_distinct:
        raise ConfigError(
            f"n_personas is {k}, and the {len(exemplars)} exemplars have {n_distinct} different texts, of which a "
            f"persona needs one; set personas.n_personas to 1 to {n_distinct}"
        )
    if settings.n_personas not in (k, "auto"):
        logger.warning(
            "%d personas instead of %d, for the exemplars have so many different texts (personas.n_personas)",
            k, settings.n_personas,
        )  # fmt: skip
    if settings.writer == "random":
        return random_personas(exemplars, k, seed=seed)
    clustering = cluster(vectors, k, seed=seed)
    if settings.writer == "record":
        return record_personas(exemplars, clustering)
    if settings.writer == "llm":
        drawing = Drawing(generator=lm(), store=store, seed=seed, task=task, progress=progress)
        return llm_personas(exemplars, clustering, drawing)
    return keyword_personas(exemplars, clustering)
