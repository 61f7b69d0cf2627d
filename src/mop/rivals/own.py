"""A rival of the user's own: a function ``rival(contexts, given)`` that gives one text for each context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mop.errors import ConfigError, DataError, MopError
from mop.own_parts import own_part
from mop.prompts import PROMPT_VERSION
from mop.rivals.ingredients import Ingredients
from mop.types import Record, Response


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
    return [
        Response(
            id=record.key, context=record.context, response=text.strip(), label=record.label, persona=None,
            exemplar=None, temperature=given.tau, log_pi=0.0, log_omega=0.0, seed=given.seed, model=given.lm.name,
            prompt_version=PROMPT_VERSION, finish_reason="stop", n_tokens=max(1, len(text.split())), method=name,
        )
        for record, text in zip(contexts, texts, strict=True)
    ]  # fmt: skip
