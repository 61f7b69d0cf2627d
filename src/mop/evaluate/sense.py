"""How probable texts are to a language model that sees only the context: a figure of whether they make sense.

Distances between clouds of embeddings do not see garbled sentences. The figures go to `mop.evaluate.samples`, which
compares those of a method with those of real texts; what they mean is in ``docs/metrics.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mop.backends import curve
from mop.backends.base import Scorer
from mop.errors import DataError
from mop.mixture.score import Scoring, score_table
from mop.storage.store import Store
from mop.types import Progress, Record

JUDGED = 200
"""Texts of each set that are judged, the first that are not empty: enough for a mean, and scores cost time."""


def log_lik_per_token(
    contexts: Sequence[str],
    texts: Sequence[str],
    *,
    judge: Scorer,
    store: Store,
    task: str = "",
    most: int | None = JUDGED,
    progress: Progress | None = None,
) -> list[float]:
    """Log-likelihood per token of each text under a model without persona and exemplar, at temperature 1.

    Parameters
    ----------
    contexts, texts : sequence of str, length n
        What each text answers, and the text.
    judge : Scorer
        At best another model than the one that wrote.
    store : Store
        Only what is not in it is scored.
    task : str
        What the texts are, for the prompt.
    most : int, optional
        How many are judged at the most; None: all.
    progress : callable, optional

    Returns
    -------
    list of float, length n
        Nats per token, the end of the turn included; nan for an empty text and for those after the
        first ``most`` that are not empty.

    Raises
    ------
    DataError
        If contexts and texts differ in number.
    BackendError, ArtifactError
        As `mop.mixture.score.score_table`.
    """
    if len(contexts) != len(texts):
        raise DataError(
            f"got {len(contexts)} contexts and {len(texts)} texts to judge; each text answers one "
            "context; pass lists of equal length"
        )
    rows = [i for i, text in enumerate(texts) if text.strip()][:most]
    table = score_table(
        [Record(key=str(i), context=contexts[i], response=texts[i].strip()) for i in rows],
        [(None, None)],
        Scoring(scorer=judge, store=store, task=task, stage="judge", progress=progress),
    )
    found = [math.nan] * len(texts)
    at_one = table.curves[:, 0] @ curve.weights(1.0, judge.betas)
    for i, value in zip(rows, at_one / table.n_tokens, strict=True):
        found[i] = float(value)
    return found
