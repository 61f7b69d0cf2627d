"""A rival of the user's own: a function ``rival(contexts, given)`` that gives one text for each context."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from mop.errors import ConfigError, DataError, MopError
from mop.own_parts import own_part
from mop.rivals.ingredients import Ingredients
from mop.simulate.write import response_to
from mop.types import Generation, Record, Response


def own_rival(rival: str, contexts: Sequence[Record], given: Ingredients, *, name: str) -> list[Response]:
    """Call the function that ``module:attribute`` names, and make a response of each text.

    It may draw with ``given.lm`` at ``given.tau`` and look at ``given.exemplars``; what it asks for is in no account.

    Raises
    ------
    ConfigError
        If it is no function of two arguments, or fails.
    DataError
        If it gives anything but one text for each context.
    """
    function: Any = own_part(rival, "the method")
    if not callable(function):
        raise ConfigError(f"the method {rival!r} is {function!r}, no function; name one: def rival(contexts, given)")
    try:
        found = function(contexts, given)
        texts = list(found) if isinstance(found, Iterable) and not isinstance(found, str) else [found]
    except MopError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the method {rival!r} fails with {type(error).__name__}: {error}; it is called as rival(contexts, given) "
            "and gives one text for each context (docs/plug.md)"
        ) from error
    if len(texts) != len(contexts) or not all(isinstance(text, str) for text in texts):
        got = next((repr(text)[:60] for text in texts if not isinstance(text, str)), f"{len(texts)} texts")
        raise DataError(
            f"the method {rival!r} must give a list of {len(contexts)} texts, one for each context, got {got}; "
            "mend it (docs/plug.md)"
        )
    drawn = [Generation(text.strip(), max(1, len(text.split())), "stop", math.nan) for text in texts]
    return [
        response_to(record, text, "stop", model=given.lm.name, seed=given.seed, method=name, temperature=given.tau)
        for record, text in zip(contexts, drawn, strict=True)
    ]
