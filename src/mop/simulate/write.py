"""Contexts and drawn components to responses with their full provenance: the simulated population.

Which persona, exemplars and temperature answer is drawn before (`mop.simulate.draw`); here
the frozen model writes, and every text is in the store before it is handed on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mop.backends.ask import Drawing, FailedDraws, draw_requests
from mop.errors import DataError
from mop.prompts import PROMPT_VERSION, simulation_prompt
from mop.randomness import derive_seed
from mop.types import Agent, Branch, GenerateRequest, Generation, Outcome, Persona, Record, Response

logger = logging.getLogger(__name__)

_DRAWN = ("stop", "length")

CUT_SHARE = 0.05
"""Share of texts cut at the length limit above which figures suffer enough to be warned about."""

PILOT = "pilot"
"""Name of draws on trial; see `mop.runs.tune`."""

_CHUNK = 4096  # requests in memory at a time; large enough for a backend to sort by length


def simulate(
    contexts: Sequence[Record],
    agents: Sequence[Agent | tuple[Agent, ...]],
    personas: Sequence[Persona],
    exemplars: Sequence[Record],
    drawing: Drawing,
    *,
    method: str = "mop",
) -> Iterator[Response]:
    """Let each context be answered by its agent; yield responses in order, as they get ready.

    Parameters
    ----------
    contexts : sequence of Record, length n
        What is responded to. Key, context and label are used; the responses never are.
    agents : sequence of Agent or tuple of Agent, length n
        Who answers. One agent with several exemplars has them all in one prompt. A tuple of agents
        writes one response together, next-token distributions averaged in equal shares: each was
        drawn by its weight, which must not count twice.
    personas : sequence of Persona, length K
        Rows that agents refer to.
    exemplars : sequence of N Record
        Rows that agents refer to.
    drawing : Drawing
        Row seeds are ``derive_seed(seed, "simulate", method, key)``, so that a response
        depends on neither order, batch nor the other contexts. Rows of draws that failed have no
        text and finish_reason ``refused`` or ``failed``; persona and exemplar are those that were
        drawn, and nobody else answers instead. They are not stored, so that the same call tries
        them again.
    method : str
        Name of the method, for the seed, the row and the cost (``simulate/NAME``).

    Yields
    ------
    Response
        For a tuple of agents: persona and exemplar keys joined by a space (``-`` for none), the
        mean of the temperatures, and the log-probability of the joint draw.

    Raises
    ------
    DataError
        If agents and contexts differ in number, a key occurs twice, or an agent is empty.
    BackendError
        If the model leaves a request out, or more draws failed than allowed: after everything
        else is stored.
    ArtifactError
        If the store cannot be read or written.
    """
    if len(agents) != len(contexts):
        raise DataError(f"got {len(contexts)} contexts and {len(agents)} agents; give one agent per context")
    refuse_twins(contexts)
    failed = FailedDraws(len(contexts), drawing, method=method)
    n_drawn = n_cut = 0
    for start in range(0, len(contexts), _CHUNK):
        some = contexts[start : start + _CHUNK]
        components = [_components(agent) for agent in agents[start : start + _CHUNK]]
        seeds = [derive_seed(drawing.seed, "simulate", method, record.key) for record in some]
        requests = [
            GenerateRequest(
                tuple(_branch(record, agent, personas, exemplars, drawing.task) for agent in together),
                row_seed,
                f"context {record.key!r}",
            )
            for record, together, row_seed in zip(some, components, seeds, strict=True)
        ]
        drawn = draw_requests(requests, drawing, stage=f"simulate/{method}", span=(start, len(contexts)))
        for record, together, row_seed, result in zip(some, components, seeds, drawn, strict=True):
            generation, outcome = failed.settle(result)
            n_drawn += outcome in _DRAWN
            n_cut += outcome == "length"
            yield response_to(
                record, generation, outcome, model=drawing.generator.name, seed=row_seed, method=method,
                persona=_joined(None if a.persona is None else personas[a.persona].key for a in together),
                exemplar=_joined(" ".join(exemplars[j].key for j in a.exemplars) for a in together),
                temperature=math.fsum(a.temperature for a in together) / len(together),
                log_pi=math.fsum(a.log_pi for a in together),
                log_omega=math.fsum(a.log_omega for a in together),
            )  # fmt: skip
        failed.check()
    failed.tell("their rows say so, and no other persona answers instead")
    if n_cut > CUT_SHARE * n_drawn and method != PILOT:
        logger.warning(
            "%s: %.0f%% of the texts were cut at %d tokens; raise simulate.max_tokens (in Python, max_tokens of the "
            "decoding)", method, 100 * n_cut / n_drawn, drawing.decoding.max_tokens,
        )  # fmt: skip


def response_to(
    record: Record, drawn: Generation, outcome: Outcome, *, model: str, seed: int, method: str, temperature: float,
    persona: str | None = None, exemplar: str | None = None, log_pi: float = 0.0, log_omega: float = 0.0,
) -> Response:  # fmt: skip
    """The row of a draw: whose it is as its record says, and without an agent unless one is named."""
    return Response(
        id=record.key, context=record.context, response=drawn.text, label=record.label, weight=record.weight,
        group=record.group, attributes=record.attributes, model=model, prompt_version=PROMPT_VERSION, seed=seed,
        method=method, finish_reason=outcome, n_tokens=drawn.n_tokens, temperature=temperature, persona=persona,
        exemplar=exemplar, log_pi=log_pi, log_omega=log_omega,
    )  # fmt: skip


def is_drawn(response: Response) -> bool:
    """Whether a row holds a text that was drawn, possibly an empty one."""
    return response.finish_reason in _DRAWN


def cut_share(responses: Iterable[Response]) -> float:
    """Share of the texts drawn that were cut at the length limit; 0 if none was drawn."""
    reasons = [response.finish_reason for response in responses if is_drawn(response)]
    return reasons.count("length") / max(1, len(reasons))


def cut_notes(shares: Mapping[str, float], max_tokens: int) -> list[str]:
    """What to know about cut texts, one note for all methods; none where no share is above `CUT_SHARE`."""
    many = ", ".join(f"{share:.0%} by {name}" for name, share in shares.items() if share > CUT_SHARE)
    if not many:
        return []
    return [
        f"Of the texts, {many} were cut at {max_tokens} tokens, and cut ones count in every figure. "
        "Raise simulate.max_tokens (in Python, max_tokens of the decoding). If a higher limit cuts as many, these "
        "texts do not end: lower the temperature (simulate.tau_factor for mop, NAME@TAU for other methods)."
    ]


def shown_to(response: Response, exemplars: Mapping[str, str]) -> tuple[str, ...]:
    """Texts of the exemplars in a response's prompt; ``exemplars`` are texts by key."""
    return tuple(exemplars[key] for key in (response.exemplar or "").split() if key in exemplars)


def outcomes(responses: Iterable[Response]) -> dict[str, dict[str, int]]:
    """Count what became of the draws of each persona.

    Returns
    -------
    dict of str to dict
        Persona key (empty for none) to ``draws``, ``failed``, ``refused``, ``empty``
        (drawn, but without a visible character) and ``cut`` (at ``max_tokens``). A row that
        several personas wrote counts for each.
    """
    counts: dict[str, dict[str, int]] = {}
    for response in responses:
        for key in dict.fromkeys((response.persona or "").split(" ")):
            row = counts.setdefault(key, {"draws": 0, "failed": 0, "refused": 0, "empty": 0, "cut": 0})
            row["draws"] += 1
            if not is_drawn(response):
                row[response.finish_reason] += 1
            else:
                row["empty"] += not response.response.strip()
                row["cut"] += response.finish_reason == "length"
    return dict(sorted(counts.items()))


def refuse_twins(contexts: Sequence[Record]) -> None:
    """Two contexts with one key would have one seed, and could get the same response.

    Raises
    ------
    DataError
        If a key occurs twice.
    """
    seen: set[str] = set()
    for record in contexts:
        if record.key in seen:
            raise DataError(
                f"key {record.key!r} occurs twice among the contexts; keys must differ, because a "
                "response's seed is made from its key; to draw several, number the keys"
            )
        seen.add(record.key)


def _components(agent: Agent | tuple[Agent, ...]) -> tuple[Agent, ...]:
    """The agents that write one response together."""
    if isinstance(agent, Agent):
        return (agent,)
    if not agent:
        raise DataError("got an empty tuple of agents; give at least one agent for each context")
    return agent


def _branch(
    record: Record, agent: Agent, personas: Sequence[Persona], exemplars: Sequence[Record], task: str
) -> Branch:
    """What one agent asks the model; all agents of a response have equal weights."""
    prompt = simulation_prompt(
        record.context,
        persona=None if agent.persona is None else personas[agent.persona].description,
        exemplars=[exemplars[j] for j in agent.exemplars],
        task=task,
    )
    return Branch(prompt, float(agent.temperature))


def _joined(keys: Iterable[str | None]) -> str | None:
    """Join the keys of several agents; None if nobody has one."""
    keys = list(keys)
    return " ".join(key or "-" for key in keys) if any(keys) else None
