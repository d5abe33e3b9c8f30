"""The decision log in SQLite: read, scanned, counted and trimmed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from shared_core.records import DecisionRecord
from shared_core.settings import Settings
from shared_core.store.codec import decode_decision
from shared_core.store.database import Database
from shared_core.store.sqlite_reading import Reader, is_sound
from shared_core.values import Clock

TRIMMED_AT_ONCE: Final = 1000  # records in one transaction of `trim`; other writers run in between


class DecisionTable:
    """The decision records of a database.

    Args:
        database: Holds them.
        reader: Reads around what is damaged.
        settings: `decision_ttl` and `log_records` are used.
        clock: Seconds since the epoch.
    """

    def __init__(self, database: Database, reader: Reader, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._reader = reader
        self._settings = settings
        self._clock = clock

    def read(self, ids: Sequence[str]) -> Mapping[str, DecisionRecord]:
        """The records of these decisions, without unknown and expired ones."""
        rows = self._reader.listed("SELECT id, record FROM decisions WHERE created_at > ? AND", (self._oldest(),), ids)
        return {record.id: record for record in self._decoded(rows)}

    def scan(self, scope: str, batch: int) -> Iterator[Sequence[DecisionRecord]]:
        """All records of a scope, the oldest first. Each batch is one read.

        From the first damaged page or id on, records are read by their row ids instead, in no order.
        """
        page = (
            "SELECT created_at, id, record FROM decisions WHERE scope = ? AND (created_at, id) > (?, ?) "
            "ORDER BY created_at, id LIMIT ?"
        )
        after: tuple[Any, ...] = (self._oldest(), "\U0010ffff")  # what has just expired is left out, whatever its id
        while is_sound(rows := self._reader.read(page, (scope, *after, batch))):
            if not rows:
                return
            yield self._decoded(row[1:] for row in rows)
            after = rows[-1][:2]
        condition = "scope = ? AND (created_at, id) > (?, ?)"
        for rest in self._reader.around("id, record", "decisions", condition, (scope, *after)):
            yield self._decoded(rest)

    def scopes(self) -> Sequence[tuple[str | bytes, int]]:
        """Each scope, and how many records it holds, expired ones included; a name that is no text comes as its bytes."""
        rows = self._reader.read("SELECT scope, COUNT(*) FROM decisions GROUP BY scope ORDER BY scope")
        if rows is not None:
            return rows
        left = self._reader.around("scope", "decisions", "1", ())
        return list(Counter(scope for some in left for (scope,) in some).items())

    def trim(self) -> int:
        """Delete the oldest records of each scope beyond `log_records`; returns how many."""
        return sum(self._remove(scope, held - self._settings.log_records) for scope, held in self.scopes())

    def _remove(self, scope: str | bytes, surplus: int) -> int:
        removed = 0
        while removed < surplus:
            with self._database.writing() as connection:
                done = connection.execute(
                    "DELETE FROM decisions WHERE rowid IN "
                    "(SELECT rowid FROM decisions WHERE scope = ? ORDER BY created_at, id LIMIT ?)",
                    (scope, min(surplus - removed, TRIMMED_AT_ONCE)),
                )
            if not done.rowcount:  # expired or cleared meanwhile
                break
            removed += done.rowcount
        return removed

    def _oldest(self) -> float:
        """The time up to which decisions have expired."""
        return self._clock() - self._settings.decision_ttl

    def _decoded(self, rows: Iterable[tuple[Any, ...]]) -> list[DecisionRecord]:
        read = (self._reader.decoded(decode_decision, *row) for row in rows)
        return [record for record in read if record is not None]
