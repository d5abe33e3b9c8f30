"""The learner turns the feedback log into the next checkpoint. Only one learner works at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared_core.background import yield_to_requests
from shared_core.errors import CheckpointIsUnreadable
from shared_core.learning.round import Round, advance, examples_of, resume
from shared_core.records import Checkpoint, Feedback
from shared_core.settings import Settings
from shared_core.store.protocol import Lease, Store
from shared_core.telemetry import get_logger
from shared_core.values import Clock

log = get_logger("learning")

LEASE: Final = "learner"
LEASE_SECONDS: Final = 60.0  # a round takes well under a second; after a crash, other learners wait this long
BATCH: Final = 250  # feedback entries per round, which are published together
CHUNK: Final = 10  # entries between two releases of the GIL for requests


@dataclass(frozen=True, slots=True)
class LearnReport:
    """The result of learning.

    Attributes:
        consumed: Feedback entries in the published checkpoint, orphans included.
        orphans: Entries whose decision is unknown or expired; skipped for good.
        published: True if a checkpoint was published. False if there was no feedback, or if another learner holds the
            lease or published first; then the entries stay in the log.
        version: The newest known checkpoint version; 0 if it was not read.
        unusable: Entries whose score is not a number in [0, 1]; skipped.
    """

    consumed: int = 0
    orphans: int = 0
    published: bool = False
    version: int = 0
    unusable: int = 0


@dataclass(frozen=True, slots=True)
class MaintainReport:
    """The result of `Engine.maintain`: the learner's report, and the numbers of changed and evicted examples."""

    learned: LearnReport
    changed: int
    evicted: int


class Learner:
    """Learns arm posteriors, mean rewards and example statistics from the feedback log.

    Checkpoint, log offset and statistics are published in one transaction, if nobody has published since they were
    read. So a learner may be killed at any moment, and every entry counts exactly once.

    Args:
        store: Holds log, decisions, examples and checkpoints.
        reference: Name of the reference arm; empty if there are no arms.
        settings: `quality_target` is used.
        clock: Seconds since the epoch.
        owner: This learner's name in the lease; unique among the processes that share the store.
    """

    def __init__(self, store: Store, reference: str, settings: Settings, clock: Clock, owner: str) -> None:
        self._store = store
        self._reference = reference
        self._settings = settings
        self._clock = clock
        self._owner = owner
        self._lock = threading.Lock()  # the lease does not exclude two threads of the same owner
        self._known = Checkpoint()  # the newest that this learner has seen; other learners may have published since

    def round(self) -> LearnReport:
        """Learn from the next `BATCH` entries of the log, or fewer. Writes nothing if there are none.

        Raises:
            CheckpointIsUnreadable: Learning would overwrite the unreadable checkpoint.
        """
        with self._lock:
            if not self._store.feedback(self._known.offset, 1) and not self._is_older():
                return LearnReport(version=self._known.version)
            lease = self._store.acquire(LEASE, self._owner, LEASE_SECONDS)
            if lease is None:
                return LearnReport()
            try:
                return self._learn(lease)
            finally:
                self._store.release(lease)

    def run_until_drained(self) -> LearnReport:
        """Learn until the log is drained or another learner holds the lease; returns the sum of all rounds.

        Raises:
            CheckpointIsUnreadable: See `round`.
        """
        total = LearnReport()
        while True:
            step = self.round()
            total = LearnReport(
                total.consumed + step.consumed,
                total.orphans + step.orphans,
                total.published or step.published,
                max(total.version, step.version),
                total.unusable + step.unusable,
            )
            if step.consumed < BATCH:
                return total

    def _is_older(self) -> bool:
        """True if the store lost this learner's last checkpoint: then a log that restarted looks drained."""
        return self._store.checkpoint_version() < self._known.version

    def _learn(self, lease: Lease) -> LearnReport:
        checkpoint = self._known = newest_checkpoint(self._store)
        round_, ignored = resume(checkpoint, self._reference, self._settings.quality_target)
        if ignored:
            log.warning("IC-Cache ignored %d unusable entries of checkpoint %d", ignored, checkpoint.version)
        offset, consumed = checkpoint.offset, 0
        while consumed < BATCH and (entries := self._store.feedback(offset, min(CHUNK, BATCH - consumed))):
            self._fold(round_, [feedback for _, feedback in entries])
            offset, consumed = entries[-1][0], consumed + len(entries)
            yield_to_requests()
        if not consumed:
            return LearnReport(version=checkpoint.version)
        after = advance(checkpoint, round_, offset)
        if not self._store.publish(after, (checkpoint.version, checkpoint.offset), round_.statistics, lease):
            return LearnReport(version=checkpoint.version)
        self._known = after
        return LearnReport(consumed, round_.orphans, True, after.version, round_.unusable)

    def _fold(self, round_: Round, entries: Sequence[Feedback]) -> None:
        records = self._store.decisions(list(dict.fromkeys(feedback.decision_id for feedback in entries)))
        for scope, ids in examples_of(list(records.values())).items():
            new = [example_id for example_id in ids if (scope, example_id) not in round_.statistics]
            for example_id, learned in self._store.statistics(scope, new).items():
                round_.statistics[scope, example_id] = learned
        now = self._clock()
        for feedback in entries:
            round_.take(feedback, records.get(feedback.decision_id), now)


def newest_checkpoint(store: Store) -> Checkpoint:
    """The newest checkpoint; an empty one with version 0 before the first.

    Raises:
        CheckpointIsUnreadable: A checkpoint exists, but the store could not read it.
    """
    version = store.checkpoint_version()  # read first: versions only grow, so the checkpoint is at least this new
    checkpoint = store.checkpoint()
    if checkpoint.version < version:
        raise CheckpointIsUnreadable(version)
    return checkpoint
