"""A fitted mixture and contexts to any number of responses, in one file: the product of a run.

The run folder gives settings, store and account, so a stopped command goes on. `mop.pipeline` makes the
mixture, `mop.rivals.methods` draws.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mop.backends.base import Generator
from mop.backends.window import window_of
from mop.config import DataConfig, RunConfig
from mop.data.labels import known_labels
from mop.data.losses import NO_PERSON
from mop.data.records import load_records, without_labels
from mop.data.sources import BadRow, open_source
from mop.data.values import stripped
from mop.errors import ConfigError, DataError
from mop.metrics.words import Copies
from mop.mixture.fitted import FittedMixture
from mop.randomness import derive_seed, uniforms
from mop.rivals.methods import respond
from mop.runs.stages import counts_of, ingredients_of
from mop.runs.trust import refuse_address
from mop.runs.work import Models, open_work
from mop.simulate.draw import labels_of
from mop.simulate.rows import SUFFIXES, column_of, holds_responses, write_responses
from mop.simulate.way import as_chosen, load_with_way
from mop.simulate.write import is_drawn
from mop.storage.run_folder import RunFolder
from mop.types import Progress, Record, Response

logger = logging.getLogger(__name__)


def sample(
    config: RunConfig,
    path: Path,
    out: Path,
    *,
    mixture: Path | None = None,
    contexts: str | Path | None = None,
    n: int | None = None,
    per_class: int | None = None,
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
        A .jsonl, .parquet or .csv file in a folder that is there; it appears, whole, at the end. It replaces an older
        one of no more responses.
    mixture : Path, optional
        Folder of another mixture, such as `mop.simulate.refit` or `MixtureOfPersonas.save` wrote.
    contexts : str or Path, optional
        Any source of `mop.data.load_records` with the columns of the run's context and perhaps its label, key, weight
        and group, answered in order, again from the start if ``n`` asks for more; its other columns are kept. By
        default contexts of the run's training records, drawn with replacement in proportion to their weights: each
        then has the weight 1, and key and weight of its record are further columns.
    n : int, optional
        Number of responses; by default one per context of the source, or one per training record.
    per_class : int, optional
        So many responses for each label of the training records, instead of ``n`` and ``contexts``.
    lm : str or Generator, optional
        The model that writes, its name or ready-made; by default the run's, or with ``mixture`` the one that it was
        made for.
    progress : callable, optional

    Returns
    -------
    dict
        ``file``, ``mixture``, ``lm``, the counts of `mop.runs.stages.counts_of`, ``personas`` (how many answered),
        ``fitted_to``: the model whose likelihoods the weights are from, or ``surrogate: ...`` (see
        `mop.simulate.refit`), ``replaced``: how many responses the file had before,
        ``near_copies``: how many repeat a real record (see `mop.metrics.words.Copies`), ``key_columns``: which columns
        hold people's own keys (``data.key``).

    Raises
    ------
    ArtifactError
        If there is no fitted mixture, or the file cannot be written.
    ConfigError
        If a number or the name of the file is not acceptable, its folder is not there, the file is and holds
        something else than responses or more of them, or the mixture is of another encoder.
    DataError
        If a context cannot be read, or has a label that the run never saw.
    MopError
        Whatever stops the draws; what is drawn stays drawn.
    """
    for name, number in (("n", n), ("per_class", per_class)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is a number of responses, at least 1, got {number}")
    if per_class is not None and (n is not None or contexts is not None):
        raise ConfigError("--per-class says which contexts are answered, and how many; leave out -n and --contexts")
    run = RunFolder.open(path)  # refuses what is no run, where open_work would begin one
    there = responses_there(out, run, contexts)
    folder = mixture or run.mixture
    fitted = load_with_way(folder if mixture else run.checked(folder))
    if mixture is None and config.simulate.tune and "tune" not in run.stages:
        logger.warning("these are draws from the fitted mixture as it is; mop tune %s chooses a way of drawing", path)
    config = replace(config, simulate=as_chosen(config.simulate, fitted))
    made_for: str = fitted.info.get("lm") or config.model.lm
    if mixture is not None and lm is None and made_for != config.model.lm:
        refuse_address(made_for, config.remote.api_key_env, folder, say="--lm NAME")
    ready = None if isinstance(lm, str) else lm
    named = lm if isinstance(lm, str) else config.model.lm if mixture is None else made_for
    models = Models(replace(config, model=replace(config.model, lm=named)), lm=ready)
    asked = None if contexts is None else _in_order(contexts, config, n, labels_of(fitted))
    with open_work(config, path, models, until="records", also=("lm",), progress=progress, beside=True) as work:
        work.progress.begin("sample")
        if per_class is not None:
            asked = _of_each_class(work.records("train"), per_class, config)
        elif asked is None:
            asked = drawn_contexts(work.records("train"), n, seed=config.seed, data=config.data)
        make_room(out, there, len(asked))
        window = window_of(
            work.lm, n_shown=config.simulate.exemplars_per_prompt, max_tokens=config.simulate.max_tokens,
            task=config.data.task, personas=[persona.description for persona in fitted.personas],
        )  # fmt: skip
        if window is not None:
            remedy = "shorten them, or have them cut: --set data.too_long=cut"
            asked = window.hold(asked, fitted.exemplars, remedy=remedy, is_cut=config.data.too_long == "cut")
        given = replace(
            ingredients_of(work, "zero-shot"),  # a mixture of its own, not the run's
            config=config,
            mixture=fitted,
            exemplars=fitted.exemplars,
        )
        responses = list(respond("mop", asked, given))
        write_responses(out, responses)
        real = [*fitted.exemplars, *(work.records("train") if mixture is None else ())]
        about_people = real_in(responses, real, config.data.key)
        work.describe()
    return {
        "file": str(out),
        "mixture": str(folder),
        "lm": named if ready is None else ready.name,
        **counts_of(responses),
        "personas": len({response.persona for response in responses if is_drawn(response)}),
        "fitted_to": _fitted_to(fitted, made_for),
        "replaced": there,
        **about_people,
    }


def real_in(responses: Sequence[Response], real: Sequence[Record], key: str | None) -> dict[str, Any]:
    """What a file of responses has of real people: ``near_copies`` and ``key_columns``, as `sample` returns them."""
    copies = Copies([record.response for record in real])
    columns: list[str] = []
    if key is not None:
        columns = [column_of(key) if any(key in row.attributes for row in responses) else "id", "exemplar"]
    n_copies = sum(copies.has(row.response) for row in responses if is_drawn(row))
    return {"near_copies": n_copies, "key_columns": columns}


def responses_there(out: Path, run: RunFolder, contexts: str | Path | None) -> int:
    """How many responses of an earlier sample a file holds.

    Raises
    ------
    ConfigError
        If its name is none for responses, its folder is not there, or it holds anything else.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"responses go to a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, got {str(out)!r}")
    if not out.parent.is_dir():
        raise ConfigError(
            f"there is no folder {str(out.parent)!r} for the responses; make it "
            f"(mkdir -p {shlex.quote(str(out.parent))}), or give a file in another one"
        )
    if not out.exists():
        return 0
    found, place, own = holds_responses(out), out.resolve(), (run.path / name for name in ("methods", "compare"))
    if contexts is not None and Path(contexts).exists() and place == Path(contexts).resolve():
        what = "holds the contexts that are to be answered"
    elif place in (run.responses.resolve(), run.responses_parquet.resolve()) or any(
        place.is_relative_to(folder.resolve()) for folder in own
    ):
        what = "is a file of the run itself"
    elif not out.is_file() or (out.stat().st_size and found is None):
        what = "holds something else than responses"
    else:
        return found or 0
    raise ConfigError(f"{str(out)!r} {what}; give another name, or move it away")


def make_room(out: Path, there: int, n: int) -> None:
    """Refuse to replace responses of an earlier sample by fewer."""
    if there > n:
        raise ConfigError(
            f"{str(out)!r} holds {there} responses, and {n} would take their place; give another name, move it away, "
            f"or ask for as many: -n {there}"
        )


def drawn_contexts(
    population: Sequence[Record], n: int | None, *, seed: int, data: DataConfig | None = None, prefix: str = "sample"
) -> list[Record]:
    """Draw contexts with replacement, in proportion to the records' weights.

    Returns
    -------
    list of n Record
        With empty responses, the weight 1 and the keys ``sample-1`` to ``sample-n``; the i-th depends on (seed, i)
        alone. As many as the population has, if ``n`` is None. Where ``data`` names columns of keys and weights, those
        of the record are attributes of these names.
    """
    ends = np.cumsum([record.weight for record in population])
    n = len(population) if n is None else n
    u = uniforms(derive_seed(seed, "context"), 0, n)
    chosen = np.minimum(np.searchsorted(ends, u * ends[-1], side="right"), len(ends) - 1)
    drawn = []
    for i, record in enumerate((population[row] for row in chosen.tolist()), start=1):
        own = {data.key: record.key, data.weight: f"{record.weight:.15g}"} if data is not None else {}
        further = {name: value for name, value in own.items() if name is not None} | dict(record.attributes)
        drawn.append(replace(record, key=f"{prefix}-{i}", response="", weight=1.0, attributes=further))
    return drawn


def _of_each_class(population: Sequence[Record], n: int, config: RunConfig) -> list[Record]:
    """N contexts of each label, drawn as `drawn_contexts` does; in the order of the labels."""
    labels = sorted({record.label for record in population if record.label is not None})
    if not labels:
        raise ConfigError(
            "--per-class takes as many contexts of each label, and the run's training records have none; give -n "
            "instead, or begin a run with data.label"
        )
    if not config.simulate.same_label:
        logger.warning(
            "the exemplars shown may have another label than the one asked for; with --set simulate.same_label=true "
            "they have the same"
        )
    found: list[Record] = []
    for place, label in enumerate(labels, start=1):
        of_label = [record for record in population if record.label == label]
        seed, prefix = derive_seed(config.seed, "class", label), f"class-{place}"
        found += drawn_contexts(of_label, n, seed=seed, data=config.data, prefix=prefix)
    return found


def _in_order(source: str | Path, config: RunConfig, n: int | None, labels: Sequence[str]) -> list[Record]:
    """The contexts of a source in order, each row one, from the start again as often as ``n`` needs."""
    data = config.data
    columns = _columns(source, encoding=data.encoding, delimiter=data.delimiter)
    roles = {role: stripped(getattr(data, role) or "") for role in ("label", "key", "weight", "group")}
    asked: dict[str, Any] = {role: name for role, name in roles.items() if name in columns}
    others = [name for name in columns if name and columns.count(name) == 1]  # spreadsheets have nameless ones
    others = [name for name in others if name not in asked.values() and name != stripped(data.context)]
    asked |= {name: getattr(data, name) for name in ("encoding", "delimiter", "decimal")}
    loaded = load_records(source, context=data.context, response=None, duplicates="keep", attributes=others, **asked)
    if data.strict:
        loaded.require_clean()
    lost = [problem for problem in loaded.problems if not problem.is_kept and problem.code not in NO_PERSON]
    if lost:
        told = "; ".join(f"{problem.place} {problem.message}" for problem in lost[:3])
        named = ", or names are made of the content with --set data.key=" if lost[0].code == "duplicate_key" else ""
        raise DataError(
            f"{loaded.n_lost} of {loaded.n_people} rows of {source} cannot be answered: {told}; each row "
            f"gets an answer, so none is left out; fix or remove {'it' if len(lost) == 1 else 'them'}{named}"
        )
    for code in loaded.counts:
        kept = [problem for problem in loaded.problems if problem.code == code]
        told = ", ".join(problem.place for problem in kept[:5]) + (", ..." if loaded.counts[code] > 5 else "")
        logger.warning("%d of the contexts: %s (%s); answered as they are", loaded.counts[code], code, told)
    remedy = without_labels(data.context, data.label)
    found = known_labels(loaded.records, labels, where=str(source), remedy=remedy)
    n = len(found) if n is None else n
    turns = [divmod(i, len(found)) for i in range(n)]
    return [found[row] if turn == 0 else replace(found[row], key=f"{found[row].key}/{turn + 1}") for turn, row in turns]


def _columns(source: str | Path, **form: str) -> tuple[str, ...]:
    opened = open_source(source, **form)
    if opened.columns is not None:
        return opened.columns
    rows = (row for _, row in opened.rows(()) if not isinstance(row, BadRow))  # JSON has no header
    return tuple(dict.fromkeys(str(name) for row in rows for name in row))


def _fitted_to(fitted: FittedMixture, made_for: str) -> str:
    matched = fitted.info.get("persona_weights")
    return matched["kind"] if matched else fitted.info.get("scorer") or made_for
