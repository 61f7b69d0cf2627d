"""Files that are written whole or not at all, as bytes, JSON or JSON Lines; hashes of values and files."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mop.errors import ArtifactError

TEMPORARY = ".mop-tmp"
"""How names of files end that are being written."""
PRIVATE: set[Path] = set()
"""Open run folders: what is written below is for its owner alone, whatever the umask says."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# EFBIG is what a limit on file size answers; to a person it is the same thing.
_AGAIN = "give the same command again"
_REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "give a folder that you may read and write"),
    errno.EROFS: "this disk cannot be written to; give a folder on another one",
    **dict.fromkeys(
        (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP), "this disk lacks what a run needs; give a folder on a local one"
    ),
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT),
        f"the disk, or the server that it is on, fails; see that it is back, then {_AGAIN}",
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE), f"too many files are open; raise the limit (ulimit -n 4096), then {_AGAIN}"
    ),
    **dict.fromkeys((errno.EINTR, errno.EAGAIN, errno.EBUSY, errno.ETXTBSY, errno.ENOMEM), _AGAIN),
    errno.ENAMETOOLONG: "give a shorter name",
    **dict.fromkeys(
        (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY),
        "a folder stands where a file belongs, or a file where a folder does; move it away, or give another place",
    ),
    errno.ELOOP: f"a link is there, and none is followed inside a run folder; remove it, then {_AGAIN}",
}
"""What to do about a system error."""


def write_atomic(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Replace the file ``path``, whose folder exists, by ``data``, or leave it as it was; ``mode`` as of `mode_of`.

    Raises
    ------
    ArtifactError
        If the disk is full or the file cannot be written; the old file stays valid.
    """
    with _replacing(path, mode) as file:
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


def mode_of(path: Path) -> int:
    """What a new file may be opened with: by its owner alone in a run folder, else as the umask says."""
    return 0o600 if any(path.is_relative_to(folder) for folder in PRIVATE) else 0o666


def check_of(document: Mapping[str, Any]) -> str:
    """What a JSON document holds as its ``check``: the hash of all else in it."""
    return hash_of({name: value for name, value in document.items() if name != "check"})


@contextmanager
def _replacing(path: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """Yield a temporary neighbour of ``path`` that takes its place if all goes well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with suppress(FileNotFoundError):  # of a killed process of the same number
            temporary.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, mode_of(path) if mode is None else mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)  # the new name must reach the disk as well
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP):  # disks that have no such thing
                raise
        finally:
            os.close(folder)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            refuse(path, error)
        raise


@contextmanager
def system_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn what the system says of ``path``, or of a file in it, into an `ArtifactError` that says what to do."""
    try:
        yield
    except (BrokenPipeError, ConnectionError):  # of a terminal or server, not of a disk
        raise
    except OSError as error:
        named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
        refuse(named if named.is_absolute() else path, error, doing)


def refuse_link(path: Path) -> None:
    """Raise `ArtifactError` if there is something else than a file or folder: a link could lead anywhere."""
    kind = path.lstat().st_mode if path.exists() or path.is_symlink() else stat.S_IFREG
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        what = f"a link to {str(path.readlink())!r}" if stat.S_ISLNK(kind) else "no plain file"
        raise ArtifactError(
            f"{path} is {what}; none is followed where a folder may come from somebody else; put what belongs there in "
            f"its place, or remove it (rm {shlex.quote(str(path))}) and {_AGAIN}"
        )


def refuse(path: Path, error: OSError, doing: str = "write") -> NoReturn:
    """Raise `ArtifactError` for a path that cannot be written (or what else was tried), saying what to do."""
    said = error.strerror or str(error)
    if error.errno in _NO_SPACE:
        raise ArtifactError(
            f"no space left to {doing} {path} ({said}); what was there before is intact; free some space and {_AGAIN}"
        ) from error
    usual = "check the path, or run the stage that writes it" if doing == "read" else _REMEDIES[errno.EACCES]
    raise ArtifactError(f"cannot {doing} {path}: {said}; {_REMEDIES.get(error.errno or 0, usual)}") from error


def _read(path: Path) -> bytes:
    with system_errors(path, "read"):
        return path.read_bytes()


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
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{where}: not valid JSON ({error}); correct it, or remove the file and run its stage again"
        ) from error


def _finite(digits: str) -> float:
    if math.isfinite(value := float(digits)):
        return value
    raise ValueError(f"{digits[:20]} is beyond what a number can be")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def sha256(path: Path, *, flush: bool = False) -> str:
    """SHA-256 of a file as 64 hexadecimal digits; with ``flush`` it is on the disk first.

    Raises
    ------
    ArtifactError
        If it cannot be read.
    """
    with system_errors(path, "read"), path.open("rb") as file:
        if flush:  # whoever wrote it may not have; the manifest must not outlive the file
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
