"""Every system error at any call in a run folder ends in a message of ours, and nothing is half-written.

`inject` replaces the functions that ask the system something by ones that fail, once or from then on, at the n-th
call that is about the run folder; SQLite's as well, with its own names of errors.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trust.small_run import arguments, call, fresh, make_run

ERRNOS = (
    "EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "ENOLCK", "ENOSYS", "EOPNOTSUPP", "ESTALE", "EIO",
    "EMFILE", "ENFILE", "ENAMETOOLONG", "EISDIR", "ENOTDIR", "ELOOP", "EINTR", "EBUSY", "ENOMEM", "ENXIO", "ENODEV",
    "EEXIST", "ENOENT", "ENOTEMPTY", "EXDEV", "EBADF", "EINVAL", "ETIMEDOUT", "EAGAIN", "EMLINK", "EOVERFLOW",
)  # fmt: skip
SQLITE = {
    "SQLITE_FULL": "database or disk is full", "SQLITE_IOERR": "disk I/O error", "SQLITE_IOERR_LOCK": "disk I/O error",
    "SQLITE_IOERR_FSYNC": "disk I/O error", "SQLITE_BUSY": "database is locked", "SQLITE_CANTOPEN": "unable to open",
    "SQLITE_READONLY": "attempt to write a readonly database", "SQLITE_CORRUPT": "database disk image is malformed",
    "SQLITE_NOTADB": "file is not a database", "SQLITE_PROTOCOL": "locking protocol", "SQLITE_NOMEM": "out of memory",
}  # fmt: skip
PLACES: dict[str, tuple[Any, str]] = {
    **{f"os.{name}": (os, name) for name in (
        "open", "replace", "fsync", "mkdir", "unlink", "scandir", "stat", "lstat", "listdir", "chmod", "truncate",
        "read", "write", "close", "fdopen", "access", "readlink")},
    "io.open": (io, "open"), "fcntl.flock": (fcntl, "flock"), "sqlite3.connect": (sqlite3, "connect"),
    "write to a file": (os, "fdopen"), "statement of sqlite3": (sqlite3, "connect"),
}  # fmt: skip
OF_DESCRIPTORS = {"os.fsync", "os.read", "os.write", "os.fdopen", "os.close", "os.truncate", "fcntl.flock"}
"""What is asked of a file that is open: whose it is cannot be seen, so all of them count."""
VERBS = ("verify", "explain", "score", "sample", "report", "run", "begin", "match")


class _Injection:
    """Fails the n-th of the calls to one function that are about a folder."""

    def __init__(self, folder: Path, name: str, error: Callable[[object], Exception], nth: int, *, lasts: bool) -> None:
        self.folder, self.name, self.error, self.nth, self.lasts = str(folder), name, error, nth, lasts
        self.seen = 0

    def __call__(self, what: object) -> None:
        if self.name not in OF_DESCRIPTORS and self.folder not in str(what):
            return
        self.seen += 1
        if self.seen == self.nth or (self.lasts and self.seen > self.nth):
            raise self.error(what)


class _File:
    """A file whose writes may fail."""

    def __init__(self, file: Any, check: _Injection) -> None:
        self._file, self._check = file, check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        self._check(self._check.folder)
        return int(self._file.write(data))


@contextlib.contextmanager
def _replaced(check: _Injection) -> Iterator[None]:
    """Let a function fail where the injection says."""
    place, name = PLACES[check.name]
    real = getattr(place, name)

    class Failing(sqlite3.Connection):
        def execute(self, *args: Any) -> Any:
            check(check.folder)
            return super().execute(*args)

    def failing(*args: Any, **options: Any) -> Any:
        if check.name == "statement of sqlite3":
            return real(*args, **{**options, "factory": Failing})
        if check.name == "write to a file":
            return _File(real(*args, **options), check)
        if check.name == "os.close":
            real(*args)  # Linux closes it whatever it answers
        check(args[0] if args else next(iter(options.values()), ""))
        return None if check.name == "os.close" else real(*args, **options)

    setattr(place, name, failing)
    try:
        yield
    finally:
        setattr(place, name, real)


def _of_sqlite(name: str) -> Callable[[object], Exception]:
    def make(_: object) -> Exception:
        kind = sqlite3.DatabaseError if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB") else sqlite3.OperationalError
        error = kind(SQLITE[name])
        error.sqlite_errorname = name
        return error

    return make


def _of_system(name: str) -> Callable[[object], Exception]:
    number = getattr(errno, name)
    return lambda what: OSError(number, os.strerror(number), *((what,) if isinstance(what, str | os.PathLike) else ()))


def command(verb: str, run: Path, out: Path) -> list[str]:
    """What is given to mop; ``begin`` starts a run anew up to its records."""
    if verb == "begin":
        return ["personas", str(run), *arguments(run.parent / "reviews.csv")]
    if verb == "sample":
        return ["sample", str(run), "-n", "12", "--out", str(run / out.name)]
    if verb == "match":
        return ["match", str(run), "--samples-per-persona", "4"]
    if verb == "report":  # something is to be made
        (run / "report.html").unlink(missing_ok=True)
    return [verb, str(run)]


def half_written(run: Path) -> list[str]:
    """Files under their final names that are no whole JSON."""
    found = []
    for file in run.rglob("*.json*"):
        text = file.read_text(encoding="utf-8") if file.is_file() and not file.name.startswith(".") else "{}"
        try:
            for part in text.splitlines() if file.suffix == ".jsonl" else [text]:
                json.loads(part)
        except ValueError:
            found.append(file.name)
    return found


@contextlib.contextmanager
def _listening(run: Path) -> Iterator[dict[str, _Injection]]:
    """Count the calls that are about a run, by function."""
    never = {name: _Injection(run, name, _of_system("EIO"), 10**9, lasts=False) for name in PLACES}
    with contextlib.ExitStack() as stack:
        for check in never.values():
            stack.enter_context(_replaced(check))
        yield never


def _prepared(base: Path, verb: str, folder: Path) -> tuple[Path, list[str]]:
    """A run in a folder and a command for it."""
    run = fresh(base, folder / "run")
    if verb == "begin":
        shutil.rmtree(run)
    return run, command(verb, run, folder / "out.jsonl")


def inject(n_cases: int, seed: int) -> dict[str, Any]:
    """Run so many commands, each with one system error at a call drawn from those that it makes.

    Returns
    -------
    dict
        ``cases``, ``kinds`` (of errors, how often), ``tracebacks`` (what ended otherwise than in a message of ours),
        ``half_written`` (files), ``not_resumed`` (of every fourth case: what the same command did not bring to an end
        when nothing failed any more).
    """
    rng = random.Random(seed)
    kinds, found = Counter[str](), {name: list[str]() for name in ("tracebacks", "half_written", "not_resumed")}
    with tempfile.TemporaryDirectory(prefix="mop-errnos-") as name:
        folder = Path(name)
        base = make_run(folder)
        calls: dict[str, dict[str, int]] = {}
        for verb in VERBS:
            run, argv = _prepared(base, verb, folder)
            with _listening(run) as heard:
                call(argv)
            calls[verb] = {name: one.seen for name, one in heard.items() if one.seen}
        for case in range(n_cases):
            verb = rng.choice(VERBS)
            run, argv = _prepared(base, verb, folder)
            where, lasts = rng.choice(sorted(calls[verb])), rng.random() < 0.5
            nth = rng.randint(1, calls[verb][where])
            is_sqlite = "sqlite3" in where
            kind = rng.choice(list(SQLITE) if is_sqlite else ERRNOS)
            of = _of_sqlite(kind) if is_sqlite else _of_system(kind)
            with _replaced(_Injection(run, where, of, nth, lasts=lasts)):
                said = call(argv)
            kinds[kind] += 1
            what = f"{kind} at call {nth}{' and later' if lasts else ''} of {where} in {verb}"
            if said:
                found["tracebacks"].append(f"{what}: {said}")
            found["half_written"] += [f"{what}: {file}" for file in half_written(run)]
            if case % 4 == 0 and (said := call(argv) or call(["verify", str(run)])):
                found["not_resumed"].append(f"{what}: {said}")
    return {"cases": n_cases, "kinds": dict(sorted(kinds.items())), **found}


if __name__ == "__main__":
    print(json.dumps(inject(200, 0), indent=1))
