"""Personas in files: JSON lines that people may edit, read back with every mistake named."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from mop.errors import DataError
from mop.personas.agents import LISTS, OURS, agent_row, agents_of, described_row
from mop.personas.doubts import doubts, doubts_in_order, mark_duplicates
from mop.personas.from_cluster import free_key
from mop.storage.files import write_jsonl
from mop.types import Persona

_SUFFIXES = (".jsonl", ".txt", ".csv", ".tsv", ".json")
_FORMS = {
    ".jsonl": ', as in {"description": "You are ..."}',
    ".json": ', as in {"description": "You are ..."}',
    ".csv": ", below a first line with the word persona",
    ".tsv": ", below a first line with the word persona",
}
"""What a line is, where it is not the description alone."""
_FIELDS = tuple(field.name for field in fields(Persona))
# A person's "a film student" needs no full stop to be a good persona.
_OF_WRITERS_ONLY = frozenset({"too-short", "unfinished", "chatter", "voice"})
# Findings that cannot be made again from the description alone.
_KEPT = frozenset({"copied", "few-records", "few-words", "options"})


def save_personas(personas: Sequence[Persona], path: Path | str) -> None:
    """Write personas as JSON Lines, one to a line, for `read_personas` and for a text editor.

    Parameters
    ----------
    personas : sequence of Persona
    path : path
        Ends in ``.jsonl``; an existing file is replaced at once or not at all.

    Raises
    ------
    DataError
        If the name ends otherwise.
    ArtifactError
        If the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        raise DataError(f"personas cannot be written to {path}: the name must end in .jsonl; rename it")
    write_jsonl(path, map(asdict, personas))


def read_personas(path: Path | str) -> list[Persona]:
    """Read personas that a writer made, a person edited, or a person wrote.

    Parameters
    ----------
    path : path
        ``.jsonl``: one object per line, of which only ``description`` is needed. ``.txt``: one
        description per line. ``.csv``, ``.tsv``, ``.json``: agents of other tools, see `mop.personas.agents`; such a
        file is known by its content under another name, too. UTF-8; blank lines are skipped.

    Returns
    -------
    list of Persona
        In the order of the file. Missing keys are numbered by position (``p000``, ...); cluster,
        size, sources and writer are kept as they stand. `Persona.doubts` is found anew from the
        description, since it may have been edited; ``copied`` and ``few-records``, which cannot be,
        stay until they are deleted from the line. A text of the writers ``user``, ``record`` and
        ``random`` may be short and need not end like a sentence.

    Raises
    ------
    DataError
        With file and line, if the file cannot be read, has no personas, an unknown field, a field
        of the wrong type, or a key that occurred before.
    """
    rows = _read_rows(Path(path))
    taken = {row["key"] for _, row in rows if "key" in row}
    first: dict[str, str] = {}
    personas = []
    for i, (where, row) in enumerate(rows):
        if "key" not in row:
            row["key"] = free_key(i, len(rows), taken)
        found = first.setdefault(row["key"], where)
        if found != where:
            raise DataError(
                f"{where}: the key {_shown(row['key'])} was used before, at {found}; every persona needs its own, "
                "so change or delete one of the two"
            )
        personas.append(_from_row(row))
    return mark_duplicates(personas)


def _read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read (file:line, checked row) of every line that is not blank."""
    if path.suffix not in _SUFFIXES:
        raise DataError(
            f"personas cannot be read from {path}: they are read from {', '.join(_SUFFIXES)}; write one persona on "
            "each line of a .txt file"
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the persona file {path} cannot be read ({error.strerror}); give the path of a .jsonl or .txt file"
        ) from error
    rows = _agents(raw, path)
    if rows is None:
        rows = list(_lines(raw, path))
    if not rows:
        raise DataError(f"{path} has no personas; write one description per line{_FORMS.get(path.suffix, '')}")
    return rows


def _lines(raw: bytes, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of the lines that are not blank, checked."""
    # Lines end at \n alone: str.splitlines would also cut at characters that a text may hold.
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}: byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8"
            ) from error
        if text:
            row = {"description": text} if path.suffix == ".txt" and text[0] != "{" else _parse(text, where)
            yield where, row


def _agents(raw: bytes, path: Path) -> list[tuple[str, dict[str, Any]]] | None:
    """Rows of a table or one JSON document, checked; None if it is something else."""
    try:
        text = raw.decode("utf-8-sig")
        first = next((line for line in text.splitlines() if line.strip()), "")
        found = None if path.suffix == ".jsonl" and _is_line(first) else agents_of(text, path)
    except UnicodeDecodeError:
        return None  # the line is named where lines are read
    for where, row in found or []:
        _check_row(row, where)
    return found


def _is_line(text: str) -> bool:
    """Whether this is a line of JSON Lines, and no whole list of agents."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return isinstance(error, RecursionError)
    return not isinstance(found, dict) or not set(LISTS).intersection(found)


def _from_row(row: Mapping[str, Any]) -> Persona:
    """Make a persona of a checked row, with its doubts found anew."""
    lists = {name: tuple(row.get(name, ())) for name in ("sources", "doubts")}
    persona = Persona(**{**row, **lists})
    found = set(doubts(persona.description))
    if persona.writer not in {"keywords", "llm"}:
        found -= _OF_WRITERS_ONLY
    return replace(persona, doubts=doubts_in_order(found | _KEPT.intersection(persona.doubts)))


def _parse(text: str, where: str) -> dict[str, Any]:
    """One checked row of a JSON Lines file."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: nested without end
        raise DataError(
            f'{where}: not a JSON object ({error}); a line looks like {{"description": "You are ..."}}'
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f'{where}: a line holds {_shown(row)} instead of an object; write it as {{"description": "You are ..."}}'
        )
    row = described_row(row) or (row if OURS.intersection(row) else agent_row(row))
    _check_row(row, where)
    return row


def _check_row(row: Mapping[str, Any], where: str) -> None:
    for name in row:
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            hint = f"did you mean {near[0]!r}" if near else "delete it"
            raise DataError(f"{where}: unknown field {name!r}; a persona has {', '.join(_FIELDS)}; {hint}")
    for name, (is_right, wanted) in _CHECKS.items():
        if name in row and not is_right(row[name]):
            raise DataError(f"{where}: {name} is {_shown(row[name])}, but must be {wanted}; correct the line")
    if "description" not in row:
        raise DataError(f'{where}: no description; every persona needs one, as in {{"description": "You are ..."}}')


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _is_text(value: object) -> bool:
    # A lone surrogate can be written in JSON but not in UTF-8, so no later file could hold it.
    return isinstance(value, str) and bool(value.strip()) and not re.search("[\ud800-\udfff]", value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _is_text(value) and len(value) <= 64 and value.isprintable() and " " not in value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_CHECKS = {
    "key": (_is_name, "a name of 1 to 64 characters without spaces"),
    "description": (_is_text, "text that is not blank and has no lone surrogates"),
    "cluster": (lambda value: value is None or _is_count(value), "a whole number from 0 up, or null"),
    "size": (_is_count, "a whole number from 0 up"),
    "sources": (_is_texts, "a list of record keys"),
    "writer": (_is_name, "a name such as keywords, llm or user"),
    "doubts": (_is_texts, "a list of names"),
}
