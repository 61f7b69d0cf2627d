"""The whole chain on a run folder: records, personas, fit, simulate, evaluate, report; the first file to read.

Each stage is one function below, in order. A stage that is done is skipped; a stage that was
interrupted continues, since every score and draw lies in the store as soon as it is made.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop import __version__
from mop.artifacts import RunFolder, hash_of, read_json, write_json, write_parquet
from mop.backends import open_model
from mop.backends.base import Generator, LanguageModel, as_generator, as_scorer
from mop.cluster import cluster
from mop.config import RunConfig, config_from_dict, config_to_dict
from mop.data import load_records, read_records, save_records, split_records
from mop.embed import Encoder, embed, open_encoder
from mop.embedded import EMBEDDED
from mop.errors import ArtifactError, ConfigError
from mop.evaluate import evaluate, text_map
from mop.fit import fit_mixture
from mop.fitted import (
    FittedMixture,
    context_text,
    draw_agents,
    load_mixture,
    save_mixture,
    uniform_mixture,
)
from mop.gather import report_data, response_files
from mop.likelihood import (
    Table,
    references,
    score_for_likelihood,
    summarise,
    temperature_gain,
)
from mop.personas import keyword_personas, llm_personas, read_personas, save_personas
from mop.plots import save_figures
from mop.prompts import PROMPT_VERSION
from mop.pull import resolve, sha256
from mop.randomness import derive_seed, generator
from mop.report import draw_figures, write_report
from mop.score import distinct
from mop.simulate import read_responses, simulate, write_responses
from mop.store import Store
from mop.types import Agent, Decoding, Progress, Record

logger = logging.getLogger(__name__)

STAGE_VERSIONS = {"records": 1, "personas": 1, "fit": 1, "simulate": 1, "evaluate": 1, "report": 1}
"""Raised when a stage would make something else from the same inputs, so that old runs redo it."""

SPLITS = ("exemplars", "train", "valid", "test", "golden")


def run(
    config: RunConfig, path: Path, *, until: str = "report", progress: Progress | None = None
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
    progress : callable, optional
        ``progress(what, done, total)``.

    Returns
    -------
    dict
        ``done`` (stages newly done), ``skipped`` and, for each stage up to ``until``, its headline.

    Raises
    ------
    ConfigError
        For an unknown stage.
    MopError
        Whatever stops a stage; what is done stays done.
    """
    if until not in STAGES:
        raise ConfigError(f"unknown stage {until!r}; stages: {', '.join(STAGES)}")
    with RunFolder.create(path) as folder, Store(folder.store) as store:
        work = Work(config, folder, store, progress)
        result: dict[str, Any] = {"run": str(path), "done": [], "skipped": []}
        inputs: dict[str, Any] = {"format": 1}
        for name, stage in STAGES.items():
            inputs_hash = hash_of([inputs, STAGE_VERSIONS[name], work.inputs_of(name)])
            if folder.stage_done(name, inputs_hash) and (
                name != "personas" or folder.personas.is_file()
            ):
                result["skipped"].append(name)
            else:
                began = time.monotonic()
                files, headline = stage(work)
                headline = {**headline, "seconds": round(time.monotonic() - began, 1)}
                folder.finish_stage(name, inputs_hash, files=files, info=headline)
                # Settings are kept once something was made with them: a refused value leaves no trace.
                write_json(folder.config, config_to_dict(config))
                result["done"].append(name)
            inputs = {"stage": name, "made": folder.stage_hash(name), "inputs": inputs_hash}
            result[name] = folder.stage_info(name)
            if name == until:
                break
        write_json(folder.config, config_to_dict(config))
        folder.describe(
            seed=config.seed,
            models=work.models(),
            versions=_versions(),
            spent={k: list(v) for k, v in store.spent().items()},
        )
        return result


@dataclass(frozen=True)
class Work:
    """What the stages of one run share: settings, folder, store and the two frozen models."""

    config: RunConfig
    folder: RunFolder
    store: Store
    progress: Progress | None

    @cached_property
    def lm(self) -> LanguageModel | Generator:
        """The language model; its weights load when it is first asked something."""
        return open_lm(self.config)

    @cached_property
    def encoder(self) -> Encoder:
        """The sentence encoder."""
        return open_encoder(self.config.model.encoder)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings (n, D), through the store."""
        return embed(texts, self.encoder, store=self.store, progress=self.progress)

    def records(self, split: str) -> list[Record]:
        """The records of one split."""
        return read_records(self.folder.records / f"{split}.jsonl")

    @cached_property
    def fitted(self) -> FittedMixture:
        """The fitted mixture of this run."""
        return load_mixture(self.folder.mixture)

    def inputs_of(self, stage: str) -> dict[str, Any]:
        """What a stage depends on besides the stages before it."""
        config, seed = config_to_dict(self.config), self.config.seed
        if stage == "records":
            return {
                "data": config["data"],
                "seed": seed,
                "source": _source_stamp(self.config.data.source),
            }
        if stage == "personas":
            writer = (
                as_generator(self.lm).generate_identity
                if config["personas"]["writer"] == "llm"
                else ""
            )
            return {
                "personas": config["personas"],
                "seed": seed,
                "lm": writer,
                "encoder": self.encoder.identity,
                "file": _source_stamp(config["personas"]["path"] or ""),
            }
        if stage == "fit":
            return {
                "fit": config["fit"],
                "seed": seed,
                "lm": as_scorer(self.lm).score_identity,
                "prompts": PROMPT_VERSION,
                "personas": hash_of(self._personas_now()),
            }
        if stage == "simulate":
            return {
                "simulate": config["simulate"],
                "seed": seed,
                "lm": as_generator(self.lm).generate_identity,
                "prompts": PROMPT_VERSION,
            }
        if stage == "evaluate":
            return {
                "evaluate": config["evaluate"],
                "seed": seed,
                "lm": as_scorer(self.lm).score_identity,
            }
        return {"version": __version__}  # fmt: skip

    def models(self) -> dict[str, str]:
        """Names and identities of the models and the data, for the manifest."""
        found = {"data": _source_stamp(self.config.data.source)}
        if "lm" in self.__dict__:
            found["lm"] = as_generator(self.lm).generate_identity
        if "encoder" in self.__dict__:
            found["encoder"] = self.encoder.identity
        return found

    def _personas_now(self) -> list[str]:
        return [persona.description for persona in read_personas(self.folder.personas)]


# ------------------------------------------------------------------------------------------ the stages

Made = tuple[list[Path], dict[str, Any]]
"""The files of a stage, and its headline."""


def make_records(work: Work) -> Made:
    """Read the source, leave out what cannot be used, divide the rest."""
    data = work.config.data
    if not data.source:
        raise ConfigError("data.source is empty; name a file, rotten-tomatoes or hf:ORG/NAME")
    loaded = load_records(
        _source(data.source),
        context=data.context,
        response=data.response,
        label=data.label,
        key=data.key,
        weight=data.weight,
        group=data.group,
        strict=data.strict,
    )
    sizes = {name: int(getattr(data, name)) for name in SPLITS}
    splits = split_records(
        loaded.records, sizes, seed=work.config.seed, by_group=data.group is not None
    )
    files = []
    for name, records in splits.items():
        files.append(work.folder.records / f"{name}.jsonl")
        save_records(records, files[-1])
    problems = [asdict(problem) for problem in loaded.problems]
    write_json(
        work.folder.records / "problems.json", {"counts": loaded.counts, "problems": problems}
    )
    for code, count in loaded.counts.items():
        logger.warning("%d rows: %s (see records/problems.json)", count, code)
    files.append(work.folder.records / "problems.json")
    return files, {"rows": loaded.n_rows, "usable": len(loaded.records), **sizes}


def make_personas(work: Work) -> Made:
    """Cluster the exemplars and describe each cluster, or take the user's personas."""
    settings, target = work.config.personas, work.folder.personas
    if settings.path is not None:
        personas = read_personas(Path(settings.path))
    else:
        exemplars = work.records("exemplars")
        vectors = work.embed([record.response for record in exemplars])
        k = settings.n_clusters(len(np.unique(vectors, axis=0)))
        clustering = cluster(vectors, k, seed=work.config.seed)
        if settings.writer == "keywords":
            personas = keyword_personas(
                exemplars,
                clustering,
                n_keywords=settings.n_keywords,
                n_sources=settings.n_sources,
            )
        else:
            personas = llm_personas(
                exemplars,
                clustering,
                as_generator(work.lm),
                task=work.config.data.task,
                seed=work.config.seed,
                n_sources=settings.n_sources,
                store=work.store,
                progress=work.progress,
            )
    _keep_edited(work.folder)
    save_personas(personas, target)
    doubtful = sum(bool(persona.doubts) for persona in personas)
    if doubtful:
        logger.warning(
            "%d of %d personas look doubtful; see their doubts in %s",
            doubtful,
            len(personas),
            target,
        )
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
    """Learn gates and temperatures from scores of the frozen model."""
    config = work.config
    fitted = fit_mixture(
        read_personas(work.folder.personas),
        distinct(work.records("exemplars")),
        work.records("train"),
        work.records("valid"),
        encoder=work.encoder,
        scorer=as_scorer(work.lm),
        store=work.store,
        task=config.data.task,
        settings=config.fit,
        seed=config.seed,
        chooses_personas=config.personas.n_personas == "auto",
        progress=work.progress,
    )
    info = {**fitted.info, "lm": config.model.lm, "encoder": config.model.encoder}
    save_mixture(replace(fitted, info=info), work.folder.mixture)
    work.__dict__.pop("fitted", None)
    best = max(fitted.info["history"], key=lambda row: row["valid"])
    headline = {key: fitted.info[key] for key in ("chosen", "uniform_tau", "n_cells", "stopped")}
    certificate = fitted.info["certificate"]
    return [work.folder.mixture], {
        **headline,
        "valid": best["valid"],
        "n_personas": len(fitted.personas),
        "certificate": None if certificate is None else certificate["bound"],
    }


def make_responses(work: Work) -> Made:
    """Draw one response per test context with the mixture, and with each control."""
    settings = work.config.simulate
    contexts = work.records("test")[: settings.n_responses]
    decoding = Decoding(
        max_tokens=settings.max_tokens,
        min_tokens=settings.min_tokens,
        top_p=settings.top_p,
        top_k=settings.top_k,
    )
    if settings.top_p < 1 or settings.top_k > 0:
        logger.warning("top-p or top-k is on: the sampler is not the fitted model")
    files = []
    for method in ("mop", *settings.controls):
        path = work.folder.responses if method == "mop" else work.folder.method(method)
        responses = simulate(
            contexts,
            agents_for(method, work, contexts),
            work.fitted.personas,
            work.fitted.exemplars,
            generator=as_generator(work.lm),
            store=work.store,
            decoding=decoding,
            seed=work.config.seed,
            method=method,
            task=work.config.data.task,
            progress=work.progress,
        )
        write_responses(path, responses)
        files.append(path)
    write_parquet(work.folder.responses_parquet, read_responses(work.folder.responses))
    return [*files, work.folder.responses_parquet], {
        "n_responses": len(contexts),
        "methods": len(files),
    }


def agents_for(
    method: str, work: Work, contexts: Sequence[Record]
) -> Sequence[Agent | tuple[Agent, ...]]:
    """Who answers each context under a method of this run.

    Raises
    ------
    ConfigError
        For an unknown method.
    """
    settings, seed, fitted = work.config.simulate, work.config.seed, work.fitted
    if method in ("mop", "mop-uniform"):
        mixture = fitted if method == "mop" else uniform_mixture(fitted)
        hx = work.embed([context_text(record) for record in contexts])
        drawn = draw_agents(mixture, hx, contexts, seed=seed, n_agents=settings.n_agents)
        if settings.mix == "prompt":
            return [_one_prompt(agents) for agents in drawn]
        return [agents[0] if len(agents) == 1 else agents for agents in drawn]
    tau = settings.control_tau
    if method == "zero-shot":
        return [Agent(None, (), tau)] * len(contexts)
    size = {"few-shot": len(fitted.exemplars), "persona-only": len(fitted.personas)}.get(method)
    if size is None:
        raise ConfigError(
            f"unknown method {method!r}; known: mop, mop-uniform, zero-shot, few-shot, persona-only"
        )
    own = fitted.own(contexts)
    agents = []
    for record, mine in zip(contexts, own.tolist(), strict=True):
        n_rows = size - (method == "few-shot" and mine >= 0)
        drawn_row = int(generator(seed, method, record.key).integers(n_rows))
        if method == "few-shot":
            row = drawn_row + (0 <= mine <= drawn_row)  # all exemplars but the record itself
            agents.append(Agent(None, (row,), tau, 0.0, -float(np.log(n_rows))))
        else:
            agents.append(Agent(drawn_row, (), tau, -float(np.log(n_rows))))
    return agents


def _one_prompt(agents: tuple[Agent, ...]) -> Agent:
    """``mix="prompt"``: the first agent's persona and temperature, and everybody's exemplars, each once."""
    exemplars = tuple(dict.fromkeys(j for agent in agents for j in agent.exemplars))
    return replace(agents[0], exemplars=exemplars)


def make_metrics(work: Work) -> Made:
    """Compare what was simulated with the golden records, and score held-out records."""
    config = work.config
    contexts = work.records("test")[: config.simulate.n_responses]
    responses = {
        name: list(read_responses(path))
        for name, path in response_files(work.folder, config).items()
    }
    shown = {record.key: record.response for record in work.fitted.exemplars}
    evaluation = evaluate(
        {name: [r.response for r in rows] for name, rows in responses.items()},
        [record.response for record in work.records("golden")],
        [record.response for record in contexts],
        encoder=work.encoder,
        store=work.store,
        n_seeds=config.evaluate.n_seeds,
        n_bootstrap=config.evaluate.n_bootstrap,
        seed=config.seed,
        exemplar_texts={
            name: [" ".join(shown[key] for key in (r.exemplar or "").split()) or None for r in rows]
            for name, rows in responses.items()
        },
        progress=work.progress,
    )
    held_out = held_out_likelihood(work)
    write_json(
        work.folder.metrics,
        {
            "methods": evaluation.methods,
            "held_out": held_out,
            "encoder": config.model.encoder,
            "n_golden": config.data.golden,
        },
    )
    places = text_map(evaluation, seed=derive_seed(config.seed, "map"))
    groups, gates = gates_by_label(work, contexts)
    write_json(
        work.folder.evaluation,
        {
            "notes": list(evaluation.notes),
            "histogram_edges": list(evaluation.histogram_edges),
            "histograms": evaluation.histograms,
            "map": {
                name: {"rows": rows.tolist(), "places": np.round(xy, 3).tolist()}
                for name, (rows, xy) in places.items()
            },
            "gate_groups": groups,
            "gates": np.round(gates, 6).tolist(),
        },
    )
    mop = evaluation.methods["mop"]
    return [work.folder.metrics, work.folder.evaluation], {
        **{key: mop[key] for key in ("fid", "mauve", "kl_cosine")},
        **{f"held_out_{key}": held_out[key] for key in ("gain", "gain_interval")},
    }


def gates_by_label(work: Work, contexts: Sequence[Record]) -> tuple[list[str], NDArray[np.float64]]:
    """Mean persona weights over all contexts, then over those of each of the 11 most frequent labels, (G, K)."""
    pi = np.exp(work.fitted.log_pi(work.embed([context_text(record) for record in contexts])))
    counts = Counter(record.label for record in contexts if record.label is not None)
    labels = [
        label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:11]
    ]
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
        scorer=as_scorer(work.lm),
        store=work.store,
        n_components=config.evaluate.test_components,
        seed=derive_seed(config.seed, "test"),
        progress=work.progress,
    )


def held_out_likelihood(work: Work) -> dict[str, Any]:
    """Mean held-out log-likelihood of the mixture and of the references, in nats per record."""
    table, fitted, seed = held_out_table(work), work.fitted, work.config.seed
    held_out = summarise(table, fitted, uniform_mixture(fitted), seed=seed)
    held_out["references"] = references(
        fitted,
        table,
        work.records("test")[: len(table.weight)],
        scorer=as_scorer(work.lm),
        store=work.store,
        n_components=work.config.evaluate.reference_components,
        seed=seed,
        progress=work.progress,
    )
    held_out["temperatures"] = temperature_gain(table, fitted, seed=seed)
    return held_out


def make_report(work: Work) -> Made:
    """One page for people."""
    data = report_data(work.folder, work.config, versions=_versions(), spent=work.store.spent())
    write_report(data, work.folder.report)
    save_figures(draw_figures(data), work.folder.figures)
    return [work.folder.report, work.folder.figures], {}


STAGES: Mapping[str, Callable[[Work], Made]] = {
    "records": make_records,
    "personas": make_personas,
    "fit": make_fit,
    "simulate": make_responses,
    "evaluate": make_metrics,
    "report": make_report,
}
"""In order; each needs the ones before it."""


# ---------------------------------------------------------------------------------------------- reading


def read_config(path: Path) -> RunConfig:
    """The configuration that a run folder was made with.

    Raises
    ------
    ArtifactError
        If the folder has none.
    """
    file = path / "config.json"
    if not file.is_file():
        raise ArtifactError(
            f"{path} has no config.json, so it is no run; start one with: mop run --out {path}"
        )
    return config_from_dict(read_json(file))


def open_lm(config: RunConfig, name: str | None = None) -> LanguageModel | Generator:
    """The language model of a configuration, or another one with its device, dtype and memory."""
    model = config.model
    return open_model(
        model.lm if name is None else name,
        device=None if model.device == "auto" else model.device,
        dtype=None if model.dtype == "auto" else model.dtype,
        memory_gib=model.memory_gib,
    )


def verify(path: Path) -> dict[str, Any]:
    """Check the store and the files of a run; returns ``problems`` (empty if sound) and ``counts``."""
    folder = RunFolder.open(path)
    problems = folder.damaged()
    if not folder.store.is_file():
        return {"problems": [*problems, f"{folder.store}: missing"], "counts": {}}
    with Store(folder.store) as store:
        return {"problems": [*problems, *store.verify()], "counts": store.counts()}


def _source(name: str) -> Any:
    if name.startswith("hf:"):
        return name
    place = Path(resolve(name, kind="data"))
    return place / "records.csv" if place.is_dir() else place


def _source_stamp(name: str) -> str:
    """What a source is: content hash of a file, revision of an embedded set, else its name."""
    if name in EMBEDDED:
        return f"{name} {EMBEDDED[name].revision}"
    return sha256(Path(name)) if name and Path(name).is_file() else name


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {
        "mop": __version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    for name in ("torch", "transformers", "sentence-transformers", "numpy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
