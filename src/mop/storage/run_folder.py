"""The run folder: its names, its formats, its hashes; the only module that knows where things lie.

Every file is written whole or not at all: to a temporary neighbour, flushed to disk, then renamed.
A stage counts as done when its entry is in ``manifest.json``; that entry is written last.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Self

from mop.errors import ArtifactError
from mop.types import Response, without_surrogates

FORMAT = "mop-run"
FORMAT_VERSION = 1
"""Raised when an older reader would misread a run folder."""

_LOCK = ".lock"
_TEMPORARY = ".mop-tmp"
_METHOD = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
# EFBIG is what a limit on file size answers; to a person it is the same thing.
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file ``path``, whose folder exists, by ``data``, or leave it as it was.

    Raises
    ------
    ArtifactError
        If the disk is full or the file cannot be written; the old file stays valid.
    """
    with _replacing(path) as file:
        file.write(data)


def write_json(path: Path, value: object) -> None:
    """Write one JSON document, indented, in UTF-8, atomically.

    Raises
    ------
    ArtifactError
        As in `write_atomic`; or if ``value`` holds nan or an infinity, which JSON does not have
        (write None), or something that is no JSON value.
    """
    write_atomic(path, _encode(value, path, indent=1) + b"\n")


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises
    ------
    ArtifactError
        If the file is missing, is not UTF-8 JSON, or holds nan or an infinity.
    """
    return _decode(_read(path), str(path))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    r"""Write rows as JSON Lines, one by one as they come, atomically; return how many.

    If the iterable raises, ``path`` stays as it was.

    Raises
    ------
    ArtifactError
        As in `write_json`.

    Notes
    -----
    Text stays readable (no ASCII escapes), apart from what JSON must escape and lone surrogates,
    which UTF-8 does not have; they become ``\udXXX`` and come back as they were.
    """
    n = 0
    with _replacing(path) as file:
        for row in rows:
            file.write(_encode(row, path) + b"\n")
            n += 1
    return n


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    r"""Yield the rows of a JSON Lines file.

    Lines end at ``\n`` and nowhere else: U+2028, ``\r`` or form feed inside a text do not cut it.

    Raises
    ------
    ArtifactError
        If the file is missing or a line is not one JSON object; the message has its number.
    """
    for number, line in enumerate(_read(path).split(b"\n"), start=1):
        if line.strip():
            row = _decode(line, f"{path}, line {number}")
            if not isinstance(row, dict):
                raise ArtifactError(
                    f"{path}, line {number}: found {type(row).__name__}, expected a JSON object "
                    "in braces; correct the line or remove it"
                )
            yield row


def hash_of(value: object) -> str:
    """SHA-256 of a JSON value in canonical form: the hash of a stage's inputs.

    Examples
    --------
    >>> hash_of({"a": 1, "b": [2.5, None]}) == hash_of({"b": [2.5, None], "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def write_parquet(path: Path, responses: Iterable[Response]) -> None:
    """Write responses as Parquet, the columns of `Response` in order; equal rows give equal bytes.

    Lone surrogates, which Parquet cannot hold, become U+FFFD. The bytes also depend on the version
    of pyarrow, which writes its name into the file.

    Raises
    ------
    ArtifactError
        As in `write_atomic`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            name: without_surrogates(value) if isinstance(value, str) else value
            for name, value in dataclasses.asdict(response).items()
        }
        for response in responses
    ]
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(_parquet_fields())))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


class RunFolder:
    """One run on disk, as a context manager; only one process at a time may hold it for writing.

    Made by `RunFolder.create` or `RunFolder.open`. The lock belongs to the process and goes with
    it, so a killed run never has to be unlocked by hand.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], lock: int | None) -> None:
        self.path = path
        self._manifest = manifest
        self._lock = lock
        self.config = path / "config.json"
        """The resolved configuration."""
        self.records = path / "records"
        """Folder of the splits, one ``.jsonl`` each."""
        self.personas = path / "personas.jsonl"
        """The personas; a person may edit them."""
        self.store = path / "store.sqlite"
        """Every score and draw ever paid for; see `mop.storage.store`."""
        self.mixture = path / "mixture"
        """Folder of the fitted mixture, loadable alone."""
        self.responses = path / "responses.jsonl"
        """The simulated population."""
        self.responses_parquet = path / "responses.parquet"
        """The same rows for other tools."""
        self.methods = path / "methods"
        """Folder of the responses of the control methods."""
        self.metrics = path / "metrics.json"
        """All figures of the evaluation."""
        self.evaluation = path / "evaluation.json"
        """What the report draws besides the metrics: places on the map, histograms, gates by label."""
        self.report = path / "report.html"
        """The page for people."""
        self.figures = path / "figures"
        """Folder of the vector figures."""
        self.manifest = path / "manifest.json"
        """What is done, with hashes; the only file that holds times."""

    @classmethod
    def create(cls, path: Path | str) -> Self:
        """Start a run in a new or empty folder, or continue the one that is there.

        Raises
        ------
        ArtifactError
            If the folder holds something else, another version, or is being written by another
            process; or if it cannot be written.
        """
        path = Path(path).absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            _refuse(path, error)
        _read_manifest(path, may_be_empty=True)
        lock = _take_lock(path)
        try:
            for leftover in path.rglob(f".*{_TEMPORARY}"):  # of a killed run; ours alone: we hold the lock
                leftover.unlink(missing_ok=True)
            run = cls(path, _read_manifest(path, may_be_empty=True), lock)
            if not run._manifest:
                run._manifest = {
                    "format": FORMAT,
                    "format_version": FORMAT_VERSION,
                    "created": _now(),
                    "about": {},
                    "stages": {},
                }
                run._write_manifest()
            for folder in (run.records, run.mixture, run.methods, run.figures):
                folder.mkdir(exist_ok=True)
        except BaseException:
            os.close(lock)
            raise
        return run

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open an existing run for reading; another process may be writing it.

        Raises
        ------
        ArtifactError
            If there is no run, or one of another version.
        """
        path = Path(path).absolute()
        return cls(path, _read_manifest(path), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the lock; may be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def method(self, name: str) -> Path:
        """Return where the responses of one control method lie.

        Raises
        ------
        ArtifactError
            If ``name`` is no plain file name.
        """
        if not _METHOD.fullmatch(name):
            raise ArtifactError(
                f"method name {name!r} cannot be a file name; use 1 to 64 of a-z 0-9 . _ @ - and "
                "begin with a letter or digit"
            )
        return self.methods / f"{name}.jsonl"

    @property
    def about(self) -> dict[str, Any]:
        """What was said about the run as a whole with `describe`."""
        return dict(self._manifest["about"])

    def describe(self, **items: object) -> None:
        """Add facts about the whole run (versions, seeds, revisions) to the manifest.

        Raises
        ------
        ArtifactError
            As in `write_json`, or if the run was opened for reading.
        """
        self._manifest["about"].update(items)
        self._write_manifest()

    def stage_done(self, name: str, inputs_hash: str) -> bool:
        """Whether a stage has finished on these very inputs and its files are undamaged.

        Inputs are the `hash_of` its part of the configuration and the `stage_hash` of the stages before it.
        """
        entry = self._manifest["stages"].get(name)
        if entry is None or entry["inputs"] != inputs_hash:
            return False
        return not any(self._fault(file, digest) for file, digest in entry["files"].items())

    def finish_stage(
        self, name: str, inputs_hash: str, *, files: Iterable[Path | str] = (), info: Mapping[str, object] | None = None
    ) -> None:
        """Enter a finished stage into the manifest; until then it counts as not done.

        Parameters
        ----------
        files : iterable of path
            What the stage made, inside the run folder; a folder stands for all files in it.
        info : mapping, optional
            JSON values worth keeping: seconds, LM calls, counts.

        Raises
        ------
        ArtifactError
            If a file is missing or lies outside the run folder, the disk is full, or the run was
            opened for reading.
        """
        self._manifest["stages"][name] = {
            "inputs": inputs_hash,
            "files": {file: sha256(self.path / file, flush=True) for file in self._expand(files)},
            "finished": _now(),
            "info": dict(info or {}),
        }
        self._write_manifest()

    def stage_hash(self, name: str) -> str:
        """Return the hash of what a finished stage made: an input of the stages after it.

        Raises
        ------
        ArtifactError
            If the stage has not finished.
        """
        return hash_of(self._entry(name)["files"])

    def stage_info(self, name: str) -> dict[str, Any]:
        """Return what `finish_stage` was told about a finished stage, with its time of ending.

        Raises
        ------
        ArtifactError
            If the stage has not finished.
        """
        entry = self._entry(name)
        return {**entry["info"], "finished": entry["finished"]}

    def damaged(self) -> list[str]:
        """One line for each file of a finished stage that is missing or has changed since."""
        return [
            f"{self.path / file}: {fault} stage {name!r}"
            for name, entry in self._manifest["stages"].items()
            for file, digest in entry["files"].items()
            if (fault := self._fault(file, digest))
        ]

    def _fault(self, file: str, digest: str) -> str:
        """What happened to a file since its stage wrote it; empty if nothing."""
        path = self.path / file
        if not path.is_file():
            return "missing from"
        return "" if sha256(path) == digest else "changed since"

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages that have an entry, oldest first."""
        return tuple(self._manifest["stages"])

    def _entry(self, name: str) -> dict[str, Any]:
        entry: dict[str, Any] | None = self._manifest["stages"].get(name)
        if entry is None:
            raise ArtifactError(
                f"{self.path}: stage {name!r} has not finished here, only {list(self.stages)}; run it first"
            )
        return entry

    def _expand(self, files: Iterable[Path | str]) -> Iterator[str]:
        root = self.path.resolve()
        for file in files:
            found = (self.path / file).resolve()  # an absolute path stays as it is
            if not found.exists() or not found.is_relative_to(root):
                raise ArtifactError(
                    f"{found}: no such file inside the run folder {root}; a stage can finish only "
                    "after its files are written there"
                )
            inner = sorted(f for f in found.rglob("*") if f.is_file()) if found.is_dir() else [found]
            yield from (f.relative_to(root).as_posix() for f in inner)

    def _write_manifest(self) -> None:
        if self._lock is None:
            raise ArtifactError(f"{self.path} was opened for reading; open it with RunFolder.create to write")
        write_json(self.manifest, self._manifest)


def _read_manifest(path: Path, *, may_be_empty: bool = False) -> dict[str, Any]:
    """The manifest of a run folder; an empty one for an empty folder, where that will do."""
    if not (path / "manifest.json").is_file():
        if not path.is_dir():
            raise ArtifactError(f"{path} is not a run folder: there is no such folder; start a run there first")
        others = sorted(f.name for f in path.iterdir() if f.name != _LOCK and not f.name.endswith(_TEMPORARY))
        if may_be_empty and not others:
            return {}
        found = f"it has no manifest.json but holds {others[0]!r}" if others else "it is empty"
        raise ArtifactError(f"{path} is not a run folder: {found}; give a new or empty folder, or one that mop made")
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"{path} is not a run folder: its manifest.json was not written by mop; give a new or empty folder"
        )
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version!r}, this mop reads and writes {FORMAT_VERSION}; "
            "use the mop that made it, or give a new folder"
        )
    return manifest


def _take_lock(path: Path) -> int:
    """Hold ``path`` for this process; the system lets go when the process ends, however it ends."""
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        _refuse(path / _LOCK, error)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise ArtifactError(
            f"{path} is being written by another run (process {owner}); wait for it to end, or use another folder"
        ) from None
    with suppress(OSError):  # the number is only for the message above; a full disk shows later
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode("ascii"))
    return lock


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary neighbour of ``path`` that takes its place if all goes well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)  # the new name must reach the disk as well
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            _refuse(path, error)
        raise


def _refuse(path: Path, error: OSError) -> NoReturn:
    if error.errno in _NO_SPACE:
        raise ArtifactError(
            f"no space left to write {path} ({error.strerror}); what was there before is intact; "
            "free some space and give the same command again"
        ) from error
    raise ArtifactError(
        f"cannot write {path}: {error.strerror or error}; give a folder that you may write to"
    ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error.strerror or error}; check the path, or run the stage that writes it"
        ) from error


def _encode(value: object, path: Path, indent: int | None = None) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except (ValueError, TypeError) as error:
        raise ArtifactError(
            f"cannot write {path}: {error}; JSON holds finite numbers, text, lists and objects "
            "(None stands for a missing figure)"
        ) from error
    # A lone surrogate can only be inside a JSON string, where \udXXX is just the escape it needs.
    return text.encode("utf-8", "backslashreplace")


def _decode(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{where}: not valid JSON ({error}); correct it, or remove the file and run its stage again"
        ) from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def sha256(path: Path, *, flush: bool = False) -> str:
    """SHA-256 of a file as 64 hexadecimal digits; with ``flush`` it is on the disk first."""
    with path.open("rb") as file:
        if flush:  # whoever wrote it may not have; the manifest must not outlive the file
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _parquet_fields() -> Iterator[Any]:
    """Columns of `Response`; given, not inferred, so that an all-empty column keeps its type."""
    import pyarrow as pa

    numbers = {"float": pa.float64(), "int": pa.int64()}
    for field in dataclasses.fields(Response):
        hint = str(field.type)
        # a seed fills all 64 bits
        kind = pa.uint64() if field.name == "seed" else numbers.get(hint, pa.string())
        yield pa.field(field.name, kind, nullable="None" in hint)
