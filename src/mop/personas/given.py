"""Personas handed over in Python: with keys, or as plain texts."""

from __future__ import annotations

from collections.abc import Iterable

from mop.errors import DataError
from mop.personas.from_cluster import free_key
from mop.types import Persona


def personas_given(personas: Iterable[Persona | str]) -> list[Persona]:
    """Personas as they are, texts with keys by their place.

    Raises
    ------
    DataError
        For anything else, or a blank text.

    Examples
    --------
    >>> [persona.key for persona in personas_given(["You are a nurse.", "You are retired."])]
    ['p000', 'p001']
    """
    rows = list(personas)
    taken = {row.key for row in rows if isinstance(row, Persona)}
    found: list[Persona] = []
    for place, row in enumerate(rows):
        if isinstance(row, Persona):
            found.append(row)
            continue
        if not isinstance(row, str) or not row.strip():
            raise DataError(
                f"personas are texts or of the type mop.Persona, got {row!r} at place {place}; write "
                'personas=["You are a nurse."] or mop.Persona(key="nurse", description="You are a nurse.")'
            )
        found.append(Persona(key=free_key(place, len(rows), taken), description=str(row)))
    return found
