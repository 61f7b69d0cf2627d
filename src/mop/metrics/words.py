"""Counts of words in texts: distinct n-grams, self-BLEU, refusals, copies (``docs/metrics.md``)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mop.errors import DataError
from mop.metrics.distances import Shown
from mop.randomness import derive_seed, uniforms

REFUSAL_PHRASES = (
    *(f"as {what}" for what in ("an ai", "a language model", "a large language model")),
    *(f"{i} {what}" for i in ("i am", "i'm") for what in ("an ai", "a language model", "unable to", "not able to")),
    "i'm just an ai",
    *(f"i {cannot} {verb}" for cannot in ("cannot", "can't") for verb in (
        "assist", "help with", "fulfill", "provide", "comply", "generate", "create", "write")),
    *(f"{i} sorry, but i {cannot}" for i in ("i am", "i'm") for cannot in ("cannot", "can't")),
    "i apologize, but i",
    *(f"i {lack} {what}" for lack in ("don't have", "do not have") for what in ("personal opinions", "the ability")),
)  # fmt: skip
"""What marks a refusal when it stands in the first `REFUSAL_REACH` characters; English only."""
REFUSAL_REACH = 120
"""A person may write "I can't provide" deep in a text; a model that refuses says so at once."""

COPY_RUN = 5
COPY_SHARE = 0.6
"""A near-copy has this share of the shorter text's runs of `COPY_RUN` words in common,"""
COPY_STRETCH = 10
"""or so many words in a row: of 5 million random pairs of AG News or IMDB, 33 and 8 have them."""
COMMON = 100
"""A run of words in more real texts than this is a phrase, not somebody's words."""
SELF_BLEU_TEXTS = 500

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def words(text: str) -> list[str]:
    """Words of a text without case and punctuation.

    Scripts that put no space between words give one word per stretch.

    Examples
    --------
    >>> words("It's GOOD, isn't it?")
    ["it's", 'good', "isn't", 'it']
    """
    return _WORD.findall(text.casefold().replace("’", "'"))


def _runs(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """All stretches of n words."""
    return (tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def check_texts(texts: Sequence[object], what: str) -> None:
    """Stop at what is no text: None or nan, as tables have for an empty cell.

    Raises
    ------
    DataError
        Naming its place.
    """
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(
                f"{what} hold {text!r} at index {i}, where a text is needed; leave it out, or pass '' for an answer "
                "without text, which counts as empty"
            )


def _some(texts: Sequence[str], what: str) -> None:
    """Stop at an empty list, and at what is no text."""
    if not texts:
        raise DataError(f"{what} was asked of 0 texts; it needs at least 1; pass some texts")
    check_texts(texts, f"the texts for {what}")


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of different runs of n words among all runs of n words; falls with the number of texts.

    Parameters
    ----------
    texts : sequence of str
    n : int
        At least 1.

    Returns
    -------
    float
        0 to 1, higher is more varied; 0 if no text has n words.

    Raises
    ------
    DataError
        If there is no text.

    Examples
    --------
    >>> distinct_n(["a good film", "a bad film"], 1)  # a, good, film, bad among 6
    0.6666666666666666
    """
    _some(texts, f"distinct-{n}")
    runs = Counter(run for text in texts for run in _runs(words(text), n))
    return len(runs) / max(1, runs.total())


def self_bleu(texts: Sequence[str], *, seed: int, n: int = 4) -> float:
    """Mean BLEU of each text against all the others: how much the texts repeat each other.

    Parameters
    ----------
    texts : sequence of str
        Those without a word are left out; above 500, a choice of 500 that depends on the seed alone.
    seed : int
        64-bit.
    n : int
        Longest run of words that counts.

    Returns
    -------
    float
        0 to 1, lower is more varied.

    Raises
    ------
    DataError
        If fewer than two texts have a word.

    Notes
    -----
    Precisions of runs of 1 to n words, geometric mean, brevity penalty against the closest length.
    A precision of 0 counts as 0.1 of one run (Chen and Cherry 2014, their first smoothing); a text
    shorter than n words is judged by the runs it has.

    Examples
    --------
    >>> self_bleu(["one fine day in may", "one fine day in may"], seed=0)
    1.0
    """
    check_texts(texts, "the texts for self-BLEU")
    tokens = [found for found in map(words, texts) if found]
    if len(tokens) > SELF_BLEU_TEXTS:
        order = np.argsort(uniforms(derive_seed(seed, "self_bleu"), 0, len(tokens)), kind="stable")
        tokens = [tokens[i] for i in sorted(order[:SELF_BLEU_TEXTS])]
    if len(tokens) < 2:
        raise DataError(
            f"self-BLEU was asked of {len(tokens)} texts with words in them; it compares each with "
            "the others and needs at least 2; pass more texts"
        )
    log_precision = np.zeros(len(tokens))
    for order_n in range(1, n + 1):
        counts = [Counter(_runs(found, order_n)) for found in tokens]
        best, second = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
        for count in counts:
            for run, times in count.items():
                best[run], second[run] = sorted((best[run], second[run], times))[:0:-1]
        for i, count in enumerate(counts):
            if count:
                # The largest count among the *other* texts: the runner-up where this one is first.
                hits = sum(min(times, second[run] if times == best[run] else best[run]) for run, times in count.items())
                share = min(n, len(tokens[i]))
                log_precision[i] += math.log(max(hits, 0.1) / count.total()) / share
    lengths = np.array([len(found) for found in tokens])
    penalties = [_log_brevity(lengths, i) for i in range(len(tokens))]
    return float(np.exp(log_precision + penalties).mean())


def _log_brevity(lengths: NDArray[np.intp], i: int) -> float:
    """Log of BLEU's penalty for a text shorter than the closest of the others."""
    others = np.delete(lengths, i)
    gaps = np.abs(others - lengths[i])
    closest = others[gaps == gaps.min()].min()
    return min(0.0, 1 - float(closest) / float(lengths[i]))


def mean_words(texts: Sequence[str]) -> float:
    """Mean length in words, as `words` finds them; DataError if there is none.

    Examples
    --------
    >>> mean_words(["a good film", "bad"])
    2.0
    """
    _some(texts, "the mean length")
    return sum(len(words(text)) for text in texts) / len(texts)


def is_refusal(text: str) -> bool:
    """Whether the text begins as a model does that declines (`REFUSAL_PHRASES`).

    Examples
    --------
    >>> is_refusal("I’m sorry, but I can't write that."), is_refusal("I can't recommend it.")
    (True, False)
    """
    start = " ".join(text.split())[:REFUSAL_REACH].casefold().replace("’", "'")
    return any(re.search(rf"\b{re.escape(phrase)}\b", start) for phrase in REFUSAL_PHRASES)


def refusal_share(texts: Sequence[str]) -> float:
    """Share of texts that begin like a refusal; DataError if there is none."""
    _some(texts, "the refusal share")
    return sum(map(is_refusal, texts)) / len(texts)


def empty_share(texts: Sequence[str]) -> float:
    """Share of texts without anything but white space; DataError if there is none.

    Examples
    --------
    >>> empty_share(["fine", "  "])
    0.5
    """
    _some(texts, "the share of empty texts")
    return sum(not text.strip() for text in texts) / len(texts)


def duplicate_share(texts: Sequence[str]) -> float:
    """Share of texts that repeat an earlier one, white space at the ends aside; DataError if there is none.

    Examples
    --------
    >>> duplicate_share(["a", "b", "a ", "A"])
    0.25
    """
    _some(texts, "the duplicate share")
    return 1 - len({text.strip() for text in texts}) / len(texts)


def is_near_copy(text: str, exemplar: str) -> bool:
    """Whether a text repeats the exemplar it was shown.

    True if ten words in a row stand in both, or at least 0.6 of the different five-word runs of
    the shorter text also stand in the longer one. A text of fewer than five words has none and must
    be equal, case and punctuation aside.

    Examples
    --------
    >>> is_near_copy("One of the best films of the year!", "It's one of the best films of the year")
    True
    >>> is_near_copy("One of the worst films of the year", "One of the best films of the year")
    False
    """
    shorter, longer = sorted((words(text), words(exemplar)), key=len)
    if len(shorter) < COPY_RUN:
        return bool(shorter) and shorter == longer
    if not set(_runs(shorter, COPY_STRETCH)).isdisjoint(_runs(longer, COPY_STRETCH)):
        return True
    runs = set(_runs(shorter, COPY_RUN))
    return len(runs & set(_runs(longer, COPY_RUN))) >= COPY_SHARE * len(runs)


class Copies:
    """Real texts in which near-copies are looked up; the work grows with the number of texts, not of pairs.

    Parameters
    ----------
    known : sequence of str
        What real people wrote.
    """

    def __init__(self, known: Sequence[str]) -> None:
        self._short = Counter[tuple[str, ...]]()
        self._n_runs: list[int] = []
        self._in: dict[tuple[str, ...], list[int]] = {}
        self._stretches: set[tuple[str, ...]] = set()
        for text, n in Counter(known).items():
            found = words(text)
            self._short[tuple(found)] += n
            runs = set(_runs(found, COPY_RUN))
            for run in runs:
                self._in.setdefault(run, []).append(len(self._n_runs))
            self._n_runs.append(len(runs))
            self._stretches.update(_runs(found, COPY_STRETCH))

    def has(self, text: str) -> bool:
        """Whether a text is a near-copy of one of them, as `is_near_copy` has it.

        One of fewer than five words must be equal to what one person wrote, and only one: what several wrote is
        nobody's own. Runs that stand in more than `COMMON` texts are not looked up either.

        Examples
        --------
        >>> real = Copies(["It's one of the best films of the year", "a bore", "yes", "yes"])
        >>> [real.has(text) for text in ("One of the best films of the year!", "A bore.", "yes")]
        [True, True, False]
        """
        found = words(text)
        if len(found) < COPY_RUN:
            return self._short[tuple(found)] == 1
        if not self._stretches.isdisjoint(_runs(found, COPY_STRETCH)):
            return True
        runs = set(_runs(found, COPY_RUN))
        shared = Counter(row for run in runs if len(rows := self._in.get(run, ())) <= COMMON for row in rows)
        return any(n >= COPY_SHARE * min(len(runs), self._n_runs[row]) for row, n in shared.items())


def near_copy_share(texts: Sequence[str], exemplars: Sequence[Shown], known: Copies | None = None) -> float | None:
    """Share of near-copies among texts: of the exemplars in view, and of any real text that is known.

    Parameters
    ----------
    texts : sequence of str
    exemplars : sequence of str, of sequence of str, or of None
        The exemplar of each text, or several, of which any may be repeated; None, or an empty one,
        where there was none.
    known : Copies, optional
        Other real texts. Without them only texts count that had an exemplar.

    Returns
    -------
    float or None
        None if no text had an exemplar and nothing else is known.

    Raises
    ------
    DataError
        If the two differ in length.
    """
    if len(texts) != len(exemplars):
        raise DataError(
            f"near-copies were asked of {len(texts)} texts and {len(exemplars)} exemplars; "
            "one exemplar, several, or None are needed per text; pass lists of equal length"
        )
    check_texts(texts, "the texts for near-copies")
    shots = [(of,) if isinstance(of, str) else tuple(of or ()) for of in exemplars]
    shown = [(text, of) for text, of in zip(texts, shots, strict=True) if of or known]
    if not shown:
        return None
    copies = [any(is_near_copy(text, shot) for shot in of) or (known and known.has(text)) for text, of in shown]
    return sum(map(bool, copies)) / len(shown)
