"""The statements by which the SQLite store adds and removes records, inside a transaction."""

from __future__ import annotations

import sqlite3

from shared_core.records import PLACES, DecisionRecord, ExactAnswer, Example, Feedback
from shared_core.store.codec import encode_decision, encode_exact, encode_example, encode_feedback
from shared_core.store.protocol import Admission, Write
from shared_core.store.sqlite_sequences import mend_sequences
from shared_core.store.sqlite_waiting import WaitingTable, link


def apply(connection: sqlite3.Connection, waiting: WaitingTable, write: Write) -> bool:
    """Write one record; False if its rating or what it claims came too late."""
    if write.decision is not None:
        _put_decision(connection, write.decision)
    if write.example is not None:
        _put_example(connection, write.example)
    if write.exact is not None:
        _put_exact(connection, write.exact)
    if write.waiting is not None:
        waiting.put(connection, write.waiting)
    in_time = write.admission is None or _admit(connection, waiting, write.admission)
    return (write.feedback is None or _append(connection, write.feedback)) and in_time


def remove(connection: sqlite3.Connection, condition: str, parameters: tuple[str, ...]) -> int:
    """Delete the examples that meet an SQL condition; returns how many."""
    connection.execute(
        f"INSERT INTO changes (kind, scope, id) SELECT 'delete', scope, id FROM examples WHERE {condition}",  # noqa: S608 - a condition of sqlite.py
        parameters,
    )
    return connection.execute(f"DELETE FROM examples WHERE {condition}", parameters).rowcount  # noqa: S608


def _admit(connection: sqlite3.Connection, waiting: WaitingTable, admission: Admission) -> bool:
    if admission.claims and not waiting.claim(connection, admission):
        return False
    if admission.example is not None:
        _put_example(connection, admission.example)
        link(connection, admission, admission.example.entry.id)
    return True


def _put_decision(connection: sqlite3.Connection, decision: DecisionRecord) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO decisions (id, scope, created_at, record) VALUES (?, ?, ?, ?)",
        (decision.id, decision.scope, decision.created_at, encode_decision(decision)),
    )


def _put_exact(connection: sqlite3.Connection, exact: ExactAnswer) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO exact (key, scope, created_at, answer) VALUES (?, ?, ?, ?)",
        (exact.key, exact.scope, exact.created_at, encode_exact(exact)),
    )


def _put_example(connection: sqlite3.Connection, example: Example) -> None:
    entry, encoded = example.entry, encode_example(example)
    connection.execute(
        "INSERT INTO examples (scope, id, created_at, exact_key, entry, statistics, vector, texts) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, id) DO UPDATE SET created_at = excluded.created_at, "
        "exact_key = excluded.exact_key, entry = excluded.entry, statistics = excluded.statistics, "
        "vector = excluded.vector, texts = excluded.texts",
        (
            entry.scope,
            entry.id,
            entry.created_at,
            entry.exact_key,
            encoded.entry,
            encoded.statistics,
            encoded.vector,
            encoded.texts,
        ),
    )
    connection.execute("INSERT INTO changes (kind, scope, id) VALUES ('put', ?, ?)", (entry.scope, entry.id))


def _append(connection: sqlite3.Connection, feedback: Feedback) -> bool:
    parameters = {
        "decision_id": feedback.subject,
        "rater": feedback.rater,
        "at": feedback.at,
        "judgement": encode_feedback(feedback),
    }
    # not ON CONFLICT DO NOTHING, which would consume an offset
    insert = (
        "INSERT INTO feedback (decision_id, rater, at, judgement) SELECT :decision_id, :rater, :at, :judgement "
        "WHERE NOT EXISTS (SELECT 1 FROM feedback WHERE decision_id = :decision_id AND rater = :rater)"
    )
    inserted = connection.execute(insert, parameters)
    if inserted.rowcount > 0 and (inserted.lastrowid or 0) >= PLACES:  # no checkpoint could name it
        mend_sequences(connection)
        inserted = connection.execute(insert, parameters)
    return inserted.rowcount > 0
