"""Whether a persona fits the person who is asked: attributes that its text names against those of the respondent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from mop.data.answers import folded
from mop.types import Persona, Record, Response

MOST_VALUES = 50
"""Different values of an attribute at the most: a column with more is no group of people."""
MOST_CHARACTERS = 2000
"""Of a context that is taken apart."""
SAYS_NOTHING = frozenset(["yes", "no", "other", "none", "unknown", "the", "a", "an", "and", "or", "you", "who", "one"])
"""Values that stand in a text without naming the attribute."""
_WOMEN, _MEN = ("woman", "women", "girl", "female", "lady"), ("man", "men", "boy", "male")
SAME: Mapping[str, Sequence[str]] = {"female": _WOMEN, "woman": _WOMEN, "male": _MEN, "man": _MEN}
"""Values that English texts say in other words."""
_QUOTED = re.compile(r"\btypical words are [^.]*\.|[^.]*\bis labelled \"[^\"]*\"[^.]*\.")
_SPAN = re.compile(r"(\d{1,3})\s*(?:-|–|to|and)\s*(\d{1,3})")
_FROM = re.compile(r"(?:from|over|at least|>=?|≥)\s*(\d{1,3})|(\d{1,3})\s*(?:\+|(?:years )?(?:or|and) (?:older|over))")
_BELOW = re.compile(r"(?:under|below|younger than|<)\s*(\d{1,3})|(\d{1,3})\s*(?:years )?(?:or|and) (?:younger|under)")
_AGED = re.compile(r"\b(?:aged?|years?[ -]old|older|younger|in your)\b")

Attributes = Mapping[str, str]
Test = Callable[[str], bool | None]
"""Whether a value agrees with what a text names; None: cannot be told."""


def attributes_of(record: Record, template: str = "") -> Attributes:
    """Attributes of the person a record is of, and what the columns of a context's template hold.

    Examples
    --------
    >>> one = Record(key="1", context="Respondent: Male, 60+. Who won?", response="", attributes={"area": "North"})
    >>> attributes_of(one, "Respondent: {sex}, {age}. {question}")
    {'sex': 'Male', 'age': '60+', 'question': 'Who won?', 'area': 'North'}
    """
    parts = re.split(r"(?<!\{)\{([^{}]+)\}(?!\})", template)
    if len(parts) < 2 or len(record.context) > MOST_CHARACTERS:
        return record.attributes
    literals = [re.escape(part.replace("{{", "{").replace("}}", "}")) for part in parts[::2]]
    names, pattern = parts[1::2], "(.*?)".join(literals)
    found = re.fullmatch(pattern, record.context, re.DOTALL)
    return {**(dict(zip(names, found.groups(), strict=True)) if found else {}), **record.attributes}


def _span(text: str) -> tuple[float, float] | None:
    """Ages that a text speaks of, both ends included."""
    if found := _SPAN.search(text):
        return float(found[1]), float(found[2])
    if found := _FROM.search(text):
        return float(found[1] or found[2]) + ("over" in found[0] and bool(found[1])), 200.0
    if found := _BELOW.search(text):
        return 0.0, float(found[1] or found[2]) - bool(found[1])
    one = re.search(r"(?<!\d)(\d{1,3})(?!\d)", text)
    return (float(one[1]), float(one[1])) if one else None


class Respondents:
    """What people are like in a run: the values of each attribute.

    Parameters
    ----------
    known : sequence of mapping
        Attributes of real people; a column with 2 to `MOST_VALUES` values counts, or one of ages.
    """

    def __init__(self, known: Sequence[Attributes]) -> None:
        values: dict[str, Counter[str]] = {}
        for attributes in known:
            for name, value in attributes.items():
                values.setdefault(name, Counter())[folded(value)] += 1
        self._ages = [name for name in values if re.search(r"(?:^|[^a-z])age", name.casefold())]
        self._patterns: dict[str, dict[str, re.Pattern[str]]] = {
            name: {
                value: re.compile("|".join(rf"\b{re.escape(word)}\b" for word in SAME.get(value, (value,))))
                for value in of
                if len(value) > 1 and value not in SAYS_NOTHING and not value.isdecimal()
            }
            for name, of in values.items()
            if 2 <= len(of) <= MOST_VALUES and name not in self._ages
        }

    def named(self, text: str) -> dict[str, Test]:
        """Attributes that a text names, each with a test of values.

        A value is named by its word; of two where one holds the other, the longer one counts. Words that a persona
        only quotes are not read. Ages are compared as ranges.
        """
        plain = _QUOTED.sub(" ", text).casefold()
        found: dict[str, Test] = {name: partial(_among, values) for name, values in self._values(plain).items()}
        is_about_age = any(pattern.search(plain) for pattern in (_AGED, _FROM, _BELOW))
        if self._ages and is_about_age and (span := _span(plain)) is not None:
            found |= dict.fromkeys(self._ages, partial(_overlap, span))
        return found

    def _values(self, plain: str) -> dict[str, set[str]]:
        """Attribute to the values that a text names; none where it names all."""
        found = {}
        for name, patterns in self._patterns.items():
            spans = [(of.span(), value) for value, pattern in patterns.items() for of in pattern.finditer(plain)]
            values = {
                value
                for (start, end), value in spans
                if not any(a <= start and end <= b and (a, b) != (start, end) for (a, b), _ in spans)
            }
            if values and len(values) < len(patterns):
                found[name] = values
        return found

    def of_context(self, context: str) -> dict[str, str]:
        """Attributes of which a context names one value."""
        return {name: value for name, (value, *more) in self._values(context.casefold()).items() if not more}

    def share(self, text: str, people: Iterable[tuple[Attributes, float]]) -> float | None:
        """Weighted share of people who are as a text says, of those of whom that is known; None if it names nothing."""
        named = self.named(text)
        of, total = 0.0, 0.0
        for attributes, weight in people:
            told = [test(attributes[name]) for name, test in named.items() if name in attributes]
            if named and len(told) == len(named) and None not in told:
                total += weight
                of += weight * all(told)  # None is not among them
        return of / total if total else None


def _among(values: set[str], value: str) -> bool:
    return folded(value) in values


def _overlap(span: tuple[float, float], value: str) -> bool | None:
    other = _span(value.casefold())
    return None if other is None else span[0] <= other[1] and other[0] <= span[1]


def contradictions(
    responses: Sequence[Response], personas: Sequence[Persona], people: Mapping[str, Attributes], about: Respondents
) -> dict[str, Any]:
    """Count the draws whose persona names another value of an attribute than the respondent has.

    Parameters
    ----------
    responses : sequence of Response
        Of one method.
    personas : sequence of Persona
        Those of them that are real texts (writers ``record`` and ``random``) are not read.
    people : mapping
        Key of a context to attributes; what is not among them is read off the context where it names one value.
    about : Respondents

    Returns
    -------
    dict
        ``draws``; ``told``, of them with a persona that names an attribute of a respondent of whom it is known;
        ``contradict``; ``by_attribute`` and ``example``: description, attribute and value of the respondent.
    """
    named = {
        persona.key: (persona.description, about.named(persona.description))
        for persona in personas
        if persona.writer not in ("record", "random")
    }
    against_all: Counter[str] = Counter()
    n_told = n_against = 0
    example: list[str] | None = None
    for row in responses:
        mine = {**about.of_context(row.context), **people.get(row.id.partition("#")[0], {})}
        against, is_told = set(), False
        for key in (row.persona or "").split(" "):
            description, tests = named.get(key, ("", {}))
            for name, test in tests.items():
                agrees = test(mine[name]) if name in mine else None
                is_told |= agrees is not None
                if agrees is False:
                    against.add(name)
                    example = example or [description, name, mine[name]]
        n_told, n_against = n_told + is_told, n_against + bool(against)
        against_all.update(against)
    return {
        "draws": len(responses),
        "told": n_told,
        "contradict": n_against,
        "by_attribute": dict(against_all.most_common()),
        "example": example,
    }
