"""What AttrPrompt varies: the dimensions and values released for news, films and restaurants.

Source: Yu et al., *Large Language Model as Attributed Training Data Generator*, NeurIPS 2023 Datasets
and Benchmarks, and the lists released with it (``attributes.toml``); wording ours. A population without a list here has
one written by the language model (`mop.rivals.attrprompt.propose_attributes`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mop.errors import DataError

OTHERS = "others"
"""Added to every list that depends on the label, as the released loader does."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """Dimensions and their values; one value of each is drawn for a text."""

    common: Mapping[str, Sequence[str]]
    """Dimension to values, the same for every label."""
    by_label: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """Dimension to label (lower case) to values."""

    def of(self, label: str | None) -> dict[str, tuple[str, ...]]:
        """Dimension to the values for a label; those that depend on it come first.

        Raises
        ------
        DataError
            If a dimension has no values for the label.
        """
        own = {}
        for dimension, values in self.by_label.items():
            if (label or "").lower() not in values:
                raise DataError(
                    f"the dimension {dimension!r} has no values for the label {label!r}; it has them "
                    f"for {', '.join(values)}; rename the labels, or use the domain plain"
                )
            own[dimension] = (*values[(label or "").lower()], OTHERS)
        return {**own, **{name: tuple(values) for name, values in self.common.items()}}


def lengths(*least: int) -> tuple[str, ...]:
    """Values of the length dimension: between that number of words and 50 more.

    Examples
    --------
    >>> lengths(30)
    ('between 30 and 80 words',)
    """
    return tuple(f"between {n} and {n + 50} words" for n in least)


def _read(name: str) -> Attributes:
    lists = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))[name]
    common = {
        dimension: lengths(*values) if dimension == "length" else values
        for dimension, values in lists["common"].items()
    }
    return Attributes(common, lists["by_label"])


NEWS, FILMS, RESTAURANTS = map(_read, ("news", "films", "restaurants"))

ATTRIBUTES: Mapping[str, Attributes] = {"news": NEWS, "films": FILMS, "restaurants": RESTAURANTS}
"""By name of the domain."""
