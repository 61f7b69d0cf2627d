"""What the stages of one run share: settings, folder, store, frozen models and the account of servers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop import __version__
from mop.backends import open_model
from mop.backends.base import Generator, LanguageModel, Scorer, as_generator, as_scorer
from mop.backends.encoder import TextEncoder, embed, open_encoder
from mop.backends.ledger import Ledger
from mop.backends.rehearsal import likely_taus
from mop.backends.remote import RemoteGenerator, rehearse
from mop.backends.spending import Planned, Spending
from mop.config import SPLITS, RemoteSettings, RunConfig, config_from_dict, config_to_dict, method_and_tau
from mop.data.catalogue import EMBEDDED
from mop.data.losses import require_few_lost
from mop.data.pull import resolve
from mop.data.records import load_records, read_records
from mop.data.split_files import split_files
from mop.errors import ArtifactError, ConfigError
from mop.evaluate.sense import JUDGED
from mop.mixture.fitted import FittedMixture
from mop.own_parts import stamp_of
from mop.personas.files import read_personas
from mop.prompts import PROMPT_VERSION
from mop.runs.trust import remember, require_word
from mop.simulate.way import load_with_way, n_pilots
from mop.storage.files import hash_of, read_json, sha256, system_errors
from mop.storage.run_folder import RunFolder
from mop.storage.store import Store
from mop.types import Decoding, Progress, Record

logger = logging.getLogger(__name__)

STAGE_VERSIONS = {"records": 3, "personas": 3, "fit": 7, "tune": 1, "simulate": 2, "evaluate": 10, "report": 5}
"""Raised when a stage would make something else from the same inputs, so that old runs redo it."""

_UNTRIED = ("n_responses", "controls")
"""Settings of ``simulate`` that pilot draws do not depend on."""

COLUMNS = (
    "context", "response", "label", "key", "weight", "group", "attributes", "duplicates",
    "encoding", "delimiter", "decimal")  # fmt: skip
"""Settings of ``data`` that `mop.data.records.load_records` takes."""


def records_like(config: RunConfig, source: str) -> list[Record]:
    """Records of a source with the columns of a run.

    Raises
    ------
    DataError
        If they cannot be read, or too many rows would be left out.
    """
    columns: dict[str, Any] = {name: getattr(config.data, name) for name in COLUMNS if name != "attributes"}
    loaded = load_records(source, **columns)
    if config.data.strict:
        loaded.require_clean()
    loaded.warn(source)
    require_few_lost([loaded], config.data.max_lost)
    return loaded.records


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
    beside: bool = False,
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
    beside : bool
        Whether the run may be read although another process is writing it. Where it can be read only, what
        servers cost is not entered in its account.

    Raises
    ------
    ConfigError
        Without ``data.source``, before anything is opened.
    ArtifactError
        If the folder cannot be used; and for every system error in it.
    """
    if not config.data.source:
        raise ConfigError(
            "data.source is empty; name a file, rotten-tomatoes or hf:ORG/NAME, or the folder of a run that has been "
            f"begun; nothing was made in {path}"
        )
    ledgers = models.open_for(until, also=also)
    if isinstance(progress, Spending):
        ledgers = {}
    with ExitStack() as opened, system_errors(path.absolute(), "use"):
        folder = opened.enter_context(RunFolder.join(path, beside=beside))
        remember(config, path)
        if store is None:
            store = opened.enter_context(Store(folder.store))
        spending = Spending(
            ledgers,
            kept=folder.about.get("remote", {}),
            keep=lambda rows: folder.describe(remote=rows) if folder.can_write else None,
            progress=progress,
        )
        try:
            yield Work(config, folder, store, models, spending)
        finally:  # what was spent has to be known after a stop, too
            spending.save()
            if ledgers and not folder.can_write:
                logger.warning("what the servers cost is not entered in the account of %s, which is only read", path)


def planned_calls(config: RunConfig, first: str, last: str, *, sizes: Mapping[str, int] | None = None) -> list[Planned]:
    """Calls of the language models from one stage to another, where the settings say how many.

    ``sizes`` are those of the splits, if they are made. Rounds may end early and the store may hold some, so it is
    fewer in the end; methods that draw more than a response for each context, and the persona writer, are not foreseen.
    """
    fit, simulate, evaluate = config.fit, config.simulate, config.evaluate
    size = {name: int((sizes or {}).get(name, getattr(config.data, name))) for name in SPLITS}
    scorer = "lm" if config.model.scorer in ("", config.model.lm) else "scorer"
    roles = {"": scorer, config.model.lm: "lm", config.model.scorer or config.model.lm: scorer}
    judge = roles.get(evaluate.judge, "judge")
    per_round = size["train"] * fit.components_per_record + size["valid"] * fit.valid_components
    n_test = min(size["test"], evaluate.test_records)
    n_references = 2 * evaluate.test_components + 2
    n_contexts, n_sets = min(size["test"], simulate.n_responses), 1 + len(simulate.controls)
    n_draws = n_contexts * n_sets
    n_tried, n_tried_judged = n_pilots(simulate, size["train"] + size["valid"])
    found = [
        Planned("fit", scorer, 0 if fit.method == "paper" else fit.n_rounds * per_round),
        Planned("tune", "lm", n_tried + n_tried_judged * (judge == "lm"), simulate.max_tokens),
        Planned("tune", judge, n_tried_judged * (judge != "lm")),
        Planned("simulate", "lm", n_draws, simulate.max_tokens),
        Planned("evaluate", scorer, n_test * (evaluate.test_components + n_references)),
    ]
    n_judged = min(JUDGED, n_contexts) * (n_sets + 1)
    if judge == found[-1].role:
        found[-1] = replace(found[-1], calls=found[-1].calls + n_judged)
    else:
        found.append(Planned("evaluate", judge, n_judged))
    stages = list(STAGE_VERSIONS)
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
        self, config: RunConfig, *, lm: LanguageModel | Generator | None = None, scorer: Scorer | None = None
    ) -> None:
        self._config = config
        self._lm = lm
        self._scorer = scorer
        self.will_draw = False
        """Whether draws follow that are no stage of the run."""
        self.is_rehearsed = False

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
        return as_scorer(_open(self._config, model.scorer, self._config.remote_scorer))

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
        stages = list(STAGE_VERSIONS)[: list(STAGE_VERSIONS).index(until) + 1]
        opened: dict[str, object] = {}
        writes = self._config.personas.writer == "llm" and "personas" in stages
        tunes = "tune" in stages and self._config.simulate.tune
        if "lm" in also or "simulate" in stages or writes or tunes:
            opened["lm"] = self.generator
        if "scorer" in also or "fit" in stages:
            opened["scorer"] = self.scorer
        if self.has_own_judge and ("judge" in also or "evaluate" in stages or tunes):
            opened["judge"] = self.judge
        if self._config.simulate.agents_per_response > 1 and isinstance(opened.get("lm"), RemoteGenerator):
            raise ConfigError(
                "simulate.agents_per_response above 1 averages next-token distributions, which a server does "
                f"not give, got {self._config.model.lm}; use simulate.exemplars_per_prompt, or a local model"
            )
        # A model that does both has one account, whichever half is opened first.
        writer: object = self.__dict__.get("generator")
        return {
            "lm" if model is writer else role: model.ledger
            for role, model in opened.items()
            if isinstance(model, RemoteGenerator)
        }

    def rehearse(self, stages: Collection[str]) -> None:
        """Ask servers what these stages will ask of them, once: a refusal comes before anything is paid for."""
        config, self.is_rehearsed = self._config, True
        writes = config.personas.writer == "llm" and "personas" in stages
        taus = {1.0} if writes else set()
        tunes = "tune" in stages and config.simulate.tune
        if "simulate" in stages or tunes or self.will_draw:
            taus |= likely_taus(self.scorer, config.simulate.tau_factor)
            taus |= {tau for name in config.simulate.controls if (tau := method_and_tau(name)[1]) is not None}
        scorers: list[object] = [self.scorer] if {"fit", "evaluate"} & set(stages) else []
        scorers += [self.judge] if "evaluate" in stages or tunes else []
        names = ("max_tokens", "min_tokens", "top_p", "top_k")
        decoding = Decoding(**{name: getattr(config.simulate, name) for name in names})
        rehearse(self.generator if taus else None, scorers, taus, decoding)

    def servers(self) -> dict[str, dict[str, Any]]:
        """What was found out about the servers that were called, by role; for the manifest."""
        found = {}
        roles = [("lm", "generator"), ("scorer", "scorer")]
        for role, attribute in [*roles, *([("judge", "judge")] if self.has_own_judge else [])]:
            model = self.__dict__.get(attribute)
            if isinstance(model, RemoteGenerator) and model.ledger.spent.calls:
                findings = model.findings
                noise = [found.noise for found in findings.conformance.values()]
                found[role] = {
                    "name": model.name,
                    "kind": findings.kind,
                    "reported_models": dict(findings.reported_models),
                    "is_seeded": findings.is_seeded,
                    "scoring_noise": max(noise, default=None),
                    "checks": model.ledger.checks,
                    "replaced_controls": model.ledger.replaced_controls,
                    "touched_texts": findings.touched_texts,
                    "doubts": list(findings.doubts),
                }
        return found


@dataclass(frozen=True)
class Work:
    """What the stages of one run share: settings, folder, store, frozen models, and the account."""

    config: RunConfig
    folder: RunFolder
    store: Store
    models: Models
    progress: Spending
    """Called as ``progress(what, done, total)``."""

    def rehearse(self, first: str, until: str) -> None:
        """Before the first stage that calls models: see `Models.rehearse`; what it costs is entered as ``probe``."""
        stages = list(STAGE_VERSIONS)
        stages = stages[stages.index(first) : stages.index(until) + 1]
        if first not in ("records", "report") and not self.models.is_rehearsed:
            self.progress.begin("probe", planned_calls(self.config, first, until))
            self.models.rehearse(stages)

    @property
    def lm(self) -> Generator:
        """The language model that writes."""
        return as_generator(self.models.generator)

    @property
    def scorer(self) -> Scorer:
        """The language model that scores; usually the same."""
        return self.models.scorer

    @cached_property
    def encoder(self) -> TextEncoder:
        """The sentence encoder."""
        model = self.config.model
        return open_encoder(model.encoder, device=model.torch_device)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings (n, D), through the store."""
        return embed(texts, self.encoder, store=self.store, progress=self.progress)

    def records(self, split: str) -> list[Record]:
        """The records of one split."""
        return read_records(self.folder.checked(self.folder.records / f"{split}.jsonl"))

    @cached_property
    def fitted(self) -> FittedMixture:
        """The fitted mixture of this run, with the way of drawing that was chosen for it."""
        return load_with_way(self.folder.checked(self.folder.mixture))

    def inputs_of(self, stage: str) -> dict[str, Any]:
        """What a stage depends on besides the stages before it."""
        config, seed = config_to_dict(self.config), self.config.seed
        if stage == "records":
            return {"data": config["data"], "seed": seed, "source": self.source_stamp()}
        if stage == "personas":
            writer = self.lm.generate_identity if config["personas"]["writer"] == "llm" else ""
            return {
                "personas": config["personas"],
                "seed": seed,
                "lm": writer,
                "encoder": self.encoder.identity,
                "file": source_stamp_of(config["personas"]["path"] or ""),
            }
        if stage == "fit":
            return {
                **({"budget": 2} if config["fit"]["max_lm_tokens"] else {}),  # goes by lengths since
                "fit": config["fit"],
                "seed": seed,
                "lm": self.scorer.score_identity,
                "prompts": PROMPT_VERSION,
                "personas": hash_of(self._personas_now()),
            }
        if stage == "tune":
            simulate = {name: value for name, value in config["simulate"].items() if name not in _UNTRIED}
            return {
                "simulate": simulate if simulate["tune"] else {},
                "seed": seed,
                "lm": self.lm.generate_identity,
                "judge": self.models.judge.score_identity if simulate["tune"] else "",
                "encoder": self.encoder.identity,
                "prompts": PROMPT_VERSION,
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
                **({"own": own} if (own := "".join(map(stamp_of, self.config.simulate.controls))) else {}),
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
            return source_stamp_of(name)
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
        if not self.folder.can_write:
            return
        key = self.config.data.key
        keys = {
            "contains_keys": f"data.key = {key}: people's own keys are in records and mixture, and in all responses"
        }
        self.folder.describe(
            **(keys if key else {}),
            stored=self.store.counts() if self.store.path == str(self.folder.store) else {},
            servers={**self.folder.about.get("servers", {}), **self.models.servers()},
            spent={stage: list(cost) for stage, cost in self.store.spent().items()},
        )

    def _personas_now(self) -> list[list[str]]:
        """Keys and descriptions as a person may have edited them; rows of the mixture have the keys."""
        return [[persona.key, persona.description] for persona in read_personas(self.folder.personas)]


def read_config(path: Path, *, trusts: bool = False) -> RunConfig:
    """The configuration that a run folder was made with.

    Raises
    ------
    ArtifactError
        If the folder has none, or one with settings of another version.
    ConfigError
        If the folder is from elsewhere and names servers that get keys or records, unless ``trusts`` says that they
        are meant; see `mop.runs.trust.require_word`.
    """
    file = path / "config.json"
    if not file.is_file():
        raise ArtifactError(f"{path} has no config.json, so it is no run; start one with: mop run {path} --config FILE")
    try:
        config = config_from_dict(read_json(file))
    except ConfigError as error:
        raise ArtifactError(
            f"{file} has settings that this version does not take: {error}. Give them anew with: mop run {path} "
            "--config FILE; store.sqlite keeps what was paid for, and nothing in it is asked again"
        ) from error
    require_word(config, path, trusts=trusts)
    return config


def open_lm(config: RunConfig) -> LanguageModel | Generator:
    """The language model of a configuration."""
    return _open(config, config.model.lm, config.remote)


def _open(config: RunConfig, name: str, remote: RemoteSettings) -> LanguageModel | Generator:
    model = config.model
    if name.startswith("openai:"):
        # Which share of a method's draws may fail is judged over all of them, by `simulate`.
        return open_model(name, settings=replace(remote, max_failed_share=1.0))
    return open_model(name, device=model.torch_device, dtype=model.torch_dtype, memory_gib=model.memory_gib)


def source_place(name: str) -> Any:
    """What `mop.data.load_records` takes for a source: a name of a hub, or a path."""
    if name.startswith("hf:"):
        return name
    return _file_in(Path(resolve(name, kind="data")))


def _file_in(place: Path) -> Path:
    """The one file of a folder of records; a folder of splits, or a file, is itself."""
    return place / "records.csv" if (place / "records.csv").is_file() else place


def source_stamp_of(name: str) -> str:
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


def versions_now() -> dict[str, str]:
    """Versions of what a run was made with."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"mop": __version__, "python": platform.python_version(), "machine": platform.platform()}
    for name in ("torch", "transformers", "sentence-transformers", "numpy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
