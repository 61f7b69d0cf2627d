"""Which record is which: a record is never its own exemplar, no exemplar stands twice, and no name tells what it holds.

Where the data names no keys, a record is named after its context and group, which every response repeats, and never
after what the person wrote: a name, an order or a seed made of that would let others try whose words it is made of.
An exemplar's context is not repeated, so exemplars get numbers (`numbered`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from mop.errors import DataError
from mop.types import Record


def content_name(context: str, group: str | None) -> str:
    """What a record without a key is named after: a digest of context and group."""
    return digest((context, "", group or ""))[:8].hex()


def digest(parts: Iterable[str]) -> bytes:
    """16 bytes that stand for texts without NUL, which joins them."""
    return blake2b("\0".join(parts).encode("utf-8"), digest_size=16).digest()


def numbered(exemplars: Sequence[Record]) -> list[Record]:
    """The same exemplars, those under numbers that were named after what they hold; own keys stay.

    Examples
    --------
    >>> some = [Record(key=key, context="x", response="y") for key in (content_name("x", None), "k7")]
    >>> [record.key for record in numbered(some)]
    ['exemplar-1', 'k7']
    """
    return [
        replace(record, key=f"exemplar-{i}") if content_name(record.context, record.group) in record.key else record
        for i, record in enumerate(exemplars, start=1)
    ]


def is_own(record: Record, exemplar: Record) -> bool:
    """Whether ``exemplar`` is ``record`` itself: the same key, or the same context and response.

    Without the second half a duplicate under another key would show the model the very text that
    it is asked to predict.
    """
    same_text = record.context == exemplar.context and record.response == exemplar.response
    return record.key == exemplar.key or same_text


def distinct(records: Sequence[Record]) -> list[Record]:
    """The records without those whose context and response occurred before: exemplars must differ."""
    seen: dict[tuple[str, str], Record] = {}
    for record in records:
        seen.setdefault(_words_of(record), record)
    return list(seen.values())


def _words_of(record: Record) -> tuple[str, str]:
    """Context and response, without the white space around them."""
    return record.context.strip(), record.response.strip()


def own_exemplars(records: Sequence[Record], exemplars: Sequence[Record]) -> NDArray[np.int64]:
    """Return for each record the row of the exemplar that it must not see.

    Returns
    -------
    ndarray, shape (N,)
        Row in ``exemplars``, -1 if none is the record itself.

    Raises
    ------
    DataError
        If two exemplars are one and the same record.
    """
    by_key: dict[str, int] = {}
    by_text: dict[tuple[str, str], int] = {}
    by_words: dict[tuple[str, str], int] = {}
    for row, exemplar in enumerate(exemplars):
        text = (exemplar.context, exemplar.response)
        if exemplar.key in by_key or text in by_text:
            raise DataError(
                f"exemplar {exemplar.key!r} occurs twice, by key or by context and response; "
                "the exemplars must differ; remove duplicates before choosing them"
            )
        by_key[exemplar.key] = by_text[text] = row
        by_words.setdefault(_words_of(exemplar), row)
    own = np.full(len(records), -1, dtype=np.int64)
    for i, record in enumerate(records):
        found = by_key.get(record.key), by_text.get((record.context, record.response))
        rows = {row for row in found if row is not None}
        if len(rows) > 1:
            raise DataError(
                f"record {record.key!r} shares its key with one exemplar and its text with "
                "another; one record has one key; give all records of a run distinct keys"
            )
        own[i] = next(iter(rows), by_words.get(_words_of(record), -1))
    return own
