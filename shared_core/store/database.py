"""Opens, migrates, writes and reads one SQLite file.

Writes go through one connection under a lock, because SQLite allows one writer at a time. Reads use a small pool of
connections, each used by one thread at a time, and see the last committed state: in WAL mode they wait neither for a
writer nor for its fsync. Other processes may use the same file in the same way. A file that is deleted or replaced is
noticed at the next read or write, and opened again.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from shared_core.errors import StoreIsAway, StoreIsUnusable
from shared_core.store.errors import is_temporary
from shared_core.store.sqlite_sequences import mend_sequences
from shared_core.telemetry import get_logger

log = get_logger("store")

APPLICATION: Final = 0x49434361  # "ICCa" in the file's header, to recognise another program's database
IDS_PER_STATEMENT: Final = 500  # old SQLite versions allow 999 parameters
BUSY_SECONDS: Final = 5.0  # how long a write waits for writes of other processes before it fails

# One step for each schema version. A released step is never edited; add the next one.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE claims (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        """CREATE TABLE examples (
            scope TEXT NOT NULL, id TEXT NOT NULL, created_at REAL NOT NULL, exact_key TEXT NOT NULL,
            entry BLOB NOT NULL, statistics BLOB NOT NULL, vector BLOB NOT NULL, texts BLOB NOT NULL,
            UNIQUE (scope, id))""",
        "CREATE INDEX examples_by_age ON examples (scope, created_at, id)",
        """CREATE TABLE changes (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, scope TEXT NOT NULL, id TEXT NOT NULL)""",
        """CREATE TABLE exact (
            key TEXT PRIMARY KEY, scope TEXT NOT NULL, created_at REAL NOT NULL, answer BLOB NOT NULL)""",
        "CREATE INDEX exact_by_age ON exact (created_at)",
        """CREATE TABLE decisions (
            id TEXT PRIMARY KEY, scope TEXT NOT NULL, created_at REAL NOT NULL, record BLOB NOT NULL)""",
        "CREATE INDEX decisions_by_age ON decisions (created_at)",
        """CREATE TABLE feedback (
            offset INTEGER PRIMARY KEY AUTOINCREMENT, decision_id TEXT NOT NULL, rater TEXT NOT NULL,
            at REAL NOT NULL, judgement BLOB NOT NULL, UNIQUE (decision_id, rater))""",
        """CREATE TABLE checkpoint (
            one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, offset INTEGER NOT NULL,
            head BLOB NOT NULL, arrays BLOB NOT NULL)""",
        """CREATE TABLE leases (
            name TEXT PRIMARY KEY, owner TEXT NOT NULL, token INTEGER NOT NULL, expires_at REAL NOT NULL)""",
    ),
    ("CREATE INDEX decisions_by_scope ON decisions (scope, created_at, id)",),
    (
        """CREATE TABLE waiting (
            id TEXT PRIMARY KEY, scope TEXT NOT NULL, created_at REAL NOT NULL, size INTEGER NOT NULL,
            answer BLOB NOT NULL)""",
        "CREATE INDEX waiting_by_scope ON waiting (scope, created_at, id)",
        "CREATE INDEX waiting_by_age ON waiting (created_at)",
        "CREATE TABLE waiting_totals (scope TEXT PRIMARY KEY, answers INTEGER NOT NULL, bytes INTEGER NOT NULL)",
        """CREATE TRIGGER waiting_added AFTER INSERT ON waiting BEGIN
            INSERT INTO waiting_totals VALUES (NEW.scope, 1, NEW.size)
            ON CONFLICT (scope) DO UPDATE SET answers = answers + 1, bytes = bytes + NEW.size; END""",
        """CREATE TRIGGER waiting_removed AFTER DELETE ON waiting BEGIN
            UPDATE waiting_totals SET answers = answers - 1, bytes = bytes - OLD.size WHERE scope = OLD.scope;
            DELETE FROM waiting_totals WHERE scope = OLD.scope AND answers = 0; END""",
    ),
    ("CREATE TABLE damaged_checkpoint (version, offset, head, arrays)",),
    (
        "CREATE TABLE progress (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, offset INTEGER NOT NULL)",
        "INSERT INTO progress SELECT one, version, offset FROM checkpoint",
        "DROP TABLE checkpoint",
        "DROP TABLE damaged_checkpoint",
        "CREATE TABLE parts (name TEXT PRIMARY KEY, head BLOB NOT NULL)",
        "CREATE TABLE chunks (key TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (key, number))",
        "CREATE TABLE rounds (place INTEGER PRIMARY KEY, report BLOB NOT NULL)",
    ),
)


def listed(ids: Sequence[str], column: str = "id") -> Iterator[tuple[str, Sequence[str]]]:
    """SQL conditions that together are ``column IN ids``, each with its parameters."""
    for start in range(0, len(ids), IDS_PER_STATEMENT):
        chunk = ids[start : start + IDS_PER_STATEMENT]
        yield f"{column} IN ({', '.join('?' * len(chunk))})", chunk


class Database:
    """An open SQLite database of the newest schema.

    Args:
        path: The file, created with mode 0600 if it is new; None keeps everything in memory, on one connection.
        read_only: True leaves the file, which must exist, as it is.
        shown: The file that messages name; `path` by default.

    Raises:
        StoreIsUnusable: The file cannot be created or opened, is not an IC-Cache database, or has a newer schema.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False, shown: Path | None = None) -> None:
        self.label = "memory://" if path is None else f"sqlite:///{shown or path}" + ("?mode=ro" if read_only else "")
        self.is_read_only = read_only
        self._uri = "file::memory:" if path is None else _address(path, self.label, read_only=read_only)
        self._path = path and path.absolute()
        self._in_memory = path is None
        self._pid = os.getpid()
        self._closed = False
        self._is_shut = False  # the file was deleted or replaced, and could not be opened again yet
        self._writing = threading.Lock()
        self._pooling = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self.generation = 0  # grows when the file is opened again
        self._writer = self._open_writer()
        self._files = _identities(self._path)
        self._mend()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed and synced to disk when the block ends; rolled back if it raises.

        Raises:
            StoreIsAway: The file is busy, or cannot be written for another reason that may pass.
        """
        try:
            with self._transaction() as connection:
                yield connection
        except sqlite3.Error as error:
            if is_temporary(error):
                raise self._away(error) from error
            raise

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._require_usable()
        if self.is_read_only:
            raise StoreIsUnusable(f"{self.label} is open for reading only; leave ?mode=ro out to write")
        with self._writing:
            self._require_usable()
            self._open_moved()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:
                if self._writer.in_transaction:  # SQLite itself rolls back when the disk is full
                    self._writer.execute("ROLLBACK")
                if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:  # or there is no further number
                    self._mend()
                raise

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of one SELECT; none if a parameter holds half a character, which no stored text does.

        Raises:
            StoreIsAway: The file cannot be read for a reason that may pass.
        """
        try:
            return self._read(sql, parameters)
        except UnicodeEncodeError:
            return []
        except sqlite3.Error as error:
            if is_temporary(error):
                raise self._away(error) from error
            raise

    def _away(self, error: sqlite3.Error) -> StoreIsAway:
        is_busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        remedy = "another process is writing to it" if is_busy else "check its disk, and that it may be written"
        return StoreIsAway(f"{self.label}: {error}", f"{remedy}; try again")

    def _read(self, sql: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        self._require_usable()
        if self._in_memory:
            with self._writing:
                self._require_usable()
                return self._writer.execute(sql, parameters).fetchall()
        self.follow()
        with self._pooling:
            reader, generation = self._idle.pop() if self._idle else None, self.generation
        reader = reader or self._connect()
        try:
            return reader.execute(sql, parameters).fetchall()
        finally:
            self._put_back(reader, generation)

    def follow(self) -> None:
        """Open the file again if it was deleted or replaced."""
        if self._has_moved():
            with self._writing:
                self._require_usable()
                self._open_moved()

    def close(self) -> None:
        """Close every connection; connections in use are closed after use. Idempotent."""
        if os.getpid() != self._pid:
            return  # closing a parent process's connection would drop its locks
        with self._writing, self._pooling:
            self._closed = True
            self._writer.close()
            while self._idle:
                self._idle.pop().close()

    def _put_back(self, reader: sqlite3.Connection, generation: int) -> None:
        with self._pooling:
            if self._closed or generation != self.generation:
                reader.close()
            else:
                self._idle.append(reader)

    def _has_moved(self) -> bool:
        return self._path is not None and (self._is_shut or _identity(self._path) != self._files[0])

    def _open_moved(self) -> None:
        """Open the path again if its file was deleted or replaced. Holds `_writing`."""
        if self._path is None or not self._has_moved():
            return
        # SQLite finds the log by its name, and would replay the old one into the new file. As long as it is open here,
        # no other file can have its identity.
        for file, identity in zip(_files(self._path)[1:], self._files[1:], strict=True):
            if not self._is_shut and identity is not None and _identity(file) == identity:
                file.unlink(missing_ok=True)
        with self._pooling:
            self._writer.close()
            while self._idle:
                self._idle.pop().close()
            self.generation += 1
            self._is_shut = True
        try:
            self._uri = _address(self._path, self.label, read_only=self.is_read_only)
            self._writer = self._open_writer()
        except StoreIsUnusable as error:
            raise StoreIsAway(
                str(error), "or try again"
            ) from error  # it may pass: a disk that is mounted again, a folder that comes back
        self._files = _identities(self._path)
        self._is_shut = False
        log.warning(
            "%s was deleted or replaced while it was open; IC-Cache opens it again. What is in the new file counts; "
            "what only the old one held is lost",
            self.label,
        )

    def _require_usable(self) -> None:
        if self._closed:
            raise StoreIsUnusable(f"{self.label} is closed; open it again")
        if os.getpid() != self._pid:
            raise StoreIsUnusable(
                f"{self.label} was opened before this process was forked, which SQLite does not support; "
                "open the store in the new process (gunicorn: in post_fork, or without --preload)"
            )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = _text
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        with _explained(self.label):
            writer = self._connect()
            try:
                if self.is_read_only:
                    _check(writer, self.label, read_only=True)
                else:
                    _migrate(writer, self.label)
                    _choose_durability(writer, self.label)
                    if self._path:
                        _make_private(self._path)  # only after the check that the file is ours
            except BaseException:
                writer.close()
                raise
            return writer

    def _mend(self) -> None:
        """Mend damaged sequences, if the file can be read and written; else the next write says what is wrong."""
        if self.is_read_only:
            return
        with suppress(sqlite3.Error):
            self._writer.execute("BEGIN IMMEDIATE")
            mend_sequences(self._writer)
            self._writer.execute("COMMIT")
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")


def _text(data: bytes) -> str | bytes:
    """A stored text; its bytes if they are not UTF-8, so that damage raises nothing."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _address(path: Path, label: str, *, read_only: bool) -> str:
    """The URI of a file that is created if it is missing, or that is left as it is."""
    return _to_read(path.absolute(), label) if read_only else _prepare(path, label)


def _to_read(path: Path, label: str) -> str:
    """The URI of a file that nobody writes to here.

    To read a file with a log, SQLite needs the log's index, which it cannot create where it may not write. Without a
    log the file can be read as one that never changes.
    """
    if not path.is_file():
        raise StoreIsUnusable(f"{label} does not exist; a store is created only without ?mode=ro")
    _, log_file, index = _files(path)
    has_log = log_file.is_file() and log_file.stat().st_size > 0
    immutable = not has_log and not index.is_file() and not os.access(path.parent, os.W_OK)
    return f"file:{quote(str(path))}?mode=ro" + ("&immutable=1" if immutable else "")


def _prepare(path: Path, label: str) -> str:
    """The URI of the file, created with mode 0600 if missing. An existing file is not opened: that could drop locks."""
    path = path.absolute()
    if not path.parent.is_dir():
        raise StoreIsUnusable(f"{label}: the folder {path.parent} does not exist; create it, or use another path")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise StoreIsUnusable(
            f"{label} cannot be created ({error.strerror}); use a path in a folder that this user may write to"
        ) from error
    return f"file:{quote(str(path))}?mode=rw"


def _files(path: Path) -> tuple[Path, Path, Path]:
    """The database, its log and the log's index."""
    return path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _identities(path: Path | None) -> tuple[tuple[int, int] | None, ...]:
    return tuple(map(_identity, _files(path))) if path else ()


def _make_private(path: Path) -> None:
    for file in _files(path):
        try:
            if file.is_file() and file.stat().st_mode & 0o077:
                file.chmod(0o600)
        except OSError:  # another user's file, or deleted meanwhile: opening it will report that
            continue


def _check(connection: sqlite3.Connection, label: str, *, read_only: bool) -> int:
    """The version of the schema; refuses another program's database, and schemas that cannot be read or migrated."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    if tables and application != APPLICATION:
        raise StoreIsUnusable(f"{label} is the SQLite database of another program; use another path")
    if version > len(MIGRATIONS):
        raise StoreIsUnusable(
            f"{label} was written by a newer iccache (schema {version}; this one supports {len(MIGRATIONS)}); "
            "run: pip install -U iccache, or use another path"
        )
    if read_only and version < len(MIGRATIONS):
        raise StoreIsUnusable(
            f"{label} was written by an older iccache (schema {version}); open it once without ?mode=ro, which converts it"
        )
    return version


def _migrate(writer: sqlite3.Connection, label: str) -> None:
    writer.execute("BEGIN IMMEDIATE")
    version = _check(writer, label, read_only=False)
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            writer.execute(statement)
    writer.execute(f"PRAGMA application_id = {APPLICATION}")
    writer.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")  # also where it is so already: can the file be written?
    writer.execute("COMMIT")


def _choose_durability(writer: sqlite3.Connection, label: str) -> None:
    mode = writer.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode not in ("wal", "memory"):
        raise StoreIsUnusable(f"{label} cannot use WAL on its file system; put it on a local disk")
    writer.execute("PRAGMA synchronous = FULL")
    writer.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # creates the log, whose identity is noted


@contextmanager
def _explained(label: str) -> Iterator[None]:
    """Translate SQLite's errors on opening into `StoreIsUnusable`, except that the file is busy."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            problem = f"{label} is not a SQLite database; use another path, or move that file away"
        elif error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT:
            problem = (
                f"{label} is damaged ({error}); save what can be read into a new file with: "
                f"iccache doctor {label} --repair NEW.db"
            )
        elif error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:
            problem = (
                f"{label} cannot be written ({error}); make the file and its folder writable for this user, use "
                "another path, or add ?mode=ro to the URL, to read only"
            )
        else:
            problem = (
                f"{label} cannot be opened ({error}); check that the file and its folder are writable, "
                "and that the disk is neither full nor failing"
            )
        raise StoreIsUnusable(problem) from error
