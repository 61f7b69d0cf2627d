"""Chat templates of strangers: programs that render messages, kept within limits.

They run in the sandbox of jinja2, which keeps them from everything but time and memory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mop.errors import ConfigError, require

MOST_STEPS, MOST_SECONDS = 100_000, 5.0
"""Lines of a template that may run for one prompt (real ones need some hundred), and how long they may take."""
LARGEST = 1_000_000
"""No number in a template is larger, and no value of it longer."""


def check_template(template: str) -> None:
    """Refuse a template that raises to powers or has numbers above `LARGEST`: single steps without end.

    Raises
    ------
    ConfigError
        Naming what it has; also if it cannot be read.
    """
    jinja2 = require("jinja2", extra="local")
    try:
        for _, kind, value in jinja2.Environment().lex(template):
            if value == "**" or (kind == "integer" and len(value) > 7):
                raise _refusal(f"{value[:20]!r} in it")
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"the chat template of this model cannot be read ({error}); choose another model") from error


@contextmanager
def within_limits() -> Iterator[None]:
    """Stop a template that is rendered inside after `MOST_STEPS`, `MOST_SECONDS`, or at a value above `LARGEST`.

    Raises
    ------
    ConfigError
        Naming the limit.
    """
    steps, end = 0, time.monotonic() + MOST_SECONDS

    def follow(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != "<template>":
            return None
        steps += 1
        if steps > MOST_STEPS:
            raise _refusal(f"more than {MOST_STEPS} steps for one prompt")
        if time.monotonic() > end:
            raise _refusal(f"more than {MOST_SECONDS:g} s for one prompt")
        if any(_length(value) > LARGEST for value in frame.f_locals.values()):
            raise _refusal(f"a value of more than {LARGEST} letters")
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        yield
    except (MemoryError, RecursionError, OverflowError) as error:
        raise _refusal(f"more than there is memory for ({type(error).__name__})") from error
    finally:
        sys.settrace(before)


def _length(value: object) -> int:
    """Of a text or list, or of the longest in a namespace of a template."""
    if isinstance(value, str | list):
        return len(value)
    held = getattr(value, "_Namespace__attrs", None)
    return max(map(_length, held.values()), default=0) if isinstance(held, dict) else 0


def _refusal(what: str) -> ConfigError:
    return ConfigError(
        f"the chat template of this model is refused: {what}, which rendering a prompt never needs; choose another "
        "model, or put a right chat_template.jinja into its folder"
    )
