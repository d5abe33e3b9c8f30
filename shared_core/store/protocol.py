"""What every store does. One conformance suite (tests/stores) holds all of them to it.

A store is synchronous, thread-safe, and returns from a write only when the write is durable.
Each method that writes is one transaction: all of it happens or none. Stored bytes that cannot be read (unknown
schema, corrupt) are skipped and counted in `unreadable`, never overwritten, never an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from shared_core.records import (
    Checkpoint,
    DecisionRecord,
    Entry,
    ExactAnswer,
    Example,
    Feedback,
    Statistics,
    Texts,
    Vector,
)

ChangeKind: TypeAlias = Literal["put", "statistics", "delete"]


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the change feed: the example `id` of `scope` was put, got new statistics, or was deleted."""

    seq: int
    kind: ChangeKind
    scope: str
    id: str


@dataclass(frozen=True, slots=True)
class Row:
    """An example as a replica holds it: everything but the texts."""

    entry: Entry
    vector: Vector = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to be the only one who does `name` until `expires_at`; a later holder has a larger `token`."""

    name: str
    owner: str
    token: int
    expires_at: float


class Store(Protocol):
    """Everything that persists."""

    @property
    def label(self) -> str:
        """The store's address without any secret, for messages."""

    @property
    def unreadable(self) -> int:
        """How many stored values were skipped because they could not be read."""

    def claim(self, name: str, value: str) -> str:
        """Set the pool-wide fact `name` if nobody has; return the value in force. Atomic."""

    # examples -------------------------------------------------------------------------------------------------

    def record(
        self,
        decision: DecisionRecord | None = None,
        example: Example | None = None,
        exact: ExactAnswer | None = None,
    ) -> None:
        """Write what one answered request leaves behind, together; an existing example of the same id is replaced."""

    def put(self, examples: Sequence[Example]) -> None:
        """Write many examples (an import), replacing those of the same ids; durable when it returns.

        Written in bounded batches, each of them atomic.
        """

    def delete(self, scope: str, ids: Sequence[str]) -> int:
        """Remove examples and their exact answers; returns how many existed."""

    def clear(self, scope: str | None = None) -> int:
        """Remove every example, exact answer and decision of a scope, or of all; returns how many examples.

        Feedback, checkpoints and leases stay. Clearing everything also forgets the claims.
        """

    def scopes(self) -> Sequence[str]:
        """The scopes that hold examples, sorted."""

    def count(self, scope: str) -> int:
        """How many examples a scope holds."""

    def oldest(self, scope: str, n: int) -> Sequence[str]:
        """Ids of the `n` oldest examples of a scope, oldest first (by `created_at`, then id)."""

    def texts(self, scope: str, ids: Sequence[str]) -> Mapping[str, Texts]:
        """Texts of these examples in one round trip; absent ids and ids of another scope are left out."""

    def rows(self, scope: str, ids: Sequence[str]) -> Sequence[Row]:
        """Rows of these examples; absent ids and ids of another scope are left out."""

    def statistics(self, scope: str, ids: Sequence[str]) -> Mapping[str, Statistics]:
        """Statistics alone of these examples; absent ids and ids of another scope are left out."""

    def scan(self, scope: str, batch: int = 1024) -> Iterator[Sequence[Row]]:
        """All rows of a scope, in batches. Examples put or deleted meanwhile may or may not appear."""

    def position(self) -> int:
        """The sequence number of the newest change; 0 if there was none."""

    def changes(self, after: int, limit: int = 1000) -> Sequence[Change]:
        """Changes with seq > `after`, oldest first. Take `position` before `scan`, then follow from it.

        Only an empty answer means that the feed has ended: changes that cannot be read are passed over.

        Raises:
            FeedWasTrimmed: The feed no longer holds every change after `after`.
        """

    # exact tier -----------------------------------------------------------------------------------------------

    def exact(self, key: str) -> ExactAnswer | None:
        """The stored answer of this key, unless it expired."""

    def forget_exact(self, key: str) -> bool:
        """Remove one exact answer; True if it was there."""

    # decisions and feedback -----------------------------------------------------------------------------------

    def decisions(self, ids: Sequence[str]) -> Mapping[str, DecisionRecord]:
        """Records of these decisions, in one round trip; absent and expired ones are left out."""

    def append_feedback(self, feedback: Feedback) -> bool:
        """Append to the log; False (and nothing is written) if this rater has judged this decision before."""

    def feedback(self, after: int, limit: int = 1000) -> Sequence[tuple[int, Feedback]]:
        """Log entries with offset > `after`, oldest first, each with its offset (1, 2, …)."""

    # learning -------------------------------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint:
        """The newest checkpoint; an empty one of version 0 before the first."""

    def checkpoint_version(self) -> int:
        """Version of the newest checkpoint, without reading its arrays."""

    def publish(
        self,
        checkpoint: Checkpoint,
        expected: tuple[int, int],
        statistics: Mapping[tuple[str, str], Statistics],
        lease: Lease,
    ) -> bool:
        """Replace the checkpoint if its (version, offset) is still `expected` and `lease` is still the newest.

        `statistics` maps (scope, example id) to new statistics, written and fed to `changes` in the same
        transaction; examples deleted meanwhile are left out. Returns False, having written nothing, otherwise.
        """

    def acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        """Take a lease for `ttl` seconds; None while another owner holds it. The same owner renews by acquiring."""

    def release(self, lease: Lease) -> None:
        """Give a lease back; nothing happens if it was lost meanwhile. Tokens keep growing."""

    def close(self) -> None:
        """Release files and connections; further calls raise `StoreIsUnusable`."""
