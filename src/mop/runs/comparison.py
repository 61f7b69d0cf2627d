"""Judged arms of a comparison to rows, differences between methods, and what they say; see `mop.runs.compare`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mop.config import RIVALS, method_and_tau
from mop.evaluate.paired import MAIN, clear_winners, difference, is_clear, mean_errors
from mop.own_parts import is_own
from mop.report.document import ends, signed
from mop.report.page import METRICS
from mop.report.verdicts import FOR_FREE_TEXTS

SIDE = ("fid", "sense", "improbable", "wrong_label", "cut_share", "mean_words", "failed", "empty", "refusals",
        "near_copies", "duplicates", "distinct_2", "self_bleu_4", "kl_cosine_reverse")  # fmt: skip
RANGES = {"fid": (0.0, math.inf), "mauve": (0.0, 1.0), "kl_cosine": (0.0, math.inf), "f1": (0.0, 1.0)}
"""Least and most that a figure can be, where there are such ends."""


def best_rivals(rows: Mapping[str, Mapping[str, Any]], methods: Sequence[str]) -> dict[str, str]:
    """For each main figure the rival that is best on it; chosen in the rivals' favour, on the golden texts."""
    rivals = [m for m in methods if (name := method_and_tau(m)[0]) in RIVALS or is_own(name)]
    best = {}
    for metric, better in MAIN.items():
        have = [m for m in rivals if m in rows and rows[m].get(metric) is not None]
        if have:
            best[metric] = max(have, key=lambda m: better * rows[m][metric])
    return best


def arms_by_method(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """The arms of each row of a table: a method at all its seeds, or one changed version of MoP."""
    names: dict[str, list[str]] = {}
    for name, method in found["arms"].items():
        names.setdefault(name if name.startswith("mop.") else method, []).append(name)
    return names


def over_seeds(arms: Sequence[Mapping[str, Any]], floor: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Mean figures of one method over its seeds.

    With one seed the intervals are those of the evaluation (over the choice of texts; of training
    texts and test records for F1). With more, ``NAME_interval`` is mean ± t · sd / √n over the seeds
    (95 %), that of ``fid_excess`` with the error of the floor besides, which all seeds share. It is kept
    within the range of the figure, and ``NAME_spread`` is the standard deviation.

    Parameters
    ----------
    arms : sequence of mapping
        The figures at each seed.
    floor : mapping, optional
        Those of other real texts.
    """
    names = [name for name in (*MAIN, *SIDE) if all(arm.get(name) is not None for arm in arms)]
    found: dict[str, Any] = {"n_seeds": len(arms), "n": arms[0]["n"]}
    for name in names:
        values = np.array([arm[name] for arm in arms], dtype=np.float64)
        found[name] = float(values.mean())
        if len(arms) == 1:
            if f"{name}_interval" in arms[0]:
                found[f"{name}_interval"] = arms[0][f"{name}_interval"]
            continue
        if name not in (*MAIN, "fid", "sense"):
            continue
        from scipy.stats import t

        sd = float(values.std(ddof=1))
        reach = float(t.ppf(0.975, len(arms) - 1)) * sd / math.sqrt(len(arms))
        if name == "fid_excess" and floor is not None:
            # The floor's own interval is that of a difference of two such sets.
            reach = math.hypot(reach, floor["fid_excess_interval"][1] / math.sqrt(2))
        found[f"{name}_spread"] = sd
        low, high = RANGES.get(name, (-math.inf, math.inf))
        found[f"{name}_interval"] = [max(low, found[name] - reach), min(high, found[name] + reach)]
    return found


def differences(
    found: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], dict[str, str | None]]:
    """How MoP differs from every other row on each main figure, and which row is clearly the best on it.

    Parameters
    ----------
    found : mapping
        What was judged: ``arms``, ``rows`` and ``errors`` of each arm.
    rows : mapping
        Means over the seeds of each method.

    Returns
    -------
    pairs : dict
        Figure to another method to ``difference`` (MoP minus the other) and its 95 % ``interval``, paired over what
        both share: questions, real texts, test records of the classifier (`mop.evaluate.paired`).
    best : dict
        Figure to the method that is better than every other beyond such intervals; None if none is.
    """
    arms = arms_by_method(found)
    errors = {
        name: {
            metric: mean_errors([found["errors"][arm][metric] for arm in of])
            for metric in MAIN
            if all(metric in found["errors"].get(arm, {}) for arm in of)
        }
        for name, of in arms.items()
    }
    of_clusters = {name: _own_sd(found, of) for name, of in arms.items()}
    mine = errors.get("mop", {})
    pairs = {
        metric: {
            name: difference(
                float(rows["mop"][metric]),
                float(rows[name][metric]),
                mine[metric],
                of[metric],
                *([of_clusters["mop"], of_clusters[name]] if metric == "mauve" else []),
            )
            for name, of in errors.items()
            if name != "mop" and metric in of
        }
        for metric in mine
    }
    best = clear_winners({name: rows[name] for name in arms}, errors, of_clusters)
    return {metric: of for metric, of in pairs.items() if of}, best


def _own_sd(found: Mapping[str, Any], arms: Sequence[str]) -> float:
    """Standard deviation of the mean of MAUVE over arms that their clusters cause, each having its own."""
    return math.sqrt(sum(found["rows"][arm].get("mauve_spread", 0.0) ** 2 for arm in arms)) / len(arms)


def verdicts(pairs: Mapping[str, Mapping[str, Any]], rivals: Mapping[str, str], *, is_closed: bool) -> list[str]:
    """One line for each main figure: MoP against zero-shot and against the rival that is best on it.

    Examples
    --------
    >>> pairs = {"f1": {"zero-shot": {"difference": 0.14, "interval": [0.03, 0.25]},
    ...                 "zerogen": {"difference": -0.01, "interval": [-0.08, 0.06]}}}
    >>> verdicts(pairs, {"f1": "zerogen"}, is_closed=False)
    ['F1: mop against zero-shot +0.140 (+0.0300 to +0.250), better; against zerogen −0.0100 (−0.0800 to +0.0600), no clear difference']
    """  # noqa: E501
    lines = []
    for metric, of in pairs.items():
        if is_closed and metric in FOR_FREE_TEXTS:
            continue
        against = [name for name in dict.fromkeys(["zero-shot", rivals.get(metric, "zero-shot")]) if name in of]
        said = []
        for name in against:
            found = of[name]
            better = "better" if found["difference"] * MAIN[metric] > 0 else "worse"
            verdict = better if is_clear(found) else "no clear difference"
            said.append(f"against {name} {signed(found['difference'])} ({ends(found['interval'], True)}), {verdict}")
        if said:
            lines.append(f"{METRICS[metric].title}: mop {'; '.join(said)}")
    return lines
