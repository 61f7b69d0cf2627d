"""Ask a frozen model once and keep the answer: requests to scores or draws, through the store."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from mop.backends.base import Failure, Fallible, Generator, Recognisable, Scorer, batches_of, what_now
from mop.backends.quarantine import Quarantine, recover
from mop.errors import BackendError
from mop.storage.store import Store, generation_key, score_key
from mop.types import Decoding, GenerateRequest, Generation, Outcome, Progress, Score, ScoreRequest

logger = logging.getLogger(__name__)

Request = TypeVar("Request")
Answer = TypeVar("Answer")

REFUSALS = frozenset({"content_filter", "refusal"})
"""Codes of failures in which the model or its operator declined; all others are ``failed``."""

_ROUNDING = 1e-3  # nats above 0 that a sure response may come out at


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What all draws of a method share."""

    generator: Generator
    """The frozen model that writes."""
    store: Store
    """What is in it is not drawn again; a killed call loses only the batches in work."""
    seed: int
    """Of the run; the seed of each draw is made from it."""
    decoding: Decoding = field(default_factory=Decoding)
    task: str = ""
    """What the responses are, in one line, for the prompts; empty if unknown."""
    max_failed_share: float = 0.0
    """Share of a method's draws that the model may give up (see `mop.backends.base.Fallible`)."""
    progress: Progress | None = None
    """Called at the start and after each batch with the stage, draws done, draws in all."""


def draw_requests(
    requests: Sequence[GenerateRequest], drawing: Drawing, *, stage: str, span: tuple[int, int] | None = None
) -> Iterator[Generation | Failure]:
    """Yield what was drawn for each request, in order: from the store, or drawn and then in the store.

    Parameters
    ----------
    requests : sequence of GenerateRequest
        Equal ones are drawn once.
    drawing : Drawing
    stage : str
        Whose cost grows, and the name that ``progress`` gets.
    span : (int, int), optional
        How many went before, how many there are in all; by default 0 and the number of requests.

    Yields
    ------
    Generation or Failure
        A failure is what the model gave up; it is not stored. See `FailedDraws`.

    Raises
    ------
    BackendError
        If the model leaves a request out.
    ArtifactError
        If the store cannot be read or written.
    """
    generator, store, decoding = drawing.generator, drawing.store, drawing.decoding
    keys = [generation_key(generator.generate_identity, request, decoding, store.secret) for request in requests]
    known: Mapping[bytes, Generation | Failure] = store.get_generations(keys, stage=stage)

    def ask(missing: list[GenerateRequest]) -> Iterator[list[tuple[int, Generation | Failure]]]:
        drawn = generator.generate(missing, decoding)
        for batch in batches_of(drawn, Generation, len(missing), f"generate of {generator.name}"):
            yield list(batch)
        if isinstance(generator, Fallible):
            yield list(generator.failures.items())

    def keep(pairs: list[tuple[bytes, Generation | Failure]]) -> int:
        drawn = [(key, one) for key, one in pairs if isinstance(one, Generation)]
        if drawn:
            store.put_generations(drawn, stage=stage)
        return len(drawn)

    before, total = span or (0, len(keys))
    tell = _told(drawing.progress, stage, before, total)
    return _ask_once(requests, keys, known, ask=ask, keep=keep, name=generator.name, tell=tell)


def score_requests(
    requests: Sequence[ScoreRequest],
    scorer: Scorer,
    store: Store,
    *,
    stage: str = "score",
    progress: Progress | None = None,
) -> list[Score]:
    """Score requests, asking the model only for what the store does not have.

    Parameters
    ----------
    requests : sequence of ScoreRequest
        Equal ones are asked once.
    scorer : Scorer
        The frozen model.
    store : Store
        Filled batch by batch, so that a killed call loses only the batches that are in work.
    stage : str
        Whose cost grows.
    progress : callable, optional
        Called at the start and after each batch with ``stage``, requests done, requests in all.

    Returns
    -------
    list of Score
        In the order of ``requests``; each curve has shape (G,) for the G ``scorer.betas``.

    Raises
    ------
    BackendError
        If the model leaves a request out or gives a curve that cannot be one.
    ArtifactError
        If the store cannot be read or written.
    """
    keys = [score_key(scorer.score_identity, request, store.secret) for request in requests]
    known = store.get_scores(keys, stage=stage)

    # Scores of one identity are of one model: what it says to known questions is kept beside them.
    if isinstance(scorer, Recognisable):
        scorer.expected = store.get_reference(scorer.score_identity)
    unknown = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
    if recover(unknown, scorer, store):
        known |= store.get_scores(unknown, stage=stage)
    quarantine = Quarantine(scorer, store, stage)

    def ask(missing: list[ScoreRequest]) -> Iterator[list[tuple[int, Score]]]:
        with quarantine.watched():
            for batch in batches_of(scorer.score(missing), Score, len(missing), f"score of {scorer.name}"):
                if isinstance(scorer, Recognisable) and scorer.expected is None:
                    scorer.expected = scorer.reference
                    store.put_reference(scorer.score_identity, scorer.reference)
                yield [(i, _as_curve(score, scorer, missing[i].name or f"request {i}")) for i, score in batch]

    tell = _told(progress, stage, 0, len(keys))
    return list(_ask_once(requests, keys, known, ask=ask, keep=quarantine.keep, name=scorer.name, tell=tell))


def _ask_once(
    requests: Sequence[Request],
    keys: Sequence[bytes],
    known: Mapping[bytes, Answer],
    *,
    ask: Callable[[list[Request]], Iterable[list[tuple[int, Answer]]]],
    keep: Callable[[list[tuple[bytes, Answer]]], int],
    name: str,
    tell: Callable[[int], None],
) -> Iterator[Answer]:
    """Yield the answer to each request, in order, as soon as it and those before it are there.

    ``ask`` gets the different requests that are not known and yields batches of (place among them, answer); ``keep``
    stores a batch under its keys and says how many were stored.
    """
    ready = dict(known)
    missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in ready}
    names = list(missing)
    done, next_row = len(keys) - len(missing), 0
    if keys:
        tell(done)
    # A model that is not needed is not loaded.
    for batch in ask(list(missing.values())) if missing else ():
        pairs = [(names[i], answer) for i, answer in batch]
        n_kept = keep(pairs)
        ready.update(pairs)
        if n_kept:
            done += n_kept
            tell(done)
        while next_row < len(keys) and keys[next_row] in ready:
            yield ready[keys[next_row]]
            next_row += 1
    absent = sum(key not in ready for key in names)
    if absent:
        raise BackendError(
            f"{name} left out {absent} of {len(names)} requests; each must be answered "
            "once; give the same command again to ask for the rest",
            retryable=True,
        )
    for key in keys[next_row:]:
        yield ready[key]


def _told(progress: Progress | None, stage: str, before: int, total: int) -> Callable[[int], None]:
    return lambda done: None if progress is None else progress(stage, before + done, total)


def _as_curve(score: Score, scorer: Scorer, request: str) -> Score:
    """As it will be read back from the store, so that a first and a second run agree to the bit."""
    log_lik = np.asarray(score.log_lik, dtype=np.float32)
    if log_lik.shape != (len(scorer.betas),) or score.n_tokens < 1:
        raise BackendError(
            f"{scorer.name} gave a score of shape {log_lik.shape} over {score.n_tokens} tokens; "
            f"expected ({len(scorer.betas)},) and at least 1; this backend cannot score"
        )
    wrong = ~(np.isfinite(log_lik) & (log_lik <= _ROUNDING))
    if wrong.any():
        raise BackendError(
            f"{scorer.name} gave {request} the log-likelihood {log_lik[wrong][0]} at τ = "
            f"{1 / scorer.betas[int(wrong.argmax())]:.3g}; it must be finite and at most "
            "0, so check the model's weights, or use another model as scorer"
        )
    return Score(log_lik, score.n_tokens)


class FailedDraws:
    """The draws of one method that a model gave up, and how many of them may be.

    Parameters
    ----------
    n : int
        Draws in all.
    drawing : Drawing
        Who draws, and which share of them may fail.
    method : str
        What draws, for messages.
    what : str
        What is drawn, for messages.
    """

    def __init__(self, n: int, drawing: Drawing, *, method: str, what: str = "responses") -> None:
        self._n = n
        self._allowed = math.floor(drawing.max_failed_share * n + 1e-9)
        self._method, self._model, self._what = method, drawing.generator.name, what
        self._failures: list[Failure] = []

    def settle(self, result: Generation | Failure) -> tuple[Generation, Outcome]:
        """Return what a draw came to; an empty text for a failure, which is counted."""
        if isinstance(result, Generation):
            return result, result.finish_reason
        self._failures.append(result)
        nothing = Generation("", 0, "stop", math.nan)
        return nothing, "refused" if result.code in REFUSALS else "failed"

    def check(self) -> None:
        """Stop if more failed than may; to be called when everything else is stored.

        Raises
        ------
        BackendError
            With the first failure's message.
        """
        if len(self._failures) > self._allowed:
            raise BackendError(
                f"{self._model} could not draw {len(self._failures)} of the {self._n} {self._what} "
                f"of {self._method} ({self._codes()}), and at most {self._allowed} may fail; the "
                f"first: {self._failures[0].message}; the others are kept; {what_now(self._failures)}"
            )

    def tell(self, consequence: str) -> None:
        """Log how many failed, if any did, and what follows from it."""
        if self._failures:
            logger.warning(
                "%s: %d of %d %s failed (%s); %s",
                self._method,
                len(self._failures),
                self._n,
                self._what,
                self._codes(),
                consequence,
            )

    def _codes(self) -> str:
        return ", ".join(sorted({failure.code for failure in self._failures}))
