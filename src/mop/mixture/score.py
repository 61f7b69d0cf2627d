"""Records × components to log-likelihood curves: asked of the model once, kept in the store.

A component is one (persona, exemplar) pair, either of which may be absent. What comes out here is
what `mop.mixture.fit` learns from and what `mop.mixture.sums` adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mop.backends.ask import score_requests
from mop.backends.base import Scorer
from mop.data.own import is_own
from mop.errors import BackendError, DataError
from mop.prompts import simulation_prompt
from mop.storage.store import Store
from mop.types import Persona, Progress, Record, Score, ScoreRequest

Component = tuple[int | None, int | None]
"""Rows of the persona and exemplar lists; None for none."""

Cell = tuple[int, int | None, int | None]
"""A record's row and a component."""

MASKED = np.float32(-1e30)
"""Log-likelihood of a component that is not allowed: as good as minus infinity in every sum, yet
finite, so that interpolation and gradients stay finite too."""

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
) -> list[Score]:
    """Score chosen components of chosen records.

    Parameters are those of `component_requests` and `mop.backends.ask.score_requests`.

    Returns
    -------
    list of Score
        In the order of ``cells``.

    Raises
    ------
    DataError
        As in `component_requests`.
    BackendError, ArtifactError
        As in `mop.backends.ask.score_requests`.
    """
    # One component after the other: its prompts share the persona and the exemplar.
    order = sorted(range(len(cells)), key=lambda c: _component_order(cells[c]))
    scores: dict[int, Score] = {}
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        requests = component_requests(records, (cells[c] for c in chunk), personas, exemplars, task=task)
        shifted = _shifted(progress, start, len(order))
        some = score_requests(requests, scorer, store, stage=stage, progress=shifted)
        scores.update(zip(chunk, some, strict=True))
    return [scores[c] for c in range(len(cells))]


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
        As in `mop.backends.ask.score_requests`; or if the response of a record has not always the same length.
    ArtifactError
        As in `mop.backends.ask.score_requests`.
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
    scores = score_cells(
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
        scores = score_cells(
            records, cells, personas, exemplars, scorer=scorer, store=store, task=task, stage=stage, progress=progress
        )
        curves = np.empty((len(cells), len(scorer.betas)), dtype=np.float32)
        for row, one in enumerate(scores):
            curves[row] = one.log_lik
        return curves, sum(one.n_tokens for one in scores)

    return score


def _component_order(cell: Cell) -> tuple[int, int, int]:
    row, persona, exemplar = cell
    return (-1 if persona is None else persona, -1 if exemplar is None else exemplar, row)


def _shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda what, done, _: progress(what, start + done, total)
