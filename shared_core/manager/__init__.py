"""Example Manager (paper §4.3): which answers become examples, and how long they stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared_core.values import Decision, Outcome


@dataclass(frozen=True, slots=True)
class Admission:
    """The result of admission.

    Attributes:
        example_id: The example that the answer became; empty if it did not become one.
        refused: Name of the rule that refused it; empty if no rule did. An accepted answer still does not become an
            example if the pool has a good answer to the same query.
    """

    example_id: str = ""
    refused: str = ""


class Manager(Protocol):
    """Admits and evicts examples, off the request path."""

    def admit(self, decision: Decision, outcome: Outcome, score: float | None, *, trusted: bool = False) -> Admission:
        """Record the decision, and store its answer as an example if the rules allow; durable when it returns.

        Args:
            decision: The decision; for an answer that was not routed, it names the model.
            outcome: The answer.
            score: The reward in [0, 1], if known.
            trusted: True if the adapter trusts the writer to write examples.
        """

    def judged(self, decision_id: str, score: float) -> Admission:
        """Process feedback: a good score admits an answer that waits for it."""

    def maintain(self) -> int:
        """Evict examples beyond the limits; returns how many."""
