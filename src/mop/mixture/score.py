"""Records × components to log-likelihood curves: asked of the model once, kept in the store.

A component is one (persona, exemplar) pair, either of which may be absent. What comes out here is
what `mop.mixture.fit` learns from and what `mop.mixture.sums` adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mop.backends.base import Recognisable, Scorer
from mop.data.own import is_own
from mop.errors import BackendError, DataError
from mop.prompts import simulation_prompt
from mop.storage.store import Store, score_key
from mop.types import Persona, Progress, Record, Score, ScoreRequest

Component = tuple[int | None, int | None]
"""Rows of the persona and exemplar lists; None for none."""

Cell = tuple[int, int | None, int | None]
"""A record's row and a component."""

MASKED = np.float32(-1e30)
"""Log-likelihood of a component that is not allowed: as good as minus infinity in every sum, yet
finite, so that interpolation and gradients stay finite too."""

_ROUNDING = 1e-3  # nats above 0 that a sure response may come out at
_CHUNK = 8192  # requests in memory at a time; large enough for a backend to sort by length


class ScoreTable(NamedTuple):
    """Curves of all records under all components."""

    curves: NDArray[np.float32]
    """Shape (N, C, G), nats; `MASKED` where not allowed."""
    n_tokens: NDArray[np.int64]
    """Shape (N,), response tokens, end-of-turn included; 0 where no component is allowed."""
    masked: NDArray[np.bool_]
    """Shape (N, C), True where the exemplar is the record itself."""


def clusters(records: Sequence[Record]) -> NDArray[np.int64]:
    """Number the groups of records (n,); a record without one is a group by itself."""
    number: dict[object, int] = {}
    return np.array(
        [number.setdefault(i if r.group is None else ("group", r.group), len(number)) for i, r in enumerate(records)],
        dtype=np.int64,
    )  # fmt: skip


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
    return _score(requests, scorer, store, stage=stage, progress=progress)[0]


def component_requests(
    records: Sequence[Record],
    cells: Iterable[Cell],
    personas: Sequence[Persona],
    exemplars: Sequence[Record],
    *,
    task: str = "",
) -> list[ScoreRequest]:
    """Turn (record, persona, exemplar) cells into score requests, in order.

    Parameters
    ----------
    records : sequence of Record, length N
        Whose responses are scored.
    cells : iterable of (record row, persona row or None, exemplar row or None)
        Which components for which record.
    personas : sequence of Persona, length K
        Rows that cells refer to.
    exemplars : sequence of Record
        Rows that cells refer to.
    task : str
        What the responses are, for the prompt.

    Raises
    ------
    DataError
        If a cell shows a record to itself.
    """
    requests = []
    for i, k, j in cells:
        if j is not None and is_own(records[i], exemplars[j]):
            raise DataError(
                f"record {records[i].key!r} was to be scored with itself as exemplar "
                f"({exemplars[j].key!r}); a record may see only others; leave this component out"
            )
        prompt = simulation_prompt(
            records[i].context,
            persona=None if k is None else personas[k].description,
            exemplars=() if j is None else (exemplars[j],),
            task=task,
        )
        name = f"record {records[i].key!r}"
        if k is not None:
            name += f" under persona {personas[k].key!r}"
        if j is not None:
            name += f" with exemplar {exemplars[j].key!r}"
        requests.append(ScoreRequest(prompt, records[i].response, name))
    return requests


def score_cells(
    records: Sequence[Record],
    cells: Sequence[Cell],
    personas: Sequence[Persona],
    exemplars: Sequence[Record],
    *,
    scorer: Scorer,
    store: Store,
    task: str = "",
    stage: str = "score",
    progress: Progress | None = None,
) -> tuple[list[Score], int]:
    """Score chosen components of chosen records.

    Parameters are those of `component_requests` and `score_requests`.

    Returns
    -------
    scores : list of Score
        In the order of ``cells``.
    n_new_tokens : int
        Response tokens that the model was newly asked for.

    Raises
    ------
    DataError
        As in `component_requests`.
    BackendError, ArtifactError
        As in `score_requests`.
    """
    # One component after the other: its prompts share the persona and the exemplar.
    order = sorted(range(len(cells)), key=lambda c: _component_order(cells[c]))
    scores: dict[int, Score] = {}
    n_new_tokens = 0
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        requests = component_requests(records, (cells[c] for c in chunk), personas, exemplars, task=task)
        some, n_new = _score(requests, scorer, store, stage=stage, progress=_shifted(progress, start, len(order)))
        scores.update(zip(chunk, some, strict=True))
        n_new_tokens += n_new
    return [scores[c] for c in range(len(cells))], n_new_tokens


def score_table(
    records: Sequence[Record],
    components: Sequence[Component],
    personas: Sequence[Persona],
    exemplars: Sequence[Record],
    *,
    scorer: Scorer,
    store: Store,
    task: str = "",
    stage: str = "score",
    progress: Progress | None = None,
) -> ScoreTable:
    """Score every record under every component; a record is never scored with itself as exemplar.

    Parameters
    ----------
    components : sequence of (persona row or None, exemplar row or None), length C
        The columns of the table. The other parameters are those of `score_cells`.

    Raises
    ------
    BackendError, ArtifactError
        As in `score_columns`.
    """
    if not records:
        shape = (0, len(components))
        curves = np.zeros((*shape, len(scorer.betas)), dtype=np.float32)
        return ScoreTable(curves, np.zeros(0, dtype=np.int64), np.zeros(shape, dtype=np.bool_))
    return score_columns(
        records, [components] * len(records), personas, exemplars,
        scorer=scorer, store=store, task=task, stage=stage, progress=progress,
    )  # fmt: skip


def score_columns(
    records: Sequence[Record],
    components: Sequence[Sequence[Component]],
    personas: Sequence[Persona],
    exemplars: Sequence[Record],
    *,
    scorer: Scorer,
    store: Store,
    task: str = "",
    stage: str = "score",
    progress: Progress | None = None,
) -> ScoreTable:
    """Score every one of N > 0 records under components of its own, as many for each; never with itself as exemplar.

    Parameters
    ----------
    components : sequence of N sequences of C (persona row or None, exemplar row or None)
        The rows of the table. The other parameters are those of `score_cells`.

    Raises
    ------
    BackendError
        As in `score_requests`; or if the response of a record has not always the same length.
    ArtifactError
        As in `score_requests`.
    """
    masked = np.array(
        [
            [j is not None and is_own(record, exemplars[j]) for _, j in of]
            for record, of in zip(records, components, strict=True)
        ],
        dtype=np.bool_,
    ).reshape(len(records), len(components[0]))
    allowed = [(int(i), int(c)) for i, c in np.argwhere(~masked)]
    cells = [(i, *components[i][c]) for i, c in allowed]
    scores, _ = score_cells(
        records, cells, personas, exemplars, scorer=scorer, store=store, task=task, stage=stage, progress=progress
    )
    curves = np.full((*masked.shape, len(scorer.betas)), MASKED, dtype=np.float32)
    n_tokens = np.zeros(len(records), dtype=np.int64)
    for (i, c), score in zip(allowed, scores, strict=True):
        curves[i, c] = score.log_lik
        if n_tokens[i] not in (0, score.n_tokens):
            raise BackendError(
                f"{scorer.name} counted {n_tokens[i]} and {score.n_tokens} tokens in the one "
                f"response of record {records[i].key!r}; a response has the same tokens after "
                "every prompt; this backend cannot be used for fitting"
            )
        n_tokens[i] = score.n_tokens
    return ScoreTable(curves, n_tokens, masked)


def cell_scorer(
    records: Sequence[Record],
    personas: Sequence[Persona],
    exemplars: Sequence[Record],
    *,
    scorer: Scorer,
    store: Store,
    task: str = "",
    stage: str = "fit",
    progress: Progress | None = None,
) -> Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], tuple[NDArray[np.float32], int]]:
    """Return the function through which `mop.mixture.fit` asks for scores: arrays of rows in, curves out.

    The function takes record, persona and exemplar rows, shape (m,) each, and returns the curves,
    shape (m, G) in nats, and the response tokens of these scores, newly spent or not: a budget must
    mean the same in a resumed fit. Parameters as in `score_cells`; an empty ``personas`` or
    ``exemplars`` means that row 0 stands for none.
    """

    def score(
        record: NDArray[np.int64], persona: NDArray[np.int64], exemplar: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], int]:
        cells: list[Cell] = [
            (int(i), int(k) if personas else None, int(j) if exemplars else None)
            for i, k, j in zip(record, persona, exemplar, strict=True)
        ]
        scores, _ = score_cells(
            records, cells, personas, exemplars, scorer=scorer, store=store, task=task, stage=stage, progress=progress
        )
        curves = np.empty((len(cells), len(scorer.betas)), dtype=np.float32)
        for row, one in enumerate(scores):
            curves[row] = one.log_lik
        return curves, sum(one.n_tokens for one in scores)

    return score


def _score(
    requests: Sequence[ScoreRequest], scorer: Scorer, store: Store, *, stage: str, progress: Progress | None
) -> tuple[list[Score], int]:
    """`score_requests`, and the response tokens newly spent."""
    keys = [score_key(scorer.score_identity, request) for request in requests]
    scores = store.get_scores(keys, stage=stage)
    missing = {key: r for key, r in zip(keys, requests, strict=True) if key not in scores}
    names = list(missing)
    n_new_tokens, done = 0, len(keys) - len(missing)
    if progress is not None and keys:
        progress(stage, done, len(keys))
    for batch in _asked(scorer, list(missing.values()), store):
        pairs = [(names[i], _as_curve(score, scorer, missing[names[i]].name or f"request {i}")) for i, score in batch]
        store.put_scores(pairs, stage=stage)
        scores.update(pairs)
        n_new_tokens += sum(score.n_tokens for _, score in pairs)
        done += len(pairs)
        if progress is not None:
            progress(stage, done, len(keys))
    absent = sum(name not in scores for name in names)
    if absent:
        raise BackendError(
            f"{scorer.name} left out {absent} of {len(names)} requests; each must be answered "
            "once; give the same command again to ask for the rest",
            retryable=True,
        )
    return [scores[key] for key in keys], n_new_tokens


def _asked(scorer: Scorer, requests: list[ScoreRequest], store: Store) -> Iterator[list[tuple[int, Score]]]:
    """Ask only if there is something to ask: a model that is not needed is not loaded.

    Scores of one identity are of one model: what it says to known questions is kept beside them.
    """
    if not requests:
        return
    known = None
    if isinstance(scorer, Recognisable):
        scorer.expected = known = store.get_reference(scorer.score_identity)
    for batch in scorer.score(requests):
        if isinstance(scorer, Recognisable) and known is None:
            known = scorer.reference
            store.put_reference(scorer.score_identity, known)
        yield batch


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


def _component_order(cell: Cell) -> tuple[int, int, int]:
    row, persona, exemplar = cell
    return (-1 if persona is None else persona, -1 if exemplar is None else exemplar, row)


def _shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda what, done, _: progress(what, start + done, total)
