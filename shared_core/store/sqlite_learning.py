"""Checkpoints and leases in SQLite.

Numbers of a row that cannot be read count as 0. So a damaged one costs a checkpoint or a lease, and stops nobody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from shared_core.records import Checkpoint, Statistics
from shared_core.store.codec import (
    decode_checkpoint,
    decode_place,
    encode_checkpoint,
    encode_statistics,
    is_of_later_release,
)
from shared_core.store.database import Database
from shared_core.store.protocol import LONGEST_LEASE, Lease
from shared_core.store.sqlite_reading import Reader
from shared_core.store.sqlite_sequences import NOW

CONSUMED_PER_PUBLISH: Final = 1000  # oldest log entries that one publication checks for deletion


class LearningTables:
    """The checkpoint, its publication, and the leases of a database.

    Args:
        database: Holds them.
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

    def checkpoint(self) -> Checkpoint:
        """The newest checkpoint; an empty one if there is none, or none that can be read."""
        rows = self._reader.read("SELECT version, offset, head, arrays FROM checkpoint")
        return (self._decoded(rows[0]) if rows else None) or Checkpoint()

    def version(self) -> int:
        """The version of the newest checkpoint."""
        rows = self._reader.read("SELECT version FROM checkpoint")
        return decode_place(rows[0][0]) if rows else 0

    def set_aside(self) -> bool:
        """Replace an unreadable checkpoint by an empty one; in a table of its own if its pages are damaged."""
        return self._reader.unless_damaged(self._set_aside, self._set_table_aside)

    def _set_aside(self) -> bool:
        with self._database.writing() as connection:
            row = connection.execute("SELECT version, offset, head, arrays FROM checkpoint").fetchone()
            if row is None or is_of_later_release(row[2]) or self._decoded(row) is not None:
                return False
            _keep_damaged(connection)
            _replace(connection, Checkpoint(decode_place(row[0]) + 1))
            return True

    def _set_table_aside(self) -> bool:
        version = self.version()
        with self._database.writing() as connection:
            [made] = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'checkpoint'").fetchone()
            connection.execute(f"ALTER TABLE checkpoint RENAME TO damaged_checkpoint_{version}")
            connection.execute(made)
            _replace(connection, Checkpoint(version + 1))
            return True

    def publish(
        self,
        checkpoint: Checkpoint,
        expected: tuple[int, int],
        statistics: Mapping[tuple[str, str], Statistics],
        lease: Lease,
        oldest: float,
    ) -> bool:
        """See `Store.publish`; feedback from before `oldest` that was learned from is deleted."""
        updates = [(encode_statistics(learned), *example) for example, learned in statistics.items()]
        with self._changing() as connection:
            place = _place(*(connection.execute("SELECT version, offset FROM checkpoint").fetchone() or (0, 0)))
            newest = connection.execute("SELECT token FROM leases WHERE name = ?", (lease.name,)).fetchone()
            if place != expected or newest is None or decode_place(newest[0]) != lease.token:
                return False
            if not any(place):
                _keep_damaged(connection)
            _replace(connection, checkpoint)
            connection.executemany("UPDATE examples SET statistics = ? WHERE scope = ? AND id = ?", updates)
            connection.executemany(
                "INSERT INTO changes (kind, scope, id) "
                "SELECT 'statistics', scope, id FROM examples WHERE scope = ? AND id = ?",
                list(statistics),
            )
            connection.execute(
                "DELETE FROM feedback WHERE offset <= ? AND (at <= ? OR typeof(at) NOT IN ('real', 'integer')) "
                "AND offset IN (SELECT offset FROM feedback ORDER BY offset LIMIT ?)",
                (checkpoint.offset, oldest, CONSUMED_PER_PUBLISH),
            )
            return True

    def acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        """A renewal keeps the token; an expired lease gets a new one."""
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
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE leases SET expires_at = 0 WHERE name = ? AND owner = ? AND token = ?",
                (lease.name, lease.owner, lease.token),
            )

    def _decoded(self, row: tuple[Any, ...]) -> Checkpoint | None:
        version, offset, head, arrays = row
        return self._reader.decoded(decode_checkpoint, *_place(version, offset), head, arrays)


def _place(version: object, offset: object) -> tuple[int, int]:
    """The version and the offset of a checkpoint; both are 0 if its version cannot be read."""
    number = decode_place(version)
    return (number, decode_place(offset)) if number else (0, 0)


def _keep_damaged(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM damaged_checkpoint")
    connection.execute("INSERT INTO damaged_checkpoint SELECT version, offset, head, arrays FROM checkpoint")


def _replace(connection: sqlite3.Connection, checkpoint: Checkpoint) -> None:
    encoded = encode_checkpoint(checkpoint)
    connection.execute("DELETE FROM checkpoint")
    connection.execute(
        "INSERT INTO checkpoint VALUES (1, ?, ?, ?, ?)",
        (checkpoint.version, checkpoint.offset, encoded.head, encoded.arrays),
    )
