"""Example Manager (paper §4.3): which answers become examples, and how long they stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from shared_core.records import Example, Feedback
from shared_core.store.protocol import Write
from shared_core.values import Decision, Outcome

Meeting: TypeAlias = str | Feedback
"""A decision whose answer waits since now, or a good rating that found no waiting answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is to be stored.

    Attributes:
        decision: The decision; for an answer that was not routed, it names the model.
        outcome: The answer.
        trusted: True if the adapter trusts the writer to write examples.
        scored: True if the reward function shall score it.
        example: The example that it may become, once that is prepared; its decision is stored already.
    """

    decision: Decision
    outcome: Outcome
    trusted: bool = False
    scored: bool = True
    example: Example | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """What `Manager.store` has done.

    Attributes:
        is_new: For each item, False if its rating was not stored because this rater has rated this decision before.
        unprepared: Answers of which only the decision is stored. `Manager.prepare` makes their examples, which takes
            time; then they are to be stored again. Those that will wait for feedback are copies that are not scored.
        scopes: Scopes that have got an example.
        to_meet: What is to be passed to `Manager.met`.
    """

    is_new: Sequence[bool]
    unprepared: Sequence[Answer]
    scopes: Sequence[str]
    to_meet: Sequence[Meeting]


class Manager(Protocol):
    """Admits and evicts examples, off the request path."""

    def store(self, items: Sequence[Answer | Write]) -> Stored:
        """Store answers and records in one transaction, in order; durable when it returns, or nothing is stored.

        An answer becomes an example if the rules allow. One of an untrusted arm waits in the store; a good rating, in
        any process, admits it in the transaction that stores the rating. If examples cannot be stored, the decisions
        are, and the error is raised.

        Raises:
            EmbedderDiffers: The pool was written with another embedder.
        """

    def prepare(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        """Redact the answers, embed them in one batch, and return them with their examples.

        Raises:
            RedactionFailed: The redaction function failed for one of them.
        """

    def met(self, meetings: Sequence[Meeting]) -> Sequence[Feedback]:
        """Good ratings of answers that wait; storing these again admits the answers.

        An answer and its rating that two processes store at the same time do not see each other, but they are seen here.
        """

    def keep_within_limit(self, scope: str) -> None:
        """Evict the oldest examples of a scope beyond the limit; call it for each of `Stored.scopes`."""

    def maintain(self) -> int:
        """Evict examples beyond the limits; returns how many."""
