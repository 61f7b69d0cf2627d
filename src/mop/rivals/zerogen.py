"""ZeroGen: texts from a label and the name of something to write about; no real data, no feedback.

Ye et al., *ZeroGen: Efficient Zero-shot Learning via Dataset Generation*, EMNLP 2022.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from mop.backends.base import Generator
from mop.errors import BackendError, ConfigError, DataError
from mop.prompts import DOMAINS, Domain, context_prompt, label_prompt, name_prompt
from mop.randomness import derive_seed, rng_of
from mop.rivals.redraw import MAX_TRIES, write_texts
from mop.simulate.write import FailedDraws, draw_requests
from mop.storage.store import Store
from mop.types import Branch, Decoding, GenerateRequest, Progress, Prompt, Record, Response

logger = logging.getLogger(__name__)

N_NAMES = 500
"""Names asked for, at the most. The paper's script draws 800,000 film titles for 200,000 texts."""
NAME_TOKENS = 10
"""Length cap of a name (paper's script: 10)."""
MIN_WORDS = 10
"""Shorter texts are dropped (paper's script: 10)."""

_QUOTES = '"“”„«»'
_STOP = re.compile(r"[.!?](?=\s|$)")


def zerogen(
    contexts: Sequence[Record],
    *,
    generator: Generator,
    store: Store,
    decoding: Decoding,
    seed: int,
    domain: str = "plain",
    task: str = "",
    form: str = "chat",
    temperature: float = 1.0,
    n_names: int = N_NAMES,
    min_words: int = MIN_WORDS,
    max_tries: int = MAX_TRIES,
    max_failed_share: float = 0.0,
    method: str = "zerogen",
    progress: Progress | None = None,
) -> list[Response]:
    """Write one text for each context's label, about a name that the model made up.

    Parameters
    ----------
    contexts : sequence of Record, length n
        Labels are used, and the context where there is no domain; never the response.
    generator, store, decoding, progress
        As for `mop.simulate.write.simulate`.
    seed : int
        Of the run.
    domain : str
        ``films``, ``restaurants``, ``news`` (nothing is named there), or ``plain``: the context
        itself is the request and nothing is named.
    task : str
        What is written, for ``plain``.
    form : {"chat", "quote"}
        See `mop.prompts.label_prompt`.
    temperature : float
    n_names : int
        Names drawn for domains that name something; repeated ones are dropped.
    min_words : int
        A shorter text is drawn again.
    max_tries
        As for `mop.rivals.redraw.write_texts`.
    max_failed_share
        As for `mop.simulate.write.simulate`; of the texts and of the names, each by itself.
    method : str
        As for `mop.rivals.redraw.write_texts`.

    Returns
    -------
    list of n Response

    Raises
    ------
    ConfigError
        For an unknown domain or form.
    DataError
        If a context has no label and the domain needs one.
    BackendError
        If the model gives no name at all, or more draws failed than allowed.
    """
    of = find_domain(domain, contexts, form)
    names: list[str] = []
    if of is not None and of.about:
        names = draw_names(
            of, n_names, generator=generator, store=store, decoding=decoding, seed=seed,
            temperature=temperature, max_failed_share=max_failed_share, method=method,
            progress=progress,
        )  # fmt: skip

    def ask(i: int, attempt: int) -> Prompt:
        record = contexts[i]
        if of is None:
            return context_prompt(record.context, task=task)
        about = pick_name(names, seed, method, record.key, attempt)
        return label_prompt(of, str(record.label), about=about, form=form)

    return write_texts(
        contexts,
        ask,
        lambda i, attempt, text: cut(text, is_open=form == "quote", min_words=min_words),
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


def find_domain(name: str, contexts: Sequence[Record], form: str) -> Domain | None:
    """Return the domain of a name, None for ``plain``.

    Raises
    ------
    ConfigError
        For an unknown domain or form.
    DataError
        If a context has no label and the domain needs one.
    """
    if name != "plain" and name not in DOMAINS:
        raise ConfigError(f"unknown domain {name!r}; known: plain, {', '.join(DOMAINS)}; plain asks by context")
    if form not in ("chat", "quote"):
        raise ConfigError(f"unknown form {form!r}; accepted are chat and quote; choose one")
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
    domain: Domain,
    n_names: int,
    *,
    generator: Generator,
    store: Store,
    decoding: Decoding,
    seed: int,
    temperature: float = 1.0,
    max_failed_share: float = 0.0,
    method: str = "zerogen",
    progress: Progress | None = None,
) -> list[str]:
    """Let the model name films (or restaurants); return the different names, in order of the draws.

    A name that could not be had is left out; ``max_failed_share`` of the draws may fail.

    Raises
    ------
    BackendError
        If no draw holds a name, or more failed than allowed.
    """
    prompt = name_prompt(domain)
    requests = [
        GenerateRequest(
            (Branch(prompt, temperature),), derive_seed(seed, "names", method, i), f"name {i + 1} of a {domain.about}"
        )
        for i in range(n_names)
    ]
    short = Decoding(max_tokens=NAME_TOKENS, top_p=decoding.top_p, top_k=decoding.top_k)
    drawn = draw_requests(requests, generator, store, short, stage=f"simulate/{method}", progress=progress)
    failed = FailedDraws(n_names, max_failed_share, method=method, model=generator.name, what="names")
    texts = [failed.settle(result)[0].text for result in drawn]
    failed.check()
    failed.tell("the others are used")
    names = list(dict.fromkeys(name for text in texts if (name := clean_name(text))))
    if not names:
        raise BackendError(
            f"{generator.name} gave no name of a {domain.about} in {n_names} draws; a word or more "
            "is needed; use another model, or the domain plain"
        )
    if len(names) < n_names / 2:
        logger.warning("%s: only %d of %d names of a %s differ", method, len(names), n_names, domain.about)
    return names


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


def cut(text: str, *, is_open: bool = False, min_words: int = MIN_WORDS) -> str | None:
    r"""Return the part of a drawn text that is kept, None if the text is dropped.

    Up to the closing quotation mark; without one up to the first line break; without one up to the
    last full stop (or other end of a sentence); without any, or with too few words: dropped.

    Parameters
    ----------
    text : str
    is_open : bool
        Whether the request ended with an opening quotation mark. If not, the text itself must begin
        with one for a quotation mark to be its end (**ours**: a chat model that quotes a title in
        the middle of a review has not ended it).
    min_words : int

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
    if not is_open and text[:1] and text[0] in _QUOTES:
        text, is_open = text[1:].lstrip(), True
    ends = [place for quote in _QUOTES if (place := text.find(quote)) >= 0]
    lines = text.splitlines()
    if is_open and ends:
        kept = text[: min(ends)]
    elif len(lines) > 1:
        kept = lines[0]
    else:
        stops = list(_STOP.finditer(text))
        kept = text[: stops[-1].end()] if stops else ""
    kept = kept.strip()
    return kept if len(kept.split()) >= min_words and kept else None
