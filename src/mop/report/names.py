"""Short names of personas, and titles of pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from mop.report.plots import shorten

SHORT = 40
"""Most characters of a short name. Chosen, not tuned."""
SHARED = 3 / 4
"""An opening that so many of the descriptions share tells nobody apart."""

_KEYWORDS = re.compile(r"typical words are ([^\n]+?)\.(?:\s|$)")
_WORD_ENDS = re.compile(r"\s+|(?<=[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])")


def short_names(descriptions: Sequence[str]) -> list[str]:
    """Return names by which personas can be told apart in a narrow column.

    Of a description by keywords these are the first three. Others begin where they stop to be like most others. Names
    that are still alike are cut where they part, and numbered if they never do.

    Examples
    --------
    >>> short_names(["You are a writer whose typical words are war, flick, sting and dumb.",
    ...              "You are a writer whose typical words are tender and brave."])
    ['war, flick, sting', 'tender, brave']
    >>> short_names(["You are a nurse.", "You are a retired miner who reads.", "You are a baker."])
    ['nurse', 'retired miner who reads', 'baker']
    """
    texts = [" ".join(text.split()) for text in descriptions]
    words = [_KEYWORDS.search(text) for text in texts]
    free = [text for text, found in zip(texts, words, strict=True) if found is None]
    opening = _opening(free)
    names = [
        ", ".join(re.split(r", | and ", found[1])[:3]) if found else text.removeprefix(opening).rstrip(".") or text
        for text, found in zip(texts, words, strict=True)
    ]
    shown = [shorten(name, SHORT) for name in names]
    for name, n in Counter(shown).items():
        if n > 1:
            rows = [i for i, other in enumerate(shown) if other == name]
            alike = len(_opening([names[i] for i in rows], share=1.0))
            for i in rows:
                parted = shorten(names[i][alike:], SHORT - 14)
                shown[i] = f"{shorten(names[i], 12)} {parted}" if alike and parted else name
    seen: Counter[str] = Counter()
    for i, name in enumerate(shown):
        seen[name] += 1
        shown[i] = name if seen[name] == 1 and name else f"{name or 'persona'} ({seen[name]})"
    return shown


def _opening(texts: Sequence[str], share: float = SHARED) -> str:
    """The longest opening, of whole words, that at least two texts and such a share of them have."""
    ends = ((text, match.end()) for text in texts for match in _WORD_ENDS.finditer(text[:400]))
    counts = Counter(text[:end] for text, end in ends if end < len(text))
    least = max(2, share * len(texts))
    return max((opening for opening, n in counts.items() if n >= least), key=len, default="")


def page_title(task: str, source: str) -> str:
    """Return what a page is about: what people were asked for, or else their data by the name of its file.

    Examples
    --------
    >>> page_title("a film review, as printed in a newspaper", "long.csv"), page_title("", "my_survey.csv")
    ('A film review, simulated', 'Simulated responses: my survey')
    """
    asked = shorten(task.split(", ")[0], 80)
    if asked:
        return f"{asked[0].upper()}{asked[1:]}, simulated"
    words = " ".join(re.sub(r"\.\w+$", "", source).replace("_", " ").replace("-", " ").split())
    return f"Simulated responses{f': {words}' if words else ''}"
