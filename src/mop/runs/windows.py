"""Records of a run that a model's window does not hold: left out or cut before the records are divided."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mop.backends.window import Window, may_exceed, n_bytes, window_of
from mop.config import SPLITS, RunConfig, method_and_tau
from mop.data.records import Loaded, RowProblem
from mop.errors import ConfigError, ScoringUnsupportedError
from mop.personas.files import read_personas
from mop.runs.work import Models, Work
from mop.storage.files import hash_of

CODE = "beyond_window"
"""Of these records among the problems of the rows."""


def windows(models: Models, config: RunConfig) -> list[Window]:
    """The windows of the model that writes and of the one that scores, as far as they are known."""
    asked: list[object] = [models.generator]
    with suppress(ScoringUnsupportedError):  # said where a score is needed
        asked += [models.scorer] if models.is_surrogate else []
    path = config.personas.path
    personas = [] if path is None else [one.description for one in read_personas(Path(path).expanduser())]
    found = (
        window_of(
            model, n_shown=_n_shown(config), max_tokens=config.simulate.max_tokens, task=config.data.task,
            personas=personas,
        )
        for model in asked
    )  # fmt: skip
    return [window for window in found if window is not None]


def _n_shown(config: RunConfig) -> int:
    """Exemplars in the prompts of the run that show most."""
    methods = {method_and_tau(name)[0] for name in config.simulate.controls}
    return max(config.simulate.exemplars_per_prompt, 3 if "few-shot-3" in methods else 1)


def fit_to_windows(work: Work, parts: Sequence[Loaded]) -> tuple[list[Loaded], dict[str, object]]:
    """Leave out or cut what is too long, as ``data.too_long`` says; also what `still_fits` has to know."""
    everyone = [record for part in parts for record in part.records]
    about = {"longest": max(map(n_bytes, everyone))}
    if not _may_exceed(work.config, about["longest"]):
        return list(parts), {"window": about}
    is_cut, found = work.config.data.too_long == "cut", list(parts)
    for window in (known := windows(work.models, work.config)):
        found = _within(found, window, is_cut=is_cut)
    return found, {"window": {**about, "measured": _stamp(known)}}


def has_room(work: Work, **way: Any) -> bool:
    """Whether every record of the run would fit into prompts with other settings of ``simulate``."""
    config = replace(work.config, simulate=replace(work.config.simulate, **way))
    with suppress(ConfigError):  # nothing fits at all
        records = [record for split in SPLITS[:-1] for record in work.records(split)]
        return not any(window.beyond(records) for window in windows(work.models, config))
    return False


def still_fits(work: Work) -> bool:
    """Whether the records of a run were measured for the models and prompts of today, if they have to be."""
    about = work.folder.stage_info("records").get("window")
    if about is None or not _may_exceed(work.config, about["longest"]):
        return True
    return bool(about.get("measured") == _stamp(windows(work.models, work.config)))


def _may_exceed(config: RunConfig, longest: int) -> bool:
    return may_exceed(longest, _n_shown(config), config.simulate.max_tokens, config.data.task)


def _stamp(known: Sequence[Window]) -> str:
    return hash_of([[one.model.name, one.size, one.n_shown, one.max_tokens, *one.personas] for one in known])


def _within(parts: Sequence[Loaded], window: Window, *, is_cut: bool) -> list[Loaded]:
    everyone = [record for part in parts for record in part.records]
    kept, beyond = window.cut(everyone) if is_cut else (everyone, window.beyond(everyone))
    found, row = [], 0
    for part in parts:
        rows = range(row, row + len(part.records))
        row += len(rows)
        problems = [
            RowProblem(
                CODE,
                f"record {everyone[i].key!r}",
                f"has {beyond[i]:,} tokens, and {window.model.name} takes {window.size:,} in all"
                + ("; cut" if is_cut else ""),
                is_cut,
            )
            for i in rows
            if i in beyond
        ]
        counts = {**part.counts, CODE: part.counts.get(CODE, 0) + len(problems)} if problems else part.counts
        records = [kept[i] for i in rows if is_cut or i not in beyond]
        found.append(replace(part, records=records, problems=[*part.problems, *problems], counts=counts))
    return found
