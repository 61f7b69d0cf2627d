"""Metrics of the user's own: functions of a method's texts and the golden ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mop.errors import ConfigError, DataError
from mop.own_parts import is_own, own_part

Metric = Callable[[Sequence[str], Sequence[str]], float]
"""``metric(texts, golden)`` to a figure."""


def open_metrics(metrics: Mapping[str, Metric | str] | None, taken: Collection[str]) -> dict[str, Metric]:
    """Functions by the name of their figure; ``module:attribute`` stands for one.

    Raises
    ------
    ConfigError
        For what is no function, or the name of a figure that there is.
    """
    found: dict[str, Metric] = {}
    for name, given in (metrics or {}).items():
        part: Any = own_part(given, "the metric") if isinstance(given, str) and is_own(given) else given
        if not callable(part):
            raise ConfigError(
                f"the metric {name!r} is {part!r}, no function; give metric(texts, golden) or a name module:function"
            )
        if name in taken:
            raise ConfigError(f"there is a figure {name!r} already; give the metric another name")
        found[name] = part
    return found


def own_figures(metrics: Mapping[str, Metric], texts: Sequence[str], golden: Sequence[str]) -> dict[str, float]:
    """What each metric says of the texts of a method.

    Raises
    ------
    DataError
        If one fails, or gives no finite number.
    """
    found = {}
    for name, metric in metrics.items():
        try:
            value = float(metric(list(texts), list(golden)))
        except Exception as error:
            raise DataError(
                f"the metric {name!r} fails on {len(texts)} texts with {type(error).__name__}: {error}; it is called "
                "as metric(texts, golden) and gives a number (docs/plug.md)"
            ) from error
        if not math.isfinite(value):
            raise DataError(f"the metric {name!r} gave {value} for {len(texts)} texts; a finite number is needed")
        found[name] = value
    return found
