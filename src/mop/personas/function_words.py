"""Words that every text of a language has: they say nothing of who wrote it."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

FUNCTION_WORDS = {
    language: frozenset(words.split())
    for language, words in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
}
"""By the code of the language."""
SHARE = 0.25
"""Share of the words of texts, at the least, that are function words of their language."""


def function_words(counts: Counter[str]) -> frozenset[str]:
    """The list of the language of texts, by how often each word in lower case occurs; empty if none is known.

    Examples
    --------
    >>> "aber" in function_words(Counter("die rente ist zu niedrig aber wir haben keine wahl".split()))
    True
    >>> function_words(Counter("rents rents rents".split()))
    frozenset()
    """
    n = {language: sum(counts[word] for word in of) for language, of in FUNCTION_WORDS.items()}
    best = max(n, key=lambda language: n[language])
    return FUNCTION_WORDS[best] if n[best] >= SHARE * counts.total() > 0 else frozenset()
