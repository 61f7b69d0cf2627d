"""Weights that meet known margins exactly: 61 % of one label, 30 % of an age group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mop.errors import DataError

Floats = NDArray[np.float64]

TOLERANCE = 1e-9
"""Largest miss of a margin."""


def balanced(
    base: Floats, values: Mapping[str, Sequence[str | None]], margins: Mapping[str, Mapping[str, float]]
) -> Floats:
    """Weights as near as possible to the given ones that meet known margins exactly.

    Parameters
    ----------
    base : ndarray, shape (n,)
        Weights before, ≥ 0.
    values : mapping of str to sequence of n values
        Column to the category of each text.
    margins : mapping of str to mapping of str to float
        Column to the shares of its categories, which add up to 1; or to some of the shares, and the others together
        have what is left.

    Returns
    -------
    ndarray, shape (n,)
        Mean 1; the miss of every share is below 1e-9.

    Raises
    ------
    DataError
        If a share is no share, a column is not there, or no weights meet the margins: the category that stands in
        the way is named.

    Notes
    -----
    Entropy balancing (Hainmueller 2012, *Political Analysis* 20): minimise KL(w ‖ base) subject to the margins. The
    dual is convex, log Σ base exp(λ·(f - t)), and solved by Newton's method.
    """
    base = np.asarray(base, dtype=np.float64)
    names, columns, targets = _constraints(values, margins, len(base))
    if not names:
        return np.asarray(base * len(base) / base.sum())
    features, wanted = np.array(columns, dtype=np.float64).T, np.array(targets)
    alive = base > 0
    for j, (name, target) in enumerate(zip(names, wanted, strict=True)):
        if target == 0:  # who is not to be there; what is left has nobody of it
            alive &= features[:, j] == 0
        elif target == 1:
            alive &= features[:, j] == 1
        elif not (features[alive, j] > 0).any():
            raise DataError(
                f"a margin cannot be met: no text with any weight has {name}, and {target:.1%} should; draw more "
                "texts, or join the category with another"
            )
    if not alive.any():
        raise DataError(
            "the margins cannot be met together: no text is left that they allow; check the shares of 0 and 1"
        )
    found = np.zeros(len(base))
    found[alive] = _newton(base[alive], features[alive], wanted, names)
    return np.asarray(found * len(base) / found.sum())


def _constraints(
    values: Mapping[str, Sequence[str | None]], margins: Mapping[str, Mapping[str, float]], n: int
) -> tuple[list[str], list[Floats], list[float]]:
    """Name, indicator (n,) and share of each category."""
    names: list[str] = []
    columns: list[Floats] = []
    targets: list[float] = []
    for column, shares in margins.items():
        if column not in values:
            raise DataError(
                f"the texts have no column {column!r}, which has a margin; they have {', '.join(values) or 'none'}"
            )
        own = list(values[column])
        if len(own) != n:
            raise DataError(f"column {column!r} has {len(own)} values for {n} texts")
        total = float(sum(shares.values()))
        is_wrong = [name for name, share in shares.items() if not 0 <= share <= 1]
        if is_wrong or total > 1 + 1e-6:
            what = f"{is_wrong[0]!r} has {shares[is_wrong[0]]}" if is_wrong else f"they add up to {total:.6g}"
            raise DataError(f"margins of {column!r} are shares from 0 to 1 that add up to 1 at the most, but {what}")
        scale = total if total > 1 - 1e-6 else 1.0  # rounded shares
        for name, share in shares.items():
            names.append(f"{column} = {name}")
            columns.append(np.array([value == name for value in own], dtype=np.float64))
            targets.append(share / scale)
    return names, columns, targets


def _newton(base: Floats, features: Floats, wanted: Floats, names: Sequence[str]) -> Floats:
    """Weights (n,) with sum 1 of the convex dual."""
    moved = features - wanted
    log_base = np.log(base / base.sum())
    at = np.zeros(moved.shape[1])

    def dual(point: Floats) -> tuple[float, Floats]:
        log_weight = log_base + moved @ point
        top = log_weight.max()
        weight = np.exp(log_weight - top)
        return float(top + np.log(weight.sum())), weight / weight.sum()

    value, weight = dual(at)
    for _ in range(200):
        miss = weight @ moved
        if np.abs(miss).max() < TOLERANCE:
            return weight
        hessian = (moved * weight[:, None]).T @ moved - np.outer(miss, miss)
        step = np.linalg.lstsq(hessian, -miss, rcond=1e-12)[0]
        slope, length = float(miss @ step), 1.0
        while length > 1e-8:
            new_value, new_weight = dual(at + length * step)
            if new_value <= value + 1e-4 * length * slope:
                break
            length /= 2
        else:
            break
        at, value, weight = at + length * step, new_value, new_weight
        if np.abs(at).max() > 1e4:
            break
    raise DataError(_why_not(features, wanted, names))


def _why_not(features: Floats, wanted: Floats, names: Sequence[str]) -> str:
    """Which category stands in the way: that with the largest miss under the weights that miss least in all."""
    from scipy.optimize import linprog

    n, f = features.shape
    cost = np.concatenate([np.zeros(n), np.ones(2 * f)])
    equal = np.block([[features.T, np.eye(f), -np.eye(f)], [np.ones((1, n)), np.zeros((1, 2 * f))]])
    found = linprog(cost, A_eq=equal, b_eq=np.append(wanted, 1.0), bounds=(0, None), method="highs")
    at = np.asarray(found.x)
    worst = int(np.abs(at[n : n + f] - at[n + f :]).argmax())
    best = float(features[:, worst] @ at[:n])
    return (
        f"the margins cannot be met together: {names[worst]} should have {wanted[worst]:.1%}, and with the others met "
        f"{best:.1%} is the nearest that weights on these texts reach; draw more texts, or join categories"
    )
