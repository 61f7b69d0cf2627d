"""What a column as a whole tells, and what a person is asked about it: codes, spellings, decimal commas, dates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from mop.data.sources import BadRow, Source
from mop.data.values import Decimals, decimal_of, is_number, kinds_of, plain
from mop.errors import ConfigError, DataError
from mop.types import Record

MAX_CODES = 20
"""Different answers that may be codes of a questionnaire."""
MAX_NAMED = 3
"""Pairs of spellings that are named."""
WORDS = frozenset({"NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None", "<NA>", "NaT"})
"""What programs write where nothing is known, and people too."""


def decimal_mark(opened: Source, weight: str | None, decimal: Decimals) -> str:
    """The mark of the decimals of the weights, by the whole column.

    Raises
    ------
    ConfigError
        If ``decimal`` is none of the marks.
    DataError
        If all that there is to go by is like ``1,234``, or in a file of semicolons like ``1.234``.
    """
    if decimal not in {"auto", ".", ","}:
        raise ConfigError(f"data.decimal must be auto, '.' or ',', got {decimal!r}")
    if weight is None or decimal != "auto":
        return "." if weight is None else decimal
    texts = []
    for _, row in opened.rows((weight,)):
        if not isinstance(row, BadRow) and (value := plain(row.get(weight))) is not None:
            if not isinstance(value, str):
                return "."
            texts.append(value)
    found = decimal_of(texts, delimiter=opened.delimiter)
    if found is None:
        mark, other = ("point", ".") if opened.delimiter == ";" else ("comma", ",")
        raise DataError(
            f"the weights in {weight!r} are like 1{other}234 throughout: are these decimal {mark}s? "
            f'if so, set data.decimal = "{other}"; else set data.decimal = "{"," if other == "." else "."}"'
        )
    return found


def column_kinds(opened: Source, names: Iterable[str]) -> dict[str, str]:
    """What all values of a column are, of those columns of which `spelled` has to know it."""
    found: dict[str, set[str]] = {}
    open_still = set(names)
    rows = opened.rows(tuple(sorted(open_still))) if open_still else iter(())
    for _, row in rows:
        if isinstance(row, BadRow):
            continue
        for name in [*open_still]:
            value = plain(row.get(name))
            if value is None or (isinstance(value, str) and value in WORDS):
                continue
            found[name] = found[name] & kinds_of(value) if name in found else kinds_of(value)
            if not found[name]:
                open_still.discard(name)
        if not open_still:
            break
    return {name: min(kinds) for name, kinds in found.items() if kinds}  # "days" come before "number"


def questions(records: Sequence[Record], response: str | None, words: Counter[tuple[str, str]]) -> list[str]:
    """What to ask about the records as a whole."""
    found = [
        f"{word!r} stands in {column!r} {n:,} time{'s' * (n > 1)} and is read as a word; "
        "if it means that nothing is known, leave these cells empty"
        for (column, word), n in words.most_common(MAX_NAMED)
    ]
    for role in ("label", "group"):
        found += _alike(role, Counter(value for record in records if (value := getattr(record, role)) is not None))
    answers = {record.response for record in records}
    are_few = 0 < 2 * len(answers) < len(records) and len(answers) <= MAX_CODES
    if response is not None and are_few and all(map(is_number, answers)):
        listed = ", ".join(sorted(answers, key=float)[:8]) + (", ..." if len(answers) > 8 else "")
        found.append(
            f"{response!r} has {len(answers)} different values, all numbers ({listed}): are these codes? if so, "
            "write the answers' texts in their place by the codebook "
            f"(pandas: df[{response!r}].map({{1: 'Yes', 2: 'No'}})), and leave codes for no answer empty"
        )
    return found


def _alike(role: str, counts: Counter[str]) -> list[str]:
    spellings: dict[str, list[str]] = {}
    for value in counts:
        spellings.setdefault("".join(value.split()).casefold(), []).append(value)
    pairs = [values for values in spellings.values() if len(values) > 1]
    named = "; ".join(" and ".join(f"{v!r} ({counts[v]:,} rows)" for v in values[:4]) for values in pairs[:MAX_NAMED])
    more = f"; and {len(pairs) - MAX_NAMED} more" if len(pairs) > MAX_NAMED else ""
    return [f"{role}s differ only by case or blanks: {named}{more}: one {role}? then spell them alike"] if pairs else []
