"""The run folder: its names, its formats, its hashes; the only module that knows where things lie.

Files are written by `mop.storage.files`, whole or not at all.
A stage counts as done when its entry is in ``manifest.json``; that entry is written last. A run folder may come from
somebody else: no link in it is followed, and what its stages made is looked at only if it is as they wrote it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Self

from mop.errors import ArtifactError
from mop.storage.files import (
    PRIVATE,
    TEMPORARY,
    check_of,
    hash_of,
    read_json,
    refuse,
    refuse_link,
    sha256,
    system_errors,
    write_json,
)

FORMAT = "mop-run"
FORMAT_VERSION = 2
"""Raised when an older reader would misread a run folder. Version 1 had no check of the manifest itself."""

_LOCK = ".lock"
_STORE = "store.sqlite"
_METHOD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@:-]{0,99}")


class RunFolder:
    """One run on disk, as a context manager; only one process at a time may hold it for writing.

    Made by `RunFolder.create` or `RunFolder.open`. The lock belongs to the process and goes with
    it, so a killed run never has to be unlocked by hand.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], lock: int | None, why: str = "") -> None:
        self.path = path
        self._manifest = manifest
        self._lock = lock
        self._why = why or f"{path} was opened for reading; open it with RunFolder.create to write"
        self._sound: dict[tuple[str, str], tuple[int, int, int]] = {}
        self.config = path / "config.json"
        """The resolved configuration."""
        self.records = path / "records"
        """Folder of the splits, one ``.jsonl`` each."""
        self.personas = path / "personas.jsonl"
        """The personas; a person may edit them."""
        self.store = path / _STORE
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
        with system_errors(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _read_manifest(path, may_be_empty=True)
        leftovers = refuse_links(path)
        lock = _take_lock(path)
        try:
            with system_errors(path):
                for leftover in leftovers:  # of a killed run; ours alone: we hold the lock
                    leftover.unlink(missing_ok=True)
                run = cls(path, _read_manifest(path, may_be_empty=True), lock)
                if not run._manifest:
                    with suppress(PermissionError):  # of somebody else, who lets us write
                        path.chmod(0o700)
                    run._manifest = {
                        "format": FORMAT,
                        "format_version": FORMAT_VERSION,
                        "created": _now(),
                        "about": {},
                        "stages": {},
                    }
                    PRIVATE.add(path)
                    run._write_manifest()
                for folder in (run.records, run.mixture, run.methods, run.figures):
                    folder.mkdir(mode=0o700, exist_ok=True)
        except BaseException:
            os.close(lock)
            PRIVATE.discard(path)
            raise
        PRIVATE.add(path)
        return run

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open an existing run for reading; another process may be writing it.

        Raises
        ------
        ArtifactError
            If there is no run, or one of another version, or it holds a link.
        """
        path = Path(path).absolute()
        manifest = _read_manifest(path)
        refuse_links(path)
        return cls(path, manifest, None)

    @classmethod
    def join(cls, path: Path | str, *, beside: bool = False) -> Self:
        """As `create`; but a run on a disk that cannot be written to is opened for reading.

        With ``beside``, so is one that another process is writing.

        Raises
        ------
        ArtifactError
            As `create` does.
        """
        try:
            return cls.create(path)
        except _UnwritableError as error:
            path = Path(path).absolute()
            if not (beside or not error.is_busy) or not (path / "manifest.json").is_file():
                raise
            run = cls.open(path)
            return cls(path, run._manifest, None, str(error))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the lock; may be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            PRIVATE.discard(self.path)

    @property
    def can_write(self) -> bool:
        """Whether this process holds the run for writing."""
        return self._lock is not None

    def require_write(self) -> None:
        """Raise `ArtifactError`, which says why, unless this process holds the run for writing."""
        if self._lock is None:
            raise ArtifactError(self._why)

    def is_own(self, folder: Path) -> bool:
        """Whether a folder is the run itself or one that its stages write to."""
        own = (self.records, self.mixture, self.methods, self.figures, self.path / "compare")
        place = folder.resolve()
        return place == self.path.resolve() or any(place.is_relative_to(one.resolve()) for one in own)

    def method(self, name: str) -> Path:
        """Return where the responses of one control method lie.

        Raises
        ------
        ArtifactError
            If ``name`` is no plain file name.
        """
        if not _METHOD.fullmatch(name):
            raise ArtifactError(
                f"method name {name!r} cannot be a file name; use 1 to 100 of a-z 0-9 . _ @ : - and "
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

    def forget(self, name: str) -> None:
        """Count a stage as not done, because of what comes before it."""
        if self._manifest["stages"].pop(name, None) is not None:
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

    def checked(self, path: Path) -> Path:
        """Return ``path``, a file or folder of a finished stage, if all of it is as the stage wrote it.

        What no stage has finished is returned as it is.

        Raises
        ------
        ArtifactError
            If something is missing or changed; with the command that makes it anew.
        """
        for name, entry in self._manifest["stages"].items():
            for file, digest in entry["files"].items():
                if (self.path / file).is_relative_to(path) and (fault := self._fault(file, digest)):
                    raise ArtifactError(
                        f"{self.path / file}: {fault} stage {name!r}; it is not used; put it back as it was, or "
                        f"make it anew with: mop {'personas' if name == 'records' else name} "
                        f"{shlex.quote(str(self.path))}"
                    )
        return path

    def _fault(self, file: str, digest: str) -> str:
        """What happened to a file since its stage wrote it; empty if nothing."""
        path = self.path / file
        with system_errors(path, "read"):
            if not path.is_file():
                return "missing from"
            now = path.stat()
        seen = now.st_mtime_ns, now.st_ctime_ns, now.st_size
        if self._sound.get((file, digest)) == seen:
            return ""
        if sha256(path) != digest:
            return "changed since"
        self._sound[file, digest] = seen
        return ""

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
        refuse_links(root)
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
        self.require_write()
        self._manifest["format_version"] = FORMAT_VERSION
        self._manifest["check"] = check_of(self._manifest)
        write_json(self.manifest, self._manifest)


def refuse_links(root: Path) -> list[Path]:
    """Return what killed writers left below a folder; raise `ArtifactError` if there is anything but files and folders.

    A link could lead out of the folder, where it would be read from or written to.
    """
    leftovers: list[Path] = []
    with system_errors(root, "read"):
        folders = [root]
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    found, kind = Path(entry.path), entry.stat(follow_symlinks=False).st_mode
                    if stat.S_ISDIR(kind):
                        folders.append(found)
                    elif not stat.S_ISREG(kind):
                        refuse_link(found)
                    elif entry.name.startswith(".") and entry.name.endswith(TEMPORARY):
                        leftovers.append(found)
    return leftovers


def _read_manifest(path: Path, *, may_be_empty: bool = False) -> dict[str, Any]:
    """The manifest of a run folder; an empty one for an empty folder, where that will do."""
    file = path / "manifest.json"
    with system_errors(path, "read"):
        refuse_link(file)
        if not file.is_file():
            if not path.is_dir():
                raise ArtifactError(f"{path} is not a run folder: there is no such folder; start a run there first")
            others = sorted(f.name for f in path.iterdir() if f.name != _LOCK and not f.name.endswith(TEMPORARY))
            others = [name for name in others if not name.startswith(_STORE)]
            if may_be_empty and not others:
                return {}
            found = f"it has no manifest.json but holds {others[0]!r}" if others else "it is empty"
            if "config.json" in others:
                raise ArtifactError(f"{path} has lost its manifest.json; {_begin_anew(path)}")
            raise ArtifactError(
                f"{path} is not a run folder: {found}; give a new or empty folder, or one that mop made"
            )
    try:
        manifest = read_json(file)
    except ArtifactError as error:
        if isinstance(error.__cause__, OSError):
            raise
        raise ArtifactError(f"{file} is damaged ({error.__cause__}); {_begin_anew(path)}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"{path} is not a run folder: its manifest.json was not written by mop; give a new or empty folder"
        )
    version = manifest.get("format_version")
    if version not in (1, FORMAT_VERSION) or isinstance(version, bool):
        raise ArtifactError(
            f"{path} has format version {version!r}, this mop reads and writes {FORMAT_VERSION}; "
            "use the mop that made it, or give a new folder"
        )
    if not _is_whole(manifest) or (version > 1 and manifest.get("check") != check_of(manifest)):
        raise ArtifactError(f"{file} is damaged or was changed by hand; {_begin_anew(path)}")
    return manifest


def _begin_anew(path: Path) -> str:
    return (
        f"put it back as it was, or begin anew with what was paid for: mkdir NEW && cp "
        f"{shlex.quote(str(path))}/{_STORE}* NEW && mop run NEW --config {shlex.quote(str(path / 'config.json'))}"
    )


def _is_whole(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest has the parts that are read, and names no file outside the run folder."""
    about, stages = manifest.get("about"), manifest.get("stages")
    return (
        isinstance(about, dict)
        and all(
            isinstance(about.get(name, {}), dict)
            for name in ("remote", "servers", "spent", "stopped", "models", "stored")
        )
        and all(isinstance(row, dict) for row in about.get("remote", {}).values())
        and isinstance(stages, dict)
        and all(
            isinstance(entry, dict)
            and isinstance(entry.get("inputs"), str)
            and isinstance(entry.get("finished"), str)
            and isinstance(entry.get("info"), dict)
            and isinstance(entry.get("files"), dict)
            and all(isinstance(digest, str) and _is_inside(file) for file, digest in entry["files"].items())
            for entry in stages.values()
        )
    )


def _is_inside(file: str) -> bool:
    place = PurePosixPath(file)
    return not place.is_absolute() and ".." not in place.parts and "\0" not in file


class _UnwritableError(ArtifactError):
    """A run that can be read: its disk takes nothing, or another process is writing it."""

    is_busy = False


def _take_lock(path: Path) -> int:
    """Hold ``path`` for this process; the system lets go when the process ends, however it ends."""
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise _UnwritableError(
                f"cannot write {path}: {error.strerror}; reading it is possible; for all else copy it to where you may "
                f"write (cp -r {shlex.quote(str(path))} NEW) and use the copy"
            ) from error
        refuse(path / _LOCK, error)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = "unknown"
        with suppress(OSError):
            owner = os.read(lock, 20).decode("ascii", "replace").strip() or owner
        os.close(lock)
        busy = _UnwritableError(
            f"{path} is being written by another run (process {owner}); wait for it to end, or use another folder"
        )
        busy.is_busy = True
        raise busy from None
    except OSError as error:
        os.close(lock)
        refuse(path / _LOCK, error, "lock")
    with suppress(OSError):  # the number is only for the message above; a full disk shows later
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode("ascii"))
    return lock


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
