"""AttrPrompt: variety from random combinations of attributes that are written into the request.

Yu et al., *Large Language Model as Attributed Training Data Generator: A Tale of Diversity and Bias*,
NeurIPS 2023 Datasets and Benchmarks. No real data is seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mop.backends.ask import Drawing, FailedDraws, draw_requests
from mop.errors import BackendError
from mop.prompts import context_prompt, dimensions_prompt, label_prompt, requirements_prompt, values_prompt
from mop.randomness import derive_seed, rng_of
from mop.rivals.attributes import ATTRIBUTES, Attributes
from mop.rivals.ingredients import Ingredients
from mop.rivals.redraw import write_texts
from mop.rivals.zerogen import find_domain, with_length
from mop.types import Branch, GenerateRequest, Prompt, Record, Response

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


def attrprompt(contexts: Sequence[Record], given: Ingredients, *, method: str = "attrprompt") -> list[Response]:
    """Write one text for each context's label, with one drawn value of every dimension required.

    Parameters
    ----------
    contexts : sequence of Record, length n
        Labels are used, and the context where there is no domain; never the response.
    given : Ingredients
        ``compare.domain`` is ``films``, ``restaurants``, ``news``: the released lists; or ``plain``: the model
        proposes dimensions and values from the task alone.
    method : str
        For seed, rows and cost (``simulate/NAME``).

    Returns
    -------
    list of n Response

    Raises
    ------
    DataError
        If a label has no values, or a context no label where the domain needs one.
    BackendError
        If the model proposes nothing, or more draws failed than allowed.
    """
    name, drawing = given.config.compare.domain, given.drawing
    domain = find_domain(name, contexts)
    attributes = (
        propose_attributes(drawing, temperature=given.tau, method=method) if domain is None else ATTRIBUTES[name]
    )
    for label in dict.fromkeys(record.label for record in contexts):
        attributes.of(label)  # refuses a label without values before work begins

    def ask(i: int, attempt: int) -> Prompt:
        record = contexts[i]
        if domain is None:
            request = context_prompt(record.context, task=drawing.task)
        else:
            request = label_prompt(domain, str(record.label))
        drawn = draw_attributes(attributes, record, seed=drawing.seed, method=method, attempt=attempt)
        return requirements_prompt(request, drawn)

    def accept(i: int, attempt: int, text: str) -> str | None:
        return clean(text)

    return write_texts(contexts, ask, accept, drawing, method=method, temperature=given.tau)


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


def propose_attributes(drawing: Drawing, *, temperature: float, method: str) -> Attributes:
    """Let the model name dimensions and values of each, from the task alone; no real text is shown.

    Each list is drawn until it has a line, `PROPOSAL_TRIES` times at most, of which
    ``max_failed_share`` may fail.

    Raises
    ------
    BackendError
        If a list stays empty, or more draws failed than allowed.
    """
    short = with_length(drawing, PROPOSAL_TOKENS)

    def ask(prompt: Prompt, what: str) -> list[str]:
        failed = FailedDraws(PROPOSAL_TRIES, drawing, method=method, what=f"proposals of {what}")
        for attempt in range(PROPOSAL_TRIES):
            request = GenerateRequest(
                (Branch(prompt, temperature),),
                derive_seed(drawing.seed, method, "propose", what, attempt),
                f"proposal of {what}",
            )
            (drawn,) = draw_requests([request], short, stage=f"simulate/{method}")
            lines = listed(failed.settle(drawn)[0].text)
            failed.check()
            if lines:
                failed.tell("others were drawn")
                return lines
        raise BackendError(
            f"{drawing.generator.name} proposed no {what} in {PROPOSAL_TRIES} draws; at least one line is "
            "needed; use another model, or a domain with lists: " + ", ".join(ATTRIBUTES)
        )

    task = drawing.task
    dimensions = ask(dimensions_prompt(task, N_DIMENSIONS), "dimensions")[:N_DIMENSIONS]
    return Attributes({name: ask(values_prompt(task, name, N_VALUES), name)[:N_VALUES] for name in dimensions})


def listed(text: str) -> list[str]:
    r"""Return the different items of a list, one a line, without numbers and bullets.

    Examples
    --------
    >>> listed("1. tone\n- Length:\n\n2) tone")
    ['tone', 'Length']
    """
    items = [_BULLET.sub("", line).strip().rstrip(":.;").strip() for line in text.splitlines()]
    return list(dict.fromkeys(item for item in items if item))
