"""The log of decisions: which examples and which exact answer feedback on a decision reaches."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from shared_core.records import DecisionRecord, Example
from shared_core.store.protocol import Store
from shared_core.values import Decision, Outcome

UNKNOWN_OUTCOME: Final = Outcome("")  # an unknown answer


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
        record = known or replace(record_of(unrecorded), id=decision_id)
        self._store.record(replace(record, exact_key=exact_key))

    def exact_key(self, decision_id: str) -> str:
        """Key of the exact answer that the decision stored, served or was linked to; empty if there is none."""
        record = self._store.decisions([decision_id]).get(decision_id)
        return record.exact_key if record else ""


def exact_key_of(decision: Decision, outcome: Outcome) -> str:
    """Key of the exact answer that an answer with a payload belongs to; empty without a payload."""
    return decision.request.exact_key if outcome.payload is not None else ""


def record_of(decision: Decision, outcome: Outcome = UNKNOWN_OUTCOME, example: Example | None = None) -> DecisionRecord:
    """The record of a decision: ids and features, never texts.

    Args:
        decision: The decision.
        outcome: Its answer.
        example: The example that the answer became.
    """
    request, route = decision.request, decision.route
    return DecisionRecord(
        id=decision.id,
        scope=request.scope,
        task=request.task,
        arm=route.arm,
        features=route.features,
        example_ids=tuple(e.id for e in decision.given),
        propensity=route.propensity,
        explored=route.explored,
        version=route.version,
        created_at=decision.created_at,
        exact_key=exact_key_of(decision, outcome),
        admitted_id=example.entry.id if example else "",
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
    )
