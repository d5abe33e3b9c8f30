"""The store protocol. One conformance suite (tests/stores) checks every implementation.

A store is synchronous and thread-safe. A write returns only when it is durable, and each method that writes is one
transaction. Stored bytes that cannot be read (unknown schema, corrupt) are skipped and counted in `unreadable`; they
are never overwritten and never raise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

from shared_core.records import (
    Checkpoint,
    DecisionRecord,
    Entry,
    ExactAnswer,
    Example,
    Feedback,
    LearnRound,
    Statistics,
    Texts,
    Vector,
    WaitingAnswer,
)

LONGEST_LEASE: Final = 86_400.0  # seconds; an expiry later than that is damage
ROUNDS_KEPT: Final = 50  # rounds of learning whose reports a store keeps

ChangeKind: TypeAlias = Literal["put", "statistics", "delete"]


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the change feed: the example `id` of `scope` was put, got new statistics, or was deleted."""

    seq: int
    kind: ChangeKind
    scope: str
    id: str


@dataclass(frozen=True, slots=True)
class Row:
    """An example without its texts, as a replica holds it."""

    entry: Entry
    vector: Vector = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """The exclusive right to do `name` until `expires_at` by the store's clock; a later holder has a larger `token`."""

    name: str
    owner: str
    token: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class Admission:
    """An answer becomes an example after its decision was stored.

    Attributes:
        decision_id: Its decision, which gets the example's id as `admitted_id` if it has none.
        scope: The scope of decision and example.
        example: The example; None if the answer only ceases to wait.
        claims: True if it was waiting. Then it ceases to wait; if it does not wait any more, nothing is stored.
    """

    decision_id: str
    scope: str
    example: Example | None
    claims: bool


@dataclass(frozen=True, slots=True)
class Rating:
    """A rating in the log; `is_learned` if the learner has read it."""

    feedback: Feedback
    is_learned: bool


@dataclass(frozen=True, slots=True)
class Write:
    """What one answered request or one rating adds to a store; each part may be missing."""

    decision: DecisionRecord | None = None
    example: Example | None = None
    exact: ExactAnswer | None = None
    feedback: Feedback | None = None
    waiting: WaitingAnswer | None = None
    admission: Admission | None = None


@dataclass(frozen=True, slots=True)
class PartProgress:
    """What is stored of one part of the learner.

    Attributes:
        version: Number of the publication that wrote it; 0 if that cannot be read.
        offset: The part has learned the feedback log up to here.
        is_newer: True if a newer release wrote it, which this one must not replace.
    """

    version: int = 0
    offset: int = 0
    is_newer: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far learning is. A number that cannot be read counts as 0.

    Attributes:
        version: Number of the last publication; 0 before the first.
        offset: The feedback log is learned up to here.
        parts: The stored parts by name.
    """

    version: int = 0
    offset: int = 0
    parts: Mapping[str, PartProgress] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Publication:
    """What one round of learning publishes.

    Attributes:
        expected: Version and offset of the `Progress` that the round began with.
        version: Its number, greater than all before.
        offset: The feedback log is learned up to here.
        parts: The changed parts by name. They get the version of the publication.
        statistics: New statistics of examples, by (scope, id).
        report: What the round did.
    """

    expected: tuple[int, int]
    version: int
    offset: int
    parts: Mapping[str, Checkpoint] = field(default_factory=dict)
    statistics: Mapping[tuple[str, str], Statistics] = field(default_factory=dict)
    report: LearnRound | None = None


class Store(Protocol):
    """Stores examples, exact answers, decisions, feedback, checkpoints and leases."""

    @property
    def label(self) -> str:
        """The store's URL without secrets, for messages."""

    @property
    def unreadable(self) -> int:
        """Number of stored values that were skipped because they could not be read."""

    @property
    def is_read_only(self) -> bool:
        """True if nothing can be written; then what writes raises `StoreIsUnusable`, and `claim` only reads."""
        return False

    def claim(self, name: str, value: str) -> str:
        """Set the pool-wide fact `name` if it is not set; return its value. Atomic."""

    def write(self, batch: Sequence[Write]) -> Sequence[bool]:
        """Write many records in one transaction, in order; all are durable when it returns, or none is stored.

        A decision, example, exact or waiting answer with the same id is replaced. Of the ratings of a decision, only
        the first of each rater is stored. The oldest waiting answers of a scope beyond `wait_answers` and `wait_mb` are
        deleted; one that is larger than all of that is not stored.

        Returns:
            For each, False if it came too late: this rater has rated this decision before, or the answer that it claims
            does not wait any more.
        """

    def record(
        self,
        decision: DecisionRecord | None = None,
        example: Example | None = None,
        exact: ExactAnswer | None = None,
    ) -> None:
        """`write` the parts of one answered request."""
        self.write([Write(decision, example, exact)])

    # examples -------------------------------------------------------------------------------------------------

    def put(self, examples: Sequence[Example]) -> None:
        """Write many examples (an import), replacing those with the same ids; durable when it returns.

        Writes bounded batches, each of them atomic.
        """

    def delete(self, scope: str, ids: Sequence[str]) -> int:
        """Delete examples and their exact answers; returns how many existed."""

    def clear(self, scope: str | None = None) -> int:
        """Delete the examples, exact and waiting answers and decisions of a scope, or of all.

        Returns the number of examples. Feedback, checkpoints and leases stay. Clearing all scopes also deletes the claims.
        """

    def scopes(self) -> Sequence[str]:
        """The scopes that hold examples, sorted."""

    def count(self, scope: str) -> int:
        """Number of examples in a scope."""

    def oldest(self, scope: str, n: int) -> Sequence[str]:
        """Ids of the `n` oldest examples of a scope, oldest first (by `created_at`, then id)."""

    def texts(self, scope: str, ids: Sequence[str]) -> Mapping[str, Texts]:
        """Texts of these examples, in one round trip; ids that are not in the scope are left out."""

    def rows(self, scope: str, ids: Sequence[str]) -> Sequence[Row]:
        """Rows of these examples; ids that are not in the scope are left out."""

    def statistics(self, scope: str, ids: Sequence[str]) -> Mapping[str, Statistics]:
        """Statistics of these examples; ids that are not in the scope are left out."""

    def scan(self, scope: str, batch: int = 1024) -> Iterator[Sequence[Row]]:
        """All rows of a scope, in batches. Examples that are put or deleted meanwhile may or may not appear."""

    def position(self) -> int:
        """Sequence number of the newest change; 0 before the first."""

    def changes(self, after: int, limit: int = 1000) -> Sequence[Change]:
        """Changes with seq > `after`, oldest first. Read `position` before `scan`, then follow the feed from it.

        Unreadable changes are skipped, so only an empty result means the end of the feed.

        Raises:
            FeedWasTrimmed: The feed no longer holds every change after `after`.
        """

    # exact tier -----------------------------------------------------------------------------------------------

    def exact(self, key: str) -> ExactAnswer | None:
        """The stored answer of this key, unless it has expired."""

    def forget_exact(self, key: str) -> bool:
        """Delete one exact answer; True if it existed."""

    # decisions and feedback -----------------------------------------------------------------------------------

    def decisions(self, ids: Sequence[str]) -> Mapping[str, DecisionRecord]:
        """Records of these decisions, in one round trip; unknown and expired ones are left out."""

    def scan_decisions(self, scope: str, batch: int = 1024) -> Iterator[Sequence[DecisionRecord]]:
        """The decisions of a scope in batches, the oldest first, without expired ones.

        Decisions that are written or deleted meanwhile may or may not appear.
        """

    def decision_counts(self) -> Mapping[str, int]:
        """The scopes that hold decisions, and how many each holds; some of them may have expired."""

    def trim_decisions(self) -> int:
        """Delete the oldest decisions of each scope beyond `log_records`; returns how many.

        Takes many short transactions. Meant for the background: writes do not enforce the limit.
        """

    def append_feedback(self, feedback: Feedback) -> bool:
        """`write` one rating; False if this rater has rated this decision before."""
        return self.write([Write(feedback=feedback)])[0]

    def feedback(self, after: int, limit: int = 1000) -> Sequence[tuple[int, Feedback]]:
        """Log entries with offset > `after`, oldest first, each with its offset (1, 2, …)."""

    def ratings(self, decision_ids: Sequence[str]) -> Mapping[str, Sequence[Rating]]:
        """The ratings of these decisions that the log still holds, in one round trip; unrated ones are left out."""

    def waiting(self, decision_ids: Sequence[str]) -> Mapping[str, WaitingAnswer]:
        """The answers to these decisions that wait, in one round trip; expired ones are left out."""

    # learning -------------------------------------------------------------------------------------------------

    def progress(self) -> Progress:
        """How far learning is, and the version of each part; one cheap call that reads no arrays."""

    def checkpoint(self, part: str) -> Checkpoint | None:
        """What was published last of this part; None if there is nothing, or nothing that can be read.

        A large part is read in many calls, between which other clients are served.
        """

    def publish(self, publication: Publication, lease: Lease) -> bool:
        """Publish in one transaction, unless learning has progressed since, or `lease` is not the newest any more.

        Otherwise returns False and changes nothing. The contents of large parts are written before, in many short
        calls, under names of their own. The transaction replaces each part's name, and writes and adds to `changes` the
        statistics of the examples that still exist. It also deletes feedback that was learned and has expired.

        Raises:
            ValueError: A part is too large, or its metadata hold a number that is not finite.
            TypeError: A part is not JSON, or holds arrays of objects.
        """

    def rounds(self) -> Sequence[LearnRound]:
        """The last rounds of learning, at most `ROUNDS_KEPT`, the newest first."""

    def acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        """Acquire a lease for `ttl` seconds; None while another owner holds it. Its owner renews it the same way.

        The store's own clock counts, so the clocks of its users may differ. A lease that cannot be read, or that would
        last longer than `LONGEST_LEASE`, is free.
        """

    def release(self, lease: Lease) -> None:
        """Release a lease; does nothing if it was lost meanwhile. Tokens keep growing."""

    def close(self) -> None:
        """Close files and connections; later calls raise `StoreIsUnusable`."""
