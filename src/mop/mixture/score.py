"""Records × components to log-likelihood curves: asked of the model once, kept in the store.

A component is one (persona, exemplar) pair, either of which may be absent. What comes out here is
what `mop.mixture.fit` learns from and what `mop.mixture.sums` adds up.

Which logit predicts which token (the models in `mop.backends` see to it)::

    token         p1   p2   p3   y1   y2   y3   end      p: prompt, y: response, end: end of the turn
    its logits              z1   z2   z3   z4            each is for the token after its own
    predict                 y1   y2   y3   end

    log p(y | prompt) at τ  =  Σ_t  log softmax(z_t / τ)[y_t],   T = 4 tokens, end included

Only z1 to z4 are needed: what the prompt's own tokens were predicted with says nothing of the response.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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

_CHUNK = 8192  # requests in memory at a time; large enough for a backend to sort by length


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Who is asked, with which prompts, and where answers are kept."""

    personas: Sequence[Persona] = ()
    """K; rows that components refer to."""
    exemplars: Sequence[Record] = ()
    """N; rows that components refer to."""
    scorer: Scorer
    """The frozen model."""
    store: Store
    """Only what is not in it is scored."""
    task: str = ""
    """What the responses are, for the prompt."""
    stage: str = "score"
    """Whose cost grows."""
    progress: Progress | None = None


class ScoreTable(NamedTuple):
    """Curves of n records under C components each."""

    curves: NDArray[np.float32]
    """Shape (n, C, G), nats; 0 where absent."""
    n_tokens: NDArray[np.int64]
    """Shape (n,), response tokens, end-of-turn included; 0 where no component is allowed."""
    present: NDArray[np.bool_]
    """Shape (n, C), False where the exemplar is the record itself."""


def clusters(records: Sequence[Record]) -> NDArray[np.int64]:
    """Number the groups of records (n,); a record without one is a group by itself."""
    number: dict[object, int] = {}
    return np.array(
        [number.setdefault(i if r.group is None else ("group", r.group), len(number)) for i, r in enumerate(records)],
        dtype=np.int64,
    )  # fmt: skip


def component_requests(records: Sequence[Record], cells: Iterable[Cell], scoring: Scoring) -> list[ScoreRequest]:
    """Turn (record, persona, exemplar) cells into score requests, in order.

    Parameters
    ----------
    records : sequence of n Record
        Whose responses are scored.
    cells : iterable of (record row, persona row or None, exemplar row or None)
        Which components for which record.
    scoring : Scoring

    Raises
    ------
    DataError
        If a cell shows a record to itself.
    """
    requests = []
    for i, k, j in cells:
        persona = None if k is None else scoring.personas[k]
        exemplar = None if j is None else scoring.exemplars[j]
        if exemplar is not None and is_own(records[i], exemplar):
            raise DataError(
                f"record {records[i].key!r} was to be scored with itself as exemplar "
                f"({exemplar.key!r}); a record may see only others; leave this component out"
            )
        prompt = simulation_prompt(
            records[i].context,
            persona=None if persona is None else persona.description,
            exemplars=() if exemplar is None else (exemplar,),
            task=scoring.task,
        )
        name = f"record {records[i].key!r}"
        name += "" if persona is None else f" under persona {persona.key!r}"
        name += "" if exemplar is None else f" with exemplar {exemplar.key!r}"
        requests.append(ScoreRequest(prompt, records[i].response, name))
    return requests


def score_cells(records: Sequence[Record], cells: Sequence[Cell], scoring: Scoring) -> list[Score]:
    """Score chosen components of chosen records.

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
        requests = component_requests(records, (cells[c] for c in chunk), scoring)
        progress = _shifted(scoring.progress, start, len(order))
        some = score_requests(requests, scoring.scorer, scoring.store, stage=scoring.stage, progress=progress)
        scores.update(zip(chunk, some, strict=True))
    return [scores[c] for c in range(len(cells))]


def score_columns(records: Sequence[Record], components: Sequence[Sequence[Component]], scoring: Scoring) -> ScoreTable:
    """Score every record of n > 0 under components of its own, as many for each; never with itself as exemplar.

    Parameters
    ----------
    records : sequence of n Record
    components : sequence of n sequences of C (persona row or None, exemplar row or None)
    scoring : Scoring

    Raises
    ------
    BackendError
        As in `mop.backends.ask.score_requests`; or if the response of a record has not always the same length.
    ArtifactError
        As in `mop.backends.ask.score_requests`.
    """
    scorer = scoring.scorer
    present = np.array(
        [
            [j is None or not is_own(record, scoring.exemplars[j]) for _, j in of]
            for record, of in zip(records, components, strict=True)
        ],
        dtype=np.bool_,
    ).reshape(len(records), len(components[0]))
    allowed = [(int(i), int(c)) for i, c in np.argwhere(present)]
    scores = score_cells(records, [(i, *components[i][c]) for i, c in allowed], scoring)
    curves = np.zeros((*present.shape, len(scorer.betas)), dtype=np.float32)
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
    return ScoreTable(curves, n_tokens, present)


def score_table(records: Sequence[Record], components: Sequence[Component], scoring: Scoring) -> ScoreTable:
    """`score_columns` of every record under the same components."""
    if not records:
        shape = (0, len(components))
        curves = np.zeros((*shape, len(scoring.scorer.betas)), dtype=np.float32)
        return ScoreTable(curves, np.zeros(0, dtype=np.int64), np.zeros(shape, dtype=np.bool_))
    return score_columns(records, [components] * len(records), scoring)


def cell_scorer(
    records: Sequence[Record], scoring: Scoring
) -> Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], tuple[NDArray[np.float32], int]]:
    """Return the function through which `mop.mixture.fit` asks for scores: arrays of rows in, curves out.

    The function takes record, persona and exemplar rows, shape (m,) each, and returns the curves,
    shape (m, G) in nats, and the response tokens of these scores, newly spent or not: a budget must
    mean the same in a resumed fit. Without personas or exemplars row 0 stands for none.
    """

    def score(
        record: NDArray[np.int64], persona: NDArray[np.int64], exemplar: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], int]:
        cells: list[Cell] = [
            (int(i), int(k) if scoring.personas else None, int(j) if scoring.exemplars else None)
            for i, k, j in zip(record, persona, exemplar, strict=True)
        ]
        scores = score_cells(records, cells, scoring)
        curves = np.array([one.log_lik for one in scores], dtype=np.float32).reshape(
            len(cells), len(scoring.scorer.betas)
        )
        return curves, sum(one.n_tokens for one in scores)

    return score


def _component_order(cell: Cell) -> tuple[int, int, int]:
    row, persona, exemplar = cell
    return (-1 if persona is None else persona, -1 if exemplar is None else exemplar, row)


def _shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda what, done, _: progress(what, start + done, total)
