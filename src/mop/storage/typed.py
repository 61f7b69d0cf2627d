"""Frozen records out of JSON that somebody may have damaged: every field of the type that it is declared with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints


class DamagedError(Exception):
    """What is wrong with the content of a file, without where it lies and what to do."""


def check(is_right: bool, message: str) -> None:
    """Raise DamagedError unless something is right."""
    if not is_right:
        raise DamagedError(message)


def is_a(value: Any, hint: Any) -> bool:
    """Whether a value of a JSON file is of the type of a field: a list for a tuple, 1 for 1.0, never true for 1."""
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(is_a(item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is Mapping:
        return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    kinds = get_args(hint) or (hint,)
    return isinstance(value, (*kinds, int) if float in kinds else kinds) and not isinstance(value, bool)


@cache
def _hints_of(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def of_row(cls: type, row: Any) -> Any:
    """A persona, record or response of what JSON holds of it."""
    hints = _hints_of(cls)
    check(isinstance(row, dict) and set(row) <= set(hints), f"a {cls.__name__} is {str(row)[:60]!r}")
    for name, value in row.items():
        check(is_a(value, hints[name]), f"{name} of a {cls.__name__} is {str(value)[:60]!r}")
    try:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})
    except TypeError as error:  # a field is missing
        raise DamagedError(str(error)) from error
