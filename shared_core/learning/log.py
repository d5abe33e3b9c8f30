"""The decision log as rows for analysis: each decision with its feedback, without texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from pydantic import TypeAdapter

from shared_core.records import DecisionRecord
from shared_core.store.protocol import Store

LEFT_OUT: Final = frozenset({"exact_key", "vector"})  # a hash of the conversation confirms a guess of it
_RECORDS: Final = TypeAdapter(DecisionRecord)


def rows(store: Store, scopes: list[str], *, vectors: bool) -> Iterator[dict[str, Any]]:
    """Each decision of these scopes, the oldest of a scope first, as plain JSON values.

    A row holds the fields of `DecisionRecord` except `LEFT_OUT`; ``feedback``, a list of the other fields of
    `Feedback`; and with `vectors` the request's ``vector``, a list of numbers or None. The whole feedback log is read into
    memory first.
    """
    ratings = _ratings(store)
    for scope in scopes:
        for records in store.scan_decisions(scope):
            for record in records:
                row: dict[str, Any] = _RECORDS.dump_python(record, mode="json", exclude=set(LEFT_OUT))
                row["feedback"] = ratings.get(record.id, [])
                if vectors:
                    row["vector"] = None if record.vector is None else record.vector.astype(float).round(6).tolist()
                yield row


def _ratings(store: Store) -> dict[str, list[dict[str, Any]]]:
    """The feedback log by decision."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    offset = 0
    while entries := store.feedback(offset):
        for _, feedback in entries:
            fields = asdict(feedback)
            found[fields.pop("decision_id")].append(fields)
        offset = entries[-1][0]
    return found
