"""From records to a report, stage by stage in a run folder: the first file to read.

A frozen language model writes like a population: the mixture weights say which persona and which real example
(exemplar) it is shown for each text. Weights and a temperature are fitted to the likelihood of real texts. A finished
stage is reused; an interrupted one continues, since each score and each draw is stored when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mop.config import RunConfig
from mop.errors import ConfigError
from mop.runs import stages
from mop.runs.tune import make_way
from mop.runs.work import Models, open_work
from mop.storage.store import Store
from mop.types import Progress

STAGES: Mapping[str, stages.Stage] = {
    "records": stages.make_records,  # the source → disjoint exemplars, train, valid, test, golden
    "personas": stages.make_personas,  # exemplars → clusters → K descriptions
    "fit": stages.make_fit,  # log p(response | persona, exemplar) of train and valid → weights, temperatures
    "tune": make_way,  # pilot texts of some ways of drawing → the one that is nearest to real texts
    "simulate": stages.make_responses,  # contexts of test → persona → exemplar → text; and by simpler methods
    "evaluate": stages.make_metrics,  # texts against golden: distances; test responses: held-out likelihood
    "report": stages.make_report,  # one page for people
}
"""In the order of the data flow; each stage needs those before it."""


def run(
    config: RunConfig,
    path: Path,
    *,
    until: str = "report",
    store: Store | None = None,
    progress: Progress | None = None,
    models: Models | None = None,
) -> dict[str, Any]:
    """Bring a run folder up to a stage, doing only what is not done.

    Parameters
    ----------
    config : RunConfig
        Written to the folder.
    path : Path
        A new or empty folder, or one of an earlier run.
    until : str
        Name of the last stage: one of `STAGES`.
    store : Store, optional
        Another store than the folder's own, so that runs can share scores.
    progress : callable, optional
        ``progress(what, done, total)``.
    models : Models, optional
        Instead of those that ``config`` names.

    Returns
    -------
    dict
        ``run``, ``done`` (stages newly done), ``skipped`` and, for each stage up to ``until``, its headline.

    Raises
    ------
    ConfigError
        For an unknown stage, or without ``data.source``; no folder is made.
    ScoringUnsupportedError
        Before anything is read, made or paid for, if a stage has to score and no model can.
    CeilingError
        If the servers' price or token ceiling of the run is reached; a higher one lets the same command go on.
    MopError
        Whatever else stops a stage; what is done stays done.
    """
    if until not in STAGES:
        raise ConfigError(f"unknown stage {until!r}; stages: {', '.join(STAGES)}")
    models = models or Models(config)
    with open_work(config, path, models, until=until, store=store, progress=progress) as work:
        return {"run": str(path), **stages.bring_up(work, until, STAGES)}
