"""A folder with one file per split to records: for data whose division is given, not drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mop.data.labels import known_labels
from mop.data.losses import Loaded
from mop.data.records import load_records, without_labels
from mop.data.splits import split_to_fit
from mop.errors import DataError
from mop.types import Record

_ENDINGS = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")


def split_files(folder: Path) -> dict[str, Path]:
    """File of each split in a folder: ``exemplars``, ``train``, ``test``, ``golden``, perhaps ``valid``.

    Returns
    -------
    dict of str to Path
        Empty if the folder has no file for ``exemplars``.

    Raises
    ------
    DataError
        If it has one for ``exemplars`` but not for the others, or two for one split.
    """
    found: dict[str, Path] = {}
    for name in ("exemplars", "train", "valid", "test", "golden"):
        there = [file for ending in _ENDINGS if (file := folder / f"{name}{ending}").is_file()]
        if len(there) > 1:
            raise DataError(
                f"{folder} has {len(there)} files for {name}: {', '.join(file.name for file in there)}; "
                "keep one for each split"
            )
        if there:
            found[name] = there[0]
    if "exemplars" not in found:
        return {}
    missing = [name for name in ("train", "test", "golden") if name not in found]
    if missing:
        raise DataError(
            f"{folder} has a file for exemplars but none for {', '.join(missing)}; add the file "
            f"({missing[0]} with {', '.join(_ENDINGS)}), or give one file with all records"
        )
    return found


def load_splits(
    files: Mapping[str, Path],
    sizes: Mapping[str, int],
    *,
    seed: int,
    prepare: Callable[[list[Loaded]], list[Loaded]] = list,
    **columns: Any,
) -> tuple[dict[str, list[Record]], list[Loaded]]:
    """Read given splits and take as many records of each as ``sizes`` says.

    Without a file, ``valid`` is taken from the training records. With labels, their shares are kept
    where no groups have to be kept together.

    Parameters
    ----------
    files : mapping of str to Path
        From `split_files`.
    prepare : callable
        What is done to the files' records, file by file, before any are taken.
    **columns
        As for `mop.data.records.load_records`.

    Returns
    -------
    splits : dict of str to list of Record
    loaded : list of Loaded
        What was read, file by file, with its problems.

    Raises
    ------
    DataError
        If two files share a record or a group, or one of test and golden has a label that the others do not.
    ConfigError
        If a column or size cannot be used, or a file has too few records.
    """
    splits: dict[str, list[Record]] = {}
    everything = [load_records(file, **columns) for file in files.values()]
    if columns.get("key") is None:  # two people in two files may have been asked the same
        everything = [
            replace(loaded, records=[replace(record, key=f"{name}-{record.key}") for record in loaded])
            for name, loaded in zip(files, everything, strict=True)
        ]
    everything = prepare(everything)
    read = dict(zip(files, everything, strict=True))
    fitted_to = (record for name in read.keys() - {"test", "golden"} for record in read[name].records)
    known = {record.label for record in fitted_to if record.label is not None}
    for name, loaded in read.items():
        file = files[name]
        wanted = {part: sizes[part] for part in (name, "valid") if part == name or (
            name == "train" and "valid" not in files)}  # fmt: skip
        # Only where a file is divided: whole groups alone would make a split of few of them.
        by_group = len(wanted) > 1 and any(record.group is not None for record in loaded.records)
        has_labels = all(record.label is not None for record in loaded.records)
        splits |= split_to_fit(
            loaded.records, wanted, seed=seed, by_group=by_group, stratify=has_labels and not by_group, name=str(file)
        )
    keeps = columns.get("duplicates") == "keep" or columns.get("key") or columns.get("weight")
    _refuse_shared(splits, by_text=columns.get("duplicates") == "drop" or not keeps)
    remedy = without_labels(columns.get("context"), columns.get("label"))
    # Records of a run were divided by chance: a rare label may be in one part alone.
    is_of_run = (files["exemplars"].parent / "problems.json").is_file()
    for name in () if is_of_run else ("test", "golden"):
        splits[name] = known_labels(splits[name], known, where=str(files[name]), remedy=remedy)
    return {name: splits[name] for name in sizes}, everything


_REMEDIES = {
    "key": "each record belongs to one; remove it from the other, or give the splits different keys",
    "text": 'each record belongs to one; remove it from the other, or data.duplicates = "keep" for equal answers',
    "group": "data.group names what must not be split apart; move its records to one file, or leave data.group out",
}


def _refuse_shared(splits: Mapping[str, list[Record]], *, by_text: bool) -> None:
    """A record, or a group, in two splits would be shown to a method and used to judge it."""
    where: dict[tuple[str, ...], str] = {}
    for name, records in splits.items():
        for record in records:
            for trait, what in _traits(record, by_text=by_text):
                if (other := where.setdefault(trait, name)) != name:
                    raise DataError(f"{what} is in the splits {other!r} and {name!r}; {_REMEDIES[trait[0]]}")


def _traits(record: Record, *, by_text: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    """What belongs to one split, and how to call it."""
    yield ("key", record.key), f"record {record.key!r}"
    if by_text:
        words = record.context.strip(), record.response.strip(), record.group or ""
        yield ("text", *words), f"the context and response of record {record.key!r}"
    if record.group is not None:
        yield ("group", record.group), f"the group {record.group!r}"
