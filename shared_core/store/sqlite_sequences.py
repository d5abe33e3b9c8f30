"""The numbers of the change feed and of the feedback log in SQLite."""

# ruff: noqa: S608 - only constants of this file are put into SQL text
from __future__ import annotations

import sqlite3
from typing import Final

from shared_core.records import PLACES
from shared_core.store.codec import decode_place

NOW: Final = "(julianday('now') - 2440587.5) * 86400.0"  # seconds since the epoch, by SQLite's clock


def mend_sequences(connection: sqlite3.Connection) -> None:
    """Let numbering go on where it was, if a damaged number of the feed or of the log has sent it off.

    If it is not known where that was, the next number is the time in microseconds: above all before, and after a gap,
    at which replicas load their examples again. The log's next number is above that of the learner's progress, because the learner
    reads only those. Part of a transaction.
    """
    for table, column in (("changes", "seq"), ("feedback", "offset")):
        removed = connection.execute(f"DELETE FROM {table} WHERE {column} < 1 OR {column} >= ?", (PLACES,)).rowcount
        [(newest,)] = connection.execute(f"SELECT COALESCE(MAX({column}), 0) FROM {table}")
        counted = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchall()
        known = [decode_place(number) for (number,) in counted]
        if table == "feedback":
            reached = connection.execute("SELECT offset FROM progress").fetchall()
            newest = max(newest, *(decode_place(number) for (number,) in reached), 0)
        if removed or 0 in known:
            newest = connection.execute(f"SELECT MAX(?, CAST({NOW} * 1e6 AS INTEGER))", (newest,)).fetchone()[0]
        if newest > max(known, default=0) or 0 in known:
            connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            connection.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, newest))
