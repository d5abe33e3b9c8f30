"""The embedded store: one SQLite file, shared by the threads and processes of one machine.

Each row holds encoded values, and the few columns that are searched or compared. So an unreadable value can still
expire and be deleted. Only a write with the same id replaces it.
"""

# ruff: noqa: S608 — only constants of this file are put into SQL text; values are always parameters
from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from typing_extensions import override

from shared_core.errors import FeedWasTrimmed
from shared_core.records import (
    Checkpoint,
    DecisionRecord,
    ExactAnswer,
    Example,
    Feedback,
    Statistics,
    Texts,
    WaitingAnswer,
)
from shared_core.settings import Settings
from shared_core.store import sqlite_writes
from shared_core.store.codec import (
    decode_change,
    decode_exact,
    decode_feedback,
    decode_row,
    decode_statistics,
    decode_texts,
)
from shared_core.store.database import Database, listed
from shared_core.store.fields import Unreadable
from shared_core.store.protocol import Change, Lease, Rating, Row, Store, Write
from shared_core.store.sqlite_decisions import DecisionTable
from shared_core.store.sqlite_learning import LearningTables
from shared_core.store.sqlite_waiting import WaitingTable
from shared_core.values import Clock

P = ParamSpec("P")
T = TypeVar("T")

FEED_LENGTH: Final = 100_000  # changes; a replica that misses more than that reloads faster than it catches up
EXPIRED_PER_WRITE: Final = 64  # expired rows that one write deletes: more than it adds, few enough to be fast
PUT_BATCH: Final = 256  # examples in one transaction of `put`; other writers run in between
_CLAIMED: Final = "SELECT value FROM claims WHERE name = ?"

TEXTS_PER_ROW: Final = 50  # the limit of examples in one prompt


class SqliteStore(Store):
    """A `Store` in one SQLite file, or in this process's memory.

    Args:
        path: The file, created (mode 0600) if it is new; None for memory.
        settings: The times to live and the limits of `log_records`, `wait_answers` and `wait_mb` are used.
        clock: Seconds since the epoch, to decide what has expired.
        feed_length: Number of changes that the feed keeps, at least 1.

    Raises:
        StoreIsUnusable: The file cannot be created, opened or read.
    """

    def __init__(
        self, path: Path | None, *, settings: Settings, clock: Clock = time.time, feed_length: int = FEED_LENGTH
    ) -> None:
        self._database = Database(path)
        self._exact_ttl = settings.exact_ttl
        self._decision_ttl = settings.decision_ttl
        self._wait_ttl = settings.wait_ttl
        self._decisions = DecisionTable(self._database, settings, clock, self._readable)
        self._waiting = WaitingTable(self._database, settings, clock, self._readable)
        self._learning = LearningTables(self._database, self._changing, self._readable)
        self._clock = clock
        self._feed_length = feed_length
        self._generation = 0
        self._unreadable = 0
        self._counting = threading.Lock()

    @property
    @override
    def label(self) -> str:
        """``sqlite:///path`` or ``memory://``."""
        return self._database.label

    @property
    @override
    def unreadable(self) -> int:
        return self._unreadable

    @override
    def claim(self, name: str, value: str) -> str:
        claimed = self._database.read(_CLAIMED, (name,))  # each batch of examples asks; a transaction costs ten reads
        if not (claimed and isinstance(claimed[0][0], str)):
            with self._database.writing() as connection:
                if not self._names(connection.execute(_CLAIMED, (name,)).fetchall()):
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
        return self._names(self._database.read("SELECT DISTINCT scope FROM examples ORDER BY scope"))

    @override
    def count(self, scope: str) -> int:
        return int(self._database.read("SELECT COUNT(*) FROM examples WHERE scope = ?", (scope,))[0][0])

    @override
    def oldest(self, scope: str, n: int) -> Sequence[str]:
        return self._names(
            self._database.read(
                "SELECT id FROM examples WHERE scope = ? ORDER BY created_at, id LIMIT ?", (scope, max(0, n))
            )
        )

    @override
    def texts(self, scope: str, ids: Sequence[str]) -> Mapping[str, Texts]:
        """All texts come in one row, because sqlite3 releases the GIL at every row that it fetches."""
        found: dict[str, Texts] = {}
        for start in range(0, len(ids), TEXTS_PER_ROW):
            chunk = ids[start : start + TEXTS_PER_ROW]
            each = (f"(SELECT texts FROM examples WHERE scope = ?1 AND id = ?{i + 2})" for i in range(len(chunk)))
            [row] = self._database.read(f"SELECT {', '.join(each)}", (scope, *chunk))
            for example_id, data in zip(chunk, row, strict=True):
                texts = None if data is None else self._readable(decode_texts, scope, example_id, data)
                if texts is not None:
                    found[example_id] = texts
        return found

    @override
    def rows(self, scope: str, ids: Sequence[str]) -> Sequence[Row]:
        rows = self._of_scope("id, entry, statistics, vector", scope, ids)
        read = (self._readable(decode_row, scope, *parts) for parts in rows)
        return [row for row in read if row is not None]

    @override
    def statistics(self, scope: str, ids: Sequence[str]) -> Mapping[str, Statistics]:
        rows = self._of_scope("id, statistics", scope, ids)
        read = ((example_id, self._readable(decode_statistics, data)) for example_id, data in rows)
        return {example_id: learned for example_id, learned in read if learned is not None}

    @override
    def scan(self, scope: str, batch: int = 1024) -> Iterator[Sequence[Row]]:
        """Each batch is one read, so a slow consumer does not hold a transaction open."""
        after = (-math.inf, "")
        while rows := self._database.read(
            "SELECT created_at, id, entry, statistics, vector FROM examples "
            "WHERE scope = ? AND (created_at, id) > (?, ?) ORDER BY created_at, id LIMIT ?",
            (scope, *after, batch),
        ):
            read = (self._readable(decode_row, scope, *parts) for _, *parts in rows)
            yield [row for row in read if row is not None]
            after = rows[-1][:2]

    @override
    def position(self) -> int:
        return int(self._database.read("SELECT COALESCE(MAX(seq), 0) FROM changes")[0][0])

    @override
    def changes(self, after: int, limit: int = 1000) -> Sequence[Change]:
        """Sequence numbers have no gaps, so a gap after `after` means that the feed was trimmed.

        A position beyond the feed's end counts as trimmed, too, and so does a file that was restored or replaced.
        """
        self._database.follow()
        if self._database.generation != self._generation:
            self._generation = self._database.generation
            raise FeedWasTrimmed(f"{self.label} was deleted or replaced; reload the scope")
        # read as blobs, because a text that is not UTF-8 would raise
        sql = (
            "SELECT seq, CAST(kind AS BLOB), CAST(scope AS BLOB), CAST(id AS BLOB) FROM changes "
            "WHERE seq > ? ORDER BY seq LIMIT ?"
        )
        while rows := self._database.read(sql, (after, limit)):
            if rows[0][0] != after + 1:
                break
            read = (self._readable(decode_change, *row) for row in rows)
            if found := [change for change in read if change is not None]:
                return found
            after = rows[-1][0]
        if rows or after > self.position():
            raise FeedWasTrimmed(f"{self.label} no longer holds every change after {after}; reload the scope")
        return []

    # exact tier -----------------------------------------------------------------------------------------------

    @override
    def exact(self, key: str) -> ExactAnswer | None:
        oldest = self._clock() - self._exact_ttl
        rows = self._database.read("SELECT answer FROM exact WHERE key = ? AND created_at > ?", (key, oldest))
        return self._readable(decode_exact, key, rows[0][0]) if rows else None

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
        """Only an empty result means the end of the log."""
        sql = "SELECT offset, judgement FROM feedback WHERE offset > ? ORDER BY offset LIMIT ?"
        while rows := self._database.read(sql, (after, limit)):
            read = ((offset, self._readable(decode_feedback, data)) for offset, data in rows)
            if found := [(offset, feedback) for offset, feedback in read if feedback is not None]:
                return found
            after = rows[-1][0]
        return []

    @override
    def ratings(self, decision_ids: Sequence[str]) -> Mapping[str, Sequence[Rating]]:
        found: dict[str, list[Rating]] = {}
        for condition, chunk in listed(decision_ids, "decision_id"):
            rows = self._database.read(
                "SELECT judgement, offset <= COALESCE((SELECT offset FROM checkpoint), 0) FROM feedback "
                f"WHERE {condition} ORDER BY feedback.offset",
                chunk,
            )
            for data, is_learned in rows:
                feedback = self._readable(decode_feedback, data)
                if feedback is not None and feedback.decision_id in chunk:
                    found.setdefault(feedback.decision_id, []).append(Rating(feedback, bool(is_learned)))
        return found

    @override
    def waiting(self, decision_ids: Sequence[str]) -> Mapping[str, WaitingAnswer]:
        return self._waiting.read(decision_ids)

    # learning -------------------------------------------------------------------------------------------------

    @override
    def checkpoint(self) -> Checkpoint:
        return self._learning.checkpoint()

    @override
    def checkpoint_version(self) -> int:
        return self._learning.version()

    @override
    def set_checkpoint_aside(self) -> bool:
        return self._learning.set_aside()

    @override
    def publish(
        self,
        checkpoint: Checkpoint,
        expected: tuple[int, int],
        statistics: Mapping[tuple[str, str], Statistics],
        lease: Lease,
    ) -> bool:
        """Feedback that was learned from and whose decision has expired is deleted from the log."""
        oldest = self._clock() - self._decision_ttl
        return self._learning.publish(checkpoint, expected, statistics, lease, oldest)

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
            connection.execute(
                "DELETE FROM changes WHERE seq <= (SELECT MAX(seq) FROM changes) - ?", (self._feed_length,)
            )
            now = self._clock()
            ttls = (("exact", self._exact_ttl), ("decisions", self._decision_ttl), ("waiting", self._wait_ttl))
            for table, ttl in ttls:
                connection.execute(
                    f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE created_at <= ? LIMIT ?)",
                    (now - ttl, max(EXPIRED_PER_WRITE, 2 * added)),
                )

    def _of_scope(self, columns: str, scope: str, ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for condition, chunk in listed(ids):
            yield from self._database.read(
                f"SELECT {columns} FROM examples WHERE scope = ? AND {condition}", (scope, *chunk)
            )

    def _names(self, rows: Sequence[tuple[object, ...]]) -> list[str]:
        """The names in the first column, without those that are none, which are counted."""
        names = [name for name, *_ in rows if isinstance(name, str)]
        with self._counting:
            self._unreadable += len(rows) - len(names)
        return names

    def _readable(self, decode: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return decode(*args, **kwargs)
        except Unreadable:
            with self._counting:
                self._unreadable += 1
            return None
