"""Fitted mixture → the way of drawing whose pilot texts are nearest to real ones; the simulation comes next.

The fit makes real texts likely; which texts a model then writes is another matter. At fitted temperatures small models
lose the thread, and one exemplar may say too little of a kind of text. So some ways are tried, one setting after
another, on contexts of records that the fit has seen and no prompt shows: never on test or golden records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.config import SimulateConfig
from mop.evaluate.sense import log_lik_per_token
from mop.metrics.distances import energy_errors
from mop.mixture.fitted import CHOSEN_WAY
from mop.rivals.ingredients import Ingredients
from mop.rivals.methods import respond
from mop.runs.stages import TO_THE_FIT, Made, Stage, ingredients_of
from mop.runs.windows import has_room
from mop.runs.work import Work
from mop.simulate.draw import labels
from mop.simulate.way import MIN_PILOTS, MOST_REAL, N_PILOTS, STEPS, Way, is_free, save_way, way_notes
from mop.simulate.write import PILOT, cut_share, is_drawn
from mop.types import Record, Response

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

SIMILAR: Way = {"exemplars_per_prompt": 2, "exemplars_from": "similar"}
SAME_LABEL: Way = {"same_label": True}
SLOPE = -8.0
"""Nats per token for a unit of the factor on temperatures, as a first guess: SmolLM2-135M on film reviews."""
LIKE_REAL = 2.0
"""Standard deviations up to which texts are as near to real ones as these are to one another: no gain, and no noise."""
FACTORS = 0.6, 1.2
"""Least and largest factor that is tried; chosen, not tuned."""


@dataclass(frozen=True)
class Pilot:
    """How far the texts of one way of drawing are from real ones."""

    apart: Floats
    """(2,) energy distances of embeddings, and of nats per token under the judge, in standard deviations of those
    between two samples of real texts of these sizes."""
    errors: Floats
    """(2, n + m) what each context and each real text adds to their errors."""
    nats: float = 0.0
    """Mean nats per token."""
    cut: float = 0.0
    """Share of texts cut at the length limit."""

    @property
    def distance(self) -> float:
        """Mean of the logs: halving one counts as much as halving the other. Below `LIKE_REAL` all are alike."""
        return float(np.log(np.maximum(self.apart, LIKE_REAL)).mean())

    def gain(self, other: Pilot) -> tuple[float, float]:
        """By how much another one is nearer, with the standard error: luck with contexts and real texts is common."""
        slopes = ((of.apart > LIKE_REAL) / np.maximum(of.apart, LIKE_REAL) for of in (self, other))
        ours, theirs = (of.errors * slope[:, None] for of, slope in zip((self, other), slopes, strict=True))
        return self.distance - other.distance, float(np.linalg.norm((ours - theirs).mean(axis=0)))


def aimed_factor(tried: Sequence[tuple[float, float]], real: float) -> float | None:
    """At which factor on temperatures texts should have ``real`` nats per token; None if it was tried, or nearly.

    ``tried`` are factors and nats per token; a line through the last two is followed.

    Examples
    --------
    >>> aimed_factor([(1.0, -4.8)], -4.0)
    0.9
    >>> aimed_factor([(1.0, -4.8), (0.9, -4.4)], -4.0)
    0.8
    >>> aimed_factor([(1.0, -4.8), (0.9, -4.05)], -4.0)
    """
    *before, (factor, nats) = tried[-2:]
    slope = min((nats - before[0][1]) / (factor - before[0][0]), SLOPE / 8) if before else SLOPE
    aim = round(float(np.clip(factor + (real - nats) / slope, *FACTORS)), 2)
    return None if any(abs(aim - seen) < 0.02 for seen, _ in tried) else aim


def search(
    draw: Callable[[Way], Pilot | None], steps: Sequence[Way | None], real: float
) -> tuple[Way, list[dict[str, Any]]]:
    """Try ways one after another; keep a departure that is nearer to real texts by more than its standard error.

    Parameters
    ----------
    draw : callable
        A way to its pilot; None where its texts are too few.
    steps : sequence
        What is tried in turn on top of what was kept; None: temperatures, aimed at ``real``.
    real : float
        Nats per token of real texts.

    Returns
    -------
    way : mapping
        What was kept; empty for the fitted sampler.
    tried : list of dict
        Figures of each way, and but for the first its ``gain`` over the best before it with the standard ``error``.
    """
    way: Way = {}
    best, told, nats = draw(way), list[dict[str, Any]](), list[tuple[float, float]]()
    if best is None:
        return way, told
    told.append(_told(way, best, is_kept=True))
    nats.append((1.0, best.nats))
    for step in steps:
        factor = aimed_factor(nats, real) if step is None else None
        if step is None and factor is None:
            continue
        asked = {**way, **({"tau_factor": factor} if step is None else step)}
        if (found := draw(asked)) is None:
            continue
        if factor is not None:
            nats.append((factor, found.nats))
        gain, error = best.gain(found)
        # A departure from the fitted sampler has to be surer than another value of what departs already.
        is_kept = gain > (0.0 if set(asked) == set(way) else error)
        told.append(_told(asked, found, is_kept=is_kept, gain=round(gain, 4), error=round(error, 4)))
        if is_kept:
            way, best = asked, found
    return way, told


def _told(way: Way, pilot: Pilot, *, is_kept: bool, **further: float) -> dict[str, Any]:
    figures = {name: round(getattr(pilot, name), 4) for name in ("distance", "nats", "cut")}
    apart = dict(zip(("embeddings", "sense"), np.round(pilot.apart, 4).tolist(), strict=True))
    return {"way": dict(way), **figures, **apart, **further, "is_kept": is_kept}


def make_way(work: Work) -> Made:
    """Choose how texts are drawn from the fitted mixture; no file where the fitted sampler stays unasked."""
    work.folder.forget("tune")
    (work.folder.mixture / CHOSEN_WAY).unlink(missing_ok=True)
    work.__dict__.pop("fitted", None)
    settings, seen = work.config.simulate, [*work.records("valid"), *work.records("train")]
    pilots = Pilots(work, seen[:N_PILOTS], seen[:MOST_REAL])
    steps = pilots.steps(settings) if len(seen) >= MIN_PILOTS else []
    if not steps:
        few = f"{len(seen)} records of the fit are too few to choose a way of drawing by ({MIN_PILOTS})."
        return [], {"way": {}, "says": [few if len(seen) < MIN_PILOTS else "No way of drawing was left to choose."]}
    nats = np.average(pilots.of_real[1][:, 0], weights=[record.weight for record in pilots.real])
    way, tried = search(pilots.draw, steps, float(nats))
    drawing = {"way": dict(way), "n_pilots": len(pilots.contexts), "n_real": len(pilots.real), "tried": tried}
    for note in way_notes(drawing):
        logger.info("%s", note)
    work.__dict__.pop("fitted", None)
    return [save_way(work.folder.mixture, drawing)], {**drawing, "says": way_notes(drawing)}


class Pilots:
    """Texts drawn on trial from the mixture of a run, and the real ones that they are compared with.

    All ways answer the same contexts with the same random numbers, so that luck is common to them.
    """

    def __init__(self, work: Work, contexts: Sequence[Record], real: Sequence[Record]) -> None:
        self.work, self.contexts, self.real = work, contexts, real

    @cached_property
    def given(self) -> Ingredients:
        """What every pilot is drawn with; a server that fails is noticed when the run draws."""
        config = self.work.config
        config = replace(config, remote=replace(config.remote, max_failed_share=1.0))
        return replace(ingredients_of(self.work), config=config)

    def steps(self, settings: SimulateConfig) -> list[Way | None]:
        """What is left to try that the model's window takes, and labels are there for; see `search`."""
        of_tau, of_exemplars, of_label = (is_free(settings, names) for names in STEPS)
        found: list[Way | None] = [None, None] if of_tau else []  # the second is aimed better
        if of_exemplars and has_room(self.work, **SIMILAR):
            found.append(SIMILAR)
        known = labels(self.work.fitted) if of_label else {}
        if 2 * sum(record.label in known for record in self.contexts) > len(self.contexts):
            found.append(SAME_LABEL)
        return found

    def draw(self, way: Way) -> Pilot | None:
        """Texts of a way of drawing beside the real ones; None if hardly any is one."""
        config = self.given.config
        given = replace(self.given, config=replace(config, simulate=replace(config.simulate, **way)))
        drawn = list(respond("mop", self.contexts, given, name=PILOT))
        rows = [row for row, one in enumerate(drawn) if is_drawn(one) and one.response.strip()]
        if len(rows) < MIN_PILOTS / 2:
            return None
        texts = [drawn[row] for row in rows]
        ours, real = self._seen(texts), self.of_real
        weight, real_weight = (np.array([row.weight for row in some]) for some in (texts, self.real))
        apart, errors = np.zeros(2), np.zeros((2, len(drawn) + len(self.real)))
        places = [*rows, *range(len(drawn), errors.shape[1])]
        for which in range(2):
            unit = spread(real[which]) * (1 / len(texts) + 1 / len(self.real))
            distance, error = energy_errors(real[which], ours[which], real_weight, weight)
            apart[which], errors[which, places] = distance / unit, error / unit
        return Pilot(apart, errors, float(np.average(ours[1][:, 0], weights=weight)), cut_share(drawn))

    @cached_property
    def of_real(self) -> tuple[Floats, Floats]:
        """Embeddings, and nats per token, of the real texts."""
        return self._seen(self.real)

    def _seen(self, rows: Sequence[Response | Record]) -> tuple[Floats, Floats]:
        """Embeddings (n, D), and nats per token under the judge (n, 1)."""
        texts, work = [row.response.strip() for row in rows], self.work
        nats = log_lik_per_token(
            [row.context for row in rows], texts,
            judge=work.models.judge, store=work.store, task=work.config.data.task, most=None, progress=work.progress,
        )  # fmt: skip
        return work.embed(texts).astype(np.float64), np.array(nats)[:, None]


def spread(real: Floats) -> float:
    """By how much the energy distance of two samples of n and m such texts varies, divided by 1/n + 1/m.

    For equal populations its variance is 2 (1/n + 1/m)² E h², where h are the distances |x - y| less their means over x
    and over y. At least 1e-12, for texts that are all alike.
    """
    square = np.square(real).sum(axis=1)
    apart = np.sqrt(np.maximum(square[:, None] + square - 2 * real @ real.T, 0.0))
    centred = apart - apart.mean(axis=0) - apart.mean(axis=1)[:, None] + apart.mean()
    return max(float(np.sqrt(2 * np.square(centred).mean())), 1e-12)


TO_THE_DRAWS: Mapping[str, Stage] = {**TO_THE_FIT, "tune": make_way}
"""What draws from the mixture need before them; all stages are in `mop.pipeline`."""
