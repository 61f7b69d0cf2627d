"""More texts than are wanted, weighted so that together they match a target, and as many picked as are wanted."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.config import RunConfig
from mop.errors import ConfigError, DataError
from mop.evaluate.sense import log_lik_per_token
from mop.metrics.distances import energy_distance
from mop.metrics.words import words
from mop.rivals.methods import respond
from mop.runs.sample import drawn_contexts, make_room, real_in, responses_there
from mop.runs.stages import counts_of, ingredients_of
from mop.runs.work import Models, Work, open_work, records_like
from mop.simulate.calibrate import Ratio, coverage, density_ratio, divergence, effective_size, pick
from mop.simulate.margins import balanced
from mop.simulate.rows import write_responses
from mop.storage.run_folder import RunFolder
from mop.types import Progress, Record, Response

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

FEW_REACHED = 0.5
"""Below this coverage a warning says that the target is out of reach."""


@dataclass(frozen=True)
class Target:
    """What the texts together should be like; one of the two, or both."""

    records: Sequence[Record] = ()
    """Real texts."""
    margins: Mapping[str, Mapping[str, float]] | None = None
    """Column to the shares of its categories."""


def calibrate(
    config: RunConfig,
    path: Path,
    out: Path,
    *,
    n: int,
    factor: int = 4,
    target: Target | None = None,
    keep_all: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw ``factor`` × n texts from the mixture of a run, weight them to a target, and write n of them.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    path : Path
        A run with a fitted mixture.
    out : Path
        As for `mop.runs.sample.sample`.
    n : int
        Texts wanted.
    factor : int
        Draws for each of them, 2 to 100.
    target : Target, optional
        By default the records that the run has seen anyway: those that prompts may show and those of the fit. Never
        its test or golden records.
    keep_all : bool
        Write all draws, each with its weight, instead of n that are picked by their weights.

    Returns
    -------
    dict
        ``file``, ``n_responses``, ``n_drawn``, the counts of `mop.runs.stages.counts_of` of what is written,
        ``effective`` (Kish, of the draws with a text) and ``effective_share``, ``largest`` weight (mean 1),
        ``divergence`` in nats from equal weights, ``coverage`` (share of the target near a draw), ``log_loss``,
        ``exponent`` and ``penalty`` of the density ratio, ``energy_raw`` and ``energy`` to the run's golden records,
        which the calibration has not seen, of all draws and of what is written, ``near_copies`` and ``key_columns`` as
        of `mop.runs.sample.sample`.

    Raises
    ------
    ConfigError, DataError, ArtifactError
        As `mop.runs.sample.sample`; or if margins cannot be met, or fewer than n draws have any weight.
    """
    if not 2 <= factor <= 100:
        raise ConfigError(f"the number of draws for a text is from 2 to 100, got {factor}; 4 is a good one")
    run = RunFolder.open(path)
    make_room(out, responses_there(out, run, None), factor * n if keep_all else n)
    with open_work(config, path, Models(config), until="records", also=("lm", "judge"), progress=progress) as work:
        work.progress.begin("calibrate")
        wanted = target or Target(seen_records(work))
        contexts = drawn_contexts(work.records("train"), factor * n, seed=config.seed, data=config.data)
        drawn = list(respond("mop", contexts, ingredients_of(work, "mop")))
        weight, cost = _weigh(work, drawn, wanted)
        kept = (
            [replace(row, weight=row.weight * times) for row, times in zip(drawn, weight.tolist(), strict=True)]
            if keep_all
            else [drawn[row] for row in _picked(drawn, weight, n, config.seed)]
        )
        write_responses(out, kept)
        told = {
            "file": str(out),
            "n_drawn": len(drawn),
            **counts_of(kept),
            **cost,
            **real_in(kept, seen_records(work), config.data.key),
            **_against_golden(work, drawn, kept),
        }
        work.describe()
    if cost.get("coverage", 1.0) < FEW_REACHED:
        logger.warning(
            "only %.0f %% of the target's texts have a draw near them: the rest cannot be reached by weights; choose "
            "records, personas or a model that are nearer to the target",
            100 * cost["coverage"],
        )
    return told


def read_target(config: RunConfig, records: str | None, margins: Path | None) -> Target | None:
    """The target of files; None if none is given.

    Raises
    ------
    ConfigError
        If margins are no TOML with a table of shares for each column.
    DataError
        If records cannot be read.
    """
    if records is None and margins is None:
        return None
    real = [] if records is None else records_like(config, records)
    return Target(real, None if margins is None else _read_margins(margins))


def _read_margins(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)[:200]
        raise ConfigError(f"margins cannot be read from {path}: {reason}; {_MARGINS}") from error
    for column, shares in found.items():
        is_table = isinstance(shares, dict) and shares
        if not is_table or not all(
            isinstance(share, int | float) and not isinstance(share, bool) for share in shares.values()
        ):
            raise ConfigError(f"margins of {column!r} in {path} are no table of numbers; {_MARGINS}")
    if not found:
        raise ConfigError(f"{path} holds no margins; {_MARGINS}")
    return {column: {name: float(share) for name, share in shares.items()} for column, shares in found.items()}


_MARGINS = "write a table for each column, a line for each category, such as: [label], and below it neg = 0.61"


def seen_records(work: Work) -> list[Record]:
    """Real records that the mixture of a run has seen: those that prompts may show, and those of the fit."""
    return [record for split in ("exemplars", "train", "valid") for record in work.records(split)]


def _weigh(work: Work, drawn: Sequence[Response], target: Target) -> tuple[Floats, dict[str, Any]]:
    """Weights of draws (n,) under a target, mean 1 over those with a text and 0 for the others; and what they cost."""
    rows = [i for i, row in enumerate(drawn) if row.response.strip()]
    if not rows:
        raise DataError("no draw has a text, so there is nothing to calibrate; look at the draws with: mop sample")
    texts = [drawn[i] for i in rows]
    weight, told = np.ones(len(rows)), dict[str, Any]()
    if target.records:
        ratio, reached = _ratio(work, texts, target.records)
        weight = ratio.weight
        told |= {"coverage": reached, "log_loss": ratio.log_loss, "exponent": ratio.exponent, "penalty": ratio.penalty}
    if target.margins:
        weight = balanced(weight, _columns(texts, target.margins), target.margins)
    every = np.zeros(len(drawn))
    every[rows] = weight
    size = effective_size(weight)
    told |= {
        "effective": size,
        "effective_share": size / len(drawn),
        "largest": float(weight.max()),
        "divergence": divergence(weight),
    }
    return every, told


def _ratio(work: Work, drawn: Sequence[Response], real: Sequence[Record]) -> tuple[Ratio, float]:
    """Density ratio on embeddings, length, and log-likelihood per token; within labels where all have one."""
    of_drawn, of_real = (_features(work, rows) for rows in (drawn, real))
    has_labels = all(row.label is not None for rows in (drawn, real) for row in rows)
    ratio = density_ratio(
        of_drawn,
        of_real,
        drawn_keys=[row.id for row in drawn],
        real_keys=[record.key for record in real],
        drawn_groups=[str(row.label) for row in drawn] if has_labels else None,
        real_groups=[str(record.label) for record in real] if has_labels else None,
        real_weight=np.array([record.weight for record in real]),
        seed=work.config.seed,
    )
    n_axes = of_drawn.shape[1] - N_SCALARS
    return ratio, coverage(of_drawn[:, :n_axes], of_real[:, :n_axes])


N_SCALARS = 4


def _features(work: Work, rows: Sequence[Response | Record]) -> Floats:
    """Embeddings; log number of words and nats per token under the judge, each with its square: (n, D + 4)."""
    texts = [row.response.strip() for row in rows]
    nats = log_lik_per_token(
        [row.context for row in rows],
        texts,
        judge=work.models.judge,
        store=work.store,
        task=work.config.data.task,
        most=None,
        progress=work.progress,
    )
    long, sense = np.log1p([len(words(text)) for text in texts]), np.array(nats)
    scalars = [long, np.square(long - 2.5), sense, np.square(sense + 3.5)]
    return np.concatenate([work.embed(texts), np.stack(scalars, axis=1)], axis=1).astype(np.float64)


def _columns(drawn: Sequence[Response], margins: Mapping[str, Any]) -> dict[str, list[str | None]]:
    """Values of the columns that have margins: of the responses themselves, or further ones of their records."""
    known = {"label", "group", "persona", *(name for row in drawn for name in row.attributes)}
    return {
        name: [
            str(value) if (value := getattr(row, name, row.attributes.get(name))) is not None else None for row in drawn
        ]
        for name in margins
        if name in known
    }


def _picked(drawn: Sequence[Response], weight: Floats, n: int, seed: int) -> list[int]:
    has_labels = all(row.label is not None for row in drawn)
    strata = [str(row.label) for row in drawn] if has_labels else None
    return pick(weight, n, keys=[row.id for row in drawn], strata=strata, seed=seed)


def _against_golden(work: Work, drawn: Sequence[Response], kept: Sequence[Response]) -> dict[str, float]:
    """Energy distances of draws as they came, and of what is written, to real texts that nothing has seen."""
    golden = work.embed([record.response for record in work.records("golden")])

    def apart(rows: Sequence[Response]) -> float:
        some = [row for row in rows if row.response.strip()]
        vectors = work.embed([row.response.strip() for row in some])
        return energy_distance(golden, vectors, synthetic_weight=np.array([row.weight for row in some])).distance

    return {"n_golden": len(golden), "energy_raw": apart(drawn), "energy": apart(kept)}
