"""What became of the rows of a source: which are records, which were left out, and what to do about it."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mop.errors import DataError
from mop.types import Record

logger = logging.getLogger(__name__)

NO_PERSON = {"header_row": "further header row", "blank_row": "blank row", "totals_row": "totals row"}
"""Rows that are left out and no loss: nobody stands in them."""

_CURES = {
    "encoding": "files of different encodings were joined, as it seems: save each as UTF-8 and join them again",
    "cells": "set data.delimiter if it was mistaken; else let the program that wrote the file use double quotes",
    "duplicate": 'if different people gave equal answers, set data.duplicates = "keep" (duplicates="keep" of '
    "load_records), or name a column that tells them apart as data.key, data.weight or data.group",
    "duplicate_key": "a key names one record; what names a person or a film is data.group",
    "bad_key": "a key is one word; leave data.key out to have keys made",
    "rounded_id": "read that column as text (pandas: dtype={COLUMN: str}) and write the table again",
    "empty_response": "nobody answers in them",
    "missing_value": "they lack what is asked for",
    "beyond_window": 'set data.too_long = "cut" to shorten them, or take a model with a larger window',
}


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What was wrong with one row; never holds the row's text, so that it can be logged."""

    code: str
    """A word to count by; ``docs/data.md`` lists them."""
    place: str
    """``reviews.csv:17``, ``reviews.parquet row 17`` or ``row 17``; lines and rows count from 1."""
    message: str
    is_kept: bool
    """Whether the row was repaired or tolerated; otherwise it was left out."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The usable records of a source, and what was wrong with the rest."""

    records: list[Record] = field(repr=False)
    problems: list[RowProblem] = field(repr=False)
    """In order of the rows; at most `mop.data.records.MAX_LISTED` per code."""
    counts: dict[str, int]
    """Problems by code, complete."""
    n_rows: int
    """Rows read: records plus rows left out."""
    notes: tuple[str, ...] = field(default=(), repr=False)
    """What a person should know or is asked; quotes labels and the like."""

    def __iter__(self) -> Iterator[Record]:
        """Go over the records."""
        return iter(self.records)

    def __getitem__(self, row: int) -> Record:
        """One record, as from a list: scikit-learn's splitters ask so."""
        return self.records[row]

    def __len__(self) -> int:
        """How many records are usable."""
        return len(self.records)

    @property
    def n_people(self) -> int:
        """Rows in which a person stands: all but further headers and blank rows."""
        return self.n_rows - sum(self.counts.get(code, 0) for code in NO_PERSON)

    @property
    def n_lost(self) -> int:
        """People who are in no record."""
        return self.n_people - len(self.records)

    def require_clean(self) -> None:
        """Stop at the first problem, also one that was repaired; further header rows are none.

        Raises
        ------
        DataError
            If there is a problem.
        """
        for problem in self.problems:
            if problem.code not in NO_PERSON:
                raise DataError(
                    f"{problem.place} {problem.message} ({problem.code}); with strict, every row must be clean; "
                    "fix the row, or load without strict to have such rows counted instead"
                )

    def warn(self, source: object) -> None:
        """Log what `sayings` says."""
        for saying in sayings([self]):
            logger.warning("%s: %s", source, saying)


def n_lost(parts: Sequence[Loaded]) -> tuple[int, int]:
    """People left out, and people in all."""
    return sum(part.n_lost for part in parts), sum(part.n_people for part in parts)


def sayings(parts: Sequence[Loaded]) -> list[str]:
    """Sentences on a source, of one file or several: first who was left out."""
    lost, people = n_lost(parts)
    counts, kept = Counter[str](), Counter[str]()
    for part in parts:
        of_kept = {problem.code for problem in part.problems if problem.is_kept}
        for code, n in part.counts.items():
            (kept if code in of_kept else counts)[code] += n
    found = []
    if lost:
        found.append(f"{lost:,} of {people:,} rows left out, {_what(parts, counts)}")
    found += [f"{n:,} {what}{'s' * (n > 1)} left out" for code, what in NO_PERSON.items() if (n := counts[code])]
    if kept:
        found.append("rows kept that need a look: " + ", ".join(f"{n:,} {code}" for code, n in kept.items()))
    return [*found, *dict.fromkeys(note for part in parts for note in part.notes)]


def _what(parts: Sequence[Loaded], counts: Counter[str]) -> str:
    causes = [(code, n) for code, n in counts.most_common() if code not in NO_PERSON]
    first = {problem.code: problem for part in reversed(parts) for problem in reversed(part.problems)}
    code = causes[0][0]
    what = f"all for {code}" if len(causes) == 1 else "for " + ", ".join(f"{code} {n:,}" for code, n in causes)
    cure = f"; {_CURES[code]}" if code in _CURES else ""
    return f"{what} (first {first[code].place}, which {first[code].message}{cure})"


def require_few_lost(parts: Sequence[Loaded], most: float, *, way_out: str = "", listed: str = "") -> None:
    """Stop if too large a share of the people would be left out: mostly that hangs together with what they say.

    Parameters
    ----------
    parts : sequence of Loaded
    most : float
        Share of rows that may be left out.
    way_out : str
        How to accept the loss; by default the setting.
    listed : str
        Where the rows are listed.

    Raises
    ------
    DataError
        Names the codes, the share, the likely cure and the setting.
    """
    lost, people = n_lost(parts)
    if lost > most * people + 1e-9:
        share = math.ceil(lost / people * 100) / 100
        accept = way_out or f"set data.max_lost = {share}"
        raise DataError(
            f"{sayings(parts)[0]}; that is {lost / people:.0%}, and at most {most:.0%} may be left out"
            f"{listed and f' (listed in {listed})'}; fix that, or to go on without them {accept}"
        )
