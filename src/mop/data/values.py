"""From a cell to text: the same value is the same text, whichever file or table it stood in.

A cell is missing if it is None, NaN, NaT, ``pandas.NA`` or blank; words such as "NA" are words. Whole floats are
written as integers, truth values as ``true`` and ``false``, dates and times in the form of ISO 8601. In a CSV every
value is a text: where all texts of a column are numbers, truth values or times, they are written in the same way.
"""

from __future__ import annotations

import datetime
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal
from uuid import UUID

import numpy as np

Decimals = Literal["auto", ".", ","]

BLANKS = "\u2800\u3164\u115f\u1160\ufeff\ufffc" + "".join(
    c
    for c in map(chr, range(0x3001))
    if c.isspace() or (unicodedata.category(c) == "Cf" and not "\u0600" <= c < "\u0900")
)
"""White space, and what shows as nothing: zero-width spaces, byte order marks, fillers."""

EXACT = 2**53
"""Above it a float stands for several whole numbers."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row or cell that could not be read as it is: why, in a word and in a sentence, without its text."""

    code: str
    message: str


def stripped(text: str) -> str:
    """Without blanks around it."""
    return text.strip(BLANKS)


def plain(value: object) -> object:
    """The value in plain Python; every way to say "missing" is None."""
    if isinstance(value, str):
        return str(value) if value.strip(BLANKS) else None
    if isinstance(value, np.generic):
        value = _of_numpy(value)
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Decimal):
        return None if value.is_nan() else value
    return None if type(value).__name__ in {"NAType", "NaTType"} else value


def _of_numpy(value: np.generic) -> object:
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else _iso(str(value))
    if isinstance(value, np.floating):
        return float(str(value))  # a float32 of 0.1 is 0.1
    return value.item()


def spelled(value: object, kind: str = "") -> str | BadRow:
    """Write a value of `plain` as text, or say why that cannot be; a text by what its column holds (`kinds_of`)."""
    match value:
        case str():
            return _SPELLINGS[kind](value.strip(BLANKS)) if kind else value
        case int() | float() if kind == "days":
            return _day(value) or str(value)
        case bool():
            return str(value).lower()
        case float():
            return _number(str(value))
        case int() if value.bit_length() < 2**16:
            return str(Decimal(value))  # `str` of an int stops at 4,300 digits
        case Decimal() if not value.is_finite() or abs(value.adjusted()) < 2**16:
            return f"{value:f}"
        case datetime.date() | datetime.time():
            return _iso(value.isoformat())
        case int() | Decimal():
            return BadRow("too_long", "has a number of more than 20,000 digits")
        case UUID() | datetime.timedelta():
            return str(value)
    if type(value).__module__.partition(".")[0] == "pandas":  # periods, intervals
        return str(value)
    return BadRow("wrong_type", f"has a value of type {type(value).__name__}")


_TRUTH = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false", "true": "true", "false": "false"}
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_TIME = re.compile(r"(?:(\d{4}-\d\d-\d\d)[T ])?(\d\d:\d\d)(:\d\d)?(?:\.(\d+))? ?(?:(Z)|([+-]\d\d):?(\d\d))?", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MILLISECONDS = 86_400_000
_DAYS = range(365, 50_000)
"""After 1970: to the year 2106."""


def _number(text: str) -> str:
    """Write what is a float as it is written, and whole, as an integer: neither "1.00" nor "007.0"; "-0.0" stays."""
    number = float(text) if len(text) < 64 and ("." in text or "e" in text) else 0.5
    return str(int(number)) if number.is_integer() and repr(number) == text != "-0.0" else text


def _iso(text: str) -> str:
    time = _TIME.fullmatch(text)
    if time is None:
        return text
    day, minutes, seconds, fraction, utc, hours, rest = time.groups()
    fraction = (fraction or "").rstrip("0")
    zone = "+00:00" if utc else f"{hours}:{rest}" if hours else ""
    clock = f"{minutes}{seconds or ':00'}{'.' if fraction else ''}{fraction}{zone}"
    return clock if not day else day if clock == "00:00:00" else f"{day}T{clock}"


def _day(value: object) -> str | None:
    """The day of milliseconds since 1970, as pandas writes dates in JSON."""
    if isinstance(value, str):
        value = int(value) if len(value) < 15 and value.isascii() and value.isdigit() else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or value % _MILLISECONDS or value // _MILLISECONDS not in _DAYS:
        return None
    return datetime.date.fromordinal(datetime.date(1970, 1, 1).toordinal() + value // _MILLISECONDS).isoformat()


_SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "days": lambda text: _day(text) or text,
    "truth": lambda text: _TRUTH.get(text, text),
    "number": _number,
    "time": _iso,
}


def kinds_of(value: object) -> set[str]:
    """What a column may hold wholly if it holds this value: in a CSV every value is a text."""
    found = {"days"} if _day(value) else set()
    if isinstance(value, str):
        core = value.strip(BLANKS)[:64]
        found |= {"truth"} if core in _TRUTH else set()
        found |= {"number"} if _NUMBER.fullmatch(core) else set()
        time = _TIME.fullmatch(core)
        found |= {"time"} if (time and (time[1] or time[3])) or _DAY.fullmatch(core) else set()
    return found


_ROUNDED = re.compile(r"[+-]?\d+(?:[.,]\d+)?[eE]\+?\d+|[+-]?\d+\.0", re.ASCII)


def is_rounded(value: object) -> bool:
    """Whether an id went through a float that cannot hold it: 1.54e+18 stands for hundreds of ids."""
    if isinstance(value, str):
        core = value.strip(BLANKS)
        if len(core) > 40 or not _ROUNDED.fullmatch(core) or core.isalnum():  # 12e34567 may be a name
            return False
        value = float(core.replace(",", "."))
    return isinstance(value, float) and abs(value) > EXACT


def is_number(text: str) -> bool:
    """Whether a text is a number in plain digits."""
    return _NUMBER.fullmatch(text.strip(BLANKS)) is not None


WEIGHTS = 1e-100, 1e100
"""Least and largest weight: they are relative, and squares and sums of larger ones would be no numbers."""


def weight_of(value: object, decimal: str) -> float | None:
    """A number above 0 and finite, of a number or a text; None for all else, also for ``1_000``.

    Examples
    --------
    >>> weight_of("1.234,5", ","), weight_of("1,234.5", ".")
    (1234.5, 1234.5)
    """
    weight = _as_float(value, decimal)
    return weight if weight is not None and WEIGHTS[0] <= weight <= WEIGHTS[1] else None


def why_no_weight(value: object, decimal: str) -> str:
    """What is wrong with a weight that `weight_of` refuses, and what to do."""
    if value is None:
        return "it is missing: fill it in, or name no column as data.weight"
    weight = _as_float(value, decimal)
    if weight is not None:
        too = "leave out those who do not count" if weight <= 0 else "divide all by one number"
        return f"the least is 1e-100, the largest 1e100: {too}"
    text = stripped(value) if isinstance(value, str) else ""
    if text.endswith("%"):
        return "write the numbers without percent signs"
    if decimal != "," and _COMMA.fullmatch(text):
        return 'for decimal commas set data.decimal = ","'
    return "write plain numbers"


def _as_float(value: object, decimal: str) -> float | None:
    if isinstance(value, str):
        text = value.strip(BLANKS)
        if grouped := _GROUPED[decimal].fullmatch(text):
            text = re.sub(r"[.,\s'’]", "", grouped[1]) + (grouped[2] or "")
        text = text.replace(",", ".") if decimal == "," and "." not in text else text
        value = float(text) if _NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


_GROUPED = {
    ",": re.compile(r"([+-]?\d{1,3}(?:[.\s'’]\d{3})+)(,\d+)?", re.ASCII),
    ".": re.compile(r"([+-]?\d{1,3}(?:[,\s'’]\d{3})+)(\.\d+)?", re.ASCII),
}
"""Numbers with thousands marks, by the mark of their decimals."""
_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?", re.ASCII)
_THREE = {",": re.compile(r"[1-9]\d{0,2},\d{3}", re.ASCII), ".": re.compile(r"[1-9]\d{0,2}\.\d{3}", re.ASCII)}


def decimal_of(texts: Sequence[str], *, delimiter: str = "") -> Literal[".", ","] | None:
    """Which mark the numbers of a column have, by all of them; None if it cannot be told.

    It cannot if all numbers with a comma are like ``1,234``, unless semicolons separate the cells: who writes decimal
    points separates by commas. Then it cannot if all with a point are like ``1.234``.
    """
    core = [text.strip(BLANKS) for text in texts]
    commas = [
        t for t in core if _COMMA.fullmatch(t) or ("," in t and "," in t[t.rfind(".") :] and _GROUPED[","].fullmatch(t))
    ]
    points = [t for t in core if "." in t and (_NUMBER.fullmatch(t) or ("," in t and _GROUPED["."].fullmatch(t)))]
    points = [text for text in points if text not in commas]
    marks, other = (commas, ",") if len(commas) > len(points) else (points, ".")
    if not marks:
        return "."
    is_open = all(map(_THREE[other].fullmatch, marks)) and (other == ",") == (delimiter != ";")
    return None if is_open else "," if other == "," else "."
