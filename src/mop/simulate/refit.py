"""A fitted mixture to persona weights for another model, one that cannot score: draw, embed, match.

The personas, the exemplar gate and the temperatures stay as they were fitted. The persona gate is
replaced by one set of weights for every context, and says so: it is a surrogate, found by
`mop.simulate.blackbox.match_weights`, not by likelihood.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mop.backends.ask import Drawing
from mop.backends.encoder import TextEncoder, embed
from mop.errors import ConfigError, DataError
from mop.mixture.fitted import FittedMixture, context_text, persona_shares, with_persona_weights
from mop.mixture.sums import draw, spread_draw
from mop.randomness import derive_seed, rng_of, uniforms
from mop.simulate.blackbox import match_weights
from mop.simulate.draw import pools
from mop.simulate.write import is_drawn, simulate
from mop.types import Agent, Record, Response

logger = logging.getLogger(__name__)

SURROGATE = "surrogate: matched embeddings"
"""What weights found here are called, wherever they are shown."""


def refit_black_box(
    fitted: FittedMixture,
    population: Sequence[Record],
    drawing: Drawing,
    *,
    encoder: TextEncoder,
    samples_per_persona: int = 20,
    tau_factor: float = 1.0,
    same_label: bool = False,
) -> FittedMixture:
    """Re-estimate the persona weights for a model without likelihoods.

    Parameters
    ----------
    fitted : FittedMixture
        Personas, exemplar gate, temperatures and task are taken from it.
    population : sequence of n Record
        Real responses to be matched; give those the mixture was fitted on, none that it will be
        judged by. Survey weights are respected.
    drawing : Drawing
        The model that the weights are for, and how the simulation will draw. Draws and embeddings in the store are
        not made again, so that an interrupted call goes on. A draw is a function of (seed, persona, context).
    encoder : TextEncoder
        That of the fit: the gates know its embeddings.
    samples_per_persona : int
        Responses drawn under each persona, ≥ 2: K times as many calls of the model.
    tau_factor : float
        What the simulation multiplies the temperatures by (``simulate.tau_factor``).
    same_label : bool
        Whether it shows exemplars of a record's own label only (``simulate.same_label``).

    Returns
    -------
    FittedMixture
        With ``info["persona_weights"]``: ``kind`` (`SURROGATE`), ``model``, ``weights`` (K),
        ``mmd2``, ``mmd2_uniform``, ``mmd2_before`` (of the weights that it had on average),
        ``bandwidth``, ``shrinkage`` (towards those weights), ``n_targets``, ``samples_per_persona``, ``tau_factor``,
        ``same_label``, ``n_empty`` (samples drawn without a text) and ``failed`` (K, samples of each persona that
        failed).

    Raises
    ------
    ConfigError
        If the encoder is not that of the fit, or there are fewer than 2 samples.
    DataError
        If fewer than 2 records, or fewer than 2 samples of a persona, hold any text.
    BackendError
        If the model cannot answer, or gave up more draws than it may.

    Notes
    -----
    Every persona answers the same contexts, drawn from the population without replacement (again
    and again if there are fewer than samples): differences between personas are then theirs and
    not the contexts'. Source of the matching: see `mop.simulate.blackbox.match_weights`.
    """
    if samples_per_persona < 2:
        raise ConfigError(f"samples_per_persona must be at least 2, got {samples_per_persona}; try 20")
    fitted.check_encoder(encoder.identity)
    targets = [record for record in population if record.response.strip()]
    if len(targets) < 2:
        raise DataError(
            f"{len(targets)} of {len(population)} records hold a response; at least 2 are needed "
            "to match; give the records that the mixture was fitted on"
        )
    seed, store, progress = drawing.seed, drawing.store, drawing.progress
    order = _order(targets, samples_per_persona, seed)
    samples = samples_of_personas(
        fitted,
        [targets[row] for row in order],
        drawing,
        encoder=encoder,
        tau_factor=tau_factor,
        same_label=same_label,
    )
    written = [[one.response for one in own if one.response.strip()] for own in samples]
    failed = [sum(not is_drawn(one) for one in own) for own in samples]
    n_empty = sum(map(len, samples)) - sum(map(len, written)) - sum(failed)
    for persona, own in zip(fitted.personas, written, strict=True):
        if len(own) < 2:
            raise DataError(
                f"{len(own)} of {samples_per_persona} samples of persona {persona.key} hold any "
                "text; at least 2 are needed; draw more samples, or leave this persona out"
            )
    if n_empty:
        logger.warning("%d samples are empty and were left out of the matching", n_empty)
    vectors = embed([text for own in written for text in own], encoder, store=store, progress=progress)
    by_persona = np.split(vectors, np.cumsum([len(own) for own in written])[:-1])
    real = embed([r.response for r in targets], encoder, store=store, progress=progress)
    hx = embed([context_text(r) for r in targets], encoder, store=store, progress=progress)
    target_weights = np.array([record.weight for record in targets])
    before = persona_shares(fitted, hx, target_weights)
    match = match_weights(
        by_persona,
        real,
        contexts=[
            np.array([row for row, one in zip(order, own, strict=True) if one.response.strip()]) for own in samples
        ],
        target_weights=target_weights,
        prior=before,
        seed=seed,
    )
    about = {
        "kind": SURROGATE,
        "model": drawing.generator.name,
        "weights": [round(float(w), 6) for w in match.weights],
        "mmd2": match.mmd2,
        "mmd2_uniform": match.mmd2_uniform,
        "mmd2_before": match.at(before),
        "bandwidth": match.bandwidth,
        "shrinkage": match.shrinkage,
        "n_targets": len(targets),
        "samples_per_persona": samples_per_persona,
        "tau_factor": tau_factor,
        "same_label": same_label,
        "n_empty": n_empty,
        "failed": failed,
    }
    result = with_persona_weights(fitted, match.weights)
    return replace(result, info={**fitted.info, "chosen": SURROGATE, "persona_weights": about})


def samples_of_personas(
    fitted: FittedMixture,
    contexts: Sequence[Record],
    drawing: Drawing,
    *,
    encoder: TextEncoder,
    tau_factor: float = 1.0,
    same_label: bool = False,
) -> list[list[Response]]:
    """Draw a response of every persona to each of n contexts, with an exemplar of the fitted exemplar gate.

    Returns
    -------
    list of K lists of n Response
        Sample i of every persona answers context i; one that failed has no text.
    """
    n = len(contexts)
    texts = [context_text(record) for record in contexts]
    hx = embed(texts, encoder, store=drawing.store, progress=drawing.progress)
    shared = list(pools(fitted, contexts, same_label=same_label))
    records: list[Record] = []
    agents: list[Agent] = []
    for k, persona in enumerate(fitted.personas):
        # A key of its own per persona and place: the seed of a draw is made from it.
        records += [replace(record, key=f"{persona.key} {i} {record.key}") for i, record in enumerate(contexts)]
        seeds = [derive_seed(drawing.seed, "black-box", persona.key, i, r.key) for i, r in enumerate(contexts)]
        u = np.array([uniforms(seed, 0, 1)[0] for seed in seeds])
        tau = float(fitted.temperatures[k] * tau_factor)
        found: dict[int, Agent] = {}
        for places, shown, mixture in shared:
            some = list(places)
            own = mixture.own([contexts[place] for place in some])  # a record never gets itself
            log_omega = mixture.log_omega(hx[some], np.full(len(some), k, dtype=np.int64), own)
            for place, row, j in zip(some, log_omega, draw(log_omega, u[some]).tolist(), strict=True):
                found[place] = Agent(k, (shown[j],), tau, 0.0, float(row[j]))
        agents += [found[place] for place in range(n)]
    same_task = replace(drawing, task=fitted.task)
    responses = list(simulate(records, agents, fitted.personas, fitted.exemplars, same_task, method="black-box"))
    return [responses[start : start + n] for start in range(0, len(responses), n)]


def _order(records: Sequence[Record], n: int, seed: int) -> list[int]:
    """Draw n rows of records in random order, each as often as its weight says, to within one."""
    rng = rng_of(seed, "black-box", "contexts")
    weight = np.array([record.weight for record in records])
    if np.ptp(weight) > 0:
        drawn = spread_draw(weight / weight.sum(), n, rng)
        return [int(row) for row in rng.permutation(drawn)]
    order: list[int] = []
    while len(order) < n:
        order += rng.permutation(len(records)).tolist()
    return order[:n]
