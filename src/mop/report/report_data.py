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
from mop.mixture.fitted import load_mixture
from mop.mixture.headroom import fit_sentence, headroom_lines
from mop.mixture.likelihood import REFERENCES
from mop.report.page import REAL, ExemplarUse, MapPoint, PersonaRow, ReportData
from mop.simulate.write import cut_notes, cut_share, is_drawn, outcomes, read_responses
from mop.storage.run_folder import RunFolder, read_json
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
    fitted = load_mixture(folder.mixture)
    metrics, found = read_json(folder.metrics), read_json(folder.evaluation)
    every = {name: list(read_responses(path)) for name, path in response_files(folder, config).items()}
    responses = {name: [r for r in rows if is_drawn(r)] for name, rows in every.items()}
    cut = {name: cut_share(rows) for name, rows in every.items()}
    golden = read_records(folder.records / "golden.jsonl")
    exemplars = {record.key: record for record in fitted.exemplars}
    used = Counter(key for r in responses["mop"] for key in (r.exemplar or "").split() if key in exemplars)
    weights = found["gates"][0]
    problems = read_json(folder.records / "problems.json")["counts"]
    return ReportData(
        title=_title(config),
        task="responses",
        language_model=config.model.lm,
        scorer=metrics["scored_by"] if metrics["is_surrogate"] else "",
        judge=metrics["judged_by"],
        encoder=config.model.encoder,
        n_records=fitted.info.get("n_records", config.data.train + config.data.valid),
        n_held_out=metrics["held_out"]["n_records"],
        methods={
            name: {**row, **({"cut_share": cut[name]} if name in cut else {})}
            for name, row in metrics["methods"].items()
        },
        held_out={key: metrics["held_out"][key] for key in ("mop", "mop-uniform", "gain", "gain_interval")},
        references=[
            {"name": name, "what": _what(name, row), **row} for name, row in metrics["held_out"]["references"].items()
        ],
        fit_notes=fit_notes(fitted.info),
        map_points=_points(found["map"], golden, responses),
        personas=[
            PersonaRow(
                key=persona.key,
                description=persona.description,
                weight=weight,
                temperature=tau,
                size=persona.size,
                writer=persona.writer,
                sources=[exemplars[key].response for key in persona.sources if key in exemplars],
                doubts=persona.doubts,
            )
            for persona, weight, tau in zip(fitted.personas, weights, fitted.temperatures.tolist(), strict=True)
        ],
        exemplars=[
            ExemplarUse(key=key, context=record.context, response=record.response, uses=used[key])
            for key, record in exemplars.items()
        ],
        gate_groups=found["gate_groups"],
        gates=np.array(found["gates"]),
        history=_history(fitted.info),
        best_step=fitted.info["history"][-1].get("kept_round"),
        histogram_edges=found["histogram_edges"],
        histograms=found["histograms"],
        responses=[r for rows in every.values() for r in rows],
        outcomes=metrics["outcomes"].get("mop", {}),
        all_outcomes=outcomes(replace(r, persona=None) for r in every["mop"]).get("", {}),
        problems={
            "Models": _model_notes(metrics, fitted.info["betas"], folder.about.get("servers", {})),
            "Sampling": config.simulate.departures(),
            "Texts cut at the length limit": [
                note for name, share in cut.items() for note in cut_notes(name, share, config.simulate.max_tokens)
            ],
            "Draws that could not be had": _failure_notes(metrics["failed"], every),
            "Rows of the source": [f"{count} rows: {code}" for code, count in problems.items()],
            "Evaluation": found["notes"],
            "Persona weights": _weights_note(fitted.info),
        },
        settings=config_to_dict(config),
        versions=versions,
        cost={
            "lm_calls": sum(calls for calls, _ in spent.values()),
            "generated_tokens": sum(t for stage, (_, t) in spent.items() if stage.startswith("simulate")),
            "scored_tokens": sum(t for stage, (_, t) in spent.items() if not stage.startswith("simulate")),
            **_remote_cost(folder.about.get("remote", {}), config),
        },
        origins=_origins(config),
        command=f"mop run NEW_FOLDER --config {shlex.quote(_from_here(folder.config))}",
    )


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


def _failure_notes(failed: Mapping[str, int], responses: Mapping[str, Sequence[Response]]) -> list[str]:
    return [
        f"{name}: {count} of {len(responses[name])} draws were refused or failed. They are left out "
        "of every figure; no other persona answered instead."
        for name, count in failed.items()
        if count
    ]


def _remote_cost(remote: Mapping[str, Mapping[str, Mapping[str, float]]], config: RunConfig) -> dict[str, float]:
    """Sums over all servers and stages; empty without a server."""
    rows = [row for stages in remote.values() for row in stages.values()]
    if not rows:
        return {}
    tokens = sum(row["prompt_tokens"] + row["completion_tokens"] + row["lost_tokens"] for row in rows)
    found = {
        "server_calls": sum(row["calls"] for row in rows),
        "repeated_calls": sum(row["retries"] for row in rows),
        "server_tokens": tokens,
    }
    settings = (config.remote, config.remote_scorer)
    if any(s.price_in is not None or s.price_out is not None for s in settings):
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
    return f"one persona with one exemplar, the best of {n} such pairs" if n else REFERENCES[name]


def fit_notes(info: Mapping[str, Any]) -> list[str]:
    """What the fit found out about itself, a sentence each."""
    notes = [fit_sentence(info)] if info.get("gain") else []
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


def _title(config: RunConfig) -> str:
    name = Path(config.data.source).name
    return f"A simulated population: {name.removeprefix('hf:')}"


def _history(info: Mapping[str, Any]) -> list[dict[str, float]]:
    """Figures of each round or epoch under the report's names: what a fit in rounds calls valid is cross-validated."""
    crossed = info["method"] == "rounds"
    return [
        {
            name.replace("valid", "crossed") if crossed else name: value
            for name, value in row.items()
            if isinstance(value, int | float)
        }
        for row in info["history"]
    ]


def _points(
    places: Mapping[str, Mapping[str, Any]], golden: Sequence[Record], responses: Mapping[str, Sequence[Response]]
) -> list[MapPoint]:
    points = []
    for name, of in places.items():
        for row, (x, y) in zip(of["rows"], of["places"], strict=True):
            if name == "golden":
                text, label, kind = golden[row].response, golden[row].label, REAL
            else:
                text, label, kind = responses[name][row].response, responses[name][row].label, name
            points.append(MapPoint(x=x, y=y, kind=kind, text=text, label=label or ""))
    return points


def _origins(config: RunConfig) -> list[dict[str, str]]:
    found = []
    names = (config.model.lm, config.model.scorer, config.model.encoder, config.data.source)
    for name in dict.fromkeys(names):
        if name in EMBEDDED:
            item = EMBEDDED[name]
            found.append(
                {"name": name, "kind": item.kind, "revision": item.revision,
                 "licence": item.licence, "source": item.origin}
            )  # fmt: skip
    return found
