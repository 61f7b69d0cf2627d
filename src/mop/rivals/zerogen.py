"""ZeroGen: texts from a label and the name of something to write about; no real data, no feedback.

Ye et al., *ZeroGen: Efficient Zero-shot Learning via Dataset Generation*, EMNLP 2022.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace

from mop.backends.ask import Drawing, FailedDraws, draw_requests
from mop.errors import BackendError, DataError
from mop.prompts import DOMAINS, Domain, context_prompt, label_prompt, name_prompt
from mop.randomness import derive_seed, rng_of
from mop.rivals.ingredients import Ingredients
from mop.rivals.redraw import write_texts
from mop.types import Branch, Decoding, GenerateRequest, Prompt, Record, Response

logger = logging.getLogger(__name__)

MAX_NAMES = 500
"""Names asked for, at the most. The paper's script draws 800,000 film titles for 200,000 texts."""
NAMES_PER_CONTEXT = 10
"""Names asked for where there are fewer than 50 contexts (**ours**)."""
NAME_TOKENS = 10
"""Length cap of a name (paper's script: 10)."""

_QUOTES = '"“”„«»'
_STOP = re.compile(r"[.!?](?=\s|$)")


def zerogen(contexts: Sequence[Record], given: Ingredients, *, method: str = "zerogen") -> list[Response]:
    """Write one text for each context's label, about a name that the model made up.

    Parameters
    ----------
    contexts : sequence of Record, length n
        Labels are used, and the context where there is no domain; never the response.
    given : Ingredients
        ``compare.domain`` is ``films``, ``restaurants``, ``news`` (nothing is named there), or ``plain``: the context
        itself is the request and nothing is named. Texts of fewer than ``compare.min_words`` words are drawn
        again. The share of draws that may fail is that of the texts and of the
        names, each by itself.
    method : str
        For seed, rows and cost (``simulate/NAME``).

    Returns
    -------
    list of n Response

    Raises
    ------
    DataError
        If a context has no label and the domain needs one.
    BackendError
        If the model gives no name at all, or more draws failed than allowed.
    """
    drawing = given.drawing
    domain = find_domain(given.config.compare.domain, contexts)
    names = draw_names(domain, drawing, n_contexts=len(contexts), temperature=given.tau, method=method)

    def ask(i: int, attempt: int) -> Prompt:
        record = contexts[i]
        if domain is None:
            return context_prompt(record.context, task=drawing.task)
        about = pick_name(names, drawing.seed, method, record.key, attempt)
        return label_prompt(domain, str(record.label), about=about)

    def accept(i: int, attempt: int, text: str) -> str | None:
        return cut(text, min_words=given.config.compare.min_words)

    return write_texts(contexts, ask, accept, drawing, method=method, temperature=given.tau)


def find_domain(name: str, contexts: Sequence[Record]) -> Domain | None:
    """Return the domain of a name, None for ``plain``.

    Raises
    ------
    DataError
        If a context has no label and the domain needs one.
    """
    if name == "plain":
        return None
    check_labelled(contexts, f"the domain {name!r} asks for texts by label", "use the domain plain")
    return DOMAINS[name]


def check_labelled(contexts: Sequence[Record], why: str, instead: str) -> None:
    """Refuse contexts without labels: ``why`` they are needed, and what to do ``instead``.

    Raises
    ------
    DataError
        If a context has no label.
    """
    unlabelled = [record.key for record in contexts if record.label is None]
    if unlabelled:
        raise DataError(
            f"{len(unlabelled)} of {len(contexts)} contexts have no label (first: {unlabelled[0]!r}), and {why}; "
            f"name the label column with data.label, or {instead}"
        )


def draw_names(
    domain: Domain | None, drawing: Drawing, *, n_contexts: int, temperature: float, method: str
) -> list[str]:
    """Let the model name films (or restaurants); return the different names, in order of the draws.

    Asks for `NAMES_PER_CONTEXT` names for each context, at most `MAX_NAMES`. A name whose draw failed
    is left out. Empty for a domain in which nothing is named.

    Raises
    ------
    BackendError
        If no draw holds a name, or more failed than allowed.
    """
    if domain is None or not domain.about:
        return []
    n_names = min(MAX_NAMES, NAMES_PER_CONTEXT * n_contexts)
    prompt = name_prompt(domain)
    requests = [
        GenerateRequest(
            (Branch(prompt, temperature),),
            derive_seed(drawing.seed, "names", method, i),
            f"name {i + 1} of a {domain.about}",
        )
        for i in range(n_names)
    ]
    drawn = draw_requests(requests, with_length(drawing, NAME_TOKENS), stage=f"simulate/{method}")
    failed = FailedDraws(n_names, drawing, method=method, what="names")
    texts = [failed.settle(result)[0].text for result in drawn]
    failed.check()
    failed.tell("the others are used")
    names = list(dict.fromkeys(name for text in texts if (name := clean_name(text))))
    if not names:
        raise BackendError(
            f"{drawing.generator.name} gave no name of a {domain.about} in {n_names} draws; a word or more "
            "is needed; use another model, or the domain plain"
        )
    if len(names) < n_names / 2:
        logger.warning("%s: only %d of %d names of a %s differ", method, len(names), n_names, domain.about)
    return names


def with_length(drawing: Drawing, max_tokens: int) -> Drawing:
    """The same draws with another length cap, and without a least length."""
    cap = Decoding(max_tokens=max_tokens, top_p=drawing.decoding.top_p, top_k=drawing.decoding.top_k)
    return replace(drawing, decoding=cap)


def pick_name(names: Sequence[str], seed: int, method: str, key: str, attempt: int) -> str | None:
    """Draw the name that a text is about, uniformly; None if nothing is named."""
    if not names:
        return None
    return names[int(rng_of(seed, method, "about", key, attempt).integers(len(names)))]


def clean_name(text: str) -> str:
    r"""Return a drawn name: its first line, without quotation marks and a final stop.

    Examples
    --------
    >>> clean_name('"The Long Night."\nIt is a film'), clean_name(" ")
    ('The Long Night', '')
    """
    lines = text.strip().splitlines()
    line = lines[0].strip().lstrip(_QUOTES) if lines else ""
    for quote in _QUOTES:
        line = line.partition(quote)[0]
    return line.strip().rstrip(".").strip()


def cut(text: str, *, min_words: int) -> str | None:
    r"""Return the part of a drawn text that is kept, None if the text is dropped.

    Up to the closing quotation mark, if the text begins with one (**ours**: a chat model that quotes a title in the
    middle of a review has not ended it); otherwise up to the first line break; without one up to the last full stop (or
    other end of a sentence); without any, or with fewer than ``min_words`` words: dropped.

    Examples
    --------
    >>> cut('"A fine film." I hope that helps!', min_words=3)
    'A fine film.'
    >>> cut('I liked "Up". It is fun and it', min_words=3)
    'I liked "Up".'
    >>> cut("no end in sight", min_words=3) is None
    True
    """
    text = text.strip()
    is_quoted = text.startswith(tuple(_QUOTES))
    if is_quoted:
        text = text[1:].lstrip()
    ends = [place for quote in _QUOTES if (place := text.find(quote)) >= 0]
    lines = text.splitlines()
    if is_quoted and ends:
        kept = text[: min(ends)]
    elif len(lines) > 1:
        kept = lines[0]
    else:
        stops = list(_STOP.finditer(text))
        kept = text[: stops[-1].end()] if stops else ""
    kept = kept.strip()
    return kept if len(kept.split()) >= min_words else None
