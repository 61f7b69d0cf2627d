"""AttrPrompt: variety from random combinations of attributes that are written into the request.

Yu et al., *Large Language Model as Attributed Training Data Generator: A Tale of Diversity and Bias*,
NeurIPS 2023 Datasets and Benchmarks. No real data is seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mop.backends.base import Generator
from mop.errors import BackendError
from mop.prompts import context_prompt, dimensions_prompt, label_prompt, requirements_prompt, values_prompt
from mop.randomness import derive_seed, rng_of
from mop.rivals.attributes import ATTRIBUTES, Attributes
from mop.rivals.redraw import MAX_TRIES, write_texts
from mop.rivals.zerogen import find_domain
from mop.simulate.write import FailedDraws, draw_requests
from mop.storage.store import Store
from mop.types import Branch, Decoding, GenerateRequest, Progress, Prompt, Record, Response

N_DIMENSIONS = 4
"""Dimensions proposed for a population without a list (**ours**)."""
N_VALUES = 10
"""Values of each (paper: about 10)."""
PROPOSAL_TOKENS = 120
PROPOSAL_TRIES = 10
"""Draws for one list before it is given up."""

REFUSALS = ("sorry", "as an ai language model", "cannot perform")
"""A text with one of these is dropped, as in the released script."""

_KEPT = re.compile(r"[^A-Za-z0-9(),.!?'\"]+")
_BULLET = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):]?)\s*")


def attrprompt(
    contexts: Sequence[Record],
    *,
    generator: Generator,
    store: Store,
    decoding: Decoding,
    seed: int,
    domain: str = "plain",
    task: str = "",
    attributes: Attributes | None = None,
    temperature: float = 1.0,
    max_tries: int = MAX_TRIES,
    max_failed_share: float = 0.0,
    method: str = "attrprompt",
    progress: Progress | None = None,
) -> list[Response]:
    """Write one text for each context's label, with one drawn value of every dimension required.

    Parameters
    ----------
    contexts : sequence of Record, length n
        Labels are used, and the context where there is no domain; never the response.
    generator, store, decoding, progress
        As for `mop.simulate.write.simulate`.
    seed : int
        Of the run.
    domain : str
        ``films``, ``restaurants``, ``news``: the released lists; ``plain``: the model proposes
        dimensions and values from the task alone.
    task : str
        What is written, for ``plain``.
    attributes : Attributes, optional
        Yours instead.
    temperature : float
    max_tries, max_failed_share, method
        As for `mop.rivals.redraw.write_texts`.

    Returns
    -------
    list of n Response

    Raises
    ------
    ConfigError
        For an unknown domain.
    DataError
        If a label has no values, or a context no label where the domain needs one.
    BackendError
        If the model proposes nothing, or more draws failed than allowed.
    """
    of = find_domain(domain, contexts, "chat")
    if attributes is None:
        attributes = ATTRIBUTES[domain] if of is not None else propose_attributes(
            task, generator=generator, store=store, decoding=decoding, seed=seed,
            temperature=temperature, max_failed_share=max_failed_share, method=method,
            progress=progress,
        )  # fmt: skip
    for label in dict.fromkeys(record.label for record in contexts):
        attributes.of(label)  # refuses a label without values before work begins
    chosen = attributes

    def ask(i: int, attempt: int) -> Prompt:
        record = contexts[i]
        request = context_prompt(record.context, task=task) if of is None else label_prompt(of, str(record.label))
        drawn = draw_attributes(chosen, record, seed=seed, method=method, attempt=attempt)
        return requirements_prompt(request, drawn)

    return write_texts(
        contexts,
        ask,
        lambda i, attempt, text: clean(text),
        generator=generator,
        store=store,
        decoding=decoding,
        seed=seed,
        method=method,
        temperature=temperature,
        max_tries=max_tries,
        max_failed_share=max_failed_share,
        progress=progress,
    )


def draw_attributes(
    attributes: Attributes, record: Record, *, seed: int, method: str = "attrprompt", attempt: int = 0
) -> list[tuple[str, str]]:
    """Draw one value of each dimension, independently and uniformly.

    Returns
    -------
    list of (dimension, value)
        A function of (seed, method, the record's key, attempt, dimension) and the lists alone.

    Raises
    ------
    DataError
        If a dimension has no values for the record's label.
    """
    return [
        (name, values[int(rng_of(seed, method, name, record.key, attempt).integers(len(values)))])
        for name, values in attributes.of(record.label).items()
    ]


def clean(text: str) -> str | None:
    r"""Return a text in the characters that the method keeps, None for a refusal or nothing.

    Examples
    --------
    >>> clean("A film – dull; long.\nBut *fun*!"), clean("I'm sorry, but no."), clean(" … ")
    ('A film dull long. But fun !', None, None)
    """
    lowered = text.lower()
    if any(phrase in lowered for phrase in REFUSALS):
        return None
    return _KEPT.sub(" ", text).strip() or None


def propose_attributes(
    task: str,
    *,
    generator: Generator,
    store: Store,
    decoding: Decoding,
    seed: int,
    temperature: float = 1.0,
    max_failed_share: float = 0.0,
    n_dimensions: int = N_DIMENSIONS,
    n_values: int = N_VALUES,
    method: str = "attrprompt",
    progress: Progress | None = None,
) -> Attributes:
    """Let the model name dimensions and values of each, from the task alone; no real text is shown.

    Each list is drawn until it has a line, `PROPOSAL_TRIES` times at most, of which
    ``max_failed_share`` may fail.

    Raises
    ------
    BackendError
        If a list stays empty, or more draws failed than allowed.
    """
    short = Decoding(max_tokens=PROPOSAL_TOKENS, top_p=decoding.top_p, top_k=decoding.top_k)

    def ask(prompt: Prompt, what: str) -> list[str]:
        failed = FailedDraws(
            PROPOSAL_TRIES, max_failed_share, method=method, model=generator.name, what=f"proposals of {what}"
        )
        for attempt in range(PROPOSAL_TRIES):
            request = GenerateRequest(
                (Branch(prompt, temperature),),
                derive_seed(seed, method, "propose", what, attempt),
                f"proposal of {what}",
            )
            (drawn,) = draw_requests([request], generator, store, short, stage=f"simulate/{method}", progress=progress)
            lines = listed(failed.settle(drawn)[0].text)
            failed.check()
            if lines:
                failed.tell("others were drawn")
                return lines
        raise BackendError(
            f"{generator.name} proposed no {what} in {PROPOSAL_TRIES} draws; at least one line is "
            "needed; use another model, or a domain with lists: " + ", ".join(ATTRIBUTES)
        )

    dimensions = ask(dimensions_prompt(task, n_dimensions), "dimensions")[:n_dimensions]
    return Attributes({name: ask(values_prompt(task, name, n_values), name)[:n_values] for name in dimensions})


def listed(text: str) -> list[str]:
    r"""Return the different items of a list, one a line, without numbers and bullets.

    Examples
    --------
    >>> listed("1. tone\n- Length:\n\n2) tone")
    ['tone', 'Length']
    """
    items = [_BULLET.sub("", line).strip().rstrip(":.;").strip() for line in text.splitlines()]
    return list(dict.fromkeys(item for item in items if item))
