"""Records to disjoint named splits, by record, by group or by label; `data` offers it too."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from mop.config import MIN_TEXTS, UpTo
from mop.errors import ConfigError, DataError
from mop.randomness import derive_seed
from mop.types import Record

logger = logging.getLogger(__name__)


def split_records(
    records: Sequence[Record],
    sizes: Mapping[str, int | float],
    *,
    seed: int,
    by_group: bool = False,
    stratify: bool = False,
) -> dict[str, list[Record]]:
    """Deal records into disjoint named splits.

    Each record (or group) has a place in a random order that depends on the seed and its own
    key alone; the splits are cut from that order one after the other. So the order of the input
    does not matter, and a few more records move only the records next to a cut.

    Parameters
    ----------
    records : sequence of Record, length N
    sizes : mapping from name to int or float
        An int is a number of records, a float a share of all N, above 0 and at most 1. What the
        sizes leave over is in no split.
    seed : int
    by_group : bool
        Never divide a group between splits. A number is met exactly: the last group of the split
        loses its surplus records, which are then in no split. A share is met as nearly as whole
        groups allow, and if shares alone make up everything, the last split takes the rest. A
        record without a group is its own group.
    stratify : bool
        Give every split the labels in the proportions of the data, to within one record.

    Returns
    -------
    dict from name to list of Record
        In the order of `sizes`. Each list is in random order, so its first m records are a
        random sample of it.

    Raises
    ------
    ConfigError
        If a size is not positive, shares exceed 1, or both ways of dealing are asked for.
    DataError
        If there are too few records or groups, keys repeat, or no record has a group or label.

    Examples
    --------
    >>> records = [Record(key=str(i), context="", response="r") for i in range(10)]
    >>> splits = split_records(records, {"train": 0.5, "test": 3}, seed=0)
    >>> {name: len(split) for name, split in splits.items()}
    {'train': 5, 'test': 3}
    """
    _check_sizes(sizes)
    if by_group and stratify:
        raise ConfigError("by_group and stratify are both set; unset one, since whole groups fix the labels they bring")
    rank = {r.key: (derive_seed(seed, "split", r.key), r.key) for r in records}
    _check_splittable(records, n_keys=len(rank), by_group=by_group, stratify=stratify)
    counts = _split_counts(sizes, len(records))
    ordered = sorted(records, key=lambda r: rank[r.key])
    if by_group:
        splits = _deal_groups(ordered, sizes, counts, seed)
    elif stratify:
        splits = _deal_labels(ordered, counts)
    else:
        splits = _deal(ordered, counts)
    return {name: sorted(split, key=lambda r: rank[r.key]) for name, split in splits.items()}


LEAST = {"exemplars": 2, "train": 2, "valid": 2, "test": MIN_TEXTS, "golden": MIN_TEXTS}
"""Records that each split of a run needs."""


def split_to_fit(
    records: Sequence[Record],
    sizes: Mapping[str, int],
    *,
    seed: int,
    by_group: bool = False,
    stratify: bool = False,
    name: str = "the source",
) -> dict[str, list[Record]]:
    """`split_records` by sizes of which some fall in proportion where there are fewer records.

    Parameters
    ----------
    records, seed, by_group, stratify
        As there.
    sizes : mapping from name to int
        Names of `LEAST`. A `mop.config.UpTo` falls, any other number is kept to.
    name : str
        What the records are, for messages.

    Raises
    ------
    ConfigError
        If the records cannot be divided so: with sizes that work, if there are any.
    """
    n = len(records)
    try:
        splits = _split_to_fit(records, sizes, seed=seed, by_group=by_group, stratify=stratify)
    except DataError as error:
        said = f"{n} usable records of {name}" + (f" in {_n_groups(records)} groups" if by_group else "")
        asked = " and ".join(f"data.{key} = {size}" for key, size in sizes.items() if not isinstance(size, UpTo))
        ways = [] if not by_group else ["leave data.group out (--set data.group=)"]
        try:
            anyhow = {key: UpTo(size) for key, size in sizes.items()}
            found = _split_to_fit(records, anyhow, seed=seed, by_group=by_group, stratify=stratify)
            fitting = " ".join(f"--set data.{key}={len(part)}" for key, part in found.items())
            ways = [f"sizes that fit are {fitting}, and sizes left out follow the records"]
        except DataError:
            needed = ", ".join(f"{key} {LEAST[key]}" for key in sizes)
            said += f", and {sum(LEAST[key] for key in sizes)} are the least ({needed})"
            ways = ["bring more", *ways]
        raise ConfigError(
            f"{said} do not make the splits{f' with {asked}' * bool(asked)}: {'; or '.join(ways)}"
        ) from error
    short = {key: len(part) for key, part in splits.items() if len(part) < sizes[key]}
    if short:
        logger.warning(
            "%d usable records of %s are fewer than the %d of all sizes, so these follow: %s; to have others, set them "
            "(--set data.exemplars=...)", n, name, sum(sizes.values()), ", ".join(f"{k} {m}" for k, m in short.items()),
        )  # fmt: skip
    return splits


def _split_to_fit(
    records: Sequence[Record], sizes: Mapping[str, int], *, seed: int, by_group: bool, stratify: bool
) -> dict[str, list[Record]]:
    """As many as there may be; a `DataError` where it cannot be done."""
    found = _fitting(sizes, len(records))
    try:
        return split_records(records, found, seed=seed, by_group=by_group, stratify=stratify)
    except DataError:
        if not by_group:
            raise
    # Whole groups, as near to each share as they come; numbers that are kept to are dealt first.
    order = sorted(sizes, key=lambda name: isinstance(sizes[name], UpTo))
    parts = {name: found[name] / len(records) if isinstance(sizes[name], UpTo) else sizes[name] for name in order}
    splits = split_records(records, parts, seed=seed, by_group=True)
    if any(len(splits[name]) < LEAST[name] for name in sizes):
        raise DataError("a group is too small for its split")
    return {name: splits[name][: sizes[name]] for name in sizes}


def _fitting(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    """Sizes that n records allow: all get their least, and those that may fall share the rest in proportion."""
    least = {name: LEAST[name] if isinstance(size, UpTo) else size for name, size in sizes.items()}
    above = {name: size - least[name] for name, size in sizes.items()}
    room = min(n - sum(least.values()), sum(above.values()))
    if room < 0:
        raise DataError(f"{n} records are too few")
    more = _apportion(room, list(above.values())) if room else [0] * len(sizes)
    return {name: least[name] + part for name, part in zip(sizes, more, strict=True)}


def _n_groups(records: Sequence[Record]) -> int:
    return len({("key", r.key) if r.group is None else ("group", r.group) for r in records})


def _check_sizes(sizes: Mapping[str, int | float]) -> None:
    for name, size in sizes.items():
        is_number = isinstance(size, int | float) and not isinstance(size, bool)
        if not is_number or not (0 < size <= 1 if isinstance(size, float) else size > 0):
            raise ConfigError(
                f"the size of split {name!r} is {size!r}; it must be a whole number of records "
                "above 0, or a share such as 0.2, above 0 and at most 1"
            )
    shares = sum(size for size in sizes.values() if isinstance(size, float))
    if not sizes or shares > 1 + 1e-9:
        raise ConfigError(
            f"the sizes of the splits are {dict(sizes)}; give at least one split, and shares of at most 1 in all"
        )


def _check_splittable(records: Sequence[Record], *, n_keys: int, by_group: bool, stratify: bool) -> None:
    if n_keys < len(records):
        raise DataError(
            f"{len(records)} records have {n_keys} different keys, and each needs its own; "
            "load the records together, or rename the keys"
        )
    for wanted, role, argument in ((by_group, "group", "by_group"), (stratify, "label", "stratify")):
        if wanted and all(getattr(r, role) is None for r in records):
            raise DataError(
                f"none of the {len(records)} records has a {role}, which {argument} needs; "
                f"load them with {role}=COLUMN or unset {argument}"
            )


def _split_counts(sizes: Mapping[str, int | float], n_records: int) -> dict[str, int]:
    """Turn shares into numbers; together they are the rounded-down sum of the shares."""
    counts = {name: size for name, size in sizes.items() if isinstance(size, int)}
    shares = {name: size for name, size in sizes.items() if isinstance(size, float)}
    total = math.floor(math.fsum(shares.values()) * n_records + 1e-6)
    counts |= dict(zip(shares, _apportion(total, list(shares.values())), strict=True))
    if sum(counts.values()) > n_records or 0 in counts.values():
        listed = ", ".join(f"{name} {size:g}" for name, size in sizes.items())
        made = ", which makes " + ", ".join(f"{n} {counts[n]}" for n in sizes) if shares else ""
        raise DataError(
            f"{n_records} records cannot be split into {listed}{made}; each split needs a record, "
            "and all together no more than there are; ask for less or bring more records"
        )
    return {name: counts[name] for name in sizes}


def _apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Share out `total` by weight, whole: rounded down, the largest remainders get one more."""
    if not weights:
        return []
    quotas = [total * weight / math.fsum(weights) for weight in weights]
    parts = [math.floor(quota + 1e-9) for quota in quotas]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - quotas[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def _deal(ordered: Sequence[Record], counts: Mapping[str, int]) -> dict[str, list[Record]]:
    splits, start = {}, 0
    for name, count in counts.items():
        splits[name] = list(ordered[start : start + count])
        start += count
    return splits


def _deal_labels(ordered: Sequence[Record], counts: Mapping[str, int]) -> dict[str, list[Record]]:
    """Deal each label by itself, in proportion to what is left of it."""
    piles: dict[str | None, list[Record]] = {}
    for label in sorted({r.label for r in ordered}, key=lambda label: (label is None, label)):
        piles[label] = [r for r in ordered if r.label == label]
    splits: dict[str, list[Record]] = {}
    for name, count in counts.items():
        splits[name] = []
        # A quota is at most the pile, so that rounding up never asks for more than there is.
        parts = _apportion(count, [len(pile) for pile in piles.values()])
        for (label, pile), part in zip(piles.items(), parts, strict=True):
            splits[name] += pile[:part]
            piles[label] = pile[part:]
    return splits


def _deal_groups(
    ordered: Sequence[Record], sizes: Mapping[str, int | float], counts: Mapping[str, int], seed: int
) -> dict[str, list[Record]]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for r in ordered:
        holder = ("key", r.key) if r.group is None else ("group", r.group)
        groups.setdefault(holder, []).append(r)
    queue = sorted(groups, key=lambda name: (derive_seed(seed, "split", *name), name), reverse=True)
    is_everything = math.isclose(sum(v if isinstance(v, float) else 2.0 for v in sizes.values()), 1)
    splits: dict[str, list[Record]] = {}
    for name, count in counts.items():
        is_share = isinstance(sizes[name], float)
        takes_rest = is_everything and len(splits) == len(sizes) - 1
        taken: list[Record] = []
        while queue and (takes_rest or len(taken) < count):
            group = groups[queue[-1]]
            if is_share and taken and not takes_rest and len(taken) + len(group) / 2 > count:
                break  # without the group the split is nearer to its share
            taken += group
            queue.pop()
        if not taken or (len(taken) < count and not is_share):
            raise DataError(
                f"split {name!r} of {count} records gets only {len(taken)}: the {len(groups)} "
                f"groups are used up, since none may be in two splits; ask for less or bring more groups"
            )
        splits[name] = taken if is_share else taken[:count]
    return splits
