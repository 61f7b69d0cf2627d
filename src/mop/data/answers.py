"""Whether texts are answers to closed questions, and which answers there are to choose from."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

GIVEN_TWICE = 0.8
"""Share of real texts, at the least, that somebody else gives too, where questions are closed;"""
MOST_WORDS = 12
"""and mean words of a text, at the most. Both are chosen, not tuned."""


def folded(text: str) -> str:
    """An answer without what does not tell options apart: case, blanks, and a full stop or quotes around it.

    Examples
    --------
    >>> folded('  "Very  good." ') == folded("very good")
    True
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .。\"'“”‘’«»")


def options_of(texts: Iterable[str]) -> dict[str, str]:
    """The options of closed questions by what real texts answer; none where texts are free.

    Parameters
    ----------
    texts : iterable of str
        Real ones, each answer as often as it was given.

    Returns
    -------
    dict of str to str
        An option as `folded` gives it to its most frequent spelling, the most frequent option first. Questions are
        closed if four texts in five are given by somebody else too, and texts have 12 words or fewer on average; an
        option is then what two people answer.

    Examples
    --------
    >>> options_of(["Yes", "yes.", "No", "No", "yes", "yes", "no", "no", "No", "Yes"])
    {'no': 'No', 'yes': 'Yes'}
    >>> options_of(["a fine film", "a dull film", "too long", "too loud"])
    {}
    """
    given = Counter(text.strip() for text in texts if text.strip())
    spellings: dict[str, Counter[str]] = {}
    for text, n in given.items():
        spellings.setdefault(folded(text), Counter())[text] += n
    options = {key: of for key, of in spellings.items() if of.total() > 1}
    n_words = sum(len(text.split()) * n for text, n in given.items())
    n_twice = sum(of.total() for of in options.values())
    if n_twice < GIVEN_TWICE * given.total() or n_words > MOST_WORDS * given.total():
        return {}
    often = sorted(options.items(), key=lambda item: (-item[1].total(), item[0]))
    return {key: min(of, key=lambda text: (-of[text], text)) for key, of in often}


def options_chosen(texts: Sequence[str], options: Iterable[str]) -> list[int]:
    """Row of the option that each text is, -1 for a text that is none.

    Examples
    --------
    >>> options_chosen(["YES.", "yes or no"], ["yes", "no"])
    [0, -1]
    """
    row = {option: i for i, option in enumerate(options)}
    return [row.get(folded(text), -1) for text in texts]
