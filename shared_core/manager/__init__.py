"""Example Manager (paper §4.3): which answers become examples, and how long they stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared_core.records import Example
from shared_core.store.protocol import Write
from shared_core.values import Decision, Outcome


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is to be stored.

    Attributes:
        decision: The decision; for an answer that was not routed, it names the model.
        outcome: The answer.
        trusted: True if the adapter trusts the writer to write examples.
        scored: True if the reward function shall score it.
        score: The rating in [0, 1] that admits it; None if nobody has rated it.
        example: The example that it may become, once that is prepared.
    """

    decision: Decision
    outcome: Outcome
    trusted: bool = False
    scored: bool = True
    score: float | None = None
    example: Example | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """What `Manager.store` has done.

    Attributes:
        is_new: For each item, False if its rating was not stored because this rater has rated this decision before.
        unprepared: Answers of which only the decision is stored. `Manager.prepare` makes their examples, which takes
            time; then they are to be stored again.
        scopes: Scopes that have got an example.
    """

    is_new: Sequence[bool]
    unprepared: Sequence[Answer]
    scopes: Sequence[str]


class Manager(Protocol):
    """Admits and evicts examples, off the request path."""

    def store(self, items: Sequence[Answer | Write]) -> Stored:
        """Store answers and records in one transaction, in order; durable when it returns, or nothing is stored.

        An answer becomes an example if the rules allow. A good rating admits an answer that waits for it. If examples
        cannot be stored, the decisions are, and the error is raised.

        Raises:
            EmbedderDiffers: The pool was written with another embedder.
        """

    def prepare(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        """Redact the answers, embed them in one batch, and return them with their examples.

        Raises:
            RedactionFailed: The redaction function failed for one of them.
        """

    def keep_within_limit(self, scope: str) -> None:
        """Evict the oldest examples of a scope beyond the limit; call it for each of `Stored.scopes`."""

    def maintain(self) -> int:
        """Evict examples beyond the limits; returns how many."""
