"""The whole chain on a run folder: records, personas, fit, simulate, evaluate, report; the first file to read.

Each stage is one function below, in order. A stage that is done is skipped; a stage that was
interrupted continues, since every score and draw lies in the store as soon as it is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mop.config import RunConfig
from mop.errors import ConfigError
from mop.runs.stages import STAGES, bring_run_up
from mop.runs.work import Models
from mop.storage.store import Store
from mop.types import Progress


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
        ``done`` (stages newly done), ``skipped`` and, for each stage up to ``until``, its headline.

    Raises
    ------
    ConfigError
        For an unknown stage, or without ``data.source``; no folder is made.
    ScoringUnsupportedError
        Before anything is read, made or paid for, if a stage has to score and no model can.
    CeilingError
        If the servers' price or token ceiling of the run is reached; a higher one lets the same
        command go on.
    MopError
        Whatever else stops a stage; what is done stays done.
    """
    if until not in STAGES:
        raise ConfigError(f"unknown stage {until!r}; stages: {', '.join(STAGES)}")
    return bring_run_up(config, path, until, models=models or Models(config), store=store, progress=progress)
