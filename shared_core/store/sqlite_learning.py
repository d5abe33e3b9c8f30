"""What is learned, in SQLite: the progress of learning, its parts, the reports of its rounds, and leases.

A number that cannot be read counts as 0.
A large part is written chunk by chunk, each in a transaction of its own, so the file is never locked for long.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

from shared_core.records import Checkpoint, LearnRound
from shared_core.store.codec import decode_place, encode_statistics
from shared_core.store.database import Database
from shared_core.store.parts import (
    Staged,
    decode_round,
    encode_round,
    key_of,
    newest,
    progress_of,
    stage,
)
from shared_core.store.protocol import LONGEST_LEASE, ROUNDS_KEPT, Lease, Progress, Publication
from shared_core.store.sqlite_reading import Reader
from shared_core.store.sqlite_sequences import NOW

CONSUMED_PER_PUBLISH: Final = 1000  # oldest log entries that one publication checks for deletion
SWEPT_PER_PUBLISH: Final = 64  # chunks of replaced parts that one publication deletes: 4 MiB, a few milliseconds
_TABLES: Final = ("progress", "parts", "chunks", "rounds")
_PROGRESS: Final = """
SELECT 'progress', NULL, version, offset FROM progress
UNION ALL SELECT 'part', CAST(name AS BLOB), head, NULL FROM parts
"""


class LearningTables:
    """What a database holds of the learner.

    Args:
        database: Holds it.
        reader: Reads around what is damaged.
        changing: Begins a transaction that adds to the change feed.
    """

    def __init__(
        self,
        database: Database,
        reader: Reader,
        changing: Callable[[], AbstractContextManager[sqlite3.Connection]],
    ) -> None:
        self._database = database
        self._reader = reader
        self._changing = changing

    def progress(self) -> Progress:
        """See `Store.progress`."""
        rows = self._reader.read(_PROGRESS)
        if rows is None:  # each table by itself
            rows = [row for select in _PROGRESS.split("UNION ALL") for row in self._reader.read(select) or ()]
        return _progress(rows)

    def checkpoint(self, part: str) -> Checkpoint | None:
        """See `Store.checkpoint`."""
        return self._reader.decoded(newest, partial(self._head, part), self._chunk)

    def rounds(self) -> Sequence[LearnRound]:
        """See `Store.rounds`."""
        read = (
            self._reader.decoded(decode_round, data) for (data,) in self._reader.read("SELECT report FROM rounds") or ()
        )
        return sorted((report for report in read if report), key=lambda report: -report.version)[:ROUNDS_KEPT]

    def publish(self, publication: Publication, lease: Lease, oldest: float) -> bool:
        """See `Store.publish`; of the feedback, what was given until `oldest` has expired."""
        return self._reader.unless_damaged(lambda: self._publish(publication, lease, oldest), self._renew)

    def _renew(self) -> bool:
        """If their pages are damaged, begin new tables, to which the next round publishes; nothing is published now."""
        kept = self.progress()
        with self._database.writing() as connection:
            for table in _TABLES:
                if not _is_whole(connection, table):
                    [made] = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
                    connection.execute(f"ALTER TABLE {table} RENAME TO damaged_{table}_{secrets.token_hex(4)}")
                    connection.execute(made)
            connection.execute("INSERT OR IGNORE INTO progress VALUES (1, ?, ?)", (kept.version, kept.offset))
        return False

    def _publish(self, publication: Publication, lease: Lease, oldest: float) -> bool:
        staged = {
            name: stage(checkpoint, publication.version, self._write_chunk)
            for name, checkpoint in publication.parts.items()
        }
        updates = [(encode_statistics(learned), *example) for example, learned in publication.statistics.items()]
        report = None if publication.report is None else encode_round(publication.report)
        with self._changing() as connection:
            if not _may_publish(connection, publication, lease):
                return False
            connection.execute(
                "INSERT OR REPLACE INTO progress VALUES (1, ?, ?)", (publication.version, publication.offset)
            )
            if report is not None:
                place = publication.version % ROUNDS_KEPT
                connection.execute("INSERT OR REPLACE INTO rounds VALUES (?, ?)", (place, report))
            _replace(connection, staged)
            _sweep(connection)
            connection.executemany("UPDATE examples SET statistics = ? WHERE scope = ? AND id = ?", updates)
            connection.executemany(
                "INSERT INTO changes (kind, scope, id) "
                "SELECT 'statistics', scope, id FROM examples WHERE scope = ? AND id = ?",
                list(publication.statistics),
            )
            connection.execute(
                "DELETE FROM feedback WHERE offset <= ? AND (at <= ? OR typeof(at) NOT IN ('real', 'integer')) "
                "AND offset IN (SELECT offset FROM feedback ORDER BY offset LIMIT ?)",
                (publication.offset, oldest, CONSUMED_PER_PUBLISH),
            )
            return True

    def acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        """A renewal keeps the token; an expired lease gets a new one. None, too, if the leases are damaged."""
        return self._reader.unless_damaged(lambda: self._acquire(name, owner, ttl), lambda: None)

    def _acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        with self._database.writing() as connection:
            [now] = connection.execute(f"SELECT {NOW}").fetchone()
            row = connection.execute("SELECT owner, token, expires_at FROM leases WHERE name = ?", (name,)).fetchone()
            holder, stored, expires_at = row or ("", 0, 0.0)
            token = decode_place(stored)
            held = token > 0 and isinstance(expires_at, float) and now < expires_at <= now + LONGEST_LEASE
            if held and holder != owner:
                return None
            if not held:  # a token that was lost is followed by one that is larger than any before
                token = token + 1 if token or row is None else int(now * 1e6)
            lease = Lease(name, owner, token, now + min(ttl, LONGEST_LEASE))
            connection.execute(
                "INSERT OR REPLACE INTO leases (name, owner, token, expires_at) VALUES (?, ?, ?, ?)",
                (lease.name, lease.owner, lease.token, lease.expires_at),
            )
            return lease

    def release(self, lease: Lease) -> None:
        """End a lease, unless it was lost."""
        self._reader.unless_damaged(lambda: self._release(lease), lambda: None)

    def _release(self, lease: Lease) -> None:
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE leases SET expires_at = 0 WHERE name = ? AND owner = ? AND token = ?",
                (lease.name, lease.owner, lease.token),
            )

    def _head(self, part: str) -> object:
        rows = self._reader.read("SELECT head FROM parts WHERE name = ?", (part,))
        return rows[0][0] if rows else None

    def _chunk(self, key: str, number: int) -> object:
        rows = self._reader.read("SELECT data FROM chunks WHERE key = ? AND number = ?", (key, number))
        return rows[0][0] if rows else None

    def _write_chunk(self, key: str, number: int, data: bytes) -> None:
        with self._database.writing() as connection:
            connection.execute("INSERT INTO chunks VALUES (?, ?, ?)", (key, number, data))


def _is_whole(connection: sqlite3.Connection, table: str) -> bool:
    try:
        return bool(connection.execute(f"PRAGMA quick_check({table})").fetchall() == [("ok",)])
    except sqlite3.DatabaseError:
        return False


def _progress(rows: Sequence[tuple[Any, ...]]) -> Progress:
    version, offset = next((row[2:] for row in rows if row[0] == "progress"), (0, 0))
    parts = {row[1].decode("utf-8", "replace"): progress_of(row[2]) for row in rows if row[0] == "part"}
    return Progress(decode_place(version), decode_place(offset), parts)


def _may_publish(connection: sqlite3.Connection, publication: Publication, lease: Lease) -> bool:
    before = _progress(connection.execute(_PROGRESS).fetchall())
    token = connection.execute("SELECT token FROM leases WHERE name = ?", (lease.name,)).fetchone()
    is_newest = token is not None and decode_place(token[0]) == lease.token
    return is_newest and (before.version, before.offset) == publication.expected


def _replace(connection: sqlite3.Connection, staged: dict[str, Staged]) -> None:
    for name, part in staged.items():
        connection.execute("INSERT INTO chunks VALUES (?, ?, ?)", (part.key, part.number, part.last))
        connection.execute("INSERT OR REPLACE INTO parts VALUES (?, ?)", (name, part.head))


def _sweep(connection: sqlite3.Connection) -> None:
    """Delete some of the chunks that belong to no part: those of replaced parts and of learners that were killed.

    Nobody else's are among them that will still be published: the newest lease is this one's.
    """
    keys = [key_of(head) for (head,) in connection.execute("SELECT head FROM parts")]
    among = ", ".join("?" * len(keys))
    connection.execute(
        f"DELETE FROM chunks WHERE rowid IN (SELECT rowid FROM chunks WHERE key NOT IN ({among}) LIMIT ?)",  # noqa: S608 - only marks
        (*keys, SWEPT_PER_PUBLISH),
    )
