"""A fitted mixture and contexts to any number of responses, in one file: the product of a run.

The run folder gives settings, store and account, so a stopped command goes on. `mop.pipeline` makes the
mixture, `mop.rivals.methods` draws.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mop.backends.base import Generator
from mop.config import RunConfig
from mop.data.records import load_records
from mop.data.sources import BadRow, open_source
from mop.errors import ConfigError
from mop.mixture.fitted import FittedMixture, load_mixture
from mop.randomness import derive_seed, uniforms
from mop.rivals.methods import respond
from mop.runs.stages import counts_of, ingredients_of
from mop.runs.work import Models, open_work
from mop.simulate.write import is_drawn, write_responses
from mop.storage.files import write_parquet
from mop.storage.run_folder import RunFolder
from mop.types import Progress, Record, Response

SUFFIXES = (".jsonl", ".parquet")
"""What a file of responses may be."""


def sample(
    config: RunConfig,
    path: Path,
    out: Path,
    *,
    mixture: Path | None = None,
    contexts: str | Path | None = None,
    n: int | None = None,
    lm: str | Generator | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw responses from a fitted mixture to a file.

    Parameters
    ----------
    config : RunConfig
        Of the run; its decoding, mixing and server settings hold. Response i depends on (its seed, i) and not on
        ``n``, or with ``contexts`` on (its seed, key of the context).
    path : Path
        A run with a fitted mixture.
    out : Path
        A .jsonl or .parquet file; it appears, whole, at the end, and replaces an older one.
    mixture : Path, optional
        Folder of another mixture, such as `mop.simulate.refit` or `MixtureOfPersonas.save` wrote.
    contexts : str or Path, optional
        Any source of `mop.data.load_records` with the columns of the run's context and perhaps its label, answered
        in order, again from the start if ``n`` asks for more. By default contexts of the run's training records, drawn
        with replacement in proportion to their weights.
    n : int, optional
        Number of responses; by default one per context of the source, or one per training record.
    lm : str or Generator, optional
        The model that writes, its name or ready-made; by default the run's, or with ``mixture`` the one that it was
        made for.
    progress : callable, optional

    Returns
    -------
    dict
        ``file``, ``mixture``, ``lm``, the counts of `mop.runs.stages.counts_of`, ``personas`` (how many answered),
        ``fitted_to``: the model whose likelihoods the weights are from, or ``surrogate: ...`` (see
        `mop.simulate.refit`).

    Raises
    ------
    ArtifactError
        If there is no fitted mixture, or the file cannot be written.
    ConfigError
        If ``n`` or the name of the file is not acceptable, the file is there and holds something else than
        responses, or the mixture is of another encoder.
    MopError
        Whatever stops the draws; what is drawn stays drawn.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"responses go to a {' or '.join(SUFFIXES)} file, got {str(out)!r}")
    if n is not None and n < 1:
        raise ConfigError(f"n is the number of responses, at least 1, got {n}")
    run = RunFolder.open(path)  # refuses what is no run, where open_work would begin one
    _check_free(out, run, contexts)
    folder = mixture or run.mixture
    fitted = load_mixture(folder)
    made_for: str = fitted.info.get("lm") or config.model.lm
    ready = None if isinstance(lm, str) else lm
    named = lm if isinstance(lm, str) else config.model.lm if mixture is None else made_for
    models = Models(replace(config, model=replace(config.model, lm=named)), lm=ready)
    asked = None if contexts is None else _in_order(contexts, config, n)
    with open_work(config, path, models, until="records", also=("lm",), progress=progress) as work:
        work.progress.begin("sample")
        if asked is None:
            asked = drawn_contexts(work.records("train"), n, seed=config.seed)
        given = replace(
            ingredients_of(work, "zero-shot"),  # a mixture of its own, not the run's
            mixture=fitted,
            exemplars=fitted.exemplars,
        )
        responses = list(respond("mop", asked, given))
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".parquet":
            write_parquet(out, responses)
        else:
            write_responses(out, responses)
        work.describe()
    return {
        "file": str(out),
        "mixture": str(folder),
        "lm": named if ready is None else ready.name,
        **counts_of(responses),
        "personas": len({response.persona for response in responses if is_drawn(response)}),
        "fitted_to": _fitted_to(fitted, made_for),
    }


def _check_free(out: Path, run: RunFolder, contexts: str | Path | None) -> None:
    """Refuse to write over anything but responses of an earlier sample."""
    if not out.exists() or not out.stat().st_size:
        return
    place, own = out.resolve(), (run.path / name for name in ("methods", "compare"))
    if contexts is not None and Path(contexts).exists() and place == Path(contexts).resolve():
        what = "holds the contexts that are to be answered"
    elif place in (run.responses.resolve(), run.responses_parquet.resolve()) or any(
        place.is_relative_to(folder.resolve()) for folder in own
    ):
        what = "is a file of the run itself"
    elif not _holds_responses(out):
        what = "holds something else than responses"
    else:
        return
    raise ConfigError(f"{str(out)!r} {what}; give another name, or move it away")


def _holds_responses(file: Path) -> bool:
    fields = {field.name for field in dataclasses.fields(Response)}
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            return fields <= set(pq.read_schema(file).names)
        with file.open(encoding="utf-8") as lines:
            return fields <= set(json.loads(next(lines, "{}")))
    except (OSError, ValueError, TypeError):
        return False


def drawn_contexts(population: Sequence[Record], n: int | None, *, seed: int) -> list[Record]:
    """Draw contexts with replacement, in proportion to the records' weights.

    Returns
    -------
    list of n Record
        With empty responses and the keys ``sample-1`` to ``sample-n``; the i-th depends on (seed, i) alone. As many
        as the population has, if ``n`` is None.
    """
    ends = np.cumsum([record.weight for record in population])
    n = len(population) if n is None else n
    u = uniforms(derive_seed(seed, "context"), 0, n)
    chosen = np.minimum(np.searchsorted(ends, u * ends[-1], side="right"), len(ends) - 1)
    return [replace(population[row], key=f"sample-{i}", response="") for i, row in enumerate(chosen.tolist(), start=1)]


def _in_order(source: str | Path, config: RunConfig, n: int | None) -> list[Record]:
    """The contexts of a source in order, from the start again as often as ``n`` needs."""
    data = config.data
    label = data.label if data.label and _has_column(source, data.label) else None
    loaded = load_records(source, context=data.context, response=None, label=label, duplicates="keep")
    if data.strict:
        loaded.require_clean()
    loaded.warn(source)
    found = loaded.records
    n = len(found) if n is None else n
    turns = [divmod(i, len(found)) for i in range(n)]
    return [found[row] if turn == 0 else replace(found[row], key=f"{found[row].key}/{turn + 1}") for turn, row in turns]


def _has_column(source: str | Path, name: str) -> bool:
    opened = open_source(source)
    if opened.columns is not None:
        return name in opened.columns
    return any(not isinstance(row, BadRow) and name in row for _, row in opened.rows((name,)))  # JSON has no header


def _fitted_to(fitted: FittedMixture, made_for: str) -> str:
    matched = fitted.info.get("persona_weights")
    return matched["kind"] if matched else fitted.info.get("scorer") or made_for
