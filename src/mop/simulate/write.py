"""Contexts and drawn components to responses with their full provenance: the simulated population.

Which persona, exemplar and temperature answers is drawn before (`mop.mixture.gate`, `mop.mixture.sums`); here
the frozen model writes, and every text is in the store before it is handed on.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mop.backends.base import Failure, Fallible, Generator
from mop.errors import ArtifactError, BackendError, DataError
from mop.prompts import PROMPT_VERSION, simulation_prompt
from mop.randomness import derive_seed
from mop.storage.run_folder import read_jsonl, write_jsonl
from mop.storage.store import Store, generation_key
from mop.types import Agent, Branch, Decoding, GenerateRequest, Generation, Outcome, Persona, Progress, Record, Response

logger = logging.getLogger(__name__)

_DRAWN = ("stop", "length")

REFUSALS = frozenset({"content_filter", "refusal"})
"""Codes of failures in which the model or its operator declined; all others are ``failed``."""

CUT_SHARE = 0.05
"""Share of texts cut at the length limit above which figures suffer enough to be warned about."""

_CHUNK = 4096  # requests in memory at a time; large enough for a backend to sort by length


def simulate(
    contexts: Sequence[Record],
    agents: Sequence[Agent | tuple[Agent, ...]],
    personas: Sequence[Persona],
    exemplars: Sequence[Record],
    *,
    generator: Generator,
    store: Store,
    decoding: Decoding,
    seed: int,
    method: str = "mop",
    task: str = "",
    max_failed_share: float = 0.0,
    progress: Progress | None = None,
) -> Iterator[Response]:
    """Let each context be answered by its agent; yield responses in order, as they get ready.

    Parameters
    ----------
    contexts : sequence of Record, length N
        What is responded to. Key, context and label are used; the responses never are.
    agents : sequence of Agent or tuple of Agent, length N
        Who answers. One agent with several exemplars has them all in one prompt (``mix="prompt"`` and
        ``"neighbours"``).
        A tuple of agents writes one response together, next-token distributions averaged in equal
        shares (``mix="tokens"``): each was drawn by its weight, which must not count twice.
    personas : sequence of Persona, length K
        Rows that agents refer to.
    exemplars : sequence of Record
        Rows that agents refer to.
    generator : Generator
        The frozen model.
    store : Store
        What is in it is not drawn again; a killed call loses only the batches in work.
    decoding : Decoding
        Common to the run.
    seed : int
        Of the run. Row seeds are ``derive_seed(seed, "simulate", method, key)``, so that a response
        depends on neither order, batch nor the other contexts.
    method : str
        Name of the method, for the seed, the row and the cost (``simulate/NAME``).
    task : str
        What the responses are, for the prompt.
    max_failed_share : float
        Share of the N draws that the model may give up (see `mop.backends.base.Fallible`). Their
        rows have no text and finish_reason ``refused`` or ``failed``; persona and exemplar are
        those that were drawn, and nobody else answers instead. They are not stored, so that the
        same call tries them again.
    progress : callable, optional
        Called at the start and after each batch with the stage, responses done, responses in all.

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
    _refuse_twins(contexts)
    stage = f"simulate/{method}"
    failed = FailedDraws(len(contexts), max_failed_share, method=method, model=generator.name)
    n_drawn = n_cut = 0
    for start in range(0, len(contexts), _CHUNK):
        some = contexts[start : start + _CHUNK]
        voices = [_voices(agent) for agent in agents[start : start + _CHUNK]]
        seeds = [derive_seed(seed, "simulate", method, record.key) for record in some]
        requests = [
            _request(record, voice, personas, exemplars, row_seed, task)
            for record, voice, row_seed in zip(some, voices, seeds, strict=True)
        ]
        drawn = draw_requests(
            requests, generator, store, decoding, stage=stage, progress=progress, span=(start, len(contexts))
        )
        for record, voice, row_seed, result in zip(some, voices, seeds, drawn, strict=True):
            generation, outcome = failed.settle(result)
            n_drawn += outcome in _DRAWN
            n_cut += outcome == "length"
            yield Response(
                id=record.key,
                context=record.context,
                response=generation.text,
                label=record.label,
                seed=row_seed,
                model=generator.name,
                prompt_version=PROMPT_VERSION,
                finish_reason=outcome,
                n_tokens=generation.n_tokens,
                method=method,
                persona=_joined(None if a.persona is None else personas[a.persona].key for a in voice),
                exemplar=_joined(" ".join(exemplars[j].key for j in a.exemplars) for a in voice),
                temperature=math.fsum(a.temperature for a in voice) / len(voice),
                log_pi=math.fsum(a.log_pi for a in voice),
                log_omega=math.fsum(a.log_omega for a in voice),
            )
        failed.check()
    failed.tell("their rows say so, and no other persona answers instead")
    for note in cut_notes(method, n_cut / max(1, n_drawn), decoding.max_tokens):
        logger.warning("%s", note)


def is_drawn(response: Response) -> bool:
    """Whether a row holds a text that was drawn, possibly an empty one."""
    return response.finish_reason in _DRAWN


def cut_share(responses: Iterable[Response]) -> float:
    """Share of the texts drawn that were cut at the length limit; 0 if none was drawn."""
    reasons = [response.finish_reason for response in responses if is_drawn(response)]
    return reasons.count("length") / max(1, len(reasons))


def cut_notes(method: str, share: float, max_tokens: int) -> list[str]:
    """What to know about a method's cut texts: a sentence for a share above `CUT_SHARE`, else nothing."""
    if share <= CUT_SHARE:
        return []
    return [
        f"{method}: {share:.0%} of the texts were cut at {max_tokens} tokens, and cut ones count in every figure. "
        "Raise simulate.max_tokens (in Python, max_tokens of the decoding). If a higher limit cuts as many, these "
        "texts do not end: draw cooler (simulate.tau_factor, simulate.control_tau)."
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


def write_responses(path: Path, responses: Iterable[Response]) -> int:
    """Write responses as they come; the file appears, whole, after the last; return how many.

    Raises
    ------
    ArtifactError
        If the disk is full or the file cannot be written; what was there before stays.
    """
    return write_jsonl(path, (dataclasses.asdict(response) for response in responses))


def read_responses(path: Path) -> Iterator[Response]:
    """Yield the responses of a file.

    Raises
    ------
    ArtifactError
        If it is missing, or a line is no response of this version.
    """
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            yield Response(**row)
        except TypeError as error:
            raise ArtifactError(
                f"{path}, row {number}: not a response ({error}); expected the columns "
                f"{', '.join(f.name for f in dataclasses.fields(Response))}; simulate again"
            ) from error


def _refuse_twins(contexts: Sequence[Record]) -> None:
    """Two contexts with one key would have one seed, and could get the same response."""
    seen: set[str] = set()
    for record in contexts:
        if record.key in seen:
            raise DataError(
                f"key {record.key!r} occurs twice among the contexts; keys must differ, because a "
                "response's seed is made from its key; to draw several, number the keys"
            )
        seen.add(record.key)


def _voices(agent: Agent | tuple[Agent, ...]) -> tuple[Agent, ...]:
    if isinstance(agent, Agent):
        return (agent,)
    if not agent:
        raise DataError("got an empty tuple of agents; give at least one agent for each context")
    return agent


def _request(
    record: Record,
    voices: tuple[Agent, ...],
    personas: Sequence[Persona],
    exemplars: Sequence[Record],
    row_seed: int,
    task: str,
) -> GenerateRequest:
    branches = []
    for agent in voices:
        prompt = simulation_prompt(
            record.context,
            persona=None if agent.persona is None else personas[agent.persona].description,
            exemplars=[exemplars[j] for j in agent.exemplars],
            task=task,
        )
        branches.append(Branch(prompt, float(agent.temperature)))  # of equal weights
    return GenerateRequest(tuple(branches), row_seed, f"context {record.key!r}")


class FailedDraws:
    """The draws of one method that a model gave up, and how many of them may be.

    Parameters
    ----------
    n : int
        Draws in all.
    max_failed_share : float
        Share of them that may fail.
    method, model : str
        Who draws and who should have written, for messages.
    what : str
        What is drawn, for messages.
    """

    def __init__(self, n: int, max_failed_share: float, *, method: str, model: str, what: str = "responses") -> None:
        self._n = n
        self._allowed = math.floor(max_failed_share * n + 1e-9)
        self._method, self._model, self._what = method, model, what
        self._failures: list[Failure] = []

    def settle(self, result: Generation | Failure) -> tuple[Generation, Outcome]:
        """Return what a draw came to; an empty text for a failure, which is counted."""
        if isinstance(result, Generation):
            return result, result.finish_reason
        self._failures.append(result)
        nothing = Generation("", 0, "stop", math.nan)
        return nothing, "refused" if result.code in REFUSALS else "failed"

    def check(self) -> None:
        """Stop if more failed than may; to be called when everything else is stored.

        Raises
        ------
        BackendError
            With the first failure's message.
        """
        if len(self._failures) > self._allowed:
            raise BackendError(
                f"{self._model} could not draw {len(self._failures)} of the {self._n} {self._what} "
                f"of {self._method} ({self._codes()}), and at most {self._allowed} may fail; the "
                f"first: {self._failures[0].message}; the others are kept, so run the same command "
                "to try these again, or allow a share with remote.max_failed_share"
            )

    def tell(self, consequence: str) -> None:
        """Log how many failed, if any did, and what follows from it."""
        if self._failures:
            logger.warning(
                "%s: %d of %d %s could not be had (%s); %s",
                self._method,
                len(self._failures),
                self._n,
                self._what,
                self._codes(),
                consequence,
            )

    def _codes(self) -> str:
        return ", ".join(sorted({failure.code for failure in self._failures}))


def draw_requests(
    requests: Sequence[GenerateRequest],
    generator: Generator,
    store: Store,
    decoding: Decoding,
    *,
    stage: str,
    progress: Progress | None = None,
    span: tuple[int, int] | None = None,
) -> Iterator[Generation | Failure]:
    """Yield what was drawn for each request, in order: from the store, or drawn and then in the store.

    Parameters
    ----------
    requests : sequence of GenerateRequest
        Equal ones are drawn once.
    generator, store, decoding, progress
        As for `simulate`.
    stage : str
        Whose cost grows, and the name that ``progress`` gets.
    span : (int, int), optional
        How many went before, how many there are in all; by default 0 and the number of requests.

    Yields
    ------
    Generation or Failure
        A failure is what the model gave up; it is not stored. See `FailedDraws`.

    Raises
    ------
    BackendError
        If the model leaves a request out.
    ArtifactError
        If the store cannot be read or written.
    """
    keys = [generation_key(generator.generate_identity, request, decoding) for request in requests]
    ready: dict[bytes, Generation | Failure] = {**store.get_generations(keys, stage=stage)}
    missing = {key: r for key, r in zip(keys, requests, strict=True) if key not in ready}
    names = list(missing)
    before, total = span or (0, len(keys))
    done = before + len(keys) - len(missing)
    next_row = 0
    if progress is not None:
        progress(stage, done, total)
    # A model that is not needed is not loaded.
    for batch in generator.generate(list(missing.values()), decoding) if missing else ():
        pairs = [(names[i], generation) for i, generation in batch]
        store.put_generations(pairs, stage=stage)
        ready.update(pairs)
        done += len(pairs)
        if progress is not None:
            progress(stage, done, total)
        while next_row < len(keys) and keys[next_row] in ready:
            yield ready[keys[next_row]]
            next_row += 1
    if missing and isinstance(generator, Fallible):
        ready |= {names[i]: failure for i, failure in generator.failures.items()}
    absent = sum(name not in ready for name in names)
    if absent:
        raise BackendError(
            f"{generator.name} left out {absent} of {len(names)} requests; each must be answered "
            "once; give the same command again to ask for the rest",
            retryable=True,
        )
    for key in keys[next_row:]:
        yield ready[key]


def _joined(keys: Iterable[str | None]) -> str | None:
    """Join the keys of several agents; None if nobody has one."""
    keys = list(keys)
    return " ".join(key or "-" for key in keys) if any(keys) else None
