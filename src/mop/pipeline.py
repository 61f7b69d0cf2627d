"""The whole chain on a run folder: records, personas, fit, simulate, evaluate, report; the first file to read.

Each stage is one function below, in order. A stage that is done is skipped; a stage that was
interrupted continues, since every score and draw lies in the store as soon as it is made.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop import __version__
from mop.backends import open_model
from mop.backends.base import Generator, LanguageModel, Scorer, as_generator, as_scorer
from mop.backends.encoder import Encoder, embed, open_encoder
from mop.backends.ledger import Ledger
from mop.backends.remote import RemoteGenerator
from mop.backends.spending import Planned, Spending
from mop.config import (
    RemoteSettings,
    RunConfig,
    config_from_dict,
    config_to_dict,
    method_and_tau,
)
from mop.data.catalogue import EMBEDDED
from mop.data.pull import resolve, sha256
from mop.data.records import load_records, read_records, save_records, split_records
from mop.data.split_files import load_splits, split_files
from mop.errors import ArtifactError, ConfigError
from mop.evaluate.samples import FLOOR, evaluate, text_map
from mop.evaluate.sense import JUDGED, log_lik_per_token
from mop.mixture.fit import fit_mixture
from mop.mixture.fitted import (
    FittedMixture,
    context_text,
    load_mixture,
    persona_shares,
    save_mixture,
)
from mop.mixture.headroom import fit_sentence
from mop.mixture.likelihood import (
    Likelihood,
    Table,
    references,
    score_for_likelihood,
    summarise,
)
from mop.mixture.score import distinct
from mop.personas.cluster import cluster
from mop.personas.writers import (
    keyword_personas,
    llm_personas,
    random_personas,
    read_personas,
    record_personas,
    save_personas,
)
from mop.prompts import PROMPT_VERSION
from mop.randomness import derive_seed
from mop.report.page import draw_figures, write_report
from mop.report.plots import save_figures
from mop.report.report_data import report_data, response_files
from mop.rivals.methods import Ingredients, needs_mixture, needs_scorer, respond
from mop.simulate.refit import refit_black_box
from mop.simulate.write import (
    cut_share,
    is_drawn,
    outcomes,
    read_responses,
    shown_to,
    write_responses,
)
from mop.storage.run_folder import RunFolder, hash_of, read_json, write_json, write_parquet
from mop.storage.store import Store
from mop.types import Progress, Record, Response

logger = logging.getLogger(__name__)

STAGE_VERSIONS = {"records": 2, "personas": 2, "fit": 6, "simulate": 2, "evaluate": 8, "report": 4}
"""Raised when a stage would make something else from the same inputs, so that old runs redo it."""

SPLITS = ("exemplars", "train", "valid", "test", "golden")


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
    models = models or Models(config)
    with open_work(config, path, models, until=until, store=store, progress=progress) as work:
        return {"run": str(path), **bring_up(work, until)}


@contextmanager
def open_work(
    config: RunConfig,
    path: Path,
    models: Models,
    *,
    until: str,
    also: Collection[str] = (),
    store: Store | None = None,
    progress: Progress | None = None,
) -> Iterator[Work]:
    """Open the models of a run, its folder, its store and the account of its servers; close all but the models.

    Parameters
    ----------
    config, path, store
        As for `run`.
    models : Models
    until, also
        What is going to be done; see `Models.open_for`.
    progress : callable, optional
        As for `run`. The account of another run (`Work.progress`) stays one account: what the
        servers cost here is entered there, and counts towards the ceilings there.

    Raises
    ------
    ConfigError
        Without ``data.source``, before anything is opened.
    """
    if not config.data.source:
        raise ConfigError(
            "data.source is empty; name a file, rotten-tomatoes or hf:ORG/NAME, or the folder of a run that has been "
            f"begun; nothing was made in {path}"
        )
    ledgers = models.open_for(until, also=also)
    if isinstance(progress, Spending):
        ledgers = {}
    with ExitStack() as opened:
        folder = opened.enter_context(RunFolder.create(path))
        if store is None:
            store = opened.enter_context(Store(folder.store))
        spending = Spending(
            ledgers,
            kept=folder.about.get("remote", {}),
            keep=lambda rows: folder.describe(remote=rows),
            progress=progress,
        )
        try:
            yield Work(config, folder, store, models, spending)
        finally:  # what was spent has to be known after a stop, too
            spending.save()


def bring_up(work: Work, until: str) -> dict[str, Any]:
    """Do each stage that is not done, up to ``until``; see `run`."""
    config, folder = work.config, work.folder
    result: dict[str, Any] = {"done": [], "skipped": []}
    inputs: dict[str, Any] = {"format": 1}
    for name, stage in STAGES.items():
        inputs_hash = hash_of([inputs, STAGE_VERSIONS[name], work.inputs_of(name)])
        if folder.stage_done(name, inputs_hash) and (
            name != "personas" or folder.personas.is_file()
        ):
            result["skipped"].append(name)
        else:
            began, earlier = time.monotonic(), _stopped_after(folder, name, inputs_hash)
            paid = _n_paid(work.store)
            work.progress.begin(name, planned_calls(config, name, until))
            try:
                with work.store.tally() as tally:
                    files, headline = stage(work)
            except BaseException:
                seconds = round(earlier + time.monotonic() - began, 1)
                with suppress(ArtifactError):  # a full disk: what stopped the stage is to be seen
                    folder.describe(
                        stopped={"stage": name, "inputs": inputs_hash, "seconds": seconds}
                    )
                raise
            if earlier:  # counted now
                folder.describe(stopped={})
            asked = tally.costs()
            if sum(cost.calls for cost in asked.values()) > _n_paid(work.store) - paid:
                # Some answers were paid for when the stage was made before: so was their time.
                earlier += (
                    folder.stage_info(name).get("seconds", 0.0) if name in folder.stages else 0.0
                )
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
    write_json(folder.config, config_to_dict(config))
    folder.describe(seed=config.seed, models=work.identities(), versions=_versions())
    work.describe()
    return result


def _n_paid(store: Store) -> int:
    """How many answers a store ever paid for."""
    return sum(cost.calls for cost in store.spent().values())


def _stopped_after(folder: RunFolder, stage: str, inputs_hash: str) -> float:
    """Seconds of the attempts at a stage that ended with an error or an interrupt, not by a kill."""
    stopped = folder.about.get("stopped", {})
    is_same = stopped.get("stage") == stage and stopped.get("inputs") == inputs_hash
    return float(stopped["seconds"]) if is_same else 0.0


def planned_calls(config: RunConfig, first: str, last: str) -> list[Planned]:
    """Calls of the language models from one stage to another, where the settings say how many.

    Rounds may end early and the store may hold some, so it is fewer in the end; methods that draw more
    than a response for each context, and the persona writer, are not foreseen.
    """
    data, fit, simulate, evaluate = config.data, config.fit, config.simulate, config.evaluate
    scorer = "lm" if config.model.scorer in ("", config.model.lm) else "scorer"
    roles = {"": scorer, config.model.lm: "lm", config.model.scorer or config.model.lm: scorer}
    judge = roles.get(evaluate.judge, "judge")
    per_round = data.train * fit.components_per_record + data.valid * fit.valid_components
    n_examined = min(fit.coverage_records, data.train + data.valid)
    n_test = min(data.test, evaluate.test_records)
    n_references = 2 * evaluate.test_components + 2
    n_contexts, n_sets = min(data.test, simulate.n_responses), 1 + len(simulate.controls)
    n_draws = n_contexts * n_sets
    found = [
        Planned(
            "fit", scorer, 0 if fit.method == "paper" else fit.n_rounds * per_round + n_examined
        ),
        Planned("simulate", "lm", n_draws, simulate.max_tokens),
        Planned("evaluate", scorer, n_test * (evaluate.test_components + n_references)),
    ]
    n_judged = min(JUDGED, n_contexts) * (n_sets + 1)
    if judge == found[-1].role:
        found[-1] = replace(found[-1], calls=found[-1].calls + n_judged)
    else:
        found.append(Planned("evaluate", judge, n_judged))
    stages = list(STAGES)
    names = stages[stages.index(first) : stages.index(last) + 1]
    return [planned for planned in found if planned.stage in names and planned.calls]


class Models:
    """The frozen language models of a run: one writes, and the same or another one scores.

    Weights load, and servers are asked, when a model is first needed.

    Parameters
    ----------
    config : RunConfig
        Names them.
    lm, scorer : optional
        Ready-made ones instead of those named.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        lm: LanguageModel | Generator | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        self._config = config
        self._lm = lm
        self._scorer = scorer

    @cached_property
    def generator(self) -> LanguageModel | Generator:
        """The model that writes."""
        return self._lm if self._lm is not None else open_lm(self._config)

    @cached_property
    def scorer(self) -> Scorer:
        """The model that scores.

        Raises
        ------
        ScoringUnsupportedError
            If it cannot.
        """
        if self._scorer is not None:
            return self._scorer
        model = self._config.model
        if model.scorer in ("", model.lm):
            return as_scorer(self.generator)
        return open_scorer(self._config)

    @cached_property
    def judge(self) -> Scorer:
        """The model that judges whether texts make sense; that which scores, unless another one is named.

        Raises
        ------
        ScoringUnsupportedError
            If it cannot.
        """
        name, model = self._config.evaluate.judge, self._config.model
        if name in ("", model.scorer or model.lm):
            return self.scorer
        if name == model.lm:
            return as_scorer(self.generator)
        return as_scorer(_open(self._config, name, self._config.remote_scorer))

    @property
    def has_own_judge(self) -> bool:
        """Whether `judge` is neither the model that writes nor the one that scores."""
        model = self._config.model
        return self._config.evaluate.judge not in ("", model.lm, model.scorer)

    @property
    def is_surrogate(self) -> bool:
        """Whether another model scores than writes."""
        writer: object = self.generator
        return self.scorer is not writer

    def open_for(self, until: str, *, also: Collection[str] = ()) -> dict[str, Ledger]:
        """Open what the stages up to ``until`` need; return the ledgers of those that are servers.

        ``also``: roles (``lm``, ``scorer``, ``judge``) that are needed for something else besides.

        Raises
        ------
        ScoringUnsupportedError
            If the model that should score cannot.
        ConfigError
            If a model cannot do what the settings ask of it.
        """
        stages = list(STAGES)[: list(STAGES).index(until) + 1]
        opened: dict[str, object] = {}
        writes = self._config.personas.writer == "llm" and "personas" in stages
        if "lm" in also or "simulate" in stages or writes:
            opened["lm"] = self.generator
        if "scorer" in also or "fit" in stages:
            opened["scorer"] = self.scorer
        if self.has_own_judge and ("judge" in also or "evaluate" in stages):
            opened["judge"] = self.judge
        if self._config.simulate.mix == "tokens" and isinstance(opened.get("lm"), RemoteGenerator):
            raise ConfigError(
                'simulate.mix = "tokens" averages next-token distributions, which a server does '
                f'not give, got {self._config.model.lm}; use mix = "prompt" or "neighbours", or a local model'
            )
        # A model that does both has one account, whichever half is opened first.
        writer: object = self.__dict__.get("generator")
        return {
            "lm" if model is writer else role: model.ledger
            for role, model in opened.items()
            if isinstance(model, RemoteGenerator)
        }

    def servers(self) -> dict[str, dict[str, Any]]:
        """What was found out about the servers that were called, by role; for the manifest."""
        found = {}
        roles = [("lm", "generator"), ("scorer", "scorer")]
        for role, attribute in [*roles, *([("judge", "judge")] if self.has_own_judge else [])]:
            model = self.__dict__.get(attribute)
            if isinstance(model, RemoteGenerator) and model.ledger.calls:
                findings = model.findings
                noise = [found.noise for found in findings.conformance.values()]
                found[role] = {
                    "name": model.name,
                    "kind": findings.kind,
                    "reported_models": dict(findings.reported_models),
                    "is_seeded": findings.is_seeded,
                    "scoring_noise": max(noise, default=None),
                    "replaced_controls": model.ledger.replaced_controls,
                    "doubts": list(findings.doubts),
                }
        return found


def simulate_method(
    config: RunConfig,
    path: Path,
    method: str,
    *,
    progress: Progress | None = None,
    models: Models | None = None,
) -> dict[str, Any]:
    """Draw one response per test context with one method, doing first what it needs and no more.

    Parameters
    ----------
    config, path, progress, models
        As for `run`.
    method : str
        ``mop`` or one of `mop.config.METHODS`; ``NAME@TAU`` for another temperature than
        ``simulate.control_tau``.

    Returns
    -------
    dict
        ``run``, ``method``, ``n_responses``, ``empty`` (how many were drawn but have no text),
        ``cut`` (at the length limit), ``failed`` (how many could not be had), ``file``.

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
    until = "fit" if needs_mixture(method) else "records"
    also = ("lm", "scorer") if needs_scorer(method) else ("lm",)
    models = models or Models(config)
    with open_work(config, path, models, until=until, also=also, progress=progress) as work:
        bring_up(work, until)
        contexts = work.records("test")[: config.simulate.n_responses]
        file = work.folder.method(method)
        work.progress.begin("simulate")
        responses = list(respond(method, contexts, ingredients_of(work, method)))
        write_responses(file, responses)
        work.describe()
    drawn = [response for response in responses if is_drawn(response)]
    return {
        "run": str(path),
        "method": method,
        "n_responses": len(responses),
        "empty": sum(not response.response.strip() for response in drawn),
        "cut": sum(response.finish_reason == "length" for response in drawn),
        "failed": len(responses) - len(drawn),
        "file": str(file),
    }


@dataclass(frozen=True)
class Work:
    """What the stages of one run share: settings, folder, store, frozen models, and the account."""

    config: RunConfig
    folder: RunFolder
    store: Store
    models: Models
    progress: Spending
    """Called as ``progress(what, done, total)``."""

    @property
    def lm(self) -> Generator:
        """The language model that writes."""
        return as_generator(self.models.generator)

    @property
    def scorer(self) -> Scorer:
        """The language model that scores; usually the same."""
        return self.models.scorer

    @cached_property
    def encoder(self) -> Encoder:
        """The sentence encoder."""
        model = self.config.model
        return open_encoder(model.encoder, device=model.torch_device)

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
                "source": self.source_stamp(),
            }
        if stage == "personas":
            writer = self.lm.generate_identity if config["personas"]["writer"] == "llm" else ""
            return {
                "personas": config["personas"],
                "seed": seed,
                "lm": writer,
                "encoder": self.encoder.identity,
                "file": _source_stamp(config["personas"]["path"] or ""),
            }
        if stage == "fit":
            return {
                **(
                    {"budget": 2} if config["fit"]["max_lm_tokens"] else {}
                ),  # goes by lengths since
                "fit": config["fit"],
                "seed": seed,
                "lm": self.scorer.score_identity,
                "prompts": PROMPT_VERSION,
                "personas": hash_of(self._personas_now()),
            }
        if stage == "simulate":
            controls = {method_and_tau(name)[0] for name in self.config.simulate.controls}
            draws_rivals = controls & {"zerogen", "attrprompt", "progen"}
            return {
                "simulate": config["simulate"],
                "seed": seed,
                "lm": self.lm.generate_identity,
                "prompts": PROMPT_VERSION,
                **self.tolerance(),
                **({"compare": config["compare"]} if draws_rivals else {}),
            }
        if stage == "evaluate":
            return {
                "evaluate": config["evaluate"],
                "seed": seed,
                "lm": self.scorer.score_identity,
                "judge": self.models.judge.score_identity,
            }
        return {"version": __version__}  # fmt: skip

    def source_stamp(self) -> str:
        """What the source is, or was when the records were read, if it is no longer there."""
        name = self.config.data.source
        if not _is_path(name) or Path(name).expanduser().exists():
            return _source_stamp(name)
        return str(self.folder.about.get("models", {}).get("data", name))

    def tolerance(self) -> dict[str, float]:
        """The share of failed draws that is allowed; only a server's draws can fail."""
        if not isinstance(self.models.generator, RemoteGenerator):
            return {}
        return {"max_failed_share": self.config.remote.max_failed_share}

    def identities(self) -> dict[str, str]:
        """Identities of the models that were opened and of the data, for the manifest."""
        found = {"data": self.source_stamp()}
        opened = self.models.__dict__
        if "generator" in opened:
            found["lm"] = self.lm.generate_identity
        if "scorer" in opened and opened["scorer"] is not opened.get("generator"):
            found["scorer"] = self.scorer.score_identity
        if "judge" in opened and self.models.has_own_judge:
            found["judge"] = self.models.judge.score_identity
        if "encoder" in self.__dict__:
            found["encoder"] = self.encoder.identity
        return found

    def describe(self) -> None:
        """Enter in the manifest what was found out about servers, and what was drawn and scored."""
        self.folder.describe(
            servers={**self.folder.about.get("servers", {}), **self.models.servers()},
            spent={stage: list(cost) for stage, cost in self.store.spent().items()},
        )

    def _personas_now(self) -> list[str]:
        return [persona.description for persona in read_personas(self.folder.personas)]


# ------------------------------------------------------------------------------------------ the stages

Made = tuple[list[Path], dict[str, Any]]
"""The files of a stage, and its headline."""


def make_records(work: Work) -> Made:
    """Read the source, leave out what cannot be used, divide the rest."""
    data = work.config.data
    columns: dict[str, Any] = {
        "context": data.context,
        "response": data.response,
        "label": data.label,
        "key": data.key,
        "weight": data.weight,
        "group": data.group,
        "strict": data.strict,
        "duplicates": data.duplicates,
    }
    sizes = {name: int(getattr(data, name)) for name in SPLITS}
    source, seed = _source(data.source), work.config.seed
    given = split_files(source) if isinstance(source, Path) and source.is_dir() else {}
    splits: dict[str, list[Record]] = {}
    if given:
        splits, parts = load_splits(given, sizes, seed=seed, **columns)
    else:
        parts = [load_records(source, **columns)]
    # Before a split can fail: what was left out is often why.
    listed = work.folder.records / "problems.json"
    problems = [asdict(problem) for loaded in parts for problem in loaded.problems]
    counts = dict(sum((Counter(loaded.counts) for loaded in parts), Counter()))
    write_json(listed, {"counts": counts, "problems": problems})
    for code, count in counts.items():
        logger.warning("%d rows: %s (see records/problems.json)", count, code)
    splits = splits or split_records(
        parts[0].records, sizes, seed=seed, by_group=data.group is not None
    )
    files = [listed]
    for name, records in splits.items():
        files.append(work.folder.records / f"{name}.jsonl")
        save_records(records, files[-1])
    usable = sum(len(loaded.records) for loaded in parts)
    return files, {"rows": sum(loaded.n_rows for loaded in parts), "usable": usable, **sizes}


def make_personas(work: Work) -> Made:
    """Cluster the exemplars and describe each cluster, or take the user's personas."""
    settings, target = work.config.personas, work.folder.personas
    if settings.path is not None:
        personas = read_personas(Path(settings.path).expanduser())
    else:
        exemplars = work.records("exemplars")
        vectors = work.embed([record.response for record in exemplars])
        k = settings.n_clusters(len(np.unique(vectors, axis=0)))
        clustering = cluster(vectors, k, seed=work.config.seed)
        if settings.writer == "random":
            personas = random_personas(exemplars, k, seed=work.config.seed)
        elif settings.writer == "record":
            personas = record_personas(exemplars, clustering)
        elif settings.writer == "keywords":
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
                work.lm,
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
    info = {
        **fitted.info,
        "lm": config.model.lm,
        "scorer": config.model.scorer,
        "encoder": config.model.encoder,
    }
    save_mixture(replace(fitted, info=info), work.folder.mixture)
    work.__dict__.pop("fitted", None)
    history = fitted.info["history"]
    headline = {key: fitted.info[key] for key in ("chosen", "uniform_tau", "n_cells", "stopped")}
    certificate = fitted.info["certificate"] or {"n_components": 0, "n_all": 1}
    is_whole = certificate["n_components"] == certificate["n_all"]
    return [work.folder.mixture], {
        **({"says": fit_sentence(fitted.info)} if fitted.info["gain"] else {}),
        **headline,
        "valid": history[history[-1]["kept_round"]]["valid"],
        "n_personas": len(fitted.personas),
        "certificate": certificate["bound"] if is_whole else None,
    }


def make_responses(work: Work) -> Made:
    """Draw one response per test context with the mixture, and with each control."""
    settings = work.config.simulate
    contexts = work.records("test")[: settings.n_responses]
    ingredients = ingredients_of(work)
    for departure in settings.departures():
        logger.warning("%s", departure)
    files, cut = [], {}
    for method in ("mop", *settings.controls):
        path = work.folder.responses if method == "mop" else work.folder.method(method)
        responses = respond(method, contexts, ingredients)
        write_responses(path, responses)
        files.append(path)
        cut[method] = round(cut_share(read_responses(path)), 4)
    write_parquet(work.folder.responses_parquet, read_responses(work.folder.responses))
    return [*files, work.folder.responses_parquet], {
        "n_responses": len(contexts),
        "methods": len(files),
        "cut_share": cut,
    }


def ingredients_of(work: Work, method: str = "mop") -> Ingredients:
    """What a method of a run is made from; by default all that any method needs."""
    config, is_fitted = work.config, needs_mixture(method)
    return Ingredients(
        config=config,
        exemplars=work.fitted.exemplars if is_fitted else distinct(work.records("exemplars")),
        mixture=work.fitted if is_fitted else None,
        lm=work.lm,
        scorer=work.scorer if needs_scorer(method) else None,
        encoder=work.encoder,
        store=work.store,
        seed=config.seed,
        progress=work.progress,
    )


def make_metrics(work: Work) -> Made:
    """Compare what was simulated with the golden records, and score held-out records."""
    config = work.config
    contexts = work.records("test")[: config.simulate.n_responses]
    every = {
        name: list(read_responses(path))
        for name, path in response_files(work.folder, config).items()
    }
    responses = {name: [r for r in rows if is_drawn(r)] for name, rows in every.items()}
    shown = {record.key: record.response for record in work.fitted.exemplars}
    weight = {record.key: record.weight for record in contexts}
    golden = work.records("golden")
    evaluation = evaluate(
        {name: [r.response for r in rows] for name, rows in responses.items()},
        [record.response for record in golden],
        [record.response for record in contexts],
        encoder=work.encoder,
        store=work.store,
        n_seeds=config.evaluate.n_seeds,
        n_bootstrap=config.evaluate.n_bootstrap,
        seed=config.seed,
        exemplar_texts={
            name: [shown_to(r, shown) for r in rows] for name, rows in responses.items()
        },
        judged=judged(work, {**responses, FLOOR: contexts}),
        judge=work.models.judge.name,
        weights={
            **{name: [weight[r.id] for r in rows] for name, rows in responses.items()},
            FLOOR: [record.weight for record in contexts],
            "golden": [record.weight for record in golden],
        },
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
            "written_by": work.lm.name,
            "scored_by": work.scorer.name,
            "is_surrogate": work.models.is_surrogate,
            "judged_by": evaluation.judge,
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
        **{key: mop[key] for key in ("energy", "fid_excess", "fid", "mauve", "kl_cosine", "sense")},
        **{f"held_out_{key}": held_out[key] for key in ("gain", "gain_interval")},
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


def open_lm(config: RunConfig) -> LanguageModel | Generator:
    """The language model of a configuration."""
    return _open(config, config.model.lm, config.remote)


def open_scorer(config: RunConfig) -> Scorer:
    """The model of a configuration that scores.

    Raises
    ------
    ScoringUnsupportedError
        If it cannot score.
    """
    model = config.model
    if model.scorer in ("", model.lm):
        return as_scorer(open_lm(config))
    return as_scorer(_open(config, model.scorer, config.remote_scorer))


def _open(config: RunConfig, name: str, remote: RemoteSettings) -> LanguageModel | Generator:
    model = config.model
    if name.startswith("openai:"):
        # Which share of a method's draws may fail is judged over all of them, by `simulate`.
        return open_model(name, settings=replace(remote, max_failed_share=1.0))
    return open_model(
        name,
        device=model.torch_device,
        dtype=model.torch_dtype,
        memory_gib=model.memory_gib,
    )


def refit(
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
        description, ``before`` (mean weight over the population), ``weight`` and ``failed`` (samples
        that could not be had).

    Raises
    ------
    ArtifactError
        If the run holds no fitted mixture.
    """
    own = RunFolder.open(path).mixture  # refuses what is no run, where open_work would begin one
    if out is not None and out.resolve() == own.resolve():
        raise ConfigError(
            f"{str(out)!r} is the fitted mixture of the run, which others are made from; give another folder"
        )
    name = config.model.lm if lm is None else lm
    models = Models(replace(config, model=replace(config.model, lm=name)))
    with open_work(config, path, models, until="records", also=("lm",), progress=progress) as work:
        work.progress.begin("refit")
        population = [*work.records("train"), *work.records("valid")]
        refitted = refit_black_box(
            work.fitted,
            population,
            model=work.lm,
            encoder=work.encoder,
            store=work.store,
            samples_per_persona=samples_per_persona,
            decoding=ingredients_of(work, "zero-shot").decoding,  # asks for no scorer
            tau_factor=config.simulate.tau_factor,
            same_label=config.simulate.same_label,
            max_failed_share=config.remote.max_failed_share,
            seed=config.seed,
            progress=work.progress,
        )
        hx = work.embed([context_text(record) for record in population])
        before = persona_shares(work.fitted, hx, np.array([r.weight for r in population]))
        target = out or work.folder.path / "mixture-black-box"
        save_mixture(replace(refitted, info={**refitted.info, "lm": name}), target)
    about = refitted.info["persona_weights"]
    return {
        "run": str(path),
        "out": str(target),
        "persona_weights": about,
        "personas": [
            {
                "key": p.key,
                "description": p.description,
                "before": round(float(b), 6),
                "weight": w,
                "failed": failed,
            }
            for p, b, w, failed in zip(
                refitted.personas, before, about["weights"], about["failed"], strict=True
            )
        ],
    }


def verify(path: Path) -> dict[str, Any]:
    """Check the store and the files of a run; returns ``problems`` (empty if sound) and ``counts``."""
    folder = RunFolder.open(path)
    problems, file = folder.damaged(), folder.store
    if not file.is_file():
        return {"problems": [*problems, f"{file}: missing"], "counts": {}}
    with Store(file) as store:
        return {"problems": [*problems, *store.verify()], "counts": store.counts()}


def _source(name: str) -> Any:
    if name.startswith("hf:"):
        return name
    return _file_in(Path(resolve(name, kind="data")))


def _file_in(place: Path) -> Path:
    """The one file of a folder of records; a folder of splits, or a file, is itself."""
    return place / "records.csv" if (place / "records.csv").is_file() else place


def _source_stamp(name: str) -> str:
    """What a source is: content hash of a file, revision of an embedded set, else its name."""
    if name in EMBEDDED:
        return f"{name} {EMBEDDED[name].revision}"
    place = Path(name).expanduser()
    if not _is_path(name) or not place.exists():
        return name
    place = _file_in(place)
    if place.is_dir():
        return hash_of({part: sha256(file) for part, file in split_files(place).items()})
    return sha256(place)


def _is_path(name: str) -> bool:
    return bool(name) and name not in EMBEDDED and not name.startswith("hf:")


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
