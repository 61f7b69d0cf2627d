"""What figures say, in sentences; the same in the terminal, in the report and in a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mop.report.document import number, percent

QUALITY: Mapping[str, str] = {
    "cut_share": "were cut at the length limit",
    "empty": "are empty",
    "duplicates": "repeat another",
    "wrong_label": "look as if another label had been asked for",
    "improbable": "are less probable than 99 in 100 real ones",
}
"""Shares of texts that have something wrong, in words."""
FOR_FREE_TEXTS = ("fid_excess", "fid", "mauve", "kl_cosine")
"""What is not meant for answers to closed questions."""


def quality_sentence(methods: Mapping[str, Mapping[str, Any]], *, method: str = "mop", is_closed: bool = False) -> str:
    """Say how many texts of a method have something wrong, beside other real texts; empty if nothing is wrong.

    Examples
    --------
    >>> quality_sentence({"mop": {"cut_share": 0.35, "wrong_label": 0.3}, "floor": {"wrong_label": 0.12}})
    'Of the texts by mop, 35 % were cut at the length limit and 30 % look as if another label had been asked for (other real texts: 12 %).'
    """  # noqa: E501
    mine, real = methods.get(method, {}), methods.get("floor", {})
    parts = []
    for name, said in QUALITY.items():
        share, floor = mine.get(name), real.get(name)
        if not share or (is_closed and name == "duplicates"):
            continue
        beside = "" if not floor else f" (other real texts: {percent(floor)})"
        parts.append(f"{percent(share)} {said}{beside}")
    if not parts:
        return ""
    return f"Of the texts by {method}, {', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]}."


def closed_sentences(closed: Mapping[str, Any] | None, methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say how well closed questions are answered; nothing where texts are free."""
    if not closed:
        return []
    names = [name for name, row in methods.items() if row.get("valid_answers") is not None and name != "floor"]

    def figures(metric: str, show: Callable[[Any], str]) -> str:
        def within(name: str) -> str:
            return " to ".join(map(show, methods[name][f"{metric}_interval"]))

        shown = [f"{show(methods[name][metric])} of {name} ({within(name)})" for name in names]
        real = methods.get("floor", {}).get(metric)
        return "; ".join([*shown, *([] if real is None else [f"{show(real)} of other real texts"])])

    return [
        f"These questions are closed: {closed['n_real']:,} real answers know {len(closed['options'])} options. FID, "
        "MAUVE and KL-cosine are not meant for such answers.",
        f"Valid answers, which are one of the options: {figures('valid_answers', percent)}.",
        "Total variation between the shares of the options and the real ones, 0 where they agree: "
        f"{figures('total_variation', number)}.",
    ]


def respondent_sentence(found: Mapping[str, Any] | None) -> str:
    """Say in how many draws the persona contradicts the person who is asked; empty if in none.

    Examples
    --------
    >>> respondent_sentence({"draws": 80, "contradict": 65, "by_attribute": {"sex": 65},
    ...                      "example": ["You are a woman.", "sex", "Male"]})
    'In 65 of 80 draws the persona contradicts the person asked (sex in 65): “You are a woman.” where sex is “Male”.'
    """
    if not found or not found["contradict"]:
        return ""
    description, name, value = found["example"]
    by = ", ".join(f"{attribute} in {count}" for attribute, count in found["by_attribute"].items())
    return (
        f"In {found['contradict']} of {found['draws']} draws the persona contradicts the person asked ({by}): "
        f"“{description}” where {name} is “{value}”."
    )
