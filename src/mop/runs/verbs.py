"""What is done to a run besides its stages: one method, other persona weights, a check of its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mop.config import RunConfig
from mop.errors import ArtifactError, ConfigError
from mop.mixture.fitted import context_text, persona_shares, save_mixture
from mop.rivals.methods import needs_mixture, needs_scorer, respond
from mop.runs.stages import bring_up, counts_of, drawn_with, ingredients_of
from mop.runs.trust import remember_mixture
from mop.runs.tune import TO_THE_DRAWS
from mop.runs.work import Models, open_work
from mop.simulate.refit import refit_black_box
from mop.simulate.rows import write_responses
from mop.storage.files import system_errors
from mop.storage.run_folder import RunFolder
from mop.storage.store import Store
from mop.types import Progress


def simulate_method(
    config: RunConfig, path: Path, method: str, *, progress: Progress | None = None, models: Models | None = None
) -> dict[str, Any]:
    """Draw one response per test context with one method, doing first what it needs and no more.

    ``method`` is ``mop`` or one of `mop.config.METHODS`; ``NAME@TAU`` draws at another temperature than
    the method's own. The other parameters are those of `mop.pipeline.run`.

    Returns
    -------
    dict
        ``run``, ``method``, ``file`` and the counts of `counts_of`.

    Raises
    ------
    ConfigError
        For an unknown method.
    ScoringUnsupportedError
        Before anything is read, made or paid for, if the method needs likelihoods and no model can
        score.
    MopError
        Whatever stops a stage; what is drawn stays drawn.
    """
    until = "tune" if needs_mixture(method) else "records"
    also = ("lm", "scorer") if needs_scorer(method) else ("lm",)
    models = models or Models(config)
    with open_work(config, path, models, until=until, also=also, progress=progress) as work:
        bring_up(work, until, TO_THE_DRAWS)
        contexts = work.records("test")[: config.simulate.n_responses]
        file = work.folder.method(method)
        work.progress.begin("simulate")
        responses = list(respond(method, contexts, ingredients_of(work, method)))
        write_responses(file, responses)
        work.describe()
    return {"run": str(path), "method": method, **counts_of(responses), "file": str(file)}


def match(
    config: RunConfig,
    path: Path,
    *,
    lm: str | None = None,
    samples_per_persona: int = 20,
    out: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a mixture whose persona weights are matched to the run's population, for another model.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    path : Path
        A run with a fitted mixture; its training and validation records are the population, and
        its store keeps the draws.
    lm : str, optional
        The model that the weights are for; the run's own if None.
    samples_per_persona : int
    out : Path, optional
        Folder of the new mixture, by default ``mixture-black-box`` in the run.
    progress : callable, optional

    Returns
    -------
    dict
        ``run``, ``out``, ``persona_weights`` (see `mop.simulate.refit.refit_black_box`) and ``personas``: key,
        description, ``before`` (mean weight over the population), ``weight`` and ``failed`` (samples).

    Raises
    ------
    ArtifactError
        If the run holds no fitted mixture.
    """
    run = RunFolder.open(path)  # refuses what is no run, where open_work would begin one
    if out is not None and run.is_own(out):
        raise ConfigError(
            f"{str(out)!r} is the run itself or a folder of it; give another one, such as "
            f"{str(path / 'mixture-black-box')!r}"
        )
    name = config.model.lm if lm is None else lm
    models = Models(replace(config, model=replace(config.model, lm=name)))
    with open_work(config, path, models, until="records", also=("lm",), progress=progress, beside=True) as work:
        work.progress.begin("match")
        drawing = drawn_with(work).simulate
        population = [*work.records("train"), *work.records("valid")]
        refitted = refit_black_box(
            work.fitted,
            population,
            ingredients_of(work, "zero-shot").drawing,  # asks for no scorer
            encoder=work.encoder,
            samples_per_persona=samples_per_persona,
            tau_factor=drawing.tau_factor,
            same_label=drawing.same_label,
        )
        hx = work.embed([context_text(record) for record in population])
        before = persona_shares(work.fitted, hx, np.array([r.weight for r in population]))
        target = out or path / "mixture-black-box"
        save_mixture(replace(refitted, info={**refitted.info, "lm": name}), target)
        remember_mixture(name, config.remote.api_key_env, target)
    about = refitted.info["persona_weights"]
    return {
        "run": str(path),
        "out": str(target),
        "persona_weights": about,
        "personas": [
            {"key": p.key, "description": p.description, "before": round(float(b), 6), "weight": w, "failed": failed}
            for p, b, w, failed in zip(refitted.personas, before, about["weights"], about["failed"], strict=True)
        ],
    }


def verify(path: Path) -> dict[str, Any]:
    """Check the store and the files of a run; returns ``problems`` (empty if sound) and ``counts``."""
    folder = RunFolder.open(path)
    problems, file = folder.damaged(), folder.store
    with system_errors(folder.path, "read"):
        if not file.is_file():
            return {"problems": [*problems, f"{file}: missing"], "counts": {}}
        try:
            with Store(file) as store:
                counts, found = store.counts(), store.verify()
        except ArtifactError as error:
            return {"problems": [*problems, str(error)], "counts": {}}
    lost = {kind: n - counts.get(kind, 0) for kind, n in folder.about.get("stored", {}).items()}
    problems += [
        f"{file}: {n} {kind} rows are missing of those that were there when the run was last written; put back "
        f"{file.name}-wal if it was left behind, else they are asked for again where they are needed"
        for kind, n in lost.items()
        if n > 0 and kind != "conflict"
    ]
    return {"problems": [*problems, *found], "counts": counts}
