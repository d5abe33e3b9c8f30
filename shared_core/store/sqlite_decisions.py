"""The decision log in SQLite: read, scanned, counted and trimmed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from shared_core.records import DecisionRecord
from shared_core.settings import Settings
from shared_core.store.codec import decode_decision
from shared_core.store.database import Database, listed
from shared_core.values import Clock

TRIMMED_AT_ONCE: Final = 1000  # records in one transaction of `trim`; other writers run in between


class DecisionTable:
    """The decision records of a database.

    Args:
        database: Holds them.
        settings: `decision_ttl` and `log_records` are used.
        clock: Seconds since the epoch.
        readable: Calls a decoder; None, counted, if the bytes cannot be read.
    """

    def __init__(
        self, database: Database, settings: Settings, clock: Clock, readable: Callable[..., DecisionRecord | None]
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._readable = readable

    def read(self, ids: Sequence[str]) -> Mapping[str, DecisionRecord]:
        """The records of these decisions, without unknown and expired ones."""
        oldest = self._oldest()
        found: list[DecisionRecord] = []
        for condition, chunk in listed(ids):
            sql = f"SELECT id, record FROM decisions WHERE created_at > ? AND {condition}"  # noqa: S608 - only marks
            found += self._decoded(self._database.read(sql, (oldest, *chunk)))
        return {record.id: record for record in found}

    def scan(self, scope: str, batch: int) -> Iterator[Sequence[DecisionRecord]]:
        """All records of a scope, the oldest first. Each batch is one read."""
        after = (self._oldest(), "\U0010ffff")  # what has just expired is left out, whatever its id
        while rows := self._database.read(
            "SELECT created_at, id, record FROM decisions WHERE scope = ? AND (created_at, id) > (?, ?) "
            "ORDER BY created_at, id LIMIT ?",
            (scope, *after, batch),
        ):
            yield self._decoded(row[1:] for row in rows)
            after = rows[-1][:2]

    def scopes(self) -> Sequence[tuple[str | bytes, int]]:
        """Each scope, and how many records it holds, expired ones included; a name that is no text comes as its bytes."""
        return self._database.read("SELECT scope, COUNT(*) FROM decisions GROUP BY scope ORDER BY scope")

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
        read = (self._readable(decode_decision, *row) for row in rows)
        return [record for record in read if record is not None]
