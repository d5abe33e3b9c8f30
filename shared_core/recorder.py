"""Stores answers and ratings off the request path, each kind of work on a lane of its own.

The writer only writes: it stores what waits in one transaction. What may take long, redaction and embedding of an
answer and the reward function, runs on other lanes, and what comes of it returns to the writer: the example, and the
score as a rating. So a rating is stored after the answer that it rates, and a slow reward delays no record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from shared_core.exact import ExactTier
from shared_core.lanes import Job, Lanes, Limits
from shared_core.manager import Answer, Manager, Meeting, Stored
from shared_core.manager.admission import POOR_SCORE
from shared_core.records import Feedback
from shared_core.reward import Reward, Scorer
from shared_core.settings import Settings
from shared_core.store.errors import is_temporary
from shared_core.store.protocol import Write
from shared_core.telemetry import Counters
from shared_core.values import Clock, Decision, Outcome

BATCH: Final = 128  # records in one transaction: a commit costs as much as writing a hundred
GATHER: Final = 0.005  # seconds that a transaction waits for more: at 800 answers a second it halves the writer's CPU
PREPARED: Final = 8  # answers that are embedded in one call, for which a request may wait
PREPARE_THREADS: Final = 2  # one redaction that hangs leaves the other
RECORD_SIZE: Final = 4_000  # bytes of a record without its texts, about: features, numbers, a vector


@dataclass(frozen=True, slots=True)
class _Exact:
    """An exact answer that is to be stored."""

    decision: Decision
    outcome: Outcome


class Recorder:
    """Stores answers and ratings, at once or on its lanes.

    Args:
        manager: Stores decisions and admits examples.
        exact: The exact tier.
        reward: The user's reward function.
        counters: Counts what the lanes drop (``writer.dropped``), fail to store and try again.
        settings: `drain` and `score_threads` are used.
        clock: Seconds since the epoch.
        on_change: Called after examples were added.
        before_embedding: Called before answers are embedded; waits while requests need the embedder.
        stores: False drops what is submitted, in silence: the store cannot be written.
    """

    def __init__(
        self,
        manager: Manager,
        exact: ExactTier,
        reward: Reward | None,
        counters: Counters,
        settings: Settings,
        clock: Clock,
        on_change: Callable[[], object],
        before_embedding: Callable[[], object],
        stores: bool = True,
    ) -> None:
        self._manager = manager
        self._exact = exact
        self._scorer = Scorer(reward, counters) if reward else None
        self._clock = clock
        self._on_change = on_change
        self._before_embedding = before_embedding
        self.stores = stores
        self.lanes = Lanes(counters, settings.drain)
        self._writer = self.lanes.add(
            "writer", "records and ratings", limits=Limits(batch=BATCH, gather=GATHER), is_temporary=is_temporary
        )
        self._preparing = self.lanes.add(
            "prepare", "answers to be prepared", threads=PREPARE_THREADS, limits=Limits(batch=PREPARED)
        )
        self._scoring = self.lanes.add("scoring", "answers to be scored", threads=settings.score_threads)

    # at once --------------------------------------------------------------------------------------------------

    def record(self, answer: Answer) -> None:
        """Store an answer, and score it; durable when it returns."""
        self._run([Job(self._writer, self._store, answer)])

    def rate(self, rating: Feedback) -> bool:
        """Store a rating; durable when it returns. False if this rater has rated this decision before."""
        items = [Write(feedback=rating)]
        stored = self._manager.store(items)
        self._run(self._following(items, stored))
        return stored.is_new[0]

    # on the lanes ---------------------------------------------------------------------------------------------

    def submit(self, item: Answer | Write) -> bool:
        """`record` or `rate` on the lanes: never blocks, never raises. False if it was dropped."""
        return self.stores and self._writer.submit(Job(self._writer, self._store, item, _size(item)))

    def submit_exact(self, decision: Decision, outcome: Outcome) -> bool:
        """Store an exact answer, on the lanes."""
        lane = self._preparing if self._exact.redacts else self._writer
        return self.stores and lane.submit(
            Job(lane, self._prepare_exact, _Exact(decision, outcome), _texts_size(decision, outcome))
        )

    def submit_call(self, function: Callable[..., object], *args: object) -> bool:
        """Call `function` on the writer, after what was submitted before."""

        def call(_: Sequence[None]) -> None:
            function(*args)

        return self.stores and self._writer.submit(Job(self._writer, call, None, RECORD_SIZE))

    # the work of the lanes ------------------------------------------------------------------------------------

    def _store(self, items: Sequence[Answer | Write]) -> Sequence[Job]:
        return self._following(items, self._manager.store(items))

    def _following(self, items: Sequence[Answer | Write], stored: Stored) -> Sequence[Job]:
        """What is to be done now that `items` are stored."""
        later = {id(answer) for answer in stored.unprepared}
        to_score = [item for item in items if self._is_to_be_scored(item) and id(item) not in later]
        if stored.scopes:
            self._on_change()
        return [
            *(Job(self._preparing, self._prepare, answer, _size(answer)) for answer in stored.unprepared),
            *(Job(self._scoring, self._score, item, _size(item)) for item in to_score),
            *(Job(self._writer, self._retract, decision_id) for decision_id in self._poor(items)),
            *([Job(self._writer, self._keep_limits, stored.scopes)] if stored.scopes else []),
            *(self._meet_now(stored.to_meet) if stored.to_meet else []),
        ]

    def _poor(self, items: Sequence[Answer | Write]) -> Iterator[str]:
        """Decisions whose exact answers must be deleted: rated as poor now, or before their answers were stored."""
        for item in items:
            rating = item.feedback if isinstance(item, Write) else None
            if rating is not None and not rating.than and rating.score < POOR_SCORE:
                yield rating.decision_id
            if isinstance(item, Write) and item.exact is not None and self._exact.is_retracted(item.exact.decision_id):
                yield item.exact.decision_id

    def _is_to_be_scored(self, item: Answer | Write) -> bool:
        if self._scorer is None or not isinstance(item, Answer) or not item.scored:
            return False
        return not (item.outcome.tool_calls or item.outcome.broken_off)

    def _retract(self, decision_ids: Sequence[str]) -> None:
        for decision_id in decision_ids:
            self._exact.retract(decision_id)

    def _keep_limits(self, batches: Sequence[Sequence[str]]) -> None:
        for scope in chain.from_iterable(batches):
            self._manager.keep_within_limit(scope)

    def _meet_now(self, meetings: Sequence[Meeting]) -> Sequence[Job]:
        """`_meet` at once, because a job in between would split the batches. The items are stored, so it must not fail."""
        try:
            return self._meet([meetings])
        except Exception:  # noqa: BLE001 - the writer tries again, and counts the error
            return [Job(self._writer, self._meet, meetings)]

    def _meet(self, batches: Sequence[Sequence[Meeting]]) -> Sequence[Job]:
        ratings = self._manager.met(list(chain.from_iterable(batches)))
        return [Job(self._writer, self._store, Write(feedback=rating), RECORD_SIZE) for rating in ratings]

    def _prepare(self, answers: Sequence[Answer]) -> Sequence[Job]:
        self._before_embedding()
        return [Job(self._writer, self._store, answer, _size(answer)) for answer in self._manager.prepare(answers)]

    def _prepare_exact(self, items: Sequence[_Exact]) -> Sequence[Job]:
        writes = [self._exact.answer_of(item.decision, item.outcome) for item in items]
        return [Job(self._writer, self._store, write, _size(write)) for write in writes if write]

    def _score(self, answers: Sequence[Answer]) -> Sequence[Job]:
        jobs = []
        for answer in answers:
            decision = answer.decision
            score = self._scorer.score(decision.request, answer.outcome.answer) if self._scorer else None
            if score is not None:
                write = Write(feedback=Feedback(decision.id, "reward", score, self._clock()))
                jobs.append(Job(self._writer, self._store, write, _size(write)))
        return jobs

    def _run(self, jobs: Iterable[Job]) -> None:
        """Do jobs, and all that follow from them, on this thread."""
        waiting = list(jobs)
        while waiting:
            job = waiting.pop(0)
            waiting += job.function([job.item]) or ()


def _size(item: Answer | Write) -> int:
    """Bytes that an item holds in memory, about."""
    if isinstance(item, Answer):
        return _texts_size(item.decision, item.outcome)
    return RECORD_SIZE + (len(item.exact.payload) if item.exact else 0)


def _texts_size(decision: Decision, outcome: Outcome) -> int:
    asked = sum(len(message.text) + len(message.extra) for message in decision.request.messages)
    shown = sum(len(example.query) + len(example.answer) for example in decision.given)
    return RECORD_SIZE + asked + shown + len(outcome.answer) + len(outcome.payload or b"")
