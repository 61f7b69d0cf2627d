"""Changed versions of MoP, which `mop.runs.compare` sets beside it: what each changes, and how it draws."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mop.config import PRESETS, RunConfig, config_from_dict, config_to_dict
from mop.errors import ConfigError
from mop.rivals.ingredients import Ingredients
from mop.rivals.methods import answer, mixture_agents, respond
from mop.types import Record, Response

ONE_COMPONENT: Mapping[str, Any] = {"exemplars_per_prompt": 1, "exemplars_from": "gates", "agents_per_response": 1}
"""Settings of ``simulate`` under which one component writes a response, as in the fitted mixture."""
_PAPERS_DRAWING = {"tau_factor": 1.0, "same_label": False, **ONE_COMPONENT}
_ABLATIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "no-exemplars": {"simulate": ONE_COMPONENT},  # and prompts show none
    "raw-records": {"personas": {"writer": "record", "path": None}},
    "random-personas": {"personas": {"writer": "random", "path": None}},
    "no-gates": {},  # untrained ones
    "fitted-tau": {"simulate": {"tau_factor": 1.0}},
    "any-label": {"simulate": {"same_label": False}},
    "paper-drawing": {"simulate": _PAPERS_DRAWING},
    "paper-fit": {"simulate": _PAPERS_DRAWING, "fit": PRESETS["paper"]["fit"]},
}
"""Ablation to the settings that it changes; with the numbered ones of `ablated` these are all."""
_NUMBERED = re.compile(r"(k|n|tokens|prompt|neighbours)-([1-9]\d*)")
KEEPS_PERSONAS = "paper-fit"
"""The ablation with a fit of its own to the personas of the run."""


def ablated(config: RunConfig, ablation: str) -> RunConfig:
    """Settings of a changed version of MoP.

    ``k-K`` and ``n-N`` change the number of personas and of exemplars, ``tokens-L`` that of the agents of a response,
    ``prompt-M`` and ``neighbours-M`` that of the exemplars in a prompt; the others are in `_ABLATIONS`.

    Raises
    ------
    ConfigError
        For an unknown ablation, one with more personas or exemplars than there are exemplars, or fewer
        exemplars than personas; another number of personas where they are given.
    """
    numbered = _NUMBERED.fullmatch(ablation)
    if numbered is None and ablation not in _ABLATIONS:
        raise ConfigError(
            f"unknown ablation {ablation!r}; known: {', '.join(_ABLATIONS)}, k-NUMBER and "
            "n-NUMBER (personas, exemplars), tokens-NUMBER, prompt-NUMBER and neighbours-NUMBER (docs/baselines.md)"
        )
    if numbered is None:
        changes = _ABLATIONS[ablation]
    else:
        kind, number = numbered[1], int(numbered[2])
        if kind in ("k", "n"):
            _check_number(config, kind, number)
        similar = "similar" if kind == "neighbours" and number > 1 else "gates"
        changes = {
            "k": {"personas": {"n_personas": number}},
            "n": {"data": {"exemplars": number}},
            "tokens": {"simulate": {**ONE_COMPONENT, "agents_per_response": number}},
            "prompt": {"simulate": {**ONE_COMPONENT, "exemplars_per_prompt": number}},
            "neighbours": {"simulate": {**ONE_COMPONENT, "exemplars_per_prompt": number, "exemplars_from": similar}},
        }[kind]
    settings = config_to_dict(config)
    for section, values in changes.items():
        settings[section] |= values
    return config_from_dict(settings)


def _check_number(config: RunConfig, kind: str, number: int) -> None:
    if kind == "k" and config.personas.writer == "file":
        raise ConfigError(
            f"the ablation k-{number}: the personas are those of personas.path, and another number of them "
            "would be other personas; leave it out, or have personas written (personas.writer)"
        )
    n_exemplars, k = config.data.exemplars, config.personas.n_personas
    least = k if kind == "n" and isinstance(k, int) else 1
    if not least <= number <= n_exemplars:
        raise ConfigError(
            f"the ablation {kind}-{number}: with {n_exemplars} exemplars (data.exemplars) and {k} personas "
            f"(personas.n_personas) the number must be {least} to {n_exemplars}; give another one, or "
            "change these settings"
        )


def variant_settings(config: RunConfig, ablation: str) -> RunConfig | None:
    """Settings of the fit that an ablation needs, None if it uses the fit that is there."""
    changed = ablated(config, ablation)
    needs_fit = any(getattr(changed, name) != getattr(config, name) for name in ("data", "personas", "fit"))
    return replace(changed, simulate=config.simulate) if needs_fit else None


def changes_nothing(config: RunConfig, ablation: str) -> bool:
    """Whether a changed version is MoP itself, because the settings are those that it changes to."""
    return ablation not in ("no-gates", "no-exemplars") and ablated(config, ablation) == config


def draw_ablation(ablation: str, contexts: Sequence[Record], given: Ingredients, *, name: str) -> list[Response]:
    """Draw with a changed MoP: see `ablated`; ``given`` has the mixture of its fit, ``name`` is that of its rows."""
    if ablation == "no-gates":
        return list(respond("mop-uniform", contexts, given, name=name))
    given = replace(given, config=replace(given.config, simulate=ablated(given.config, ablation).simulate))
    if ablation != "no-exemplars":
        return list(respond("mop", contexts, given, name=name))
    assert given.mixture is not None  # `respond` says so for the others
    agents = mixture_agents(given.mixture, contexts, given)
    bare = [(replace(agent, exemplars=(), log_omega=0.0),) for (agent,) in agents]
    return list(answer(bare, contexts, given, name=name))
