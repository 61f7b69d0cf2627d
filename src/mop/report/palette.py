"""One colour and one marker for each method, on every page and in every file; for light paper.

The dark values of the same roles are in ``templates/report.css``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

COLOURS: Mapping[str, str] = {
    "ink": "#20242a", "muted": "#68707b", "rule": "#d8dbe0", "real": "#8b929c", "heat": "#0c63a5",
    "series-1": "#0b62a4", "series-2": "#ec6720", "series-3": "#2a9b63", "series-4": "#844975",
    "series-5": "#9a5727", "series-6": "#5e87f4", "series-7": "#62003b", "series-8": "#48286c",
}  # fmt: skip
"""Role to colour. Every colour occurs once, because `mop.report.plots.themed_svg` finds the role by the colour.

Any two series, and real texts, keep apart under the three common kinds of colour blindness (a test says how far)."""

REAL = "real"
"""The kind of what people wrote, in grey."""

MARKERS: Sequence[str] = ("o", "^", "s", "D", "v", "P")
"""Real texts are small circles."""

N_COLOURS = 8
N_SERIES = N_COLOURS * len(MARKERS)

KNOWN: Mapping[str, int] = {
    "mop": 0, "zero-shot": 1, "mop-uniform": 2, "few-shot": 3, "persona-only": 4, "zerogen": 5, "attrprompt": 6,
    "picle": 7, "few-shot-3": 11, "progen": 13, "picle-prompted": 15,
}  # fmt: skip
"""Method to series. Relatives share a colour and differ in their marker; none has that of `mop`."""


def series_colour(series: int) -> str:
    """Return the colour of a series (0 is ``mop``)."""
    return COLOURS[f"series-{series % N_COLOURS + 1}"]


def series_marker(series: int) -> str:
    """Return the marker of a series: no two of the first 48 have both colour and marker in common."""
    return MARKERS[(series % N_COLOURS + series // N_COLOURS) % len(MARKERS)]


def series_of(methods: Iterable[str]) -> dict[str, int]:
    """Return the series of each method: the same whatever the others are, unless two unknown ones meet.

    ``NAME@TAU`` and ``NAME.CHANGE`` have the colour of ``NAME`` and another marker; any other name has a series
    by its spelling, never in the colour of ``mop``.

    Examples
    --------
    >>> series_of(["mop", "zero-shot"])
    {'mop': 0, 'zero-shot': 1}
    >>> series_of(["zero-shot@0.7"])["zero-shot@0.7"] % N_COLOURS
    1
    """
    names = [name for name in dict.fromkeys(methods) if name != REAL]
    found = {name: KNOWN[name] for name in names if name in KNOWN}
    free = [slot for slot in range(N_COLOURS, N_SERIES) if slot not in KNOWN.values()]
    for name in sorted(set(names) - set(found)):
        base = KNOWN.get(re.split("[@.]", name)[0])
        if base is None:  # the last rings of colours come first, where no relative of a known method begins
            own = [slot for slot in free if slot % N_COLOURS and slot >= 4 * N_COLOURS]
        else:
            own = [slot for slot in free if (slot - base) % N_COLOURS == 0 and slot < 4 * N_COLOURS]
        start = int(hashlib.sha256(name.encode("utf-8", "replace")).hexdigest(), 16) % len(own)
        turned = [*own[start:], *own[:start], *(slot for slot in free if slot % N_COLOURS)]
        found[name] = next((slot for slot in turned if slot not in found.values()), turned[0])
    return {name: found[name] for name in names}
