"""Files that are written whole or not at all, as bytes, JSON or JSON Lines; hashes of values and files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mop.errors import ArtifactError

TEMPORARY = ".mop-tmp"
"""How names of files end that are being written."""
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


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary neighbour of ``path`` that takes its place if all goes well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
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
            refuse(path, error)
        raise


def refuse(path: Path, error: OSError) -> NoReturn:
    """Raise `ArtifactError` for a path that cannot be written, saying what to do."""
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
