"""Damaged and hostile mixtures and run folders: every reader ends in a message of ours."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trust.small_run import call, fresh, make_run, slip_of

MARK = "MARK-OF-HERE"
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, 2**70, "", "x", "\ud800", [], [None], {}, {"a": 1}, [[]], "../../etc/passwd", "\0", MARK,
)  # fmt: skip
"""Values of other types and sizes; `MARK` is replaced by what JSON does not have, or has 10,000 times."""
RAW = ("NaN", "1e999", "-Infinity", "[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "1" * 5_000)
JSON_FILES = (
    "manifest.json", "manifest.json", "config.json", "metrics.json", "evaluation.json", "records/problems.json",
    "mixture/mixture.json", "mixture/mixture.json",
)  # fmt: skip
LINES = ("records/test.jsonl", "records/train.jsonl", "records/valid.jsonl", "personas.jsonl", "responses.jsonl")
FILES = (*JSON_FILES, *LINES, "mixture/gate.safetensors", "store.sqlite", "store.sqlite.secret", "report.html", ".lock",
         "responses.parquet", "methods/zero-shot.jsonl")  # fmt: skip
FOLDERS = ("records", "mixture", "methods", "figures")


def _places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all values inside a JSON value; of long lists the first five."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:5]) if isinstance(value, list) else ()
    return [place for key, part in inner for place in ((*here, key), *_places(part, (*here, key)))]


def _changed(document: Any, rng: random.Random) -> str:
    """A JSON document with one value dropped, doubled or replaced."""
    places = _places(document)
    if not places:
        return "[]"
    shallow = [place for place in places if len(place) < 3]
    *way, last = rng.choice(shallow if rng.random() < 0.6 else places)
    holder = document
    for key in way:
        holder = holder[key]
    kind = rng.random()
    if kind < 0.25:
        del holder[last]
    elif kind < 0.35:
        holder[last] = [holder[last], holder[last]]
    else:
        holder[last] = rng.choice(ODD)
    return json.dumps(document).replace(f'"{MARK}"', rng.choice(RAW))


def _signed(text: str, rng: random.Random) -> str:
    """Half of the time, with the check that somebody would put there who knows how it is made."""
    from mop.storage.files import check_of

    try:
        document = json.loads(text)
        if isinstance(document, dict) and "check" in document and rng.random() < 0.5:
            document["check"] = check_of(document)
        return json.dumps(document)
    except (ValueError, RecursionError):
        return text


def in_json(run: Path, rng: random.Random) -> str:
    """A value of a JSON file is another one."""
    name = rng.choice(JSON_FILES)
    (run / name).write_text(_signed(_changed(json.loads((run / name).read_text()), rng), rng))
    return name


def in_line(run: Path, rng: random.Random) -> str:
    """A value of a line of a JSON Lines file is another one."""
    name = rng.choice(LINES)
    lines = (run / name).read_text().splitlines()
    row = rng.randrange(len(lines))
    lines[row] = _changed(json.loads(lines[row]), rng)
    (run / name).write_text("\n".join(lines))
    return name


def in_bytes(run: Path, rng: random.Random) -> str:
    """Bytes of a file are flipped, cut off, or others altogether."""
    name = rng.choice(FILES)
    data, kind = bytearray((run / name).read_bytes()), rng.random()
    if kind < 0.5 and data:
        for _ in range(rng.choice((1, 1, 20))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind < 0.8:
        del data[rng.randrange(len(data) + 1) :]
    else:
        data[:] = rng.choice((b"", b"\xff\xfe", b"null", b"[]", b"\0" * 100, b"{", rng.randbytes(64)))
    (run / name).write_bytes(data)
    return name


def in_weights(run: Path, rng: random.Random) -> str:
    """The weights have another shape, type, number or header; hash and check agree with them."""
    import numpy as np
    from safetensors.numpy import load, save

    from mop.storage.files import check_of

    file = run / "mixture" / "gate.safetensors"
    state = load(file.read_bytes())
    name = rng.choice(sorted(state))
    array = state[name].copy()
    kind = rng.randrange(7)
    if kind == 0:
        del state[name]
    elif kind == 1:
        state[name] = array.reshape(-1)[:-1]
    elif kind == 2:
        array.reshape(-1)[0] = rng.choice((np.nan, np.inf, -1e30, 1e30)) if array.dtype.kind == "f" else 2**40
        state[name] = array
    elif kind == 3:
        state[name] = array.astype(rng.choice((np.float16, np.float64, np.int32, np.bool_)))
    elif kind == 4:
        state["more"] = np.ones(3, np.float32)
    elif kind == 5:
        state[name] = np.zeros((0, *array.shape[1:]), array.dtype)
    weights = save(state)
    if kind == 6:
        n = struct.unpack("<Q", weights[:8])[0]
        header = json.loads(weights[8 : 8 + n])
        header[name]["shape" if rng.random() < 0.5 else "dtype"] = rng.choice(([2**40, 2**40], "F128", [], "F8_E4M3"))
        text = json.dumps(header).encode()
        weights = struct.pack("<Q", len(text)) + text + weights[8 + n :]
    document_file = run / "mixture" / "mixture.json"
    document = json.loads(document_file.read_text())
    file.write_bytes(weights)
    document["weights"] = hashlib.sha256(weights).hexdigest()
    document["check"] = check_of(document)
    document_file.write_text(json.dumps(document))
    return f"weights {name}"


def in_tree(run: Path, rng: random.Random) -> str:
    """A file is missing, a folder, a link or a pipe; or a folder is missing, a file or a link."""
    name, kind = rng.choice((*FILES, *FOLDERS)), rng.randrange(4)
    place = run / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    if kind == 1:
        place.write_bytes(b"x") if name in FOLDERS else place.mkdir()
    elif kind == 2:
        place.symlink_to(rng.choice((run.parent / "reviews.csv", run.parent, run.parent / "nowhere", place)))
    elif kind == 3:
        os.mkfifo(place)
    return name


def _agree(run: Path) -> None:
    """Let the manifest agree with the files, as somebody would who knows how it is made."""
    from mop.storage.files import check_of

    try:
        manifest = json.loads((run / "manifest.json").read_text())
        for entry in manifest["stages"].values():
            for file in entry["files"]:
                entry["files"][file] = hashlib.sha256((run / file).read_bytes()).hexdigest()
        manifest["check"] = check_of(manifest)
        (run / "manifest.json").write_text(json.dumps(manifest))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        pass  # it is the manifest that is damaged


DAMAGES: tuple[Callable[[Path, random.Random], str], ...] = (in_json, in_json, in_line, in_bytes, in_weights, in_tree)
READERS: tuple[tuple[str, ...], ...] = (
    ("verify",), ("explain",), ("score", "--no-references"), ("sample", "-n", "3"), ("run",), ("match",), ("load",),
)  # fmt: skip


def _read(reader: tuple[str, ...], run: Path) -> str:
    """What a reader of a run ends with if it is no message of ours."""
    verb, *options = reader
    if verb == "load":
        return call_load(run / "mixture")
    if verb == "sample":
        options += ["--out", str(run.parent / "out.jsonl")]
    if verb == "match":
        options += ["--samples-per-persona", "4", "--out", str(run.parent / "matched")]
    return call([verb, str(run), *options])


def call_load(mixture: Path) -> str:
    """The same of a mixture in Python, loaded and used."""
    from mop.errors import MopError
    from mop.estimator import MixtureOfPersonas

    try:
        model = MixtureOfPersonas.load(mixture, lm="fake")
        model.sample(["x", "Film: Film 3. Verdict: good."], seed=1)
        model.score([{"context": "Film: Film 3. Verdict: good.", "response": "A quiet film."}])
    except MopError:
        return ""
    except BaseException as error:  # noqa: BLE001 - every traceback is a finding
        return slip_of(error)
    return ""


def fuzz_folders(n: int, seed: int) -> dict[str, Any]:
    """Damage a finished run n times, each time another way, and let a reader have it.

    Returns
    -------
    dict
        ``cases`` and ``tracebacks``: what ended otherwise than in a message of ours.
    """
    rng, found = random.Random(seed), []
    with tempfile.TemporaryDirectory(prefix="mop-folders-") as name:
        folder = Path(name)
        base = make_run(folder)
        for case in range(n):
            run, damage = fresh(base, folder / "run"), rng.choice(DAMAGES)
            what = damage(run, rng)
            if rng.random() < 0.5 and damage is not in_tree:
                _agree(run)
            reader = rng.choice(READERS)
            if said := _read(reader, run):
                found.append(f"case {case}, {damage.__name__} {what}, {reader[0]}: {said}")
    return {"cases": n, "tracebacks": found}


if __name__ == "__main__":
    print(json.dumps(fuzz_folders(200, 0), indent=1))
