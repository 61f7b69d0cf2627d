"""The Python face: an estimator in scikit-learn's manner around the whole chain."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Number, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast, overload

from mop.config import UpTo
from mop.errors import ConfigError, DataError, NotFittedError
from mop.progress import stage
from mop.types import Decoding, Persona, Progress, Record, Response

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mop.backends.ask import Drawing
    from mop.backends.base import Generator, LanguageModel, Scorer
    from mop.backends.encoder import TextEncoder
    from mop.config import FitConfig, PersonaConfig, RemoteSettings
    from mop.data.given import Rows
    from mop.evaluate.likelihood import Likelihood, Table
    from mop.mixture.fitted import FittedMixture
    from mop.shown import TableList
    from mop.storage.store import Store

    Values = NDArray[np.float64]

logger = logging.getLogger(__name__)


class MixtureOfPersonas:
    """A frozen language model that answers like the population it was fitted to.

    Parameters
    ----------
    n_personas : int or "auto"
        K, clusters of the exemplars that personas are written from; by default 20, or as many as there are different
        texts; "auto": one for every five
        different texts, up to 24.
    lm : str or LanguageModel
        ``smollm2-135m``, ``hf:ORG/NAME``, a folder, ``openai:MODEL@URL``, ``fake``, or a ready backend.
        It writes; it also scores, unless there is a ``scorer``.
    scorer : str or Scorer, optional
        Another model for the likelihoods that weights and the temperature are fitted to, such as
        ``smollm2-135m`` for a served model that cannot score; a served one is passed ready-made.
    remote : RemoteSettings or dict, optional
        How to use the server that ``lm`` names.
    encoder : str or TextEncoder
        ``minilm``, ``mpnet``, ``hf:ORG/NAME``, a folder, ``fake``, or a ready encoder.
    n_exemplars : int
        N, the most records that prompts may show; at most half of those given to `fit`.
    personas : sequence of Persona or str, or path, optional
        Yours, as texts or with keys, or a file of them (see `mop.personas.files.read_personas`); then nothing is
        clustered and ``n_personas`` and ``writer`` do not matter.
    writer : {"keywords", "llm", "record", "random", "file"}
        Who describes the clusters; ``record`` and ``random`` are ablations, see `mop.config.PersonaConfig`. With
        ``file`` the path is given as ``personas``.
    task : str
        One line for the language model: what a response is ("a one-sentence film review").
    valid_share : float
        Share of the records that are not exemplars which have the same components scored, for the
        bound on what other weights could gain. With ``method="paper"`` they decide when to stop.
    settings : FitConfig, dict or str, optional
        Details of the fit: ``{"method": "paper"}`` is the paper's recipe. The name of a preset stands for its section
        ``fit``; with ``"quick"`` a fit on a toy model takes a second or two, for tests of your own code.
    score_components : int
        Components scored for each record in `score`; with K × N at most that, the result is exact.
    store : str or Path, optional
        File that keeps every score and draw, so that a second run asks for nothing again; none:
        kept in memory.
    seed : int
    progress : callable, optional
        ``progress(what, done, total)``. What it raises stops the work at once; what was asked for stays in the store.
        Not part of a pickle.

    Attributes
    ----------
    mixture_ : FittedMixture
        After `fit` or `load`.

    Examples
    --------
    >>> records = [Record(key=str(i), context="Film?", response=r)
    ...            for i, r in enumerate(["good fun", "dull", "great fun", "so dull"] * 5)]
    >>> model = MixtureOfPersonas(n_personas=2, lm="fake", encoder="fake", seed=0).fit(records)
    >>> bool(model.score(records[:4]) < 0)
    True
    >>> responses = model.sample(["Film?", "Film?"], seed=1)
    >>> len(responses)
    2
    """

    def __init__(
        self,
        n_personas: int | Literal["auto"] = UpTo(20),
        *,
        lm: str | LanguageModel | Generator = "smollm2-135m",
        scorer: str | Scorer | None = None,
        remote: RemoteSettings | Mapping[str, Any] | None = None,
        encoder: str | TextEncoder = "minilm",
        n_exemplars: int = 1000,
        personas: Sequence[Persona | str] | str | Path | None = None,
        writer: str = "keywords",
        task: str = "",
        valid_share: float = 0.25,
        settings: FitConfig | Mapping[str, Any] | str | None = None,
        score_components: int = 64,
        store: str | Path | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.n_personas = n_personas
        self.lm = lm
        self.scorer = scorer
        self.remote = remote
        self.encoder = encoder
        self.n_exemplars = n_exemplars
        self.personas = personas
        self.writer = writer
        self.task = task
        self.valid_share = valid_share
        self.settings = settings
        self.score_components = score_components
        self.store = store
        self.seed = seed
        self.progress = progress

    # ------------------------------------------------------------------ the estimator's conventions

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments by name; ``deep`` is there for scikit-learn and changes nothing."""
        return {name: getattr(self, name) for name in _parameters()}

    def set_params(self, **params: Any) -> Self:
        """Change constructor arguments; takes effect at the next call.

        Raises
        ------
        ConfigError
            For an unknown name.
        """
        for name, value in params.items():
            if name not in _parameters():
                raise ConfigError(f"MixtureOfPersonas has no parameter {name!r}; known: {', '.join(_parameters())}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """Let scikit-learn's cross-validation and searches take it: rows of text, no target."""
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type="density_estimator",
            target_tags=TargetTags(required=False),
            input_tags=InputTags(two_d_array=False, string=True, dict=True),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open models, files and ``progress``, so that copies and worker processes open their own."""
        return {name: value for name, value in self.__dict__.items() if name != "_kept"} | {"progress": None}

    def __repr__(self) -> str:
        """Show what differs from the defaults."""
        shown = ", ".join(
            f"{name}={getattr(self, name)!r}"
            for name, parameter in _parameters().items()
            if not _is_same(getattr(self, name), parameter.default)
        )
        return f"MixtureOfPersonas({shown})"

    def _repr_html_(self) -> str:
        """The parameters as scikit-learn shows them, and `summary` once there is a fit."""
        from sklearn.utils import estimator_html_repr

        fitted: FittedMixture | None = getattr(self, "mixture_", None)
        return str(estimator_html_repr(self)) + ("" if fitted is None else self.summary()._repr_html_())

    # ---------------------------------------------------------------------------------------- fitting

    def fit(self, records: Rows, y: None = None) -> Self:
        """Find personas in some of the records, and fit weights and a temperature to the others.

        At most ``n_exemplars`` of the records, and at most half of them, drawn at random, become the exemplars: prompts
        show them and personas are written from them. Weights and temperature are fitted to the others and judged on
        them by cross-validation, so no persona and no exemplar is a text that it has to predict. Records of
        one group stay together.

        Parameters
        ----------
        records : iterable of Record, DataFrame, or iterable of mappings
            The observed population: what `mop.data.records.load_records` returns, or rows with ``context`` and
            ``response``, perhaps ``label``, ``key``, ``weight`` and ``group``. Rows that cannot be
            used are left out with a warning, and so are repeated ones, unless a ``key`` or a ``weight``
            tells that they are different people. An unusable Record is an error.
        y : None
            There for scikit-learn's pipelines, not looked at.

        Returns
        -------
        self

        Raises
        ------
        ConfigError
            For a parameter that is none.
        DataError
            If there are too few records or groups for the personas or the splits, no persona, or a key twice.
        """
        from mop.backends.rehearsal import likely_taus
        from mop.backends.remote import rehearse
        from mop.data.own import distinct, numbered
        from mop.mixture.fit import fit_mixture
        from mop.personas.given import personas_given
        from mop.personas.write import write_personas

        self._check_parameters()
        scorer = self._open_scorer()
        rehearse(self._open_lm(), [scorer], likely_taus(scorer), Decoding())
        with stage(logger, "records") as counts:
            parts = self._divided(self._within_window(_records(records, on_unusable="warn", drops_repeated=True)))
            parts["exemplars"] = numbered(parts["exemplars"])  # responses name them
            counts.update({name: len(part) for name, part in parts.items()})
        with stage(logger, "personas") as counts:
            if self.personas is None or isinstance(self.personas, str | os.PathLike):
                personas = write_personas(
                    parts["exemplars"],
                    self._persona_settings(),
                    encoder=self._open_encoder(),
                    lm=self._open_generator,
                    store=self._open_store(),
                    task=self.task,
                    seed=self.seed,
                    progress=self.progress,
                )
            else:
                personas = personas_given(self.personas)
            counts["personas"] = len(personas)
        with stage(logger, "fit") as counts:
            self.mixture_ = fit_mixture(
                personas,
                distinct(parts["exemplars"]),
                parts["train"],
                parts["valid"],
                encoder=self._open_encoder(),
                scorer=self._open_scorer(),
                store=self._open_store(),
                task=self.task,
                settings=self._fit_settings(),
                seed=self.seed,
                progress=self.progress,
            )
            counts["scores"] = self.mixture_.info["n_cells"]
        return self

    def _within_window(self, records: list[Record]) -> list[Record]:
        """Records that the model can score; the others are named."""
        from mop.backends.window import window_of

        window = window_of(self._open_scorer(), n_shown=1, max_tokens=1, task=self.task)
        if window is None:
            return records
        beyond = window.beyond(records)
        for row, tokens in beyond.items():
            logger.warning(
                "record %r has %d tokens, and %s takes %d in all: left out", records[row].key, tokens,
                window.model.name, window.size,
            )  # fmt: skip
        return [record for row, record in enumerate(records) if row not in beyond]

    def _divided(self, records: Sequence[Record]) -> dict[str, list[Record]]:
        """Disjoint ``exemplars``, ``valid`` and ``train``; whole groups, as nearly as they allow, if there are any."""
        from mop.data.records import split_records

        n = len(records)
        n_exemplars = min(self.n_exemplars, n // 2)
        n_valid = max(2, round(self.valid_share * (n - n_exemplars)))
        sizes = {"exemplars": n_exemplars, "valid": n_valid, "train": n - n_exemplars - n_valid}
        if min(sizes.values()) < 2:
            raise DataError(
                f"{n} records with valid_share {self.valid_share} leave too few to fit on; "
                "give at least 7 records and a share between 0 and 1"
            )
        if not any(record.group is not None for record in records):
            return split_records(records, sizes, seed=self.seed)
        parts = split_records(records, {name: size / n for name, size in sizes.items()}, seed=self.seed, by_group=True)
        exemplars, others = _whole_groups(parts["exemplars"], self.n_exemplars)
        return {**parts, "exemplars": exemplars, "train": parts["train"] + others}

    def _fit_settings(self) -> FitConfig:
        from mop.config import PRESETS, FitConfig, config_from_dict

        given = self.settings
        if given is None or isinstance(given, FitConfig):
            return given or FitConfig()
        if isinstance(given, str):
            named = {name: preset["fit"] for name, preset in PRESETS.items() if "fit" in preset}
            if given not in named:
                raise ConfigError(f"settings must be a preset with a fit ({', '.join(named)}) or a dict, got {given!r}")
            return config_from_dict({"fit": named[given]}).fit
        return config_from_dict({"fit": given}).fit

    def _persona_settings(self) -> PersonaConfig:
        from mop.config import PersonaConfig

        is_as_it_is = self.n_personas == "auto" or isinstance(self.n_personas, UpTo)
        n_personas = self.n_personas if is_as_it_is else int(self.n_personas)
        if isinstance(self.personas, str | os.PathLike):
            return PersonaConfig(writer="file", path=os.fspath(self.personas))
        if self.writer == "file":
            raise ConfigError('writer "file" reads personas of yours; give their file: personas="mine.jsonl"')
        return PersonaConfig(n_personas=n_personas, writer=cast(Any, self.writer))

    def refit_black_box(
        self,
        records: Rows,
        *,
        samples_per_persona: int = 20,
        decoding: Decoding | None = None,
        tau_factor: float = 1.0,
        same_label: bool = False,
        seed: int | None = None,
    ) -> Self:
        """Replace the persona gate by weights for the present ``lm``, which need not be able to score.

        A surrogate: see `mop.simulate.refit.refit_black_box`. Give the records of the fit, and ``tau_factor``
        and ``same_label`` as `sample` will have them. ``seed`` is the constructor's by default.

        Examples
        --------
        >>> records = [Record(key=str(i), context="Film?", response=r)
        ...            for i, r in enumerate(["good fun", "dull", "great fun", "so dull"] * 5)]
        >>> model = MixtureOfPersonas(n_personas=2, lm="fake", encoder="fake").fit(records)
        >>> model.refit_black_box(records, samples_per_persona=4).mixture_.info["chosen"]
        'surrogate: matched embeddings'
        """
        from mop.simulate.refit import refit_black_box

        self.mixture_ = refit_black_box(
            self._fitted(),
            _records(records),
            self._drawing(seed, decoding, task=self._fitted().task),
            encoder=self._open_encoder(),
            samples_per_persona=samples_per_persona,
            tau_factor=tau_factor,
            same_label=same_label,
        )
        return self

    def _check_parameters(self) -> None:
        """Refuse values that could only fail later and less clearly."""
        import numpy as np

        from mop.config import FitConfig

        def whole(value: Any, least: int) -> bool:
            is_number = isinstance(value, int | np.integer)
            return is_number and value is not True and value is not False and int(value) >= least

        share: Any = self.valid_share
        for name, is_good, accepted in (
            ("n_personas", self.n_personas == "auto" or whole(self.n_personas, 1),
             'a whole number from 1 on or "auto"'),
            ("n_exemplars", whole(self.n_exemplars, 2), "a whole number from 2 on"),
            ("score_components", whole(self.score_components, 1), "a whole number from 1 on"),
            ("seed", isinstance(self.seed, int | np.integer), "a whole number"),
            ("valid_share", isinstance(share, Real) and 0 < float(share) < 1, "a number between 0 and 1"),
            ("task", isinstance(self.task, str), "a text"),
            ("settings", self.settings is None or isinstance(self.settings, FitConfig | Mapping | str),
             "a mop.FitConfig, a dict of its settings or the name of a preset"),
            ("store", self.store is None or isinstance(self.store, str | os.PathLike), "the path of a file"),
            ("lm", self.lm is not None, "a name or a model"),
            ("encoder", self.encoder is not None, "a name or an encoder"),
        ):  # fmt: skip
            if not is_good:
                raise ConfigError(f"{name} must be {accepted}, got {getattr(self, name)!r}")
        self._persona_settings()
        self._fit_settings()

    # ------------------------------------------------------------------------------------- likelihood

    @overload
    def score_samples(self, records: Rows, *, return_std: Literal[False] = ...) -> Values: ...

    @overload
    def score_samples(self, records: Rows, *, return_std: Literal[True]) -> tuple[Values, Values]: ...

    def score_samples(self, records: Rows, *, return_std: bool = False) -> Values | tuple[Values, Values]:
        """Log-likelihood of each record under the mixture, shape (n,), in nats.

        Exact if K × N is at most ``score_components``; otherwise an estimate in which components that
        were not scored are imputed (see `mop.mixture.imputation`). `score_report` says which.

        Parameters
        ----------
        records : iterable of Record or mapping
        return_std : bool
            Also return the standard deviation of each over imputations (n,), 0 where exact.
        """
        values = self._likelihood(_records(records)).ours
        mean = values.mean(axis=0)
        return (mean, values.std(axis=0)) if return_std else mean

    @overload
    def score(self, records: Rows, y: None = None, *, return_std: Literal[False] = ...) -> float: ...

    @overload
    def score(self, records: Rows, y: None = None, *, return_std: Literal[True]) -> tuple[float, float]: ...

    def score(self, records: Rows, y: None = None, *, return_std: bool = False) -> float | tuple[float, float]:
        """Mean log-likelihood per record, in nats, weighted by the records' survey weights.

        Rows that cannot be used are left out with a warning, as `fit` does; equal ones all count; an
        unusable Record is an error.
        ``y`` is there for scikit-learn. With ``return_std`` also the standard error of that mean, over
        records and over what was not scored; infinite for a single record, or records of one group.
        """
        from mop.evaluate.likelihood import mean_interval

        likelihood = self._likelihood(_records(records, on_unusable="warn"))
        found = mean_interval(likelihood.ours, likelihood.table.weight, likelihood.table.cluster)
        error = found["standard_error"]
        mean = float(found["mean"])
        return (mean, float("inf") if error is None else error) if return_std else mean

    def predict_proba(self, records: Rows) -> Values:
        """Posterior probability of each persona given the text, shape (n, K); rows sum to 1."""
        return self._likelihood(_records(records)).persona_posterior(self._fitted())

    def predict(self, records: Rows) -> NDArray[np.int64]:
        """Row of the likeliest persona of each record given its text, shape (n,), in ``mixture_.personas``."""
        import numpy as np

        rows: NDArray[np.int64] = np.argmax(self.predict_proba(records), axis=1)
        return rows

    def summary(self, *, n_examples: int = 2) -> TableList[dict[str, Any]]:
        """Personas with mixture weight, temperature and examples, the heaviest first.

        A list that a notebook shows as a table; ``to_frame()`` is a pandas DataFrame. See
        `mop.report.summary.summary_of`.
        """
        from mop.report.summary import summary_of

        return summary_of(self._fitted(), n_examples=n_examples)

    def score_report(self, records: Rows, *, plain: bool = True) -> dict[str, Any]:
        """Mean log-likelihood per record, in nats, beside that of simpler models.

        Parameters
        ----------
        records : iterable of Record or mapping
        plain : bool
            Whether references that need scores of their own are among them: those without persona, without
            exemplar, without both, and of one component.

        Returns
        -------
        dict
            See `mop.evaluate.likelihood.summarise`; ``references`` as in `mop.evaluate.likelihood.references`.
        """
        from mop.evaluate.likelihood import references, summarise

        observed = _records(records)
        likelihood = self._likelihood(observed)
        return {
            **summarise(likelihood),
            "references": references(
                likelihood,
                observed,
                scorer=self._open_scorer(),
                store=self._open_store(),
                plain=plain,
                progress=self.progress,
            ),
        }

    def refit_tau(self, records: Rows) -> Self:
        """Keep personas, exemplars and gates, and refit the temperatures to a small sample.

        For a mixture that was fitted with another language model: ``load(folder, lm=...)``, then this.

        Returns
        -------
        self
        """
        from mop.evaluate.likelihood import refit_temperatures

        self.mixture_ = refit_temperatures(self._fitted(), self._table(_records(records)))
        return self

    def explain(
        self, record: Record | Mapping[str, Any], *, n_exemplars: int = 5, n_components: int = 10
    ) -> dict[str, Any]:
        """Which personas and exemplars speak for this record, given its text.

        Returns
        -------
        dict
            ``personas`` and ``exemplars`` (the ``n_exemplars`` likeliest), each with its posterior; the
            score table behind them as ``components`` (the ``n_components`` likeliest): ``persona``,
            ``exemplar``, ``log_lik`` at the persona's temperature, ``log_weight``, ``posterior``;
            ``log_lik`` (nats) with ``standard_error``, ``kind`` (exact or estimate), ``n_scored`` (different
            components) of ``n_drawn``.
        """
        import numpy as np

        from mop.evaluate.likelihood import component_posterior, log_terms

        (one,) = _records([record])
        likelihood = self._likelihood([one])
        fitted, table = self._fitted(), likelihood.table
        personas, exemplars = fitted.personas, fitted.exemplars
        values, by_persona = likelihood.ours[:, 0], likelihood.persona_posterior(fitted)[0]
        posterior = component_posterior(table, fitted)[0]
        log_lik, log_weight = (part[0] for part in log_terms(table, fitted))
        by_exemplar = np.bincount(table.exemplar[0], posterior, len(exemplars))
        # One component may have been drawn several times.
        flat = table.persona[0] * len(exemplars) + table.exemplar[0]
        components, place, of = np.unique(flat, return_index=True, return_inverse=True)
        by_component = np.bincount(of, posterior)
        likeliest = [c for c in np.argsort(-by_component, kind="stable") if table.present[0, place[c]]][:n_components]
        shown = [j for j in np.argsort(-by_exemplar, kind="stable") if j in table.exemplar[0]][:n_exemplars]
        return {
            "key": one.key,
            "context": one.context,
            "response": one.response,
            "log_lik": float(values.mean()),
            "standard_error": float(values.std()),
            "kind": "exact" if table.is_exact else "estimate",
            "is_exact": table.is_exact,
            "n_scored": len(components),
            "n_drawn": table.persona.shape[1],
            "n_tokens": int(table.n_tokens[0]),
            "personas": [
                {"persona": personas[k].key, "posterior": float(by_persona[k]), "description": personas[k].description}
                for k in np.argsort(-by_persona, kind="stable")
            ],
            "exemplars": [
                {
                    "exemplar": exemplars[j].key,
                    "posterior": float(by_exemplar[j]),
                    "context": exemplars[j].context,
                    "response": exemplars[j].response,
                }
                for j in shown
            ],
            "components": [
                {
                    "persona": personas[table.persona[0, m]].key,
                    "exemplar": exemplars[table.exemplar[0, m]].key,
                    "temperature": float(fitted.temperatures[table.persona[0, m]]),
                    "log_lik": float(log_lik[m]),
                    "log_weight": float(log_weight[m]),
                    "posterior": float(by_component[c]),
                }
                for c, m in ((c, place[c]) for c in likeliest)
            ],
        }

    # ------------------------------------------------------------------------------------- simulation

    def sample(
        self,
        contexts: Iterable[str | Record | Mapping[str, Any]],
        *,
        seed: int | None = None,
        decoding: Decoding | None = None,
        exemplars_per_prompt: int | None = None,
        exemplars_from: Literal["gates", "similar"] | None = None,
        agents_per_response: int = 1,
        tau_factor: float | None = None,
        same_label: bool | None = None,
        **removed: Any,
    ) -> TableList[Response]:
        """Draw one response to each context: persona, exemplar, then text.

        Parameters
        ----------
        contexts : iterable of str or Record, DataFrame, or iterable of mappings
            Rows have a ``context``, perhaps ``label``, ``weight`` and ``group``, and all or none a ``key``; what
            else they have is kept in ``attributes``. A record's own response is never looked at. Equal strings are
            different people: the draw depends on (seed, position) for strings and rows without keys, on (seed, key)
            for the others.
        seed : int, optional
            By default the constructor's.
        decoding : Decoding, optional
        exemplars_per_prompt, exemplars_from, agents_per_response : int, str, int
            As in the settings of ``simulate``: how many exemplars a prompt shows, where those after the first come from
            (``gates`` or ``similar``), and how many agents write a response together.
        tau_factor, same_label : float, bool
            As there: what multiplies the temperatures, and whether persona and exemplar of a record with a label are
            drawn given that the exemplar has it. None, of all but the agents: as pilot draws chose in the run that the
            mixture is from, else the default. What makes the draws others than the fitted model's is logged as a
            warning.
        **removed
            Names of earlier versions are refused, and the message says what to write instead.

        Returns
        -------
        list of Response
            With persona, exemplar, temperature and weights of each; its ``to_frame()`` is a pandas DataFrame.

        Raises
        ------
        ConfigError
            For values that the settings of ``simulate`` would not accept.
        DataError
            For one string in place of several, a row that cannot be used, or a label that the fit never saw.
        """
        from mop.backends.window import window_of
        from mop.config import SimulateConfig, refuse_removed
        from mop.data.given import contexts_given
        from mop.data.labels import known_labels
        from mop.shown import TableList
        from mop.simulate.draw import draw_agents, labels_of
        from mop.simulate.way import as_chosen
        from mop.simulate.write import simulate

        for name in removed:
            refuse_removed(f"simulate.{name}")
            raise TypeError(f"sample() has no parameter {name!r}")
        decoding = decoding or Decoding()
        way: dict[str, Any] = {
            "exemplars_per_prompt": exemplars_per_prompt, "exemplars_from": exemplars_from, "tau_factor": tau_factor,
            "same_label": same_label,
        }  # fmt: skip
        way = {name: value for name, value in way.items() if value is not None}
        settings = SimulateConfig(
            **way, agents_per_response=agents_per_response,
            min_tokens=decoding.min_tokens, top_p=decoding.top_p, top_k=decoding.top_k,
        )  # fmt: skip
        settings = as_chosen(settings, self._fitted(), given=way)
        for departure in settings.departures():
            logger.warning("%s", departure)
        fitted, asked = self._fitted(), contexts_given(contexts)
        if not asked:
            return TableList()
        remedy = ", or give contexts without labels"
        asked = known_labels(asked, labels_of(fitted), where="the contexts given", remedy=remedy)
        drawing = self._drawing(seed, decoding, task=fitted.task)
        window = window_of(
            drawing.generator, n_shown=settings.exemplars_per_prompt, max_tokens=decoding.max_tokens, task=fitted.task,
            personas=[persona.description for persona in fitted.personas],
        )  # fmt: skip
        if window is not None:
            asked = window.hold(asked, fitted.exemplars, remedy="shorten them")
        agents = draw_agents(fitted, self._context_vectors(asked), asked, settings, seed=drawing.seed)
        with stage(logger, "simulate") as counts:
            drawn = TableList(simulate(asked, agents, fitted.personas, fitted.exemplars, drawing))
            counts["responses"] = len(drawn)
        return drawn

    # ------------------------------------------------------------------------------------------ files

    def save(self, folder: str | Path) -> None:
        """Write the fitted mixture to a folder; the language model is named in it, not copied."""
        from mop.mixture.fitted import save_mixture
        from mop.runs.trust import remember_mixture

        names = {
            "lm": self.lm if isinstance(self.lm, str) else None,
            "scorer": "" if self.scorer is None else self.scorer if isinstance(self.scorer, str) else None,
            "encoder": self.encoder if isinstance(self.encoder, str) else None,
            "score_components": int(self.score_components),
        }
        fitted = self._fitted()
        save_mixture(replace(fitted, info={**fitted.info, **names}), Path(folder))
        remember_mixture(self.lm, self._remote_settings().api_key_env, Path(folder))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        lm: str | LanguageModel | Generator | None = None,
        scorer: str | Scorer | None = None,
        encoder: str | TextEncoder | None = None,
        **params: Any,
    ) -> Self:
        """Read a saved mixture, to be used with its own language model or another.

        Parameters
        ----------
        folder : str or Path
            What `save` wrote, or the folder of a run that is fitted.
        lm, scorer, encoder : optional
            Instead of those it was fitted with. Another encoder must give the same embeddings.
            A served ``lm`` is to be named here: a mixture from elsewhere does not choose where records and keys go.
            With another ``lm`` and no ``scorer``, that ``lm`` scores as well.
        **params
            Further constructor arguments, such as ``store``; ``seed`` and ``score_components`` are
            those of the fit unless given.
        """
        from mop.own_parts import refuse_own
        from mop.runs.trust import refuse_address
        from mop.simulate.way import load_with_way

        for name in ("n_personas", "task", "personas"):
            if name in params:
                raise ConfigError(f"{name} is that of the saved mixture; leave it out")
        place = Path(folder).expanduser()
        if (place / "mixture").is_dir():  # a run
            place /= "mixture"
        fitted = load_with_way(place)
        if scorer is None and lm is not None:
            scorer = ""
        chosen: dict[str, Any] = {"lm": lm, "scorer": scorer, "encoder": encoder}
        for name, value in chosen.items():
            known = fitted.info.get(name, "")
            if value is None and known is None:
                raise ConfigError(
                    f"the mixture in {folder} was fitted with a ready-made {name} that has no name; "
                    f"pass one: MixtureOfPersonas.load(folder, {name}=...)"
                )
            if value is None:
                refuse_own(known, place, say=f"MixtureOfPersonas.load(FOLDER, {name}='NAME')")
            chosen[name] = known if value is None else value
        chosen["scorer"] = chosen["scorer"] or None
        for name in ("seed", "score_components"):  # so that it scores as it did
            if name in fitted.info:
                params.setdefault(name, fitted.info[name])
        model = cls(n_personas=len(fitted.personas), **chosen, task=fitted.task, **params)
        if lm is None:
            variable = model._remote_settings().api_key_env
            refuse_address(model.lm, variable, place, say="MixtureOfPersonas.load(FOLDER, lm='NAME')")
        model.mixture_ = fitted
        return model

    # ---------------------------------------------------------------------------------------- private

    def _context_vectors(self, records: Sequence[Record]) -> NDArray[np.float32]:
        """Embeddings of contexts (n, D), by the encoder that the gates know."""
        from mop.backends.encoder import embed
        from mop.mixture.fitted import context_text

        encoder = self._open_encoder()
        self._fitted().check_encoder(encoder.identity)
        return embed([context_text(r) for r in records], encoder, store=self._open_store())

    def _fitted(self) -> FittedMixture:
        fitted: FittedMixture | None = getattr(self, "mixture_", None)
        if fitted is None:
            raise NotFittedError("this mixture has no weights yet; call fit(records) or load(folder) first")
        return fitted

    def _table(self, records: Sequence[Record]) -> Table:
        from mop.evaluate.likelihood import score_for_likelihood

        return score_for_likelihood(
            self._fitted(),
            records,
            self._context_vectors(records),
            scorer=self._open_scorer(),
            store=self._open_store(),
            n_components=self.score_components,
            seed=self.seed,
            progress=self.progress,
        )

    def _likelihood(self, records: Sequence[Record]) -> Likelihood:
        from mop.evaluate.likelihood import Likelihood

        return Likelihood(self._table(records), self._fitted(), seed=self.seed)

    def _drawing(self, seed: int | None, decoding: Decoding | None, *, task: str) -> Drawing:
        """How texts are drawn."""
        from mop.backends.ask import Drawing

        return Drawing(
            generator=self._open_generator(),
            store=self._open_store(),
            seed=self.seed if seed is None else seed,
            decoding=decoding or Decoding(),
            task=task,
            max_failed_share=self._remote_settings().max_failed_share,
            progress=self.progress,
        )

    def _remote_settings(self) -> RemoteSettings:
        from mop.config import RemoteSettings, config_from_dict

        given = self.remote
        return given if isinstance(given, RemoteSettings) else config_from_dict({"remote": given or {}}).remote

    def _opened(self, name: str, made_of: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """What parameters stand for; made once, and anew when they are others."""
        kept: dict[str, tuple[tuple[object, ...], Any]] = self.__dict__.setdefault("_kept", {})
        known = kept.get(name)
        if known is None or not all(map(_is_same, known[0], made_of)):
            kept[name] = known = (made_of, make())
        return known[1]

    def _open_lm(self) -> Scorer | Generator:
        from mop.backends import open_model

        def make() -> Scorer | Generator:
            if not isinstance(self.lm, str):
                return self.lm
            options: dict[str, Any] = {}
            if self.lm.startswith("openai:"):
                # Which share of the draws may fail is judged over all of them, by `simulate`.
                options["settings"] = replace(self._remote_settings(), max_failed_share=1.0)
            return open_model(self.lm, **options)

        return cast("Scorer | Generator", self._opened("lm", (self.lm, self.remote), make))

    def _open_scorer(self) -> Scorer:
        from mop.backends import open_model
        from mop.backends.base import as_scorer

        def make() -> Scorer:
            if isinstance(self.scorer, str) and self.scorer.startswith("openai:"):
                raise ConfigError(
                    f"a served scorer has settings of its own, got the name {self.scorer!r}; pass "
                    "it opened: scorer=mop.backends.open_model(NAME, tokenizer=...)"
                )
            opened = open_model(self.scorer) if isinstance(self.scorer, str) else self.scorer
            return as_scorer(self._open_lm() if opened is None else opened)

        return cast("Scorer", self._opened("scorer", (self.scorer, self.lm, self.remote), make))

    def _open_generator(self) -> Generator:
        from mop.backends.base import as_generator

        return as_generator(self._open_lm())

    def _open_encoder(self) -> TextEncoder:
        from mop.backends.encoder import as_encoder, open_encoder

        given = self.encoder
        made = self._opened(
            "encoder", (given,), lambda: open_encoder(given) if isinstance(given, str) else as_encoder(given)
        )
        return cast("TextEncoder", made)

    def _open_store(self) -> Store:
        from mop.storage.store import Store

        given = self.store if self.store is not None else ":memory:"
        return cast("Store", self._opened("store", (given,), lambda: Store(given)))


def _is_same(known: object, now: object) -> bool:
    return known is now or (isinstance(known, str | os.PathLike | Number) and type(known) is type(now) and known == now)


def _parameters() -> dict[str, inspect.Parameter]:
    signature = inspect.signature(MixtureOfPersonas.__init__)
    return {name: p for name, p in signature.parameters.items() if name != "self"}


def _whole_groups(records: Sequence[Record], n: int) -> tuple[list[Record], list[Record]]:
    """Whole groups that make at most n records, and the others; where that is under n / 2, a group is cut."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        name = f"record {record.key}" if record.group is None else f"group {record.group}"
        groups.setdefault(name, []).append(record)
    kept: set[str] = set()
    for group in groups.values():
        if len(kept) + len(group) <= n:
            kept |= {record.key for record in group}
    if len(kept) < min(n, len(records)) / 2:
        logger.warning(
            "%d of %d records are not used: their groups are among the %d exemplars; set n_exemplars higher, or leave "
            "group out", len(records) - n, len(records), n,
        )  # fmt: skip
        return list(records[:n]), []
    return [r for r in records if r.key in kept], [r for r in records if r.key not in kept]


def _records(records: Rows, **how: Any) -> list[Record]:
    from mop.data.given import records_given

    return records_given(records, **how)
