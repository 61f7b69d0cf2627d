"""Personas handed over in Python: with keys, or as plain texts."""

from __future__ import annotations

from collections.abc import Iterable

from mop.errors import DataError
from mop.personas.from_cluster import persona_key
from mop.types import Persona


def personas_given(personas: Iterable[Persona | str]) -> list[Persona]:
    """Personas as they are, texts with keys by their place.

    Raises
    ------
    DataError
        For anything else, a blank text, or a text that was there before.

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
        if any(persona.description == row for persona in found):
            raise DataError(f"the persona {row!r} is there twice; every persona needs its own text, so leave one out")
        key = next(
            k for k in (persona_key(i, len(rows)) for i in range(place, place + len(rows) + 1)) if k not in taken
        )
        taken.add(key)
        found.append(Persona(key=key, description=str(row)))
    return found
