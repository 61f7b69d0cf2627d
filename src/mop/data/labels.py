"""Labels spelled as they are known, and refused where they are not."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from mop.errors import DataError
from mop.types import Record

MOST_NAMED = 20
"""Labels that a message names."""


def known_labels(records: Sequence[Record], known: Collection[str], *, where: str, remedy: str) -> list[Record]:
    """Records with their labels as they are known, blanks around them left out; all as they are if none is known.

    Parameters
    ----------
    records : sequence of Record
    known : collection of str
    where : str
        What the records are, for the message.
    remedy : str
        What else can be done, for the message: after "write them so".

    Raises
    ------
    DataError
        For labels that are not known; each with the nearest that is.

    Examples
    --------
    >>> one = Record(key="a", context="", response="", label=" pos ")
    >>> known_labels([one], ["neg", "pos"], where="films.csv", remedy="")[0].label
    'pos'
    """
    spelled = {label.strip(): label for label in known}
    if not spelled:
        return list(records)
    found = [r if r.label is None else replace(r, label=r.label.strip() or None) for r in records]
    unknown = Counter(r.label for r in found if r.label is not None and r.label not in spelled)
    if unknown:
        folded = {label.casefold(): label for label in reversed(spelled)}
        said = [
            f"{label!r} ({count}; did you mean "
            f"{folded[difflib.get_close_matches(label.casefold(), folded, n=1, cutoff=0.0)[0]]!r}?)"
            for label, count in unknown.most_common(3)
        ]
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        named = ", ".join(map(repr, list(spelled)[:MOST_NAMED])) + (", ..." if len(spelled) > MOST_NAMED else "")
        raise DataError(
            f"{unknown.total()} of {len(found)} records of {where} have a label that the run never saw: "
            f"{', '.join(said)}{more}; its labels are {named}; write them so{remedy}"
        )
    return [r if r.label is None else replace(r, label=spelled[r.label]) for r in found]
