"""The embedded store: one SQLite file, shared by the threads and processes of one machine.

Each row holds encoded values, and the few columns that are searched or compared. So an unreadable value can still
expire and be deleted. Only a write with the same id replaces it.
"""

# ruff: noqa: S608 — only constants of this file are put into SQL text; values are always parameters
from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from typing_extensions import override

from shared_core.records import (
    Checkpoint,
    DecisionRecord,
    ExactAnswer,
    Example,
    Feedback,
    LearnRound,
    Statistics,
    Texts,
    WaitingAnswer,
)
from shared_core.settings import Settings
from shared_core.store import sqlite_writes
from shared_core.store.codec import decode_exact
from shared_core.store.database import Database, listed
from shared_core.store.protocol import Change, Lease, Progress, Publication, Rating, Row, Store, Write
from shared_core.store.sqlite_decisions import DecisionTable
from shared_core.store.sqlite_examples import ExampleTable
from shared_core.store.sqlite_learning import LearningTables
from shared_core.store.sqlite_log import LogTables
from shared_core.store.sqlite_reading import Reader
from shared_core.store.sqlite_waiting import WaitingTable
from shared_core.values import Clock

FEED_LENGTH: Final = 100_000  # changes; a replica that misses more than that reloads faster than it catches up
EXPIRED_PER_WRITE: Final = 64  # expired rows that one write deletes: more than it adds, few enough to be fast
PUT_BATCH: Final = 256  # examples in one transaction of `put`; other writers run in between
_CLAIMED: Final = "SELECT value FROM claims WHERE name = ?"


class SqliteStore(Store):
    """A `Store` in one SQLite file, or in this process's memory.

    Args:
        path: The file, created (mode 0600) if it is new; None for memory.
        settings: The times to live and the limits of `log_records`, `wait_answers` and `wait_mb` are used.
        clock: Seconds since the epoch, to decide what has expired.
        feed_length: Number of changes that the feed keeps, at least 1.
        read_only: True opens an existing file for reading; what writes raises `StoreIsUnusable`.

    Raises:
        StoreIsUnusable: The file cannot be created, opened or read.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        settings: Settings,
        clock: Clock = time.time,
        feed_length: int = FEED_LENGTH,
        read_only: bool = False,
    ) -> None:
        self._database = Database(path, read_only=read_only)
        self._exact_ttl = settings.exact_ttl
        self._decision_ttl = settings.decision_ttl
        self._wait_ttl = settings.wait_ttl
        self._reader = Reader(self._database)
        self._examples = ExampleTable(self._reader)
        self._log = LogTables(self._database, self._reader)
        self._decisions = DecisionTable(self._database, self._reader, settings, clock)
        self._waiting = WaitingTable(self._database, self._reader, settings, clock)
        self._learning = LearningTables(self._database, self._reader, self._changing)
        self._clock = clock
        self._feed_length = feed_length

    @property
    @override
    def label(self) -> str:
        """``sqlite:///path`` or ``memory://``."""
        return self._database.label

    @property
    @override
    def is_read_only(self) -> bool:
        return self._database.is_read_only

    @property
    @override
    def unreadable(self) -> int:
        return self._reader.unreadable

    @override
    def claim(self, name: str, value: str) -> str:
        claimed = self._reader.read(_CLAIMED, (name,))  # each batch of examples asks; a transaction costs ten reads
        if claimed is None:  # on a damaged page
            return value
        if self.is_read_only:
            return next(iter(self._reader.names(claimed)), value)
        if not (claimed and isinstance(claimed[0][0], str)):
            with self._database.writing() as connection:
                if not self._reader.names(connection.execute(_CLAIMED, (name,)).fetchall()):
                    connection.execute("DELETE FROM claims WHERE name = ?", (name,))
                connection.execute("INSERT INTO claims VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))
                claimed = connection.execute(_CLAIMED, (name,)).fetchall()
        return str(claimed[0][0])

    @override
    def write(self, batch: Sequence[Write]) -> Sequence[bool]:
        with self._changing(len(batch)) as connection:
            stored = [sqlite_writes.apply(connection, self._waiting, write) for write in batch]
            self._waiting.keep_within_limits(connection, {w.waiting.entry.scope for w in batch if w.waiting})
            return stored

    # examples -------------------------------------------------------------------------------------------------

    @override
    def put(self, examples: Sequence[Example]) -> None:
        for start in range(0, len(examples), PUT_BATCH):
            self.write([Write(example=example) for example in examples[start : start + PUT_BATCH]])

    @override
    def delete(self, scope: str, ids: Sequence[str]) -> int:
        with self._changing() as connection:
            removed = 0
            for condition, chunk in listed(ids):
                chosen, parameters = f"scope = ? AND {condition}", (scope, *chunk)
                connection.execute(
                    f"DELETE FROM exact WHERE scope = ? AND key IN (SELECT exact_key FROM examples WHERE {chosen})",
                    (scope, *parameters),
                )
                removed += sqlite_writes.remove(connection, chosen, parameters)
            return removed

    @override
    def clear(self, scope: str | None = None) -> int:
        condition, parameters = ("1", ()) if scope is None else ("scope = ?", (scope,))
        with self._changing() as connection:
            for table in ("exact", "decisions", "waiting"):
                connection.execute(f"DELETE FROM {table} WHERE {condition}", parameters)
            if scope is None:
                connection.execute("DELETE FROM claims")
            return sqlite_writes.remove(connection, condition, parameters)

    @override
    def scopes(self) -> Sequence[str]:
        return self._examples.scopes()

    @override
    def count(self, scope: str) -> int:
        return self._examples.count(scope)

    @override
    def oldest(self, scope: str, n: int) -> Sequence[str]:
        return self._examples.oldest(scope, n)

    @override
    def texts(self, scope: str, ids: Sequence[str]) -> Mapping[str, Texts]:
        return self._examples.texts(scope, ids)

    @override
    def rows(self, scope: str, ids: Sequence[str]) -> Sequence[Row]:
        return self._examples.rows(scope, ids)

    @override
    def statistics(self, scope: str, ids: Sequence[str]) -> Mapping[str, Statistics]:
        return self._examples.statistics(scope, ids)

    @override
    def scan(self, scope: str, batch: int = 1024) -> Iterator[Sequence[Row]]:
        return self._examples.scan(scope, batch)

    @override
    def position(self) -> int:
        return self._log.position()

    @override
    def changes(self, after: int, limit: int = 1000) -> Sequence[Change]:
        return self._log.changes(after, limit)

    # exact tier -----------------------------------------------------------------------------------------------

    @override
    def exact(self, key: str) -> ExactAnswer | None:
        oldest = self._clock() - self._exact_ttl
        rows = self._reader.read("SELECT answer FROM exact WHERE key = ? AND created_at > ?", (key, oldest))
        if rows is None:
            self._reader.lost()
        return self._reader.decoded(decode_exact, key, rows[0][0]) if rows else None

    @override
    def forget_exact(self, key: str) -> bool:
        with self._database.writing() as connection:
            return connection.execute("DELETE FROM exact WHERE key = ?", (key,)).rowcount > 0

    # decisions and feedback -----------------------------------------------------------------------------------

    @override
    def decisions(self, ids: Sequence[str]) -> Mapping[str, DecisionRecord]:
        return self._decisions.read(ids)

    @override
    def scan_decisions(self, scope: str, batch: int = 1024) -> Iterator[Sequence[DecisionRecord]]:
        return self._decisions.scan(scope, batch)

    @override
    def decision_counts(self) -> Mapping[str, int]:
        return {scope: held for scope, held in self._decisions.scopes() if isinstance(scope, str)}

    @override
    def trim_decisions(self) -> int:
        return self._decisions.trim()

    @override
    def feedback(self, after: int, limit: int = 1000) -> Sequence[tuple[int, Feedback]]:
        return self._log.feedback(after, limit)

    @override
    def ratings(self, decision_ids: Sequence[str]) -> Mapping[str, Sequence[Rating]]:
        return self._log.ratings(decision_ids)

    @override
    def waiting(self, decision_ids: Sequence[str]) -> Mapping[str, WaitingAnswer]:
        return self._waiting.read(decision_ids)

    # learning -------------------------------------------------------------------------------------------------

    @override
    def progress(self) -> Progress:
        return self._learning.progress()

    @override
    def checkpoint(self, part: str) -> Checkpoint | None:
        return self._learning.checkpoint(part)

    @override
    def publish(self, publication: Publication, lease: Lease) -> bool:
        return self._learning.publish(publication, lease, self._clock() - self._decision_ttl)

    @override
    def rounds(self) -> Sequence[LearnRound]:
        return self._learning.rounds()

    @override
    def acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        return self._learning.acquire(name, owner, ttl)

    @override
    def release(self, lease: Lease) -> None:
        self._learning.release(lease)

    @override
    def close(self) -> None:
        self._database.close()

    # ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self, added: int = 1) -> Iterator[sqlite3.Connection]:
        """A transaction that trims the feed and deletes a few expired rows at its end: more than the `added` ones."""
        with self._database.writing() as connection:
            yield connection
            self._reader.unless_damaged(lambda: self._tidy(connection, added), lambda: None)

    def _tidy(self, connection: sqlite3.Connection, added: int) -> None:
        connection.execute("DELETE FROM changes WHERE seq <= (SELECT MAX(seq) FROM changes) - ?", (self._feed_length,))
        now = self._clock()
        ttls = (("exact", self._exact_ttl), ("decisions", self._decision_ttl), ("waiting", self._wait_ttl))
        for table, ttl in ttls:
            connection.execute(
                f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE created_at <= ? LIMIT ?)",
                (now - ttl, max(EXPIRED_PER_WRITE, 2 * added)),
            )
