"""Answers that wait for feedback, in SQLite. Triggers keep the totals of each scope."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from shared_core.records import WaitingAnswer
from shared_core.settings import Settings
from shared_core.store.codec import UNLINKED, admitted, decode_place, decode_waiting, encode_waiting
from shared_core.store.database import Database
from shared_core.store.protocol import Admission
from shared_core.store.sqlite_reading import Reader
from shared_core.values import Clock

MB: Final = 1_000_000
DROPPED_PER_WRITE: Final = 1000  # of a scope, where the limits were lowered: few enough to be fast


class WaitingTable:
    """The waiting answers of a database. What takes a connection is a part of its transaction.

    Args:
        database: Holds them.
        reader: Reads around what is damaged.
        settings: `wait_ttl`, `wait_answers` and `wait_mb` are used.
        clock: Seconds since the epoch.
    """

    def __init__(self, database: Database, reader: Reader, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._reader = reader
        self._ttl = settings.wait_ttl
        self._answers = settings.wait_answers
        self._bytes = settings.wait_mb * MB
        self._clock = clock

    def read(self, decision_ids: Sequence[str]) -> Mapping[str, WaitingAnswer]:
        """The answers to these decisions that wait, without expired ones."""
        select = "SELECT id, CAST(scope AS BLOB), answer FROM waiting WHERE created_at > ? AND"
        rows = self._reader.listed(select, (self._clock() - self._ttl,), decision_ids)
        found = [self._reader.decoded(decode_waiting, *row) for row in rows]
        return {answer.decision_id: answer for answer in found if answer is not None}

    def put(self, connection: sqlite3.Connection, answer: WaitingAnswer) -> None:
        """Let an answer wait, if it is not larger than all may be."""
        encoded, entry = encode_waiting(answer), answer.entry
        connection.execute("DELETE FROM waiting WHERE id = ?", (answer.decision_id,))
        if len(encoded) <= self._bytes:
            connection.execute(
                "INSERT INTO waiting (id, scope, created_at, size, answer) VALUES (?, ?, ?, ?, ?)",
                (answer.decision_id, entry.scope, entry.created_at, len(encoded), encoded),
            )

    def keep_within_limits(self, connection: sqlite3.Connection, scopes: Iterable[str]) -> None:
        """Delete the oldest answers of each scope beyond the limits."""
        for scope in scopes:
            answers, size = self._totals(connection, scope)
            if answers <= self._answers and size <= self._bytes:
                continue
            leaving = []
            for row, bytes_ in connection.execute(
                "SELECT rowid, size FROM waiting WHERE scope = ? ORDER BY created_at, id LIMIT ?",
                (scope, DROPPED_PER_WRITE),
            ).fetchall():
                if answers <= self._answers and size <= self._bytes:
                    break
                leaving.append((row,))
                answers, size = answers - 1, size - decode_place(bytes_)
            connection.executemany("DELETE FROM waiting WHERE rowid = ?", leaving)

    def _totals(self, connection: sqlite3.Connection, scope: str) -> tuple[int, int]:
        """Answers and bytes of a scope; counted again where the totals are damaged."""
        totals = connection.execute("SELECT answers, bytes FROM waiting_totals WHERE scope = ?", (scope,)).fetchone()
        if totals is None:
            return 0, 0
        answers, size = map(decode_place, totals)
        if totals == (answers, size) and answers <= 2 * self._answers and size <= 2 * self._bytes:
            return answers, size
        counted = "SELECT COUNT(*), CAST(TOTAL(size) AS INTEGER) FROM waiting WHERE scope = ?"
        answers, size = connection.execute(counted, (scope,)).fetchone()
        connection.execute("UPDATE waiting_totals SET answers = ?, bytes = ? WHERE scope = ?", (answers, size, scope))
        return answers, size

    def claim(self, connection: sqlite3.Connection, admission: Admission) -> bool:
        """End the waiting of an answer; False if it does not wait."""
        chosen = (admission.decision_id, admission.scope)
        return connection.execute("DELETE FROM waiting WHERE id = ? AND scope = ?", chosen).rowcount > 0


def link(connection: sqlite3.Connection, admission: Admission, example_id: str) -> None:
    """Name the example in the decision that it answers, if that names none."""
    chosen = (admission.decision_id, admission.scope)
    row = connection.execute("SELECT record FROM decisions WHERE id = ? AND scope = ?", chosen).fetchone()
    if row and isinstance(row[0], bytes) and UNLINKED in row[0]:
        linked = row[0].replace(UNLINKED, admitted(example_id), 1)
        connection.execute("UPDATE decisions SET record = ? WHERE id = ? AND scope = ?", (linked, *chosen))
