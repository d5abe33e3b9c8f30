"""The log of decisions: which examples and which exact answer feedback on a decision reaches."""

from __future__ import annotations

from dataclasses import replace

from shared_core.manager.decision_record import record_of
from shared_core.store.protocol import Store
from shared_core.values import Decision


class Decisions:
    """What the records of one store say about decisions.

    Args:
        store: Holds the records.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def link(self, decision_id: str, exact_key: str, unrecorded: Decision) -> None:
        """Link a decision to an exact answer. If it has no record, it gets one like that of `unrecorded`."""
        known = self._store.decisions([decision_id]).get(decision_id)
        if record := known or record_of(unrecorded):
            self._store.record(replace(record, id=decision_id, exact_key=exact_key))

    def exact_key(self, decision_id: str) -> str:
        """Key of the exact answer that the decision stored, served or was linked to; empty if there is none."""
        record = self._store.decisions([decision_id]).get(decision_id)
        return record.exact_key if record else ""
