"""A finished run folder to the plain values of its report; no model is needed."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mop.config import RunConfig, config_to_dict
from mop.data.catalogue import EMBEDDED
from mop.data.records import read_records
from mop.evaluate.likelihood import REFERENCES, reference_name
from mop.metrics.bootstrap import odds_interval
from mop.mixture.fitted import FittedMixture
from mop.mixture.headroom import fit_sentence, headroom_lines
from mop.report.names import page_title
from mop.report.page import ExemplarUse, MapPoint, PersonaRow, ReportData
from mop.report.palette import REAL
from mop.report.plots import GOLDEN
from mop.report.reading import side_by_side
from mop.report.verdicts import respondent_sentence
from mop.simulate.rows import read_responses
from mop.simulate.way import as_chosen, load_with_way, way_notes
from mop.simulate.write import cut_notes, cut_share, is_drawn, outcomes
from mop.storage.files import read_json
from mop.storage.run_folder import RunFolder
from mop.types import Record, Response


def response_files(folder: RunFolder, config: RunConfig) -> dict[str, Path]:
    """Response file of every method that the settings name, ``mop`` first."""
    return {"mop": folder.responses, **{name: folder.method(name) for name in config.simulate.controls}}


def report_data(
    folder: RunFolder, config: RunConfig, *, versions: Mapping[str, str], spent: Mapping[str, Sequence[int]]
) -> ReportData:
    """Collect what the report of a run shows.

    Parameters
    ----------
    folder : RunFolder
        With all stages before the report done.
    config : RunConfig
    versions : mapping
        Package to version.
    spent : mapping
        Stage to (LM calls, tokens).

    Returns
    -------
    ReportData
    """
    fitted = load_with_way(folder.mixture)
    metrics, found = read_json(folder.metrics), read_json(folder.evaluation)
    held_out, golden = metrics["held_out"], read_records(folder.records / "golden.jsonl")
    every = {name: list(read_responses(path)) for name, path in response_files(folder, config).items()}
    drawn = {name: [row for row in rows if is_drawn(row)] for name, rows in every.items()}
    cut = {name: cut_share(rows) for name, rows in drawn.items()}
    source = Path(config.data.source).name.removeprefix("hf:")
    asked = read_records(folder.records / "test.jsonl")[: config.simulate.n_responses]
    return ReportData(
        title=page_title(config.data.task, source),
        source=source,
        task="responses",
        language_model=config.model.lm,
        scorer=metrics["scored_by"] if metrics["is_surrogate"] else "",
        judge=metrics["judged_by"],
        encoder=config.model.encoder,
        n_records=fitted.info.get("n_records", config.data.train + config.data.valid),
        n_held_out=held_out["n_records"],
        methods={
            name: row | ({"cut_share": cut[name]} if name in cut else {}) for name, row in metrics["methods"].items()
        },
        closed=metrics.get("closed"),
        best=metrics.get("best"),
        respondents=metrics.get("respondents"),
        side_by_side=side_by_side(asked, drawn),
        held_out={key: held_out[key] for key in ("mop", "mop-uniform", "gain", "gain_interval")},
        references=[
            {"name": reference_name(name, row), "what": _what(name, row), **row}
            for name, row in held_out["references"].items()
        ],
        fit_notes=fit_notes(fitted.info),
        map_points=_points(found["map"], golden, drawn),
        personas=_personas(fitted, found["gates"][0], metrics.get("respondents") or {}),
        exemplars=_exemplars(fitted, drawn["mop"]),
        gate_groups=found["gate_groups"],
        gates=np.array(found["gates"]),
        history=_history(fitted.info),
        best_step=fitted.info["history"][-1].get("kept_round"),
        histogram_edges=found["histogram_edges"],
        histograms=found["histograms"],
        real=[record.response for record in asked],
        responses=[row for rows in every.values() for row in rows],
        outcomes=metrics["outcomes"].get("mop", {}),
        all_outcomes=outcomes(replace(row, persona=None) for row in every["mop"]).get("", {}),
        problems={
            "Real records": [
                f"This page contains real records: {len(fitted.exemplars)} exemplars and "
                f"{len(golden)} texts to compare with, word for word. Audit it before you pass it on."
            ],
            "Models": _model_notes(metrics, fitted.info["betas"], folder.about.get("servers", {})),
            "Sampling": [
                *as_chosen(config.simulate, fitted).departures(),
                *way_notes(fitted.info.get("drawing") if config.simulate.tune else None),
            ],
            "Texts cut at the length limit": cut_notes(cut, config.simulate.max_tokens),
            "Draws that failed or were refused": [
                f"{name}: {count} of {len(every[name])} draws were refused or failed. They are left out "
                "of every figure; no other persona answered instead."
                for name, count in metrics["failed"].items()
                if count
            ],
            "Rows of the source": read_json(folder.records / "problems.json").get("says", []),
            "Personas and respondents": [said] if (said := respondent_sentence(metrics.get("respondents"))) else [],
            "Evaluation": found["notes"],
            "Persona weights": _weights_note(fitted.info),
        },
        settings=config_to_dict(config),
        versions=versions,
        cost=_cost(spent) | _remote_cost(folder.about.get("remote", {}), config),
        origins=_origins(config),
        command=f"mop run NEW_FOLDER --config {shlex.quote(_from_here(folder.config))}",
    )


def _personas(fitted: FittedMixture, weights: Sequence[float], respondents: Mapping[str, Any]) -> list[PersonaRow]:
    """Personas as fitted, with their mean weights over all contexts."""
    nothing = [None] * len(fitted.personas)
    real, errors = respondents.get("real_share") or nothing, fitted.info.get("persona_errors") or nothing
    shown = {record.key: record.response for record in fitted.exemplars}
    return [
        PersonaRow(
            key=persona.key,
            description=persona.description,
            weight=weight,
            weight_interval=None if error is None else odds_interval(weight, error),
            temperature=tau,
            size=persona.size,
            writer=persona.writer,
            sources=[shown[key] for key in persona.sources if key in shown],
            doubts=persona.doubts,
            real_share=share,
        )
        for persona, weight, tau, share, error in zip(
            fitted.personas, weights, fitted.temperatures.tolist(), real, errors, strict=True
        )
    ]


def _exemplars(fitted: FittedMixture, responses: Sequence[Response]) -> list[ExemplarUse]:
    """The pool, and how often each exemplar was shown."""
    used = Counter(key for row in responses for key in (row.exemplar or "").split())
    return [
        ExemplarUse(key=record.key, context=record.context, response=record.response, uses=used[record.key])
        for record in fitted.exemplars
    ]


def _cost(spent: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Calls of the language model, and tokens written and scored, from (calls, tokens) of each stage."""
    written = sum(tokens for stage, (_, tokens) in spent.items() if stage.startswith("simulate"))
    return {
        "lm_calls": sum(calls for calls, _ in spent.values()),
        "generated_tokens": written,
        "scored_tokens": sum(tokens for _, tokens in spent.values()) - written,
    }


def _from_here(file: Path) -> str:
    """A path as it can be typed here; short where it can be, since a page may be passed on."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def _model_notes(
    metrics: Mapping[str, Any], betas: Sequence[float], servers: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What a reader has to know about the models behind the figures."""
    notes = []
    if metrics["is_surrogate"]:
        notes.append(
            f"Gates and temperatures were fitted to the likelihoods of {metrics['scored_by']}, a "
            f"surrogate; {metrics['written_by']} wrote the responses. The held-out likelihood is the "
            "surrogate's. How well the fit suits the model that writes is seen only in the "
            "comparison with real texts."
        )
    if len(betas) == 1:
        notes.append(
            f"{metrics['scored_by']} scores at temperature {1 / betas[0]:g} only: temperatures were not fitted."
        )
    return notes + [f"{server['name']}: {doubt}" for server in servers.values() for doubt in server["doubts"]]


def _remote_cost(remote: Mapping[str, Mapping[str, Mapping[str, float]]], config: RunConfig) -> dict[str, float]:
    """Sums over all servers and stages; empty without a server."""
    rows = [row for stages in remote.values() for row in stages.values()]
    if not rows:
        return {}
    found = {
        "server_calls": sum(row["calls"] for row in rows),
        "repeated_calls": sum(row["retries"] for row in rows),
        "server_tokens": sum(row["prompt_tokens"] + row["completion_tokens"] + row["lost_tokens"] for row in rows),
    }
    if any(side.price_in is not None or side.price_out is not None for side in (config.remote, config.remote_scorer)):
        found["money"] = sum(row["cost"] for row in rows)
    return found


def _weights_note(info: Mapping[str, Any]) -> list[str]:
    """What to know about persona weights that no likelihood stands behind."""
    about = info.get("persona_weights")
    if about is None:
        return []
    return [
        f"{about['kind']}: not fitted by likelihood, one set of weights for every context, for "
        f"{about['model']}, from {about['samples_per_persona']} samples per persona and "
        f"{about['n_targets']} real responses"
    ]


def _what(name: str, row: Mapping[str, Any]) -> str:
    """What a reference is, in words."""
    n = row.get("best_of")
    return f"one persona with one exemplar, the best of {n} such components" if n else REFERENCES[name]


def fit_notes(info: Mapping[str, Any]) -> list[str]:
    """What the fit found out about itself, a sentence each."""
    notes = [fit_sentence(info)] if info.get("gain") else []
    if notes and info["gain"]["kind"] != "uniform":
        notes.append(
            "Two gains stand side by side: this one is cross-validated on the records of the fit, the one above is of "
            "test records that no fit has seen. They agree within their errors where nothing went wrong."
        )
    if info.get("stopped"):
        notes.append(f"The fit chose: {info['chosen']}. It ended because {info['stopped']}.")
    notes += [f"{line}." for line in headroom_lines(info.get("headroom"))]
    pool = info.get("pool")
    if pool:
        notes.append(
            f"Exemplars against the responses of the fit: energy distance {pool['distance']:.4f}, "
            f"p = {pool['p_value']:.3f} that two samples of one population differ as much "
            f"({pool['n_pool']} and {pool['n_target']} texts)."
        )
    certificate = info.get("certificate")
    if certificate and certificate["n_components"] == certificate["n_all"]:  # else it is loose
        notes.append(
            f"Certificate: on the {certificate['n_records']} validation records, no fixed weighting of all components "
            f"can gain more than {certificate['bound']:.3f} nats per record over this fit."
        )
    return notes


def _history(info: Mapping[str, Any]) -> list[dict[str, float]]:
    """Figures of each round or epoch under the report's names: what a fit in rounds calls valid is cross-validated."""
    name_of = (lambda name: name.replace("valid", "crossed")) if info["method"] == "rounds" else str
    return [
        {name_of(name): value for name, value in row.items() if isinstance(value, int | float)}
        for row in info["history"]
    ]


def _points(
    places: Mapping[str, Mapping[str, Any]], golden: Sequence[Record], responses: Mapping[str, Sequence[Response]]
) -> list[MapPoint]:
    """Real texts and those of methods at their places on the map."""
    points = []
    for name, of in places.items():
        rows = golden if name == GOLDEN else responses[name]
        for i, (x, y) in zip(of["rows"], of["places"], strict=True):
            kind, row = REAL if name == GOLDEN else name, rows[i]
            points.append(MapPoint(x=x, y=y, kind=kind, text=row.response, label=row.label or ""))
    return points


def _origins(config: RunConfig) -> list[dict[str, str]]:
    names = (config.model.lm, config.model.scorer, config.model.encoder, config.data.source)
    items = {name: EMBEDDED[name] for name in names if name in EMBEDDED}
    return [
        {"name": name, "kind": item.kind, "revision": item.revision, "licence": item.licence, "source": item.origin}
        for name, item in items.items()
    ]
