"""The name of a method and contexts to responses: MoP, the controls and the rivals behind one call."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mop.backends.encoder import embed
from mop.config import method_and_tau
from mop.data.own import own_exemplars
from mop.errors import NotFittedError
from mop.mixture.fitted import FittedMixture, context_text, uniform_mixture
from mop.own_parts import is_own
from mop.rivals.attrprompt import attrprompt
from mop.rivals.controls import few_shot_agents, persona_only_agents
from mop.rivals.ingredients import Ingredients
from mop.rivals.own import own_rival
from mop.rivals.picle import picle_agents, prompted_ratio
from mop.rivals.picle_lora import lora_ratio
from mop.rivals.progen import progen
from mop.rivals.zerogen import zerogen
from mop.simulate.draw import draw_agents
from mop.simulate.write import simulate
from mop.types import Agent, Record, Response

logger = logging.getLogger(__name__)

METHODS_VERSION = 2
"""Raised when a method would answer the same contexts in another way."""

Agents = Sequence[Agent | tuple[Agent, ...]]


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
        ``mop``, one of `mop.config.METHODS`, or ``module:attribute`` (see `mop.rivals.own`); ``NAME@TAU`` for another
        temperature than 1.
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
        given = replace(given, tau=tau)
    if is_own(method):
        return own_rival(method, contexts, given, name=name)
    if method in _RIVALS:
        return _RIVALS[method](contexts, given, method=name)
    return answer(agents_for(method, contexts, given), contexts, given, name=name)


def answer(agents: Agents, contexts: Sequence[Record], given: Ingredients, *, name: str) -> Iterable[Response]:
    """Let given agents answer: `mop.simulate.write.simulate` with the settings of the run."""
    personas = given.mixture.personas if given.mixture is not None else ()
    return simulate(contexts, agents, personas, given.exemplars, given.drawing, method=name)


def agents_for(method: str, contexts: Sequence[Record], given: Ingredients) -> Agents:
    """Who answers each context, for a method that is a choice of personas and exemplars.

    The same at any temperature: random choices depend on seed, method and the record's key.

    Raises
    ------
    NotFittedError
        If the method needs a mixture and there is none.
    """
    tau = given.tau
    if method in ("mop", "mop-uniform"):
        fitted = _mixture(given, method)
        mixture = fitted if method == "mop" else uniform_mixture(fitted)
        return mixture_agents(mixture, contexts, given)
    if method == "zero-shot":
        return [Agent(None, (), tau)] * len(contexts)
    if method in ("picle", "picle-prompted"):
        return picle_agents(contexts, given.exemplars, _ratio(method, given), tau=tau)
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
    """Likelihood ratios of the exemplars, shape (N,)."""
    return prompted_ratio(given) if method == "picle-prompted" else lora_ratio(given)


def mixture_agents(mixture: FittedMixture, contexts: Sequence[Record], given: Ingredients) -> list[tuple[Agent, ...]]:
    """Draw for each context from a mixture who writes: see `mop.simulate.draw.draw_agents`.

    Raises
    ------
    ConfigError
        If the encoder is not that of the mixture's fit.
    """
    mixture.check_encoder(given.encoder.identity)
    texts = [context_text(record) for record in contexts]
    hx = embed(texts, given.encoder, store=given.store, progress=given.progress)
    return draw_agents(mixture, hx, contexts, given.config.simulate, seed=given.seed)


_RIVALS = {"zerogen": zerogen, "attrprompt": attrprompt, "progen": progen}
"""Methods that write texts by requests of their own, and draw again what they reject."""


def _mixture(given: Ingredients, method: str) -> FittedMixture:
    if given.mixture is None:
        raise NotFittedError(
            f"the method {method} draws from a fitted mixture, and there is none; fit first, or take a method "
            "that needs no mixture, such as few-shot"
        )
    return given.mixture
