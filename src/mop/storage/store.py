"""The store: every score, draw and embedding that was ever paid for, in one SQLite file.

Keys are made from content, so whatever asks the same question finds the same answer; a row in the
store is the only definition of "done". `mop.mixture.score` and `mop.simulate.write` fill it batch by batch.

Beside the store lies a secret that goes into its keys: without it nobody can tell from a store which texts were asked
about. It is never copied elsewhere.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import secrets
import shutil
import sqlite3
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mop.errors import ArtifactError, BackendError
from mop.storage.files import mode_of, refuse, system_errors, write_atomic
from mop.types import Decoding, FinishReason, GenerateRequest, Generation, Prompt, Score, ScoreRequest

SCHEMA_VERSION = 2
"""Raised when rows or keys change their meaning. Keys of version 1 have no secret; it is read and written as it is."""

_SECRET_BYTES = 32

_APPLICATION_ID = 0x6D6F7073  # "mops": tells our file from other SQLite files
_KINDS = ("score", "generation", "embedding")
_TABLES = (*_KINDS, "reference")
_CHUNK = 500  # keys per IN query; every SQLite takes 999
_REASONS: tuple[FinishReason, ...] = ("stop", "length")
_FLOAT = np.dtype("<f4")
_HEAD = struct.Struct("<IBd")  # n_tokens, finish reason, log_lik; the text follows

_SCHEMA = (
    *(
        f"CREATE TABLE IF NOT EXISTS {kind} (key BLOB PRIMARY KEY, payload BLOB NOT NULL, "
        "checksum BLOB NOT NULL) WITHOUT ROWID"
        for kind in _TABLES
    ),
    "CREATE TABLE IF NOT EXISTS unchecked (key BLOB PRIMARY KEY, payload BLOB NOT NULL, checksum BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS conflict (kind TEXT, key BLOB, payload BLOB, UNIQUE (kind, key, payload))",
    "CREATE TABLE IF NOT EXISTS cost (stage TEXT PRIMARY KEY, calls INTEGER NOT NULL, tokens INTEGER NOT NULL)",
)

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Cost(NamedTuple):
    """What a stage has spent on the language model, over all attempts."""

    calls: int
    """Texts scored or drawn."""
    tokens: int
    """Response tokens scored or drawn; prompt tokens are not counted."""


class Tally:
    """What stages asked a store for while the tally was open, paid for then or before."""

    def __init__(self) -> None:
        self._tokens: dict[str, dict[bytes, int]] = {}

    def add(self, stage: str, tokens: Iterable[tuple[bytes, int]]) -> None:
        """Count answers: their keys, each of which counts once, and their response tokens."""
        self._tokens.setdefault(stage, {}).update(tokens)

    def costs(self) -> dict[str, Cost]:
        """What each stage would have spent with an empty store."""
        return {stage: Cost(len(rows), sum(rows.values())) for stage, rows in sorted(self._tokens.items())}


def score_key(identity: str, request: ScoreRequest, secret: bytes = b"") -> bytes:
    """Return the 16-byte name of one score: who scores (``score_identity``), after which prompt, which response.

    Notes
    -----
    BLAKE2b-128 over length-prefixed fields, so that no two different requests have one encoding; keyed with the
    `Store.secret` of the store that is asked.
    """
    encoding = _Encoding("score/1", identity)
    encoding.prompt(request.prompt)
    encoding.text(request.response)
    return encoding.key(secret)


def generation_key(identity: str, request: GenerateRequest, decoding: Decoding, secret: bytes = b"") -> bytes:
    """Return the 16-byte name of one draw: who writes (``generate_identity``), after which prompts, how, which seed."""
    encoding = _Encoding("generation/1", identity)
    encoding.number(len(request.branches))
    for branch in request.branches:
        encoding.prompt(branch.prompt)
        encoding.real(branch.temperature)
        encoding.real(0.0)  # log of a share, in an earlier version; keys stay what they were
    encoding.number(request.seed)
    encoding.number(decoding.max_tokens)
    encoding.number(decoding.min_tokens)
    encoding.real(decoding.top_p)
    encoding.number(decoding.top_k)
    return encoding.key(secret)


def _reference_key(identity: str) -> bytes:
    return _Encoding("reference/1", identity).key()


def embedding_key(identity: str, text: str, secret: bytes = b"") -> bytes:
    """Return the 16-byte name of one embedding: which encoder, which text."""
    encoding = _Encoding("embedding/1", identity)
    encoding.text(text)
    return encoding.key(secret)


class _Encoding:
    """Canonical bytes of a question; each field is written with its length."""

    def __init__(self, purpose: str, identity: str) -> None:
        self._parts: list[bytes] = []
        self.text(purpose)
        self.text(identity)

    def text(self, value: str) -> None:
        raw = value.encode("utf-8", "surrogatepass")
        self._parts.append(len(raw).to_bytes(8, "little"))
        self._parts.append(raw)

    def number(self, value: int) -> None:
        self._parts.append(value.to_bytes(8, "little"))

    def real(self, value: float) -> None:
        self._parts.append(struct.pack("<d", value))

    def prompt(self, prompt: Prompt) -> None:
        self.number(len(prompt.turns))
        for turn in prompt.turns:
            self.text(turn.role)
            self.number(len(turn.segments))
            for segment in turn.segments:
                self.number(segment.is_data)
                self.text(segment.text)

    def key(self, secret: bytes = b"") -> bytes:
        return hashlib.blake2b(b"".join(self._parts), digest_size=16, key=secret).digest()


class Store:
    """Scores, draws and embeddings by content, in one file that survives kills; a context manager.

    Each ``put_…`` is one transaction that is on the disk when the call returns. Several processes
    may use one file at a time. A first value stays; a second, different one is noted as a conflict.
    Every row has a checksum: a damaged one counts as missing and is replaced when it is put again.

    Parameters
    ----------
    path : Path or str
        The file, made if absent, on a local disk; ``":memory:"`` for none. One that cannot be written to is read into
        memory: what is put is then there until the store is closed.

    Raises
    ------
    ArtifactError
        If the file is no store, of another version, damaged, on a disk that cannot lock, or full.
        Every method may raise it too.
    """

    def __init__(self, path: Path | str) -> None:
        self.path: Final = str(path)
        self._tallies: list[Tally] = []
        self.secret = b""
        """Goes into every key; what asks this store makes its keys with it."""
        file = None if self.path == ":memory:" else Path(self.path)
        self.can_keep: Final = file is None or not file.exists() or _can_write(file)
        """Whether what is put is still there after closing."""
        self._has_said = False
        if file is not None and self.can_keep:
            with system_errors(file):
                os.close(os.open(file, os.O_RDWR | os.O_CREAT, mode_of(file)))
        with self._translated():
            # autocommit: the only transactions are those of _transaction
            place = self.path if self.can_keep else ":memory:"
            self._db = sqlite3.connect(place, timeout=30.0, isolation_level=None)
        try:
            with self._translated():
                if file is not None and not self.can_keep:
                    _copy(file, self._db)
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._db.close()

    @contextmanager
    def tally(self) -> Iterator[Tally]:
        """Count what is asked for meanwhile, found or put; `spent` has what was ever paid for."""
        tally = Tally()
        self._tallies.append(tally)
        try:
            yield tally
        finally:
            self._tallies.remove(tally)

    def get_scores(self, keys: Iterable[bytes], *, stage: str | None = None) -> dict[bytes, Score]:
        """Return the scores that are there, shape (G,), read-only; ``stage`` is who asks, for a `tally`."""
        found = self._get("score", keys, _unpack_score)
        self._count(stage, found.items())
        return found

    def put_scores(
        self, pairs: Iterable[tuple[bytes, Score]], *, stage: str = "score", is_checked: bool = True
    ) -> None:
        """Add scores in one transaction, and those that are new to the `Cost` of the stage.

        Those that are not ``is_checked`` wait beside the others for `accept_scores` or `drop_scores`; until then
        `get_scores` does not find them.

        Raises
        ------
        BackendError
            If a log-likelihood is not finite; nothing of the batch is stored.
        """
        pairs = list(pairs)
        kind = "score" if is_checked else "unchecked"
        self._put(kind, [(key, _pack_score(score), score.n_tokens) for key, score in pairs], stage)
        self._count(stage, pairs)

    def get_unchecked(self, keys: Iterable[bytes]) -> dict[bytes, Score]:
        """Return the scores that wait for a check, oldest first."""
        found = self._get("unchecked", keys, _unpack_score)
        if not found:
            return {}
        with self._translated():
            order = [key for (key,) in self._db.execute("SELECT key FROM unchecked ORDER BY rowid")]
        return {key: found[key] for key in order if key in found}

    def accept_scores(self, keys: Iterable[bytes]) -> None:
        """Let scores count that waited for a check, in one transaction; they were paid for when they were put."""
        with self._translated(), self._transaction():
            for key in keys:
                row = self._db.execute("SELECT * FROM unchecked WHERE key = ?", (key,)).fetchone()
                if row is not None and _is_sound(*row):
                    self._insert("score", *row)
                self._db.execute("DELETE FROM unchecked WHERE key = ?", (key,))

    def drop_scores(self, keys: Iterable[bytes]) -> None:
        """Forget scores that waited for a check."""
        with self._translated(), self._transaction():
            self._db.executemany("DELETE FROM unchecked WHERE key = ?", [(key,) for key in keys])

    def get_generations(self, keys: Iterable[bytes], *, stage: str | None = None) -> dict[bytes, Generation]:
        """Return the draws that are there, as in `get_scores`."""
        found = self._get("generation", keys, _unpack_generation)
        self._count(stage, found.items())
        return found

    def put_generations(self, pairs: Iterable[tuple[bytes, Generation]], *, stage: str = "simulate") -> None:
        """Add draws, as in `put_scores`.

        Raises
        ------
        BackendError
            If a log-likelihood is infinite; nothing of the batch is stored.
        """
        pairs = list(pairs)
        self._put("generation", [(key, _pack_generation(drawn), drawn.n_tokens) for key, drawn in pairs], stage)
        self._count(stage, pairs)

    def get_embeddings(self, keys: Iterable[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the vectors that are there, each of shape (D,), read-only."""
        return self._get("embedding", keys, _unpack_floats)

    def put_embeddings(self, pairs: Iterable[tuple[bytes, NDArray[np.float32]]]) -> None:
        """Add vectors, shape (D,) each, in one transaction; they cost no LM call.

        Raises
        ------
        BackendError
            If a number is not finite; nothing of the batch is stored.
        """
        self._put("embedding", [(key, _pack_floats(vector, "an embedding"), 0) for key, vector in pairs])

    def get_reference(self, identity: str) -> tuple[float, ...] | None:
        """Return what a scorer said to known questions when its first score was stored; None if unknown."""
        key = _reference_key(identity)
        found = self._get("reference", [key], _unpack_floats).get(key)
        return None if found is None else tuple(found.tolist())

    def put_reference(self, identity: str, values: Sequence[float]) -> None:
        """Keep what a scorer says to known questions; replaces what was kept.

        Raises
        ------
        BackendError
            If a number is not finite.
        """
        key = _reference_key(identity)
        payload = _pack_floats(np.array(values, dtype=_FLOAT), "a reference")
        with self._translated(), self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO reference VALUES (?, ?, ?)", (key, payload, _checksum(key, payload))
            )

    def counts(self) -> dict[str, int]:
        """The number of rows: ``score``, ``generation``, ``embedding``, ``conflict``, ``unchecked score`` if any."""
        with self._translated():
            found = {
                table: int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
                for table in (*_KINDS, "conflict", "unchecked")
            }
        n_unchecked = found.pop("unchecked")
        return {**found, **({"unchecked score": n_unchecked} if n_unchecked else {})}

    def spent(self) -> dict[str, Cost]:
        """Return the `Cost` of each stage; it grew in the same transactions as the results."""
        with self._translated():
            rows = self._db.execute("SELECT stage, calls, tokens FROM cost ORDER BY stage").fetchall()
        return {stage: Cost(calls, tokens) for stage, calls, tokens in rows}

    def verify(self) -> list[str]:
        """Check the file, every checksum and every number; return what is wrong, one sentence each.

        Conflicts are named too: two answers of a frozen model to one question.
        """
        problems = []
        try:
            for (line,) in self._db.execute("PRAGMA quick_check"):
                if line != "ok":
                    problems.append(f"the file is damaged: {line}")
            for kind in (*_TABLES, "unchecked"):
                faults = Counter(_fault(kind, *row) for row in self._db.execute(f"SELECT * FROM {kind}"))
                problems += [f"{n} {kind} rows {fault}" for fault, n in sorted(faults.items()) if fault]
            conflicts = self.counts()["conflict"]
            if conflicts:
                problems.append(f"{conflicts} times a question got a second, different answer")
        except (sqlite3.DatabaseError, ArtifactError) as error:
            problems.append(f"the file is damaged: {error}")
        return problems

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA cell_size_check = ON")
        with self._transaction():  # two processes may open a new file at once
            version = db.execute("PRAGMA user_version").fetchone()[0]
            application = db.execute("PRAGMA application_id").fetchone()[0]
            is_new = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            if is_new and not version and not application:
                db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                db.execute("CREATE TABLE secret (mark BLOB NOT NULL)")
                self.secret = self._read_secret(makes=True)
                db.execute("INSERT INTO secret VALUES (?)", (_mark(self.secret),))
            elif application != _APPLICATION_ID:
                raise ArtifactError(f"{self.path} is an SQLite file, but not a store of mop; give another path")
            elif version == SCHEMA_VERSION:
                self.secret = self._read_secret(makes=False)
                if db.execute("SELECT mark FROM secret").fetchone() != (_mark(self.secret),):
                    raise ArtifactError(_without_secret(self.path))
            elif version != 1:
                raise ArtifactError(
                    f"{self.path} is a store of version {version}, this mop reads and writes "
                    f"{SCHEMA_VERSION}; use the mop that made it, or a new run folder"
                )
            for statement in _SCHEMA:
                db.execute(statement)
        mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode not in ("wal", "memory"):
            raise ArtifactError(
                f"{self.path} lies on a file system that cannot share memory (journal mode "
                f"{mode!r}, needed 'wal'); put the run folder on a local disk"
            )
        db.execute("PRAGMA synchronous = FULL")

    def _read_secret(self, *, makes: bool) -> bytes:
        """The secret beside the file, made if there is none and that is wanted; none for a store in memory."""
        if self.path == ":memory:":
            return b""
        file = Path(f"{self.path}.secret")
        with system_errors(file, "read"):
            try:
                descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                found = b""
            else:
                with os.fdopen(descriptor, "rb") as opened:
                    found = opened.read(4 * _SECRET_BYTES)
        if makes and not found:
            found = secrets.token_hex(_SECRET_BYTES).encode("ascii")
            write_atomic(file, found, mode=0o600)
        try:
            return bytes.fromhex(found.decode("ascii"))[:64]
        except ValueError:
            raise ArtifactError(_without_secret(self.path)) from None

    def _count(self, stage: str | None, pairs: Iterable[tuple[bytes, Score | Generation]]) -> None:
        if stage is not None:
            for tally in self._tallies:
                tally.add(stage, ((key, answer.n_tokens) for key, answer in pairs))

    def _get(self, kind: str, keys: Iterable[bytes], unpack: Callable[[bytes], T]) -> dict[bytes, T]:
        wanted = sorted(set(keys))  # neighbours share pages
        found: dict[bytes, T] = {}
        n_damaged = 0
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            query = f"SELECT key, payload, checksum FROM {kind} WHERE key IN ({marks})"
            with self._translated():
                rows = self._db.execute(query, chunk).fetchall()
            for key, payload, checksum in rows:
                if _is_sound(key, payload, checksum):
                    found[key] = unpack(payload)
                else:
                    n_damaged += 1
        if n_damaged:
            _log.warning("%d damaged %s rows in %s will be redone", n_damaged, kind, self.path)
        return found

    def _put(self, kind: str, rows: Sequence[tuple[bytes, bytes, int]], stage: str | None = None) -> None:
        """Add rows of key, payload and tokens; the stage pays for those that were not there."""
        paid = []
        if rows and not self.can_keep and not self._has_said:
            self._has_said = True
            _log.warning("%s cannot be written to: new answers are not kept", self.path)
        with self._translated(), self._transaction():
            for key, payload, n_tokens in rows:
                if self._insert(kind, key, payload, _checksum(key, payload)):
                    paid.append(n_tokens)
            if stage is not None and paid:
                self._db.execute(
                    "INSERT INTO cost VALUES (?, ?, ?) ON CONFLICT (stage) DO UPDATE SET "
                    "calls = calls + excluded.calls, tokens = tokens + excluded.tokens",
                    (stage, len(paid), sum(paid)),
                )

    def _insert(self, kind: str, key: bytes, payload: bytes, checksum: bytes) -> bool:
        """Add a row; returns whether there was none, or a damaged one."""
        row = key, payload, checksum
        cursor = self._db.execute(f"INSERT INTO {kind} VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row)
        return bool(cursor.rowcount) or self._settle(kind, key, payload)

    def _settle(self, kind: str, key: bytes, payload: bytes) -> bool:
        """Replace the row of a key if it is damaged, else note a differing value; returns whether it was damaged."""
        old, checksum = self._db.execute(f"SELECT payload, checksum FROM {kind} WHERE key = ?", (key,)).fetchone()
        if not _is_sound(key, old, checksum):
            self._db.execute(
                f"UPDATE {kind} SET payload = ?, checksum = ? WHERE key = ?", (payload, _checksum(key, payload), key)
            )
            return True
        if old != payload:
            self._db.execute("INSERT OR IGNORE INTO conflict VALUES (?, ?, ?)", (kind, key, payload))
        return False

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            _refuse(self.path, error)


def _can_write(file: Path) -> bool:
    return os.access(file, os.W_OK) and os.access(file.absolute().parent, os.W_OK)


def _copy(file: Path, target: sqlite3.Connection) -> None:
    """Read a store that cannot be written to, with what its log has and the file has not."""
    log = Path(f"{file}-wal")
    try:
        if not (log.exists() and log.stat().st_size):
            with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as source:
                source.backup(target)
            return
        with tempfile.TemporaryDirectory(prefix="mop-") as folder:
            for part in (file, log):
                shutil.copyfile(part, Path(folder) / part.name)
            with closing(sqlite3.connect(Path(folder) / file.name)) as source:
                source.backup(target)
    except OSError as error:
        refuse(file, error, "read")


def _mark(secret: bytes) -> bytes:
    """What tells whether a secret is that of a store, and nothing else."""
    return hashlib.blake2b(b"the secret of this store", digest_size=16, key=secret).digest()


def _without_secret(path: str) -> str:
    return (
        f"{path} cannot be read without its secret, and {path}.secret is missing or that of another store; copy it "
        f"from where the store came from, or move {path} away and give the same command again: what it held will be "
        "computed anew"
    )


def _refuse(path: str, error: sqlite3.Error) -> NoReturn:
    """Say in our words what SQLite could not do."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name == "SQLITE_IOERR_LOCK":
        raise ArtifactError(
            f"{path} lies on a disk without locks ({error}); put the run folder on a local disk"
        ) from error
    if name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR"):
        raise ArtifactError(
            f"no space left to write {path}, or the disk fails ({error}); all that was stored "
            "before is intact; free some space and give the same command again"
        ) from error
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        raise ArtifactError(
            f"{path} is damaged or no store of mop ({error}); move it away and give the same "
            "command again: what it held will be computed anew"
        ) from error
    if name.startswith("SQLITE_BUSY"):
        raise ArtifactError(f"{path} was locked by another process for 30 s ({error}); wait for it to end") from error
    raise ArtifactError(
        f"cannot use the store {path}: {error}; give a path in a folder that you may write to"
    ) from error


def _checksum(key: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(key + payload, digest_size=8).digest()


def _is_sound(key: object, payload: object, checksum: object) -> bool:
    # a flipped byte in a row's header can turn a column into another type
    return isinstance(key, bytes) and isinstance(payload, bytes) and _checksum(key, payload) == checksum


def _fault(kind: str, key: object, payload: object, checksum: object) -> str:
    """What is wrong with a row; empty if nothing."""
    if not isinstance(payload, bytes) or not _is_sound(key, payload, checksum):
        return "are damaged and count as missing"
    if kind == "generation":
        is_finite = not math.isinf(_unpack_generation(payload).log_lik)  # nan says that it has none
    else:
        is_finite = bool(np.isfinite(_unpack_floats(payload, 4 if kind in ("score", "unchecked") else 0)).all())
    return "" if is_finite else "hold numbers that are not finite"


def _pack_floats(values: NDArray[np.float32], what: str) -> bytes:
    values = np.ascontiguousarray(values, dtype=_FLOAT)
    if values.ndim != 1 or not np.isfinite(values).all():
        n_bad = int((~np.isfinite(values)).sum())
        raise BackendError(
            f"{what} of shape {values.shape} with {n_bad} numbers that are not finite was to be "
            "stored; the store takes one row of finite numbers; look at the model that gave it"
        )
    return values.tobytes()


def _unpack_floats(payload: bytes, offset: int = 0) -> NDArray[np.float32]:
    return np.frombuffer(payload, _FLOAT, -1, offset)


def _pack_score(score: Score) -> bytes:
    return struct.pack("<I", score.n_tokens) + _pack_floats(score.log_lik, "a score")


def _unpack_score(payload: bytes) -> Score:
    return Score(_unpack_floats(payload, 4), int.from_bytes(payload[:4], "little"))


def _pack_generation(generation: Generation) -> bytes:
    if math.isinf(generation.log_lik):
        raise BackendError(
            f"a draw with the log-likelihood {generation.log_lik} was to be stored; the store takes a finite number, "
            "or nan for none; look at the model that gave it"
        )
    reason = _REASONS.index(generation.finish_reason)
    head = _HEAD.pack(generation.n_tokens, reason, generation.log_lik)
    return head + generation.text.encode("utf-8", "surrogatepass")


def _unpack_generation(payload: bytes) -> Generation:
    n_tokens, reason, log_lik = _HEAD.unpack_from(payload)
    text = payload[_HEAD.size :].decode("utf-8", "surrogatepass")
    return Generation(text, n_tokens, _REASONS[reason], log_lik)
