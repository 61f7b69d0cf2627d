"""The name of a method and contexts to responses: MoP, the controls and the rivals behind one call."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mop.backends.base import Generator, Scorer, as_scorer
from mop.backends.encoder import TextEncoder, embed
from mop.config import RunConfig, method_and_tau
from mop.data.own import own_exemplars
from mop.errors import NotFittedError
from mop.mixture.fitted import FittedMixture, context_text, uniform_mixture
from mop.rivals.attrprompt import attrprompt
from mop.rivals.controls import few_shot_agents, persona_only_agents, zero_shot_agents
from mop.rivals.picle import picle_agents, prompted_ratio
from mop.rivals.picle_lora import lora_ratio
from mop.rivals.progen import progen
from mop.rivals.zerogen import zerogen
from mop.simulate.draw import draw_writers
from mop.simulate.write import simulate
from mop.storage.store import Store
from mop.types import Agent, Decoding, Progress, Record, Response

logger = logging.getLogger(__name__)

METHODS_VERSION = 2
"""Raised when a method would answer the same contexts in another way."""

Agents = Sequence[Agent | tuple[Agent, ...]]


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """All that a method may be made from."""

    config: RunConfig
    exemplars: Sequence[Record]
    """N real records that prompts may show."""
    mixture: FittedMixture | None
    """For the methods of `needs_mixture`; its exemplars are those above."""
    lm: Generator
    """The model that writes, for every method."""
    encoder: TextEncoder
    store: Store
    seed: int
    """Of the draws."""
    scorer: Scorer | None = None
    """The model that scores, for the methods of `needs_scorer`; without one the model that writes."""
    progress: Progress | None = None

    @property
    def decoding(self) -> Decoding:
        """Length cap and truncation, the same for every method."""
        settings = self.config.simulate
        return Decoding(
            max_tokens=settings.max_tokens, min_tokens=settings.min_tokens, top_p=settings.top_p, top_k=settings.top_k
        )

    @property
    def max_failed_share(self) -> float:
        """Share of a method's draws that may fail, the same for every method."""
        return self.config.remote.max_failed_share


def needs_scorer(method: str) -> bool:
    """Whether a method needs likelihoods: those of a fit, or its own.

    Raises
    ------
    ConfigError
        For an unknown method.
    """
    return needs_mixture(method) or method_and_tau(method)[0] == "picle-prompted"


def needs_mixture(method: str) -> bool:
    """Whether a method draws from the fitted mixture or its personas.

    Raises
    ------
    ConfigError
        For an unknown method.
    """
    return method_and_tau(method)[0] in ("mop", "mop-uniform", "persona-only")


def needs_preparation(method: str) -> bool:
    """Whether a method asks for scores before its draws; see `prepare`.

    Raises
    ------
    ConfigError
        For an unknown method.
    """
    return method_and_tau(method)[0] in ("picle", "picle-prompted")


def prepare(method: str, given: Ingredients) -> None:
    """Ask for the scores that a method of `needs_preparation` chooses by; `respond` finds them in the store."""
    _ratio(method_and_tau(method)[0], given)


def respond(
    method: str, contexts: Sequence[Record], given: Ingredients, *, name: str | None = None
) -> Iterable[Response]:
    """Draw one response per context with a method.

    Parameters
    ----------
    method : str
        ``mop`` or one of `mop.config.METHODS`; ``NAME@TAU`` for another temperature than
        ``simulate.control_tau``.
    contexts : sequence of Record, length n
    given : Ingredients
    name : str, optional
        What rows and costs are called, and part of the seeds; by default the method.

    Returns
    -------
    iterable of n Response
        In the order of the contexts.

    Raises
    ------
    ConfigError
        For an unknown method.
    NotFittedError
        If the method needs a mixture and there is none.
    """
    name = name or method
    method, tau = method_and_tau(method)
    if tau is not None:
        simulate_at = replace(given.config.simulate, control_tau=tau)
        given = replace(given, config=replace(given.config, simulate=simulate_at))
    settings, rivals = given.config.simulate, given.config.compare
    if method == "zerogen":
        return zerogen(
            contexts, generator=given.lm, store=given.store, decoding=given.decoding,
            seed=given.seed, domain=rivals.domain, task=given.config.data.task, form=rivals.form,
            temperature=settings.control_tau, n_names=rivals.n_names, min_words=rivals.min_words,
            max_tries=rivals.max_tries, max_failed_share=given.max_failed_share, method=name,
            progress=given.progress,
        )  # fmt: skip
    if method == "attrprompt":
        return attrprompt(
            contexts, generator=given.lm, store=given.store, decoding=given.decoding,
            seed=given.seed, domain=rivals.domain, task=given.config.data.task,
            temperature=settings.control_tau, max_tries=rivals.max_tries,
            max_failed_share=given.max_failed_share, method=name,
            progress=given.progress,
        )  # fmt: skip
    if method == "progen":
        return progen(
            contexts, generator=given.lm, store=given.store, decoding=given.decoding,
            seed=given.seed, encoder=given.encoder, domain=rivals.domain,
            task=given.config.data.task, form=rivals.form, temperature=settings.control_tau,
            n_names=rivals.n_names, min_words=rivals.min_words, n_rounds=rivals.rounds,
            max_tries=rivals.max_tries, max_failed_share=given.max_failed_share, method=name,
            progress=given.progress,
        )  # fmt: skip
    return answer(agents_for(method, contexts, given), contexts, given, name=name)


def answer(agents: Agents, contexts: Sequence[Record], given: Ingredients, *, name: str) -> Iterable[Response]:
    """Let given agents answer: `mop.simulate.write.simulate` with the settings of the run."""
    return simulate(
        contexts,
        agents,
        given.mixture.personas if given.mixture is not None else (),
        given.exemplars,
        generator=given.lm,
        store=given.store,
        decoding=given.decoding,
        seed=given.seed,
        method=name,
        task=given.config.data.task,
        max_failed_share=given.max_failed_share,
        progress=given.progress,
    )


def agents_for(method: str, contexts: Sequence[Record], given: Ingredients) -> Agents:
    """Who answers each context, for a method that is a choice of personas and exemplars.

    The same at any temperature: random choices depend on seed, method and the record's key.

    Raises
    ------
    NotFittedError
        If the method needs a mixture and there is none.
    """
    settings, tau = given.config.simulate, given.config.simulate.control_tau
    if method in ("mop", "mop-uniform"):
        fitted = _mixture(given, method)
        mixture = fitted if method == "mop" else uniform_mixture(fitted)
        return mixture_agents(mixture, contexts, given, n_agents=settings.n_agents, mix=settings.mix)
    if method == "zero-shot":
        return zero_shot_agents(contexts, tau=tau)
    if method in ("picle", "picle-prompted"):
        ratio = _ratio(method, given)
        return picle_agents(contexts, given.exemplars, ratio, tau=tau)
    if method == "persona-only":
        n_personas = len(_mixture(given, method).personas)
        return persona_only_agents(contexts, n_personas, tau=tau, seed=given.seed)
    return few_shot_agents(
        contexts,
        own_exemplars(contexts, given.exemplars),
        len(given.exemplars),
        tau=tau,
        seed=given.seed,
        n_shots=3 if method == "few-shot-3" else 1,
        method=method,
    )


def _ratio(method: str, given: Ingredients) -> NDArray[np.float64]:
    """Likelihood ratios of the exemplars; chosen with the run's seed, so that seeds share them."""
    if method == "picle-prompted":
        return prompted_ratio(
            given.exemplars,
            scorer=as_scorer(given.lm) if given.scorer is None else given.scorer,
            store=given.store,
            seed=given.config.seed,
            task=given.config.data.task,
            progress=given.progress,
        )
    return lora_ratio(
        given.exemplars,
        lm=given.config.model.lm,
        store=given.store,
        seed=given.config.seed,
        device=given.config.model.torch_device,
        dtype=given.config.model.torch_dtype,
        progress=given.progress,
    )


def mixture_agents(
    mixture: FittedMixture, contexts: Sequence[Record], given: Ingredients, *, n_agents: int = 1, mix: str = "none"
) -> Agents:
    """Draw for each context from a mixture who writes: see `mop.mixture.fitted.draw_writers`.

    Raises
    ------
    ConfigError
        If the encoder is not that of the mixture's fit.
    """
    mixture.check_encoder(given.encoder.identity)
    texts = [context_text(record) for record in contexts]
    hx = embed(texts, given.encoder, store=given.store, progress=given.progress)
    settings = given.config.simulate
    return draw_writers(
        mixture,
        hx,
        contexts,
        seed=given.seed,
        n_agents=n_agents,
        mix=mix,
        tau_factor=settings.tau_factor,
        same_label=settings.same_label,
    )


def _mixture(given: Ingredients, method: str) -> FittedMixture:
    if given.mixture is None:
        raise NotFittedError(
            f"the method {method} draws from a fitted mixture, and there is none; accepted without "
            "one are the methods that see no persona; fit first"
        )
    return given.mixture
