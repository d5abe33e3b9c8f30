"""The stored form of a decision: ids and features, never texts."""

from __future__ import annotations

from typing import Final

from shared_core.records import DecisionRecord
from shared_core.values import Decision, Outcome

UNKNOWN_OUTCOME: Final = Outcome("")  # an unknown answer


def record_of(
    decision: Decision, outcome: Outcome = UNKNOWN_OUTCOME, *, exact_key: str = "", admitted_id: str = ""
) -> DecisionRecord:
    """The record of a decision.

    Args:
        decision: The decision.
        outcome: The answer.
        exact_key: Key of the exact answer that it stored or served; empty if there is none.
        admitted_id: The example that its answer became; empty if there is none.
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
        exact_key=exact_key,
        admitted_id=admitted_id,
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
    )
