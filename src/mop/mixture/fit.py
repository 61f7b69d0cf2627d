"""Learn weights and a temperature from scores of the frozen model.

Two ways to the same kind of result: `mop.mixture.paper.fit_paper` follows the paper's recipe, `fit_rounds`
is ours. Both ask for scores through one callable and never see a language model.
Letters as in `mop.mixture.cells`.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mop.backends.base import Scorer
from mop.backends.encoder import TextEncoder, embed
from mop.config import FitConfig
from mop.data.own import own_exemplars
from mop.errors import ConfigError, DataError
from mop.metrics.distances import two_samples
from mop.mixture.cells import Cells, Ints, Problem, ScoreCells
from mop.mixture.design import Design
from mop.mixture.em import Choice, FilledIn, FitResult, best_single_tau, choose, folds, mean_of
from mop.mixture.fitted import FittedMixture, context_text, exemplar_vectors
from mop.mixture.headroom import best_component, certificate, fit_sentence, headroom, headroom_lines
from mop.mixture.paper import fit_paper
from mop.mixture.score import Scoring, cell_scorer, clusters
from mop.mixture.sums import Floats
from mop.personas.doubts import join_identical
from mop.prompts import PROMPT_VERSION
from mop.randomness import rng_of
from mop.storage.store import Store
from mop.types import Persona, Progress, Record

logger = logging.getLogger(__name__)


def fit_mixture(
    personas: Sequence[Persona],
    exemplars: Sequence[Record],
    train: Sequence[Record],
    valid: Sequence[Record],
    *,
    encoder: TextEncoder,
    scorer: Scorer,
    store: Store,
    task: str,
    settings: FitConfig,
    seed: int,
    progress: Progress | None = None,
) -> FittedMixture:
    """Embed, score and fit: from texts to a mixture that can be simulated.

    Parameters
    ----------
    personas, exemplars : sequences of length K and N
        Personas of the same description become one (`mop.personas.doubts.join_identical`).
    train, valid : sequences of Record
        A record may also be an exemplar; it never sees itself.
    encoder, scorer, store
        The frozen models, and where their answers are kept.
    task : str
        What a response is; part of every prompt.
    settings : FitConfig
        Its ``method`` decides between `fit_rounds` and `fit_paper`.

    Returns
    -------
    FittedMixture
        Its ``info`` has the history, the counts and what was chosen.
    """
    _check_personas(personas)
    personas = join_identical(personas)
    records = [*train, *valid]
    texts = [context_text(r) for r in records]
    texts += [p.description for p in personas]
    vectors = embed(texts, encoder, store=store, progress=progress)
    hx, hg = np.split(vectors, [len(records)])
    he = exemplar_vectors(exemplars, encoder, store=store, progress=progress)
    problem = Problem(
        hx=hx,
        hg=hg,
        he=he,
        own=own_exemplars(records, exemplars),
        weight=np.array([r.weight for r in records]),
        n_train=len(train),
        betas=scorer.betas,
        cluster=clusters(records),
        characters=np.array([float(len(r.response)) for r in records]),
    )
    if len(scorer.betas) == 1:
        logger.warning(
            "%s scores at temperature %g only: the gates are fitted, temperatures are not, and every persona draws "
            "at %g", scorer.name, 1 / scorer.betas[0], 1 / scorer.betas[0],
        )  # fmt: skip
    scoring = Scoring(
        personas=personas, exemplars=exemplars, scorer=scorer, store=store, task=task, stage="fit", progress=progress
    )
    pool = None
    is_new = problem.own < 0  # a record that is an exemplar says nothing new of the target
    if int(is_new.sum()) > 1 and len(exemplars) > 1:
        targets = [records[i] for i in np.flatnonzero(is_new)]
        of_pool, of_target = (
            embed([r.response for r in some], encoder, store=store, progress=progress) for some in (exemplars, targets)
        )
        both = clusters([*exemplars, *targets])
        pool = two_samples(of_pool, of_target, problem.weight[is_new], cluster=both, seed=seed)
        logger.info("exemplars against responses: energy distance %.4f, p = %.3f", pool["distance"], pool["p_value"])
    fit = fit_paper if settings.method == "paper" else fit_rounds
    result = fit(problem, cell_scorer(records, scoring), settings, seed=seed, progress=progress)
    info = {
        "lm": scorer.name,
        "score_identity": scorer.score_identity,
        "encoder_identity": encoder.identity,
        "prompt_version": PROMPT_VERSION,
        "betas": list(scorer.betas),
        "method": settings.method,
        "seed": int(seed),
        "pool": pool,
        "labels": sorted({r.label for r in [*exemplars, *records] if r.label is not None}),
        "n_records": result.n_records or len(records),
        **{name: getattr(result, name) for name in _REPORTED},
    }
    if result.gain is not None:
        logger.info("%s", fit_sentence(info))
    return FittedMixture(tuple(personas), tuple(exemplars), result.gate, task, info, result.unconditional)


_REPORTED = (
    "chosen", "uniform_tau", "n_cells", "n_tokens", "stopped", "certificate", "headroom", "gain", "best_component",
    "history", "persona_errors",
)  # fmt: skip
"""What a mixture says of its fit: fields of `FitResult`."""


def _check_personas(personas: Sequence[Persona]) -> None:
    for persona in personas:
        if not isinstance(persona, Persona):
            raise DataError(
                f"personas must be of the type mop.types.Persona, got {persona!r}; "
                'write Persona(key="p000", description="...")'
            )
    keys = Counter(persona.key for persona in personas)
    if not keys or max(keys.values()) > 1:
        twice = [key for key, count in keys.items() if count > 1]
        raise DataError(
            "at least one persona is needed, each with a key of its own, got "
            + (f"several with the key {twice[0]!r}" if twice else "none")
        )


def fit_rounds(
    problem: Problem,
    score: ScoreCells,
    settings: FitConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> FitResult:
    """Fit in rounds: deal components, score them, fit weights to all scores so far.

    Every record is scored under a random part of the K × N components (see `mop.mixture.design`); weights are fitted
    to the tables (`mop.mixture.em`), small ones filled in where that part says enough. If
    ``max_lm_tokens`` does not pay for `FEW` components of every record, some records are left out.

    After each round its fits and those of the round before are judged on the same cells, each record by
    fits that have not seen it. The better state is kept. Rounds end when the gain is below
    `MIN_GAIN`, at the budget ``max_lm_tokens``, or after ``n_rounds``.

    Returns
    -------
    FitResult
        ``valid`` in the history is the cross-validated value, ``gain`` that over the round before,
        ``stopped`` in the last row says why no further round was made.

    Raises
    ------
    ConfigError
        If the budget does not pay for a few components of a few records.
    """
    rows, share = None, 1.0
    if settings.max_lm_tokens:
        rows, share = _within_budget(problem, score, settings, seed)
    if rows is not None:
        logger.warning(
            "fit.max_lm_tokens %d pays for scores of %d of %d records, the others are left out; raise it to use them",
            settings.max_lm_tokens, len(rows), len(problem.hx),
        )  # fmt: skip
        problem, score = problem.of(rows), _of_rows(score, rows)
    design = Design(problem, score, settings, seed)
    history: list[dict[str, Any]] = []
    kept: Choice | None = None
    kept_round, stopped, room = 0, "", {}
    while not stopped:
        round_ = len(history)
        if progress is not None:
            progress("fit rounds", round_, settings.n_rounds)
        if history:
            share = _affordable_share(design, settings)
        design.extend(share=share)
        cells = design.asked.table()
        if not history:
            room = headroom(problem, cells, settings.n_folds, seed=seed)
            for line in headroom_lines(room):
                logger.info("%s", line)
        choice = choose(problem, cells, settings.n_folds, seed=seed, progress=progress)
        gain = None
        if kept is not None:
            before = _judged_on(kept, problem, cells, settings.n_folds, seed)
            gain = mean_of(choice.values - before, problem)
        history.append({"round": round_, **_row(choice, problem, design, gain)})
        if kept is None or gain is None or gain >= 0:
            kept, kept_round = choice, round_
        stopped = _reason_to_stop(history, design, settings, share=share)
    assert kept is not None
    history[-1] |= {"stopped": stopped, "kept_round": kept_round}
    if progress is not None:
        progress("fit rounds", settings.n_rounds, settings.n_rounds)
    return FitResult(
        gate=kept.gate,
        history=history,
        chosen=kept.shape.name,
        uniform_tau=best_single_tau(cells, problem.weight, problem.betas)[0],
        n_cells=design.asked.n_cells,
        n_tokens=design.asked.n_tokens,
        stopped=stopped,
        gain=kept.gain(problem),
        headroom=room if len(history) == 1 else headroom(problem, cells, settings.n_folds, seed=seed),
        certificate=certificate(kept.gate, problem, cells),
        unconditional=kept.unconditional,
        best_component=best_component(problem, cells),
        n_records=len(problem.hx),
        persona_errors=kept.persona_errors(problem, seed=seed),
    )


def _judged_on(choice: Choice, problem: Problem, cells: Cells, n_folds: int, seed: int) -> Floats:
    """Values of all records (n,) on other cells, each under the fit that has not seen it."""
    tau = best_single_tau(cells, problem.weight, problem.betas)[0]
    values, filled_in = np.zeros(len(problem.hx)), FilledIn(problem, cells, tau, seed=seed)
    for gate, fold in zip(choice.fold_gates, folds(problem, n_folds, seed), strict=True):
        values[fold] = filled_in.scores(fold, float(gate.temperatures()[0])).of_gate(gate)
    return values


def _row(choice: Choice, problem: Problem, design: Design, gain: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "train": mean_of(choice.fitted_values, problem),
        "valid": mean_of(choice.values, problem),
        "valid_uniform": mean_of(choice.others["uniform"], problem),
        "valid_unconditional": mean_of(choice.others["unconditional"], problem),
        "chosen": choice.shape.name,
        "n_cells": design.asked.n_cells,
        "n_tokens": design.asked.n_tokens,
    }
    return row if gain is None else {**row, "gain": gain}


MIN_GAIN = 0.02
"""Nats per record that a round must gain, cross-validated, for another to follow. Chosen, not tuned."""
FEW, FEWEST_RECORDS = 2, 16
"""Components of each record below which records are left out rather than components, since one alone says
nothing about weights; and records below which nothing is fitted. Chosen, not tuned."""


def _within_budget(problem: Problem, score: ScoreCells, settings: FitConfig, seed: int) -> tuple[Ints | None, float]:
    """Records that ``max_lm_tokens`` pays for (None: all), and how much of a usual first round.

    Records are left out evenly, of training and of validation, if it does not pay for `FEW` components of each.
    """
    n, n_train, budget = len(problem.hx), problem.n_train, settings.max_lm_tokens
    # What a cell costs is not known yet: look at a few, of short and of long records.
    by_size = np.argsort(problem.cost, kind="stable")
    rows = np.sort(by_size[np.unique(np.linspace(0, n - 1, min(n, 16)).astype(np.int64))])
    exemplar = np.where(problem.own[rows] == 0, len(problem.he) - 1, 0)
    looked = score(rows, np.zeros_like(rows), exemplar)[1]
    per_cell = problem.cost * looked / problem.cost[rows].sum()
    usual = settings.components_per_record, settings.valid_components
    least = min(1.0, FEW / min(usual))
    few = [max(1, math.floor(least * each)) for each in usual]
    is_train = np.arange(n) < n_train
    per_record = per_cell * np.where(is_train, *few)
    whole_round = per_cell * np.where(is_train, *usual)
    if per_record.sum() <= budget:
        return None, min(1.0, max(least, budget / float(whole_round.sum())))
    # The records of a larger number contain those of a smaller one, and as many of both parts as there are.
    rng = rng_of(seed, "records-within-budget")
    train, valid = rng.permutation(n_train), n_train + rng.permutation(n - n_train)
    place = np.concatenate([np.arange(len(part)) / len(part) for part in (train, valid)])
    order = np.concatenate([train, valid])[np.argsort(place, kind="stable")]
    cost, fewest = np.cumsum(per_record[order]), min(FEWEST_RECORDS, n)
    n_kept = int(np.searchsorted(np.ceil(cost), budget, side="right"))
    if n_kept < fewest:
        raise ConfigError(
            f"fit.max_lm_tokens is {budget}, and {few[0]} components of {fewest} records take about "
            f"{cost[fewest - 1]:.0f} tokens; raise it to some times that, or set it to 0 for no limit"
        )
    kept = np.sort(order[:n_kept])
    return kept, min(1.0, max(least, budget / float(whole_round[kept].sum())))


def _of_rows(score: ScoreCells, rows: Ints) -> ScoreCells:
    """Scores of some records, numbered anew."""
    return lambda record, persona, exemplar: score(rows[record], persona, exemplar)


def _affordable_share(design: Design, settings: FitConfig) -> float:
    """How much of a usual round the rest of ``max_lm_tokens`` pays for, in (0, 1]."""
    if not settings.max_lm_tokens:
        return 1.0
    usual = design.expected_cells() * design.asked.n_tokens / design.asked.n_cells
    return min(1.0, (settings.max_lm_tokens - design.asked.n_tokens) / usual)


def _reason_to_stop(history: list[dict[str, Any]], design: Design, settings: FitConfig, *, share: float) -> str:
    """Why no further round is worth making; empty if one is."""
    gain = history[-1].get("gain")
    if gain is not None and gain < MIN_GAIN:
        return f"the round gained {gain:+.3f} nats per record, below {MIN_GAIN:g}"
    least = design.asked.n_tokens / len(history) / settings.components_per_record
    if settings.max_lm_tokens and (share < 1 or settings.max_lm_tokens - design.asked.n_tokens < least):
        return f"{design.asked.n_tokens} of max_lm_tokens {settings.max_lm_tokens} are spent"
    if len(history) >= settings.n_rounds:
        return f"n_rounds {settings.n_rounds} are done"
    return ""
