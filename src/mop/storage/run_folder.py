"""The run folder: its names, its formats, its hashes; the only module that knows where things lie.

Files are written by `mop.storage.files`, whole or not at all.
A stage counts as done when its entry is in ``manifest.json``; that entry is written last.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from mop.errors import ArtifactError
from mop.storage.files import TEMPORARY, hash_of, read_json, refuse, sha256, write_json

FORMAT = "mop-run"
FORMAT_VERSION = 1
"""Raised when an older reader would misread a run folder."""

_LOCK = ".lock"
_METHOD = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")


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
            refuse(path, error)
        _read_manifest(path, may_be_empty=True)
        lock = _take_lock(path)
        try:
            for leftover in path.rglob(f".*{TEMPORARY}"):  # of a killed run; ours alone: we hold the lock
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
        others = sorted(f.name for f in path.iterdir() if f.name != _LOCK and not f.name.endswith(TEMPORARY))
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
        refuse(path / _LOCK, error)
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
