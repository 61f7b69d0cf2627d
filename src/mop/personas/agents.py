"""Agents that people have from other tools, tables and nested JSON, to one description each.

A CSV row becomes ``name: Ana; age: 34``. Of JSON these forms are known: a list of objects, TinyTroupe's
``*.agent.json``, EDSL's ``AgentList`` and ``Agent``, and any other object, all of whose values are taken.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mop.errors import DataError
from mop.types import Persona

Row = tuple[str, dict[str, Any]]
"""Where it stands, and what a persona file could hold there."""

_COLUMNS = frozenset((
    "age", "agent", "country", "description", "education", "ethnicity", "gender", "id", "income", "job", "key",
    "location", "name", "nationality", "occupation", "persona", "profession", "race", "region", "sex", "state",
    "traits",
))  # fmt: skip
"""Columns by which a table is known as one, whatever its file is called."""
LISTS = ("agent_list", "agents", "personas", "people")
_INNER = ("persona", "traits")
_TEXTS = frozenset(["description", "persona", "persona_description", "text"])
"""Where an object has the whole description,"""
_NUMBERS = frozenset(["_id", "agent_id", "id", "idx", "index", "no", "number", "persona_id", "row", "uuid"])
"""if what else it has says nothing of anybody."""
OURS = frozenset(field.name for field in fields(Persona))
"""What a line of a persona file may have."""
_SILENT = frozenset({"edsl_version", "edsl_class_name", "instruction", "codebook", "type"})


def agents_of(text: str, path: Path) -> list[Row] | None:
    """Rows of a file of agents; None if the text is neither a table nor one JSON document.

    Raises
    ------
    DataError
        For a table without a line of names, or a row that does not fit it.
    """
    if text.lstrip()[:1] in ("{", "["):
        try:
            document = json.loads(text)
        except ValueError:
            return None  # JSON Lines, perhaps
        except RecursionError as error:
            raise DataError(
                f"{path} is nested too deep for a file of agents; give one object for each agent"
            ) from error
        return list(_of_json(document, str(path)))
    lines = [line for line in text.splitlines() if line.strip()]
    head = lines[0] if lines else ""
    delimiter = max(",;\t|", key=head.count)
    names = [cell.strip().strip('"').lower() for cell in head.split(delimiter)]
    is_named = path.suffix in {".csv", ".tsv"}
    if not is_named and not (len(names) > 1 and len(lines) > 1 and _COLUMNS.intersection(names)):
        return None
    return list(_of_table(text, delimiter, path))


def _of_table(text: str, delimiter: str, path: Path) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    names: list[str] = []
    try:
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            values = [" ".join(cell.split()) for cell in cells]
            if not any(values):
                continue
            if not names:
                names = values
                if not all(names) or any(_is_number(name) for name in names) or len(set(names)) < len(names):
                    raise DataError(
                        f"{where}: the first line must name the columns, each once, got {', '.join(names)[:80]!r}; put "
                        "a line such as name,age,occupation before the agents"
                    )
                if len(names) == 1 and names[0].lower() not in _COLUMNS:
                    raise DataError(
                        f"{where}: the one column is called {names[0][:60]!r}, which reads like a persona; put a line "
                        "with the word persona before it, or name the file .txt: there each line is a persona"
                    )
                continue
            if len(values) != len(names):
                raise DataError(
                    f"{where}: {len(values)} cells where the first line names {len(names)} columns; put quotes around "
                    f"cells that contain {delimiter!r}"
                )
            yield where, agent_row(dict(zip(names, values, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}; save the table as CSV again") from error


def _of_json(found: Any, where: str) -> Iterator[Row]:
    if isinstance(found, list):
        for place, item in enumerate(found):
            yield from _of_json(item, f"{where}[{place}]")
        return
    if isinstance(found, str) and found.strip():
        yield where, {"description": found.strip()}
        return
    if not isinstance(found, Mapping):
        raise DataError(f'{where}: {str(found)[:60]!r} is no agent; an agent is an object, such as {{"name": "Ana"}}')
    for name in LISTS:
        if isinstance(found.get(name), list):
            yield from _of_json(found[name], f"{where}.{name}")
            return
    yield where, agent_row(found)


def described_row(agent: Mapping[str, Any]) -> dict[str, Any] | None:
    """A persona file's row of an object that has the description as one text, beside numbers and `OURS`; else None.

    Examples
    --------
    >>> described_row({"id": 7, "text": "old man"}), described_row({"text": "old man", "age": 70})
    ({'description': 'old man'}, None)
    """
    texts = [name for name in agent if str(name).lower() in _TEXTS]
    others = {name for name in agent if name not in texts and str(name).lower() not in _NUMBERS}
    if len(texts) != 1 or not isinstance(agent[texts[0]], str) or not others <= OURS:
        return None
    return {
        "description": agent[texts[0]],
        **{name: agent[name] for name in agent if name in others and agent[name] not in ("", None)},
    }


def agent_row(agent: Mapping[str, Any]) -> dict[str, Any]:
    """A persona file's row: an agent's own description if there is nothing else, else all its values."""
    if (row := described_row(agent)) is not None:
        return row
    inner = next((agent[name] for name in _INNER if isinstance(agent.get(name), Mapping)), None)
    told = agent if inner is None else {**({"name": agent["name"]} if agent.get("name") else {}), **inner}
    parts = [(name, value) for name, value in _flat(told, ()) if value]
    if len(parts) == 1:
        return {"description": parts[0][1]}
    return {"description": "; ".join(f"{name}: {value}" for name, value in parts)}


def _flat(value: Any, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Names and values of nested objects: ``occupation title`` of ``{"occupation": {"title": ...}}``."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if names or name not in _SILENT:
                yield from _flat(inner, (*names, str(name).replace("_", " ").strip()))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for item in value:
            yield from _flat(item, names)
    elif isinstance(value, list):
        yield " ".join(names), ", ".join(str(item).strip().rstrip(".") for item in value if item not in ("", None))
    else:
        yield " ".join(names), "" if value is None else " ".join(str(value).split())


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace(",", "", 1).lstrip("-").isdigit()
