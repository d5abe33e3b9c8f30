"""Example Manager (paper §4.3): which answers become examples, and how long they stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared_core.values import Decision, Outcome


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of an answer.

    Attributes:
        example_id: The example that it became; empty if it became none.
        refused: Name of the rule that stood against it; empty if none did. An answer that no rule refuses becomes no
            example either where the pool keeps a good answer to the same query.
    """

    example_id: str = ""
    refused: str = ""


class Manager(Protocol):
    """Keeps the pool. Nothing of it stands on the request path."""

    def admit(self, decision: Decision, outcome: Outcome, score: float | None, *, trusted: bool = False) -> Admission:
        """Store the decision, and its answer as an example if it may become one; durable when it returns.

        Args:
            decision: What was decided, or for an answer that was not routed, who gave it.
            outcome: The answer.
            score: Its reward in [0, 1], if known.
            trusted: True if the adapter has settled that its writer may write examples.
        """

    def judged(self, decision_id: str, score: float) -> Admission:
        """Take notice of feedback: a good score admits an answer that waited for one."""

    def maintain(self) -> int:
        """Evict what is beyond the limits; returns how many examples left."""
