"""Broken tables in six formats: who is lost without a word, and whether another format is another population.

    python -m trust.tables 60        # with benchmarks/ on the path: 60 tables of each kind

`rows_lost_silently` makes tables as they come from spreadsheets, databases, survey tools and scripts, each broken in
some ways, in six formats. A person is lost in silence if a row is neither a record, nor counted and named in the
problems, nor part of a table that was refused with a clear error. A record whose content is not what the person
said, without a problem at its place, is a loss, too.

`format_differences` writes one table with values of all kinds in six formats. Each has to give the same records.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mop.data.records import Loaded, load_records
from mop.errors import MopError

try:
    import polars as pl
except ImportError:  # pragma: no cover - a machine without it says so
    pl = None

FORMATS = ("csv", "jsonl", "parquet", "pandas", "polars", "arrow")
Load = Callable[..., Loaded]

WORDS = (
    'She said "hi" and left', "Äpfel, Öl; über|alles", "naïve café", "first line\nsecond line", '"', 'a 5" pipe, "so"',
    "yes, but", "comma, semicolon; tab\tbar|", "it's fine", "C:\\new\\table", "ends with \\", "=1+1", "<b>bold</b>",
    "{curly} {{braces}}", "100 %", "NA", "None", "true", "007", "1e5", "-", "  spaces around  ", "sep=;", "'quoted'",
    '""', '"all of it"', "„so“ – he said", "line\r\nwith return",
)  # fmt: skip
WIDE = ("日本語の答え", "Привет, мир", "😀 emoji", "zero\u200bwidth", "e\u0301 combined", "\u2028separator")


@dataclass
class Person:
    """One row as it was meant: what a record of it says."""

    key: str
    context: str
    response: str
    label: str
    weight: float
    places: set[int] = field(default_factory=set)
    """Lines or rows that are this person's."""
    is_missing: bool = False
    """Whether the row lacks what makes a record, so that no record of it can be asked for."""


# ---------------------------------------------------------------------------------------------- rows lost


def broken_table(rng: random.Random, kind: str, folder: Path) -> tuple[object, list[Person], dict[str, Any]]:
    """A source, who is in it, and the columns to load it by."""
    n = rng.randint(8, 30)
    is_wide = kind != "csv" or rng.random() < 0.5
    words = [*WORDS, *(WIDE if is_wide else ())]
    rows: list[dict[str, Any]] = []
    people = []
    has_key, has_weight = rng.random() < 0.6, rng.random() < 0.4
    for i in range(n):
        town = rng.choice(["North", " South", "Köln", "Évian ", "a, b", "x;y"])
        answer = f"{rng.choice(words)} #{i:03d}"
        if rng.random() < 0.2:
            answer = f"#{i:03d} {rng.choice(words)}"
        weight = rng.choice([0.5, 1.25, 2.0, 0.75])
        label = rng.choice(["pos", " POS", "neg ", "Neg"])
        rows.append({"id": f"p{i:03d}", "town": town, "note": "", "answer": answer, "weight": weight, "mood": label})
        people.append(
            Person(f"p{i:03d}", f"Town: {town.strip()}.", answer, label.strip(), weight if has_weight else 1.0)
        )
    columns: dict[str, Any] = {"context": "Town: {town}.", "response": "answer", "label": "mood"}
    columns |= {"key": "id"} if has_key else {}
    columns |= {"weight": "weight"} if has_weight else {}
    _spoil(rng, kind, rows, people, columns)
    source = _written(rng, kind, rows, people, folder)
    return source, people, columns


def _spoil(
    rng: random.Random, kind: str, rows: list[dict[str, Any]], people: list[Person], columns: Mapping[str, Any]
) -> None:
    """Break single rows, in ways that every format can hold."""
    nothing: list[Any] = ["", " ", "\u200b"] + ([] if kind == "csv" else [None])
    for row, person in zip(rows, people, strict=True):
        chance = rng.random()
        if chance < 0.05:
            row["answer"], person.is_missing = rng.choice(nothing), True
        elif chance < 0.08:
            row["town"], person.context = rng.choice(nothing), "Town: ."
        elif chance < 0.11 and "weight" in columns:
            row["weight"], person.is_missing = rng.choice([-1.0, 0.0, float("nan")]), True
        elif chance < 0.14 and "key" in columns:
            row["id"], person.is_missing = rng.choice(["", "two words", "p000" if row["id"] != "p000" else ""]), True
        elif chance < 0.17:
            row["answer"], person.is_missing = f"nul\0{row['answer']}", True
        elif chance < 0.22:
            other = rng.choice(rows)
            row["answer"], person.response = other["answer"], other["answer"] or ""
            person.is_missing = not str(other["answer"] or "").strip(" \u200b") or "\0" in str(other["answer"])


def _written(rng: random.Random, kind: str, rows: list[dict[str, Any]], people: list[Person], folder: Path) -> object:
    if kind == "csv":
        return _broken_csv(rng, rows, people, folder)
    if rng.random() < 0.2:  # an export that was joined to another: its names once more
        at = rng.randrange(1, len(rows))
        rows.insert(at, {name: name for name in rows[0]} | ({"weight": None} if kind != "jsonl" else {}))
        if rows[at]["weight"] is None:
            rows.pop(at)  # typed columns cannot hold a name
    place = iter(people)
    for number, row in enumerate(rows, start=1):
        if row["id"] != "id":
            next(place).places.add(number)
    if kind == "jsonl":
        return _broken_jsonl(rng, rows, people, folder)
    frame = {name: [row[name] for row in rows] for name in rows[0]}
    if kind == "pandas":
        return pd.DataFrame(frame)
    if kind == "polars":
        return pl.DataFrame(frame)
    if kind == "parquet":
        pq.write_table(pa.table(frame), folder / "t.parquet", row_group_size=rng.choice([3, 1000]))
        return folder / "t.parquet"
    return pa.table(frame)


def _broken_jsonl(rng: random.Random, rows: list[dict[str, Any]], people: list[Person], folder: Path) -> Path:
    lines, number = [], 0
    of_row = {next(iter(person.places)): person for person in people}
    for person in people:
        person.places.clear()
    for at, row in enumerate(rows, start=1):
        line = json.dumps(row, ensure_ascii=rng.random() < 0.3)
        if rng.random() < 0.03:
            line = line[: len(line) // 2]  # cut
        if rng.random() < 0.03:
            line = line.replace("{", '{"answer": "twice", ', 1)
        if rng.random() < 0.1:
            lines.append("")
            number += 1
        number += 1
        lines.append(line)
        if at in of_row:
            of_row[at].places.add(number)
    data = "\n".join(lines).encode(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]), "surrogatepass")
    path = folder / "t.jsonl"
    path.write_bytes(data)
    return path


def _quoted(rng: random.Random, cell: str, mark: str, style: str) -> str:
    needs = any(c in cell for c in f'{mark}"\r\n') or cell != cell.strip()
    if style == "careless":  # what joins strings by hand writes: quotes around, nothing doubled
        return f'"{cell}"' if needs and rng.random() < 0.9 else cell
    if style == "minimal" and not needs:
        return cell
    return '"{}"'.format(cell.replace('"', '\\"' if style == "backslash" else '""'))


def _broken_csv(rng: random.Random, rows: list[dict[str, Any]], people: list[Person], folder: Path) -> Path:
    mark = rng.choice([",", ",", ";", "\t", "|"])
    style = rng.choice(["all", "minimal", "minimal", "backslash", "careless"])
    end = rng.choice(["\n", "\r\n"])
    comma = mark == ";" and rng.random() < 0.5
    if style == "careless":
        for row, person in zip(rows, people, strict=True):
            if '""' in f'"{row["answer"]}"':  # who can tell whether these quotes are doubled?
                row["answer"] = row["answer"].replace('"', "'")
                person.response = person.response.replace('"', "'")
    if style == "backslash":
        for row, person in zip(rows, people, strict=True):
            for name in ("answer", "town"):  # a backslash before a quote is not what such a file can hold
                row[name] = row[name].replace("\\", "/") if row[name] else row[name]
            person.response = person.response.replace("\\", "/")
    names = list(rows[0])
    header = mark.join(f" {name} " if rng.random() < 0.2 else name for name in names)
    text, number = [], 1
    if rng.random() < 0.15 and mark != "\t":
        text.append(f"sep={mark}{end}")
        number += 1
    text.append(header + end)
    number += 1
    if rng.random() < 0.15:  # Qualtrics
        asked = [f"What is the {name}?" for name in names]
        ids = [json.dumps({"ImportId": f"QID{i}"}) for i in range(len(names))]
        for extra in (asked, ids):
            text.append(mark.join(_quoted(rng, cell, mark, "all") for cell in extra) + end)
            number += 1
    trailing = mark * rng.randint(0, 2) if rng.random() < 0.1 else ""
    for row, person in zip(rows, people, strict=True):
        cells = []
        for name in names:
            cell = str(row[name])
            cell = "" if cell == "nan" else cell
            cells.append(_quoted(rng, cell.replace(".", ",") if comma and name == "weight" else cell, mark, style))
        chance = rng.random()
        if chance < 0.03 and not trailing:
            del cells[-1]
        elif chance < 0.06:
            cells.insert(3, "one more")
        elif chance < 0.08 and '"' not in cells[3]:
            cells[3] = person.response = f'"{cells[3]}'
        elif chance < 0.1 and '"' not in cells[3]:
            cells[3] = person.response = f'{cells[3]}"'
        line = mark.join(cells) + trailing + end
        n_lines = len(line.splitlines()) if "\u2028" not in line else len(io.StringIO(line, newline="").readlines())
        n_lines = len(io.StringIO(line, newline="").readlines()) or n_lines
        person.places.update(range(number, number + n_lines))
        number += n_lines
        text.append(line)
        if rng.random() < 0.05:
            text.append(rng.choice([end, mark * (len(names) - 1) + end, header.replace(" ", "") + end]))
            number += 1
    whole = "".join(text)
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16", "utf-16-le"])
    try:
        data = whole.encode(encoding)
    except UnicodeEncodeError:
        data = whole.encode("utf-8")
        if rng.random() < 0.2:  # two exports in two encodings
            lines = [line.encode() for line in io.StringIO(whole, newline="").readlines()]
            of_two = [
                at for at, line in enumerate(lines) if "é".encode() in line and not re.search(b"[\xd0-\xff]", line)
            ]
            for at in of_two[:1]:
                lines[at] = lines[at].decode().encode("cp1252")
            data = b"".join(lines)
    path = folder / "t.csv"
    path.write_bytes(data)
    return path


def _lost(people: Sequence[Person], loaded: Loaded) -> Iterator[str]:
    """Who is neither a record nor named."""
    left_out, looked_at = set[int](), set[int]()
    for problem in loaded.problems:
        number = int(problem.place.replace(":", " ").split()[-1])
        (looked_at if problem.is_kept else left_out).add(number)
        if problem.code == "lines":
            left_out |= set(range(number, number + int(problem.message.split(" lines")[0].split()[-1])))
    there: dict[tuple[str, str, str | None, float], int] = {}
    for record in loaded.records:
        content = record.context, record.response, record.label, record.weight
        there[content] = there.get(content, 0) + 1
    by_key = {record.key: record for record in loaded.records}
    n_rows = len(loaded.records) + sum(1 for problem in loaded.problems if not problem.is_kept)
    if n_rows != loaded.n_rows:
        yield f"{n_rows} rows are accounted for of {loaded.n_rows}"
    for person in people:
        content = person.context, person.response, person.label, person.weight
        if person.places & left_out:
            continue
        if there.get(content, 0) > 0:
            there[content] -= 1
        elif not person.places & looked_at:
            yield f"{person} {by_key.get(person.key)}"


def rows_lost_silently(n_tables: int = 500, seed: int = 0, load: Load = load_records) -> dict[str, Any]:
    """People of broken tables who are neither records nor named, in ``n_tables`` of each format; 0 is asked for."""
    lost: list[str] = []
    n_people = n_refused = n_tables_made = 0
    for kind, rng, folder in _each(n_tables, seed, "rows_lost_silently"):
        source, people, columns = broken_table(rng, kind, folder)
        n_people, n_tables_made = n_people + len(people), n_tables_made + 1
        try:
            loaded = load(source, **columns)
        except MopError:
            n_refused += 1
        except Exception as error:  # noqa: BLE001 - a traceback is what is looked for
            lost += [f"{kind}: {type(error).__name__} {error}"] * len(people)
        else:
            lost += [f"{kind}: {who}" for who in _lost(people, loaded)]
    return {
        "value": len(lost), "of": n_people, "tables": n_tables_made, "refused": n_refused, "skipped": _skipped(),
        "examples": lost[:5],
    }  # fmt: skip


# ---------------------------------------------------------------------------------------- the same everywhere


def _column(rng: random.Random, name: str, n: int) -> list[Any]:
    """Values of one kind, some of them missing."""
    day = datetime.date(2024, 1, 1)
    makers: dict[str, Callable[[], Any]] = {
        "int": lambda: rng.randint(0, 99),
        "float": lambda: rng.choice([0.5, 32.0, 1.25, 1e16, 1e-7, -3.0, 2.5e300]),
        "bool": lambda: rng.random() < 0.5,
        "date": lambda: day + datetime.timedelta(rng.randint(0, 400)),
        "stamp": lambda: datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=rng.choice([0, 24, 7, 30.5])),
        "micro": lambda: datetime.datetime(2024, 5, 1, 10, 3, 2, rng.choice([0, 500000, 123456])),
        "zone": lambda: datetime.datetime(2024, 5, 1, rng.choice([0, 7]), tzinfo=datetime.UTC),
        "decimal": lambda: Decimal(rng.choice(["0.53", "12.10", "7.00", "3.14"])),
        "text": lambda: rng.choice([*WORDS, *WIDE]),
        "category": lambda: rng.choice(["low", " high", "Mid "]),
        "huge": lambda: rng.choice([2**53 + 1, 10**18 + 7, 1540000000000000001]),
        "digits": lambda: rng.choice(["007", "1.00", "32.0", "True", "1_000", "12e4", "2024-02-15 00:00:00"]),
    }
    missing = rng.choice([0.0, 0.0, 0.2])
    return [None if rng.random() < missing else makers[name]() for _ in range(n)]


KINDS = (
    "int", "float", "bool", "date", "stamp", "micro", "zone", "decimal", "text", "category", "huge", "digits",
)  # fmt: skip


def same_table(rng: random.Random) -> tuple[dict[str, list[Any]], dict[str, str], dict[str, Any]]:
    """Columns of values, the kind of each, and how to load them."""
    n = rng.randint(5, 25)
    kinds = {name: rng.choice(KINDS) for name in ("a", "b", "y", "l", "g", "c")}
    columns = {name: _column(rng, kind, n) for name, kind in kinds.items()}
    kinds |= {"k": rng.choice(["int", "text", "huge"]), "w": rng.choice(["float", "decimal", "int"])}
    first = {"int": 1, "huge": 2**60 + 1, "text": 0}[kinds["k"]]
    columns["k"] = [f"k{i}" if kinds["k"] == "text" else first + i for i in range(n)]
    of_weight = {"float": [0.5, 1.0, 2.25], "decimal": [Decimal("0.50"), Decimal("1.25")], "int": [1, 2]}[kinds["w"]]
    columns["w"] = [rng.choice(of_weight) if rng.random() < 0.97 else None for _ in range(n)]
    if rng.random() < 0.2:
        columns = {name: [*values, values[0]] for name, values in columns.items()}  # one row twice
    ask: dict[str, Any] = {
        "context": rng.choice(["a", "{a}", "Of {a}: {b}.", "text:Say."]),
        "response": "y", "label": "l", "group": "g", "attributes": ["c", "b"],
    }  # fmt: skip
    ask |= {"key": "k"} if rng.random() < 0.6 else {}
    ask |= {"weight": "w"} if rng.random() < 0.4 else {}
    return columns, kinds, ask


def in_format(
    rng: random.Random, kind: str, columns: Mapping[str, list[Any]], kinds: Mapping[str, str], folder: Path
) -> object:
    """One table in one format, as its own programs write it."""
    if kind == "csv":
        return _plain_csv(rng, columns, folder)
    if kind == "jsonl":
        lines = [
            json.dumps({name: _json_value(value) for name, value in zip(columns, row, strict=True)})
            for row in zip(*columns.values(), strict=True)
        ]
        (folder / "s.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        return folder / "s.jsonl"
    if kind == "pandas":
        return _frame(rng, columns, kinds)
    table = pa.table({name: _arrow(rng, values, kinds[name]) for name, values in columns.items()})
    if kind == "polars":
        return pl.from_arrow(table)
    if kind == "parquet":
        pq.write_table(table, folder / "s.parquet")
        return folder / "s.parquet"
    return table


def _json_value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    return value.isoformat() if isinstance(value, datetime.date) else value


def _plain_csv(rng: random.Random, columns: Mapping[str, list[Any]], folder: Path) -> Path:
    mark, by_pandas = rng.choice([",", ";", "\t"]), rng.random() < 0.5
    out = io.StringIO()
    writer = csv.writer(out, delimiter=mark)
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        cells = []
        for value in row:
            if isinstance(value, bool) and not by_pandas:
                value = str(value).lower()
            elif isinstance(value, datetime.datetime):
                value = str(value) if by_pandas else value.isoformat(timespec="microseconds")
            cells.append("" if value is None else value)
        writer.writerow(cells)
    path = folder / ("s.tsv" if mark == "\t" else "s.csv")
    path.write_text(out.getvalue(), rng.choice(["utf-8", "utf-8-sig", "utf-16"]), newline="")
    return path


def _frame(rng: random.Random, columns: Mapping[str, list[Any]], kinds: Mapping[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(
        {name: pd.Series(values, dtype="object" if kinds[name] == "huge" else None) for name, values in columns.items()}
    )
    for name, kind in kinds.items():
        if kind in {"date", "stamp", "micro"} and rng.random() < 0.5:
            frame[name] = pd.to_datetime(frame[name])
        elif kind == "category":
            frame[name] = frame[name].astype("category")
        elif kind == "int" and rng.random() < 0.5:
            frame[name] = frame[name].astype(rng.choice(["Int64", "float64"]))
        elif kind == "text":
            frame[name] = frame[name].astype(rng.choice(["object", "string"]))
    return frame


def _arrow(rng: random.Random, values: list[Any], kind: str) -> pa.Array:
    if kind == "category":
        return pa.array(values, pa.string()).dictionary_encode()
    if kind == "int" and rng.random() < 0.5:
        return pa.array(values, rng.choice([pa.int8(), pa.float64(), pa.float32(), pa.uint64()]))
    if kind == "stamp" and rng.random() < 0.5:
        return pa.array(values, rng.choice([pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("ns")]))
    of_all_missing = {"text": pa.string(), "digits": pa.large_string()}
    return pa.array(values, of_all_missing.get(kind))


def format_differences(n_tables: int = 200, seed: int = 0, load: Load = load_records) -> dict[str, Any]:
    """Tables that give other records in another format; 0 is asked for."""
    wrong: list[str] = []
    n_made = n_records = 0
    found: dict[str, Any] = {}
    for kind, rng, folder in _each(n_tables, seed, "format_differences"):
        if kind == FORMATS[0]:
            found = {}
            state = rng.getstate()
        made = random.Random()
        made.setstate(state)  # the same table in every format
        columns, kinds, ask = same_table(made)
        try:
            loaded = load(in_format(rng, kind, columns, kinds, folder), **ask)
            found[kind] = (loaded.records, loaded.counts)
            n_records += len(loaded)
        except MopError as error:
            found[kind] = type(error).__name__
        except Exception as error:  # noqa: BLE001 - a traceback is what is looked for
            found[kind] = f"{type(error).__name__} {error}"
            wrong.append(f"{kind}: {found[kind]}")
        if kind == FORMATS[-1]:
            n_made += 1
            others = [other for other in found if found[other] != found[FORMATS[0]]]
            wrong += [f"{others} differ from csv: {kinds} {ask} {_first(found, others[0])}"] if others else []
    return {"value": len(wrong), "of": n_made, "records": n_records, "skipped": _skipped(), "examples": wrong[:5]}


def _first(found: Mapping[str, Any], other: str) -> str:
    ours, theirs = found["csv"], found[other]
    if isinstance(ours, str) or isinstance(theirs, str) or ours[1] != theirs[1]:
        csv_says, other_says = (f if isinstance(f, str) else f[1] for f in (ours, theirs))
        return f"csv {csv_says}, {other} {other_says}"
    return next((f"csv {a}, {other} {b}" for a, b in zip(ours[0], theirs[0], strict=False) if a != b), "lengths")


# ------------------------------------------------------------------------------------------------ both


def _skipped() -> list[str]:
    return [] if pl is not None else ["polars is not installed"]


def _each(n_tables: int, seed: int, what: str) -> Iterator[tuple[str, random.Random, Path]]:
    """Format, chance and an empty folder for every table, with a line of progress now and then."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        for number in range(n_tables):
            for kind in FORMATS:
                if kind == "polars" and pl is None:
                    continue
                folder = Path(root) / f"{number}-{kind}"
                folder.mkdir()
                yield kind, random.Random(f"{what} {seed} {number} {kind}"), folder
            if (number + 1) % 100 == 0:
                print(f"{what}: {number + 1}/{n_tables} tables, {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    for measure, default in ((rows_lost_silently, 500), (format_differences, 200)):
        print(measure.__name__, json.dumps(measure(many or default), indent=1, ensure_ascii=False))
