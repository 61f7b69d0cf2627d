"""Texts that have to pass a check: drawn, cleaned, and drawn again where they do not.

A method says what is asked for each context and what is kept of an answer. How often it may ask
again, seeds, store and response rows are the same for all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from mop.backends.ask import Drawing, FailedDraws, draw_requests
from mop.randomness import derive_seed
from mop.simulate.write import refuse_twins, response_to
from mop.types import Branch, GenerateRequest, Generation, Prompt, Record, Response

logger = logging.getLogger(__name__)

MAX_TRIES = 8
"""Draws for one text before it is left empty. Ours: the papers draw on until enough are there."""

SAID = "their rows say so, and nothing is drawn instead"
"""What follows from failed draws of a rival."""

Ask = Callable[[int, int], Prompt]
"""(row of the context, attempt) to the request."""
Accept = Callable[[int, int, str], str | None]
"""(row of the context, attempt, drawn text) to the text that is kept, None for a rejected one."""


def write_texts(
    contexts: Sequence[Record],
    ask: Ask,
    accept: Accept,
    drawing: Drawing,
    *,
    method: str,
    temperature: float,
    failed: FailedDraws | None = None,
) -> list[Response]:
    """Draw one accepted text for each context.

    Parameters
    ----------
    contexts : sequence of Record, length n
        Key, context and label are used; the label of a row is the one asked for, so shares of
        labels are those of the contexts, whatever was rejected.
    ask, accept : callable
        See `Ask` and `Accept`.
    drawing : Drawing
        The seed of a draw is ``derive_seed(seed, "simulate", method, key, attempt)``. A text whose draw failed is not
        drawn again. One that is rejected `MAX_TRIES` times is left empty and counts as an empty response in the
        evaluation.
    method : str
        For seed, row and cost (``simulate/NAME``).
    temperature : float
    failed : FailedDraws, optional
        For a method that writes in several calls: counts over all of them, and the caller tells.

    Returns
    -------
    list of n Response
        In the order of the contexts.

    Raises
    ------
    DataError
        If a key occurs twice.
    BackendError
        If more draws failed than allowed, after everything else is stored.
    """
    refuse_twins(contexts)
    lost = failed or FailedDraws(len(contexts), drawing, method=method)
    found: dict[int, Response] = {}
    pending = list(range(len(contexts)))
    for attempt in range(MAX_TRIES):
        seeds = [derive_seed(drawing.seed, "simulate", method, contexts[i].key, attempt) for i in pending]
        requests = [
            GenerateRequest((Branch(ask(i, attempt), temperature),), row_seed, f"context {contexts[i].key!r}")
            for i, row_seed in zip(pending, seeds, strict=True)
        ]
        done = len(contexts) - len(pending)
        drawn = draw_requests(requests, drawing, stage=f"simulate/{method}", span=(done, len(contexts)))
        rejected = []
        for i, row_seed, result in zip(pending, seeds, drawn, strict=True):
            generation, outcome = lost.settle(result)
            text = accept(i, attempt, generation.text) if isinstance(result, Generation) else ""
            if text is None:
                rejected.append(i)
            found[i] = response_to(
                contexts[i], replace(generation, text=text or ""), outcome,
                model=drawing.generator.name, seed=row_seed, method=method, temperature=temperature,
            )  # fmt: skip
        lost.check()
        pending = rejected
        if not pending:
            break
    if pending:
        logger.warning(
            "%s: %d of %d texts were rejected %d times and are left empty",
            method, len(pending), len(contexts), MAX_TRIES,
        )  # fmt: skip
    if failed is None:
        lost.tell(SAID)
    return [found[i] for i in range(len(contexts))]
