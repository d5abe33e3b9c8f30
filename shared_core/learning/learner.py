"""The learner turns the feedback log into what its trainees learn. Only one learner works at a time.

It knows no part of what is learned: each is a `Trainee`. It owns the lease, the log, the offset and the publication.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shared_core.background import yield_to_requests
from shared_core.learning.part import Part
from shared_core.records import DecisionRecord, Feedback, LearnRound, Statistics
from shared_core.store.protocol import Lease, Progress, Publication, Store
from shared_core.telemetry import Counters
from shared_core.trainee import Lesson, PairLesson, RatingLesson, Trainee
from shared_core.values import Clock

LEASE: Final = "learner"
LEASE_SECONDS: Final = 60.0  # a round takes well under a second; after a crash, other learners wait this long
BATCH: Final = 250  # feedback entries per round, which are published together
CHUNK: Final = 10  # entries between two releases of the GIL for requests


@dataclass(frozen=True, slots=True)
class LearnReport:
    """The result of learning.

    Attributes:
        consumed: Feedback entries that no round had learned before, orphans included.
        orphans: Those of them whose decision is unknown or expired; skipped for good.
        published: True if something was published. False if there was nothing to learn, or if another learner holds the
            lease or published first; then the entries stay in the log.
        version: The newest known version; 0 if it was not read.
        unusable: Entries whose score is not a number in [0, 1]; skipped.
        rounds: What each published round did to each part, the oldest first.
        more: True if the log may hold more to learn.
    """

    consumed: int = 0
    orphans: int = 0
    published: bool = False
    version: int = 0
    unusable: int = 0
    rounds: tuple[LearnRound, ...] = field(default=(), compare=False)
    more: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class MaintainReport:
    """The result of `Engine.maintain`: the learner's report, and the numbers of changed and evicted examples."""

    learned: LearnReport
    changed: int
    evicted: int


@dataclass(slots=True)
class _Batch:
    """What a round has read of the log."""

    offset: int
    learned: int  # entries up to this offset were read by a round before
    read: int = 0
    consumed: int = 0
    orphans: int = 0
    unusable: int = 0
    statistics: dict[tuple[str, str], Statistics] = field(default_factory=dict)


class Learner:
    """Hands the feedback log to its trainees, and publishes what they learn.

    Checkpoints, log offset and statistics are published in one transaction, if nobody has published since they were
    read. So a learner may be killed at any moment, and every entry counts exactly once. A part that lags behind (it is
    new, was put aside, or lost its checkpoint) gets the entries that it lacks from the log, before the others go on.

    Args:
        store: Holds log, decisions, examples and checkpoints.
        trainees: What learns, each with a name of its own.
        clock: Seconds since the epoch.
        owner: This learner's name in the lease; unique among the processes that share the store.
        counters: Counts ``learn.restarted`` (unreadable checkpoints) and ``learn.aside``, by the part.
    """

    def __init__(
        self, store: Store, trainees: Sequence[Trainee], clock: Clock, owner: str, counters: Counters | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self._lock = threading.Lock()  # the lease does not exclude two threads of the same owner
        self._parts = [Part(trainee, counters or Counters()) for trainee in trainees]

    def round(self) -> LearnReport:
        """Learn from the next `BATCH` entries of the log, or fewer. Writes nothing if there are none."""
        with self._lock:
            progress = self._store.progress()
            offsets = [part.next_offset(self._store, progress) for part in self._parts]
            begin = min((offset for offset in offsets if offset is not None), default=None)
            if begin is None or not self._store.feedback(begin, 1):
                return LearnReport(version=progress.version)
            lease = self._store.acquire(LEASE, self._owner, LEASE_SECONDS)
            if lease is None:
                return LearnReport()
            try:
                return self._learn(lease)
            except BaseException:
                self._forget()
                raise
            finally:
                self._store.release(lease)

    def run_until_drained(self) -> LearnReport:
        """Learn until the log is drained or another learner holds the lease; returns the sum of all rounds."""
        total = LearnReport()
        while True:
            step = self.round()
            total = LearnReport(
                total.consumed + step.consumed,
                total.orphans + step.orphans,
                total.published or step.published,
                max(total.version, step.version),
                total.unusable + step.unusable,
                total.rounds + step.rounds,
            )
            if not step.more:
                return total

    def _forget(self) -> None:
        for part in self._parts:
            part.forget()

    def _learn(self, lease: Lease) -> LearnReport:
        progress = self._store.progress()
        for part in self._parts:
            part.follow(self._store, progress)
            part.begin()
        begin = min((part.offset for part in self._parts if not part.aside), default=None)
        if begin is None:
            return LearnReport(version=progress.version)
        batch = _Batch(begin, max(progress.offset, *(part.offset for part in self._parts)))
        while batch.read < BATCH and (entries := self._store.feedback(batch.offset, min(CHUNK, BATCH - batch.read))):
            for offset, lesson in self._lessons(entries, batch):
                for part in self._parts:
                    part.fold(offset, lesson)
            batch.offset, batch.read = entries[-1][0], batch.read + len(entries)
            yield_to_requests()
        if not batch.read:
            return LearnReport(version=progress.version)
        return self._publish(progress, batch, lease)

    def _publish(self, progress: Progress, batch: _Batch, lease: Lease) -> LearnReport:
        version = 1 + max(progress.version, *(part.version for part in progress.parts.values()), 0)
        changed = {}
        for part in self._parts:
            part.reached(batch.offset)
            if (found := part.state(version)) is not None:
                changed[part.name] = found
        report = self._report(version, batch, {name: checkpoint.version for name, (checkpoint, _) in changed.items()})
        may_go_on = any(not part.aside for part in self._parts)
        publication = Publication(
            (progress.version, progress.offset),
            version,
            max(batch.learned, batch.offset) if may_go_on else batch.learned,
            {name: checkpoint for name, (checkpoint, _) in changed.items()},
            {example: learned for _, state in changed.values() for example, learned in state.statistics.items()},
            report,
        )
        if not self._store.publish(publication, lease):
            self._forget()
            return LearnReport(version=progress.version)
        for part in self._parts:
            if part.name in changed:
                part.published(changed[part.name][0])
        consumed = report.consumed if may_go_on else 0
        return LearnReport(
            consumed, report.orphans, True, version, report.unusable, (report,), may_go_on and batch.read == BATCH
        )

    def _report(self, version: int, batch: _Batch, after: Mapping[str, int]) -> LearnRound:
        parts = tuple(part.report(after.get(part.name)) for part in self._parts)
        return LearnRound(version, self._clock(), batch.consumed, batch.orphans, batch.unusable, parts)

    def _lessons(self, entries: Sequence[tuple[int, Feedback]], batch: _Batch) -> Iterator[tuple[int, Lesson]]:
        """The lessons of some entries of the log. Entries that teach nothing are counted."""
        ids = [name for _, feedback in entries for name in (feedback.decision_id, feedback.than) if name]
        records = self._store.decisions(list(dict.fromkeys(ids)))
        self._read_statistics(list(records.values()), batch)
        now = self._clock()
        for offset, feedback in entries:
            is_new = offset > batch.learned
            batch.consumed += is_new
            first, second = records.get(feedback.decision_id), records.get(feedback.than)
            if first is None or (feedback.than and second is None):
                batch.orphans += is_new
            elif not 0.0 <= feedback.score <= 1.0:  # false for NaN, too
                batch.unusable += is_new
            elif second is not None:
                yield offset, PairLesson(feedback, first, second, now)
            else:
                known = {name: batch.statistics.get((first.scope, name)) for name in _examples_of(first)}
                found = {name: statistics for name, statistics in known.items() if statistics is not None}
                yield offset, RatingLesson(feedback, first, found, now)

    def _read_statistics(self, records: Sequence[DecisionRecord], batch: _Batch) -> None:
        new: dict[str, dict[str, None]] = {}
        for record in records:
            names = (name for name in _examples_of(record) if (record.scope, name) not in batch.statistics)
            new.setdefault(record.scope, {}).update(dict.fromkeys(names))
        for scope, ids in new.items():
            for example_id, statistics in self._store.statistics(scope, list(ids)).items() if ids else ():
                batch.statistics[scope, example_id] = statistics


def _examples_of(record: DecisionRecord) -> tuple[str, ...]:
    """The examples that a decision used or created."""
    return (*record.example_ids, record.admitted_id) if record.admitted_id else record.example_ids
