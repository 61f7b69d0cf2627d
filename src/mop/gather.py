"""A finished run folder to the plain values of its report; no model is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mop.artifacts import RunFolder, read_json
from mop.config import RunConfig, config_to_dict
from mop.data import read_records
from mop.embedded import EMBEDDED
from mop.fitted import load_mixture
from mop.likelihood import REFERENCES
from mop.report import REAL, ExemplarUse, MapPoint, PersonaRow, ReportData
from mop.simulate import read_responses
from mop.types import Record, Response


def response_files(folder: RunFolder, config: RunConfig) -> dict[str, Path]:
    """Response file of every method that the settings name, ``mop`` first."""
    return {
        "mop": folder.responses,
        **{name: folder.method(name) for name in config.simulate.controls},
    }


def report_data(
    folder: RunFolder,
    config: RunConfig,
    *,
    versions: Mapping[str, str],
    spent: Mapping[str, Sequence[int]],
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
    responses = {
        name: list(read_responses(path)) for name, path in response_files(folder, config).items()
    }
    golden = read_records(folder.records / "golden.jsonl")
    exemplars = {record.key: record for record in fitted.exemplars}
    used = Counter(
        key for r in responses["mop"] for key in (r.exemplar or "").split() if key in exemplars
    )
    weights = found["gates"][0]
    problems = read_json(folder.records / "problems.json")["counts"]
    return ReportData(
        title=_title(config),
        task="responses",
        language_model=config.model.lm,
        encoder=config.model.encoder,
        n_records=config.data.train + config.data.valid,
        n_held_out=config.data.test,
        methods=metrics["methods"],
        held_out={
            key: metrics["held_out"][key] for key in ("mop", "mop-uniform", "gain", "gain_interval")
        },
        references=[
            {"name": name, "what": REFERENCES[name], **row}
            for name, row in metrics["held_out"]["references"].items()
        ],
        fit_notes=fit_notes(fitted.info, metrics["held_out"]),
        map_points=_points(found["map"], golden, responses),
        personas=[
            PersonaRow(
                key=persona.key,
                description=persona.description,
                weight=weight,
                temperature=tau,
                temperature_interval=interval,
                size=persona.size,
                writer=persona.writer,
                sources=[exemplars[key].response for key in persona.sources if key in exemplars],
                doubts=persona.doubts,
            )
            for persona, weight, tau, interval in zip(
                fitted.personas,
                weights,
                fitted.temperatures.tolist(),
                (fitted.info["temperatures"] or {}).get("intervals") or [()] * len(fitted.personas),
                strict=True,
            )
        ],
        exemplars=[
            ExemplarUse(key=key, context=record.context, response=record.response, uses=used[key])
            for key, record in exemplars.items()
        ],
        gate_groups=found["gate_groups"],
        gates=np.array(found["gates"]),
        history=[
            {key: value for key, value in row.items() if isinstance(value, int | float)}
            for row in fitted.info["history"]
        ],
        histogram_edges=found["histogram_edges"],
        histograms=found["histograms"],
        responses=[r for rows in responses.values() for r in rows],
        problems={
            "Rows of the source": [f"{count} rows: {code}" for code, count in problems.items()],
            "Evaluation": found["notes"],
            "Records that no component explains": uncovered(fitted.info),
        },
        settings=config_to_dict(config),
        versions=versions,
        cost={
            "lm_calls": sum(calls for calls, _ in spent.values()),
            "generated_tokens": sum(
                t for stage, (_, t) in spent.items() if stage.startswith("simulate")
            ),
            "scored_tokens": sum(
                t for stage, (_, t) in spent.items() if not stage.startswith("simulate")
            ),
        },
        origins=_origins(config),
        command=f"mop run --config {folder.path.name}/config.json --out NEW_FOLDER",
    )


def fit_notes(info: Mapping[str, Any], held_out: Mapping[str, Any]) -> list[str]:
    """What the fit found out about itself, a sentence each."""
    notes = []
    if info.get("stopped"):
        notes.append(f"The fit chose: {info['chosen']}. It ended because {info['stopped']}.")
    if info.get("growth"):
        kept = sum(1 if row["step"] == "grow" else -1 for row in info["growth"]["path"])
        notes.append(
            f"{kept} of {info['growth']['n_candidates']} candidate personas were kept, by held-out "
            "likelihood."
        )
    certificate = info.get("certificate")
    if certificate:
        notes.append(
            f"Certificate: on the {certificate['n_records']} validation records, no fixed weighting of the "
            f"{certificate['n_components']} components scored for all of them can gain more than "
            f"{certificate['bound']:.3f} nats per record over this fit."
        )
    taus = info.get("temperatures")
    if taus:
        low, high = taus["gain_interval"]
        notes.append(
            f"A temperature per persona gains {taus['gain_over_single']:+.3f} nats per record over a "
            f"single one (cross-validated, 95 % interval {low:+.3f} to {high:+.3f})"
            + ("; a single one was kept." if taus["is_single"] else ".")
        )
    gain = held_out.get("temperatures")
    if gain:
        low, high = gain["gain_interval"]
        notes.append(
            f"On held-out texts, against the single temperature {gain['single_tau']:.2f}: "
            f"{gain['gain']:+.3f} nats per record ({low:+.3f} to {high:+.3f})."
        )
    return notes


def uncovered(info: Mapping[str, Any]) -> list[str]:
    """Records of the fit that even the best component makes no more probable than the plain model does."""
    found = info.get("coverage")
    if not found or not found["n_uncovered"]:
        return []
    lines = [f"{found['n_uncovered']} of {found['n_examined']} records examined."]
    lines += [
        f"{row['key']} ({row['gap']:+.3f} nats per token): {row['response']}"
        for row in found["least"]
        if row["is_uncovered"]
    ]
    if found["proposed"]:
        lines.append(f"A persona for them could be: {found['proposed']}")
    return lines


def _title(config: RunConfig) -> str:
    name = Path(config.data.source).name
    return f"A simulated population: {name.removeprefix('hf:')}"


def _points(
    places: Mapping[str, Mapping[str, Any]],
    golden: Sequence[Record],
    responses: Mapping[str, Sequence[Response]],
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
    for name in (config.model.lm, config.model.encoder, config.data.source):
        if name in EMBEDDED:
            item = EMBEDDED[name]
            found.append(
                {"name": name, "kind": item.kind, "revision": item.revision,
                 "licence": item.licence, "source": item.origin}
            )  # fmt: skip
    return found
