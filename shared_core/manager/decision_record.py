"""The record of a decision, from which learners learn: ids and numbers, never texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared_core.prompt import example_tokens
from shared_core.records import ArmRecord, DecisionRecord, Ending, Tier
from shared_core.text import surface_counts
from shared_core.values import EXACT, ArmScore, Considered, Decision, Outcome, Request

UNKNOWN_OUTCOME: Final = Outcome("")  # an unknown answer
_UNSCORED: Final = ArmScore("", mean=0.0, std=0.0, sample=0.0, cost=0.0, eligible=False, score=0.0)  # without a router
DECIMALS: Final = 5  # of what is known of each candidate; more would double the record


def record_of(
    decision: Decision, outcome: Outcome = UNKNOWN_OUTCOME, *, keep_vector: bool = True, refused: str = ""
) -> DecisionRecord | None:
    """The record of a decision whose answer has become no example yet; None if the request is not to be stored.

    Args:
        decision: The decision.
        outcome: Its answer.
        keep_vector: True to keep the request's vector.
        refused: Name of the rule that refused the answer as an example.
    """
    request, route, selection = decision.request, decision.route, decision.selection
    if not request.store:
        return None
    found = selection.candidates
    similarity, utilities = _of_candidates(found)
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
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
        cached_tokens=outcome.cached_tokens,
        example_tokens=sum(map(example_tokens, decision.given)),
        tier=_tier(decision),
        features_name=route.features_name,
        candidates=found.ids if found else (),
        similarity=similarity,
        threshold=selection.threshold,
        arms=tuple(_arms(decision, utilities)),
        surface=_surface(request),
        seconds=round(outcome.seconds, DECIMALS),
        first_token=round(outcome.first_token or 0.0, DECIMALS),
        money=next((score.cost for score in route.scores if score.arm == route.arm), 0.0),
        ended=_ending(outcome),
        error=outcome.error,
        tool_calls=outcome.tool_calls,
        refused=refused,
        vector=_half(selection.vector) if keep_vector else None,
    )


def exact_key_of(decision: Decision, outcome: Outcome) -> str:
    """Key of the exact answer that an answer with a payload belongs to; empty without a payload."""
    return decision.request.exact_key if outcome.payload is not None else ""


def _tier(decision: Decision) -> Tier:
    if decision.arm == EXACT:
        return "exact"
    if decision.fallback:
        return "fallback"
    if not decision.route.scores:
        return "unrouted"
    return "explored" if decision.route.explored else "model"


def _ending(outcome: Outcome) -> Ending:
    if outcome is UNKNOWN_OUTCOME:
        return ""
    if outcome.error:
        return "failed"
    if outcome.broken_off:
        return "left"
    return "finished" if outcome.finished else "cut"


def _arms(decision: Decision, utilities: Mapping[str, tuple[float, ...]]) -> Iterator[ArmRecord]:
    """Every arm: what the router found, and what the selector chose for it."""
    selection, found = decision.selection, decision.selection.candidates
    positions = {name: i for i, name in enumerate(found.ids)} if found else {}
    scores = {score.arm: score for score in decision.route.scores}
    for arm in dict.fromkeys((*scores, *utilities)):
        shown = tuple([positions[e.id] for e in selection.for_arm(arm) if e.id in positions])
        yield _arm_record(arm, scores.get(arm, _UNSCORED), utilities.get(arm, ()), shown)


def _arm_record(arm: str, found: ArmScore, utility: tuple[float, ...], shown: tuple[int, ...]) -> ArmRecord:
    return ArmRecord(
        arm,
        mean=found.mean,
        std=found.std,
        sample=found.sample,
        score=found.score,
        price=found.sample - found.score,
        eligible=found.eligible,
        propensity=found.propensity,
        utility=utility,
        shown=shown,
    )


def _of_candidates(found: Considered | None) -> tuple[tuple[float, ...], dict[str, tuple[float, ...]]]:
    """The similarity of the candidates, and their utility for each arm, as plain numbers."""
    if found is None:
        return (), {}
    similarity, *utility = _rounded(np.vstack((found.similarity, found.utility)))
    return similarity, dict(zip(found.arms, utility, strict=True))


def _surface(request: Request) -> dict[str, int]:
    """Counts of the query, and of the conversation around it."""
    turns = [len(message.text) for message in request.messages if message.role != "system"]
    return {**surface_counts(request.query), "turns": len(turns), "conversation": sum(turns)}


def _rounded(rows: NDArray[np.float32]) -> list[tuple[float, ...]]:
    """Rows of plain numbers. One that is not finite becomes 0."""
    rounded = rows.astype(np.float64).round(DECIMALS)
    return list(map(tuple, (rounded if np.isfinite(rounded).all() else np.nan_to_num(rounded)).tolist()))


def _half(vector: NDArray[np.float32] | None) -> NDArray[np.float16] | None:
    """`vector` in half precision; None if it is unusable, because an embedder failed silently."""
    if vector is None:
        return None
    half = vector.astype(np.float16)
    return half if np.isfinite(half).all() else None
