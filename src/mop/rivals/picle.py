"""PICLe: demonstrations whose likelihood a persona raises most; the ratio decides, not likeness.

Choi and Li, *PICLe: Eliciting Diverse Behaviors from Large Language Models with Persona In-Context
Learning*, ICML 2024. Each label is the persona; its texts are candidates. The ratio comes from a
fine-tuned copy of the model (`mop.rivals.picle_lora`, the method itself) or from a prompt with
random texts of the label (`prompted_ratio`, a stand-in under the name ``picle-prompted``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mop.backends.ask import score_requests
from mop.backends.base import as_scorer
from mop.backends.curve import weights
from mop.data.own import is_own
from mop.errors import DataError
from mop.prompts import simulation_prompt
from mop.randomness import rng_of
from mop.rivals.ingredients import Ingredients
from mop.types import Agent, Record, ScoreRequest

Floats = NDArray[np.float64]

N_SHOTS = 3
"""Demonstrations in a prompt."""
N_SHOWN = 16
"""Random texts of a label that stand in for its persona model (**ours**)."""


def picle_agents(contexts: Sequence[Record], exemplars: Sequence[Record], ratio: Floats, *, tau: float) -> list[Agent]:
    """Show each context the `N_SHOTS` exemplars of its label with the highest ratios, the highest last.

    Parameters
    ----------
    contexts : sequence of Record, length n
    exemplars : sequence of Record, length N
    ratio : ndarray, shape (N,)
        log p_persona(x) - log p_base(x), nats; -inf for what is no candidate.
    tau : float
        Temperature of the draws (**ours**: the paper decodes greedily).

    Returns
    -------
    list of n Agent
        All contexts of a label have the same exemplars, unless one is the record itself.

    Raises
    ------
    DataError
        If ratios and exemplars differ in number, or a label has no candidate.
    """
    if ratio.shape != (len(exemplars),):
        raise DataError(
            f"got {ratio.shape} ratios for {len(exemplars)} exemplars; one for each is needed; score the same exemplars"
        )
    ranked: dict[str | None, list[int]] = {}
    for row in np.argsort(-ratio, kind="stable").tolist():
        if ratio[row] > -np.inf:
            ranked.setdefault(exemplars[row].label, []).append(row)
    agents = []
    for record in contexts:
        best = [j for j in ranked.get(record.label, []) if not is_own(record, exemplars[j])]
        if not best:
            raise DataError(
                f"no exemplar has the label {record.label!r} of context {record.key!r}; PICLe "
                "shows texts of that label; add some, or leave the method out"
            )
        agents.append(Agent(None, tuple(reversed(best[:N_SHOTS])), tau))
    return agents


def prompted_ratio(given: Ingredients, *, n_shown: int = N_SHOWN) -> Floats:
    """Log p(x | random texts of its label) - log p(x) of each exemplar, under the frozen model.

    Parameters
    ----------
    given : Ingredients
        The texts that are shown are chosen with the seed of the run, so that all draws share them; prompts are those of
        MoP. Scores count as ``prepare/picle-prompted``.
    n_shown : int
        Texts shown for a label; at most half of its exemplars.

    Returns
    -------
    ndarray, shape (N,)
        Nats, summed over all tokens of the text; -inf for the texts that are shown themselves.

    Raises
    ------
    DataError
        If a label has fewer than two exemplars.
    ScoringUnsupportedError
        If no model can score.
    """
    exemplars, config, method = given.exemplars, given.config, "picle-prompted"
    scorer = as_scorer(given.lm) if given.scorer is None else given.scorer
    labels = dict.fromkeys(record.label for record in exemplars)
    ratio = np.full(len(exemplars), -np.inf)
    rows, requests = [], []
    for label in labels:
        members = [j for j, record in enumerate(exemplars) if record.label == label]
        n = min(n_shown, len(members) // 2)
        if n < 1:
            raise DataError(
                f"the label {label!r} has {len(members)} exemplars; PICLe needs at least 2, one to "
                "show and one to choose; add some, or leave the method out"
            )
        rng = rng_of(config.seed, method, "shown", str(label))
        shown = [members[int(i)] for i in rng.choice(len(members), n, replace=False)]
        for j in members:
            if j in shown:
                continue
            record = exemplars[j]
            for examples in ([exemplars[i] for i in shown], []):
                prompt = simulation_prompt(record.context, exemplars=examples, task=config.data.task)
                requests.append(ScoreRequest(prompt, record.response, f"exemplar {record.key!r}"))
            rows.append(j)
    scores = score_requests(requests, scorer, given.store, stage=f"prepare/{method}", progress=given.progress)
    at_one = weights(1.0, scorer.betas)
    values = np.array([score.log_lik @ at_one for score in scores], dtype=np.float64)
    ratio[rows] = values[0::2] - values[1::2]
    return ratio
