"""The stages of a run, each one function; `bring_up` does those that are not done."""

from __future__ import annotations

import hashlib
import logging
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.config import SPLITS, RunConfig, UpTo, config_to_dict
from mop.data.given import refuse_lopsided
from mop.data.losses import Loaded, n_lost, require_few_lost, sayings
from mop.data.own import distinct, numbered
from mop.data.records import load_records, save_records
from mop.data.split_files import load_splits, split_files
from mop.data.splits import split_to_fit
from mop.errors import ArtifactError, MopError
from mop.evaluate.likelihood import Likelihood, Table, references, score_for_likelihood, summarise
from mop.evaluate.map import text_map
from mop.evaluate.paired import clear_winners
from mop.evaluate.respondents import Respondents, attributes_of, contradictions
from mop.evaluate.samples import FLOOR, HISTOGRAM_EDGES, Sample, evaluate
from mop.evaluate.sense import log_lik_per_token
from mop.mixture.fit import fit_mixture
from mop.mixture.fitted import context_text, save_mixture
from mop.mixture.headroom import fit_sentence
from mop.personas.files import read_personas, save_personas
from mop.personas.write import write_personas
from mop.randomness import derive_seed
from mop.report.page import draw_figures, write_report
from mop.report.plots import save_figures
from mop.report.report_data import report_data, response_files
from mop.rivals.ingredients import Ingredients
from mop.rivals.methods import needs_mixture, needs_scorer, respond
from mop.runs.windows import fit_to_windows, still_fits
from mop.runs.work import (
    COLUMNS,
    STAGE_VERSIONS,
    Models,
    Work,
    open_work,
    planned_calls,
    source_place,
    versions_now,
)
from mop.simulate.rows import read_responses, write_responses
from mop.simulate.way import as_chosen
from mop.simulate.write import cut_share, is_drawn, outcomes, shown_to
from mop.storage.files import hash_of, write_json
from mop.storage.run_folder import RunFolder
from mop.storage.store import Store
from mop.types import Progress, Record, Response

logger = logging.getLogger(__name__)


Made = tuple[list[Path], dict[str, Any]]
"""The files of a stage, and its headline."""

Stage = Callable[["Work"], Made]


def bring_up(work: Work, until: str, stages: Mapping[str, Stage] | None = None) -> dict[str, Any]:
    """Do each of the stages that is not done, by default those to the fit, up to ``until``; see `mop.pipeline.run`."""
    config, folder = work.config, work.folder
    result: dict[str, Any] = {"done": [], "skipped": []}
    inputs: dict[str, Any] = {"format": 1}
    for name, stage in (stages or TO_THE_FIT).items():
        inputs_hash = hash_of([inputs, STAGE_VERSIONS[name], work.inputs_of(name)])
        is_done = folder.stage_done(name, inputs_hash) and (name != "personas" or folder.personas.is_file())
        if is_done and (name != "records" or still_fits(work)):
            result["skipped"].append(name)
        else:
            folder.require_write()
            began, earlier = time.monotonic(), _stopped_after(folder, name, inputs_hash)
            paid = _n_paid(work.store)
            sizes = folder.stage_info("records") if "records" in folder.stages else {}
            try:
                work.rehearse(name, until)
                work.progress.begin(name, planned_calls(config, name, until, sizes=sizes))
                with work.store.tally() as tally:
                    files, headline = stage(work)
            except BaseException:
                seconds = round(earlier + time.monotonic() - began, 1)
                with suppress(ArtifactError):  # a full disk: what stopped the stage is to be seen
                    folder.describe(stopped={"stage": name, "inputs": inputs_hash, "seconds": seconds})
                    if not folder.stages:  # a new run: the next command need not name its settings again
                        write_json(folder.config, config_to_dict(config))
                raise
            if earlier:  # counted now
                folder.describe(stopped={})
            asked = tally.costs()
            if sum(cost.calls for cost in asked.values()) > _n_paid(work.store) - paid:
                # Some answers were paid for when the stage was made before: so was their time.
                earlier += folder.stage_info(name).get("seconds", 0.0) if name in folder.stages else 0.0
            headline = {
                **headline,
                "seconds": round(earlier + time.monotonic() - began, 1),
                "asked": {who: list(cost) for who, cost in asked.items()},
            }
            work.progress.save()
            work.describe()
            folder.finish_stage(name, inputs_hash, files=files, info=headline)
            # Settings are kept once something was made with them: a refused value leaves no trace.
            write_json(folder.config, config_to_dict(config))
            result["done"].append(name)
        inputs = {"stage": name, "made": folder.stage_hash(name), "inputs": inputs_hash}
        result[name] = folder.stage_info(name)
        if name == until:
            break
    if not folder.can_write:
        return result
    write_json(folder.config, config_to_dict(config))
    folder.describe(
        contains_real_records=_real_records(folder), seed=config.seed, models=work.identities(), versions=versions_now()
    )
    work.describe()
    return result


def _real_records(folder: RunFolder) -> dict[str, int]:
    """How many records of real people each part of a run holds word for word."""
    sizes = folder.stage_info("records")
    found = {"records": sum(int(sizes.get(name, 0)) for name in SPLITS), "mixture": int(sizes.get("exemplars", 0))}
    return found | {"report": found["mixture"] + int(sizes.get("golden", 0))}


def _n_paid(store: Store) -> int:
    """How many answers a store ever paid for."""
    return sum(cost.calls for cost in store.spent().values())


def _stopped_after(folder: RunFolder, stage: str, inputs_hash: str) -> float:
    """Seconds of the attempts at a stage that ended with an error or an interrupt, not by a kill."""
    stopped = folder.about.get("stopped", {})
    is_same = stopped.get("stage") == stage and stopped.get("inputs") == inputs_hash
    return float(stopped["seconds"]) if is_same else 0.0


def make_records(work: Work) -> Made:
    """Read the source, leave out what cannot be used, divide the rest."""
    data = work.config.data
    columns: dict[str, Any] = {name: getattr(data, name) for name in COLUMNS}
    sizes = {name: getattr(data, name) for name in SPLITS}
    source, seed = source_place(data.source), work.config.seed
    given = split_files(source) if isinstance(source, Path) and source.is_dir() else {}
    about: dict[str, Any] = {}

    def within(parts: list[Loaded]) -> list[Loaded]:
        parts, found = fit_to_windows(work, parts)
        about.update(found)
        return parts

    splits: dict[str, list[Record]] = {}
    if given:
        splits, parts = load_splits(given, sizes, seed=seed, prepare=within, **columns)
    else:
        parts = within([load_records(source, **columns)])
    if data.strict:
        for loaded in parts:
            loaded.require_clean()
    # Before a split can fail: what was left out is often why.
    listed = work.folder.records / "problems.json"
    problems = [asdict(problem) for loaded in parts for problem in loaded.problems]
    counts = dict(sum((Counter(loaded.counts) for loaded in parts), Counter()))
    says = sayings(parts)
    write_json(listed, {"counts": counts, "says": says, "problems": problems})
    require_few_lost(parts, data.max_lost, listed="records/problems.json")
    for saying in says:
        logger.warning("%s", saying)
    refuse_lopsided([record for loaded in parts for record in loaded.records])
    splits = splits or split_to_fit(
        parts[0].records, sizes, seed=seed, by_group=data.group is not None, name=data.source
    )
    asked, n_tests = work.config.simulate.n_responses, len(splits["test"])
    if n_tests < asked and not isinstance(asked, UpTo):
        logger.warning(
            "simulate.n_responses is %d, and there are %d test records: each method gives %d responses", asked, n_tests,
            n_tests,
        )  # fmt: skip
    splits["exemplars"] = numbered(splits["exemplars"])
    files = [listed]
    for name, records in splits.items():
        files.append(work.folder.records / f"{name}.jsonl")
        save_records(records, files[-1])
    usable = sum(len(loaded.records) for loaded in parts)
    made = {name: len(records) for name, records in splits.items()}
    lost, people = n_lost(parts)
    return files, {"rows": people, "usable": usable, "left_out": says[0] if lost else "", **made, **about}


def make_personas(work: Work) -> Made:
    """Describe each cluster of the exemplars, or take the user's personas."""
    config, target = work.config, work.folder.personas
    personas = write_personas(
        work.records("exemplars"),
        config.personas,
        encoder=work.encoder,
        lm=lambda: work.lm,
        store=work.store,
        task=config.data.task,
        seed=config.seed,
        progress=work.progress,
    )
    _keep_edited(work.folder)
    save_personas(personas, target)
    doubtful = sum(bool(persona.doubts) for persona in personas)
    if doubtful:
        logger.warning("%d of %d personas look doubtful; see their doubts in %s", doubtful, len(personas), target)
    # The file is not hashed: a person may edit it, and the fit then starts from the edited one.
    return [], {"n_personas": len(personas), "doubtful": doubtful, "written": _digest(target)}


def _keep_edited(folder: RunFolder) -> None:
    """Put a persona file that a person edited aside before it is written anew."""
    if not folder.personas.is_file():
        return
    written = folder.stage_info("personas").get("written") if "personas" in folder.stages else None
    if written is not None and written != _digest(folder.personas):
        number = 1
        while (aside := folder.path / f"personas.edited-{number}.jsonl").exists():
            number += 1
        folder.personas.replace(aside)
        logger.warning("the personas are made anew; your edited file is kept as %s", aside)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_fit(work: Work) -> Made:
    """Learn weights and a temperature from scores of the frozen model."""
    config = work.config
    fitted = fit_mixture(
        read_personas(work.folder.personas),
        distinct(work.records("exemplars")),
        work.records("train"),
        work.records("valid"),
        encoder=work.encoder,
        scorer=work.scorer,
        store=work.store,
        task=config.data.task,
        settings=config.fit,
        seed=config.seed,
        progress=work.progress,
    )
    info = {**fitted.info, "lm": config.model.lm, "scorer": config.model.scorer, "encoder": config.model.encoder}
    work.folder.forget("tune")  # a way of drawing of another fit
    save_mixture(replace(fitted, info=info), work.folder.mixture)
    work.__dict__.pop("fitted", None)
    history = fitted.info["history"]
    headline = {key: fitted.info[key] for key in ("chosen", "uniform_tau", "n_cells", "stopped")}
    gain, tau = fitted.info["gain"], fitted.temperatures
    certificate = fitted.info["certificate"] or {"n_components": 0, "n_all": 1}
    is_whole = certificate["n_components"] == certificate["n_all"]
    return [work.folder.mixture], {
        **({"says": fit_sentence(fitted.info), "gain_over_uniform": gain["mean"]} if gain else {}),
        **headline,
        "temperatures": [float(tau.min()), float(tau.max())],
        **({"n_rounds": len(history)} if config.fit.method == "rounds" else {}),
        "valid": history[history[-1]["kept_round"]]["valid"],
        "n_personas": len(fitted.personas),
        "certificate": certificate["bound"] if is_whole else None,
    }


def make_responses(work: Work) -> Made:
    """Draw one response per test context with the mixture, and with each control."""
    settings = work.config.simulate
    contexts = work.records("test")[: settings.n_responses]
    ingredients = ingredients_of(work)
    for departure in ingredients.config.simulate.departures():
        logger.warning("%s", departure)
    files, cut, empty = [], {}, {}
    for method in ("mop", *settings.controls):
        path = work.folder.responses if method == "mop" else work.folder.method(method)
        write_responses(path, respond(method, contexts, ingredients))
        files.append(path)
        written = list(read_responses(path))
        cut[method], empty[method] = round(cut_share(written), 4), counts_of(written)["empty"]
    write_responses(work.folder.responses_parquet, read_responses(work.folder.responses))
    return [*files, work.folder.responses_parquet], {
        "n_responses": len(contexts),
        "methods": len(files),
        "cut_share": cut,
        "empty": empty,
    }


def counts_of(responses: Sequence[Response]) -> dict[str, int]:
    """``n_responses``, and how many are ``empty`` (drawn without a text), ``cut`` (at the length limit), ``failed``."""
    drawn = [response for response in responses if is_drawn(response)]
    return {
        "n_responses": len(responses),
        "empty": sum(not response.response.strip() for response in drawn),
        "cut": sum(response.finish_reason == "length" for response in drawn),
        "failed": len(responses) - len(drawn),
    }


def ingredients_of(work: Work, method: str = "mop") -> Ingredients:
    """What a method of a run is made from; by default all that any method needs."""
    config, is_fitted = work.config, needs_mixture(method)
    return Ingredients(
        config=drawn_with(work) if is_fitted else config,
        exemplars=work.fitted.exemplars if is_fitted else distinct(work.records("exemplars")),
        mixture=work.fitted if is_fitted else None,
        lm=work.lm,
        scorer=work.scorer if needs_scorer(method) else None,
        encoder=work.encoder,
        store=work.store,
        seed=config.seed,
        progress=work.progress,
    )


def drawn_with(work: Work) -> RunConfig:
    """Settings of draws from the run's mixture: those given, and what pilot draws chose for it."""
    return replace(work.config, simulate=as_chosen(work.config.simulate, work.fitted))


def make_metrics(work: Work) -> Made:
    """Compare what was simulated with the golden records, and score held-out records."""
    config = work.config
    contexts, golden = work.records("test")[: config.simulate.n_responses], work.records("golden")
    every = {name: list(read_responses(path)) for name, path in response_files(work.folder, config).items()}
    responses = {name: [r for r in rows if is_drawn(r)] for name, rows in every.items()}
    nats = judged(work, {**responses, FLOOR: contexts})
    evaluation = evaluate(
        method_samples(responses, contexts, work.fitted.exemplars, nats),
        real_sample(golden),
        real_sample(contexts, nats[FLOOR]),
        embed=work.embed,
        seed=config.seed,
        others=other_real_texts(work),
        n_seeds=config.evaluate.n_seeds,
        n_bootstrap=config.evaluate.n_bootstrap,
        progress=work.progress,
    )
    held_out = held_out_likelihood(work)
    write_json(
        work.folder.metrics,
        {
            "methods": evaluation.methods,
            "held_out": held_out,
            "failed": {name: len(rows) - len(responses[name]) for name, rows in every.items()},
            "outcomes": {name: outcomes(rows) for name, rows in every.items()},
            "closed": evaluation.closed,
            "best": clear_winners(
                evaluation.methods,
                evaluation.errors,
                {name: row["mauve_spread"] for name, row in evaluation.methods.items()},
            ),
            "respondents": about_respondents(work, responses["mop"]),
            "written_by": work.lm.name,
            "scored_by": work.scorer.name,
            "is_surrogate": work.models.is_surrogate,
            "judged_by": work.models.judge.name,
            "encoder": config.model.encoder,
            "n_golden": len(golden),
        },
    )
    places = text_map(evaluation, seed=derive_seed(config.seed, "map"))
    groups, gates = gates_by_label(work, contexts)
    write_json(
        work.folder.evaluation,
        {
            "notes": list(evaluation.notes),
            "histogram_edges": HISTOGRAM_EDGES,
            "histograms": evaluation.histograms,
            "map": {
                name: {"rows": rows.tolist(), "places": np.round(xy, 3).tolist()} for name, (rows, xy) in places.items()
            },
            "gate_groups": groups,
            "gates": np.round(gates, 6).tolist(),
        },
    )
    mop = evaluation.methods["mop"]
    return [work.folder.metrics, work.folder.evaluation], {
        **{key: mop[key] for key in ("energy", "fid_excess", "fid", "mauve", "kl_cosine", "sense")},
        **{key: mop[key] for key in ("valid_answers", "total_variation", "wrong_label", "cut_share") if key in mop},
        **{f"held_out_{key}": held_out[key] for key in ("gain", "gain_interval")},
    }


def method_samples(
    responses: Mapping[str, Sequence[Response]],
    contexts: Sequence[Record],
    exemplars: Sequence[Record],
    nats: Mapping[str, Sequence[float]],
) -> dict[str, Sample]:
    """What is evaluated of each method: texts, weights of their contexts, exemplars shown, figures of the judge."""
    weight = {record.key: record.weight for record in contexts}
    text = {record.key: record.response for record in exemplars}
    return {
        name: Sample(
            [row.response for row in rows],
            [weight[row.id] for row in rows],
            [shown_to(row, text) for row in rows],
            nats.get(name),
            [row.label for row in rows],
            [row.finish_reason == "length" for row in rows],
        )
        for name, rows in responses.items()
    }


def real_sample(records: Sequence[Record], nats: Sequence[float] | None = None) -> Sample:
    """The same of real texts."""
    texts, weights = [record.response for record in records], [record.weight for record in records]
    return Sample(texts, weights, judged=nats, labels=[record.label for record in records])


def other_real_texts(work: Work) -> list[str]:
    """Real texts besides those that are compared."""
    return [record.response for name in ("exemplars", "train", "valid") for record in work.records(name)]


def about_respondents(work: Work, responses: Sequence[Response]) -> dict[str, Any]:
    """Draws whose persona contradicts the person who is asked, and ``real_share``: how many people are like each."""
    records = [record for name in SPLITS for record in work.records(name)]
    known = [attributes_of(record, work.config.data.context or "") for record in records]
    about, personas = Respondents(known), work.fitted.personas
    people = {record.key: attributes for record, attributes in zip(records, known, strict=True)}
    weighted = [(attributes, record.weight) for record, attributes in zip(records, known, strict=True)]
    return {
        **contradictions(responses, personas, people, about),
        "real_share": [about.share(persona.description, weighted) for persona in personas],
    }


def judged(work: Work, texts: Mapping[str, Sequence[Response | Record]]) -> dict[str, list[float]]:
    """Log-likelihood per token of each text under the judge, by set; see `mop.evaluate.sense`."""
    return {
        name: log_lik_per_token(
            [row.context for row in rows],
            [row.response for row in rows],
            judge=work.models.judge,
            store=work.store,
            task=work.config.data.task,
            progress=work.progress,
        )
        for name, rows in texts.items()
    }


def gates_by_label(work: Work, contexts: Sequence[Record]) -> tuple[list[str], NDArray[np.float64]]:
    """Mean persona weights over all contexts, then over those of each of the 11 most frequent labels, (G, K)."""
    pi = np.exp(work.fitted.log_pi(work.embed([context_text(record) for record in contexts])))
    counts = Counter(record.label for record in contexts if record.label is not None)
    labels = [label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:11]]
    means = [pi.mean(axis=0)]
    means += [pi[[record.label == label for record in contexts]].mean(axis=0) for label in labels]
    return ["all contexts", *labels], np.stack(means)


def held_out_table(work: Work) -> Table:
    """Scores of the held-out records under drawn components."""
    config = work.config
    records = work.records("test")[: config.evaluate.test_records]
    return score_for_likelihood(
        work.fitted,
        records,
        work.embed([context_text(record) for record in records]),
        scorer=work.scorer,
        store=work.store,
        n_components=config.evaluate.test_components,
        seed=derive_seed(config.seed, "test"),
        progress=work.progress,
    )


def held_out_likelihood(work: Work) -> dict[str, Any]:
    """Mean held-out log-likelihood of the mixture and of the references, in nats per record."""
    table = held_out_table(work)
    likelihood = Likelihood(table, work.fitted, seed=work.config.seed)
    held_out = summarise(likelihood)
    held_out["references"] = references(
        likelihood,
        work.records("test")[: len(table.weight)],
        scorer=work.scorer,
        store=work.store,
        progress=work.progress,
    )
    return held_out


def make_report(work: Work) -> Made:
    """One page for people."""
    try:
        data = report_data(work.folder, work.config, versions=versions_now(), spent=work.store.spent())
        write_report(data, work.folder.report)
        save_figures(draw_figures(data), work.folder.figures)
    except MopError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        made = " ".join(
            shlex.quote(str(file))
            for file in (work.folder.metrics, work.folder.evaluation, work.folder.records / "problems.json")
        )
        raise ArtifactError(
            f"what the stages before the report made in {work.folder.path} is not what they make "
            f"({type(error).__name__}: {error}); make it anew: rm -f {made}, then the same command again"
        ) from error
    return [work.folder.report, work.folder.figures], {}


TO_THE_FIT: Mapping[str, Stage] = {"records": make_records, "personas": make_personas, "fit": make_fit}
"""What a method may need before its draws; all stages are in `mop.pipeline`."""


def bring_up_to_the_fit(config: RunConfig, path: Path, *, models: Models, progress: Progress | None = None) -> None:
    """Open a run and do the stages up to the fit that are not done."""
    with open_work(config, path, models, until="fit", progress=progress) as work:
        work.models.will_draw = True
        bring_up(work, "fit")
