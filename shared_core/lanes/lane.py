"""One lane: threads that run jobs in the order of submission, off the request path."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_core.error_log import described, log_error
from shared_core.lanes.pending import Pending
from shared_core.lanes.room import MB, Limits, Room
from shared_core.telemetry import Counters, get_logger

log = get_logger("lanes")

FIRST_PAUSE: Final = 0.05  # seconds before the second attempt; each later pause is twice as long
LONGEST_PAUSE: Final = 5.0
BATCH_SIZE: Final = MB  # bytes; a larger batch would hold the store for longer than a request waits
DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Job:
    """One item for `function`, which takes several at once and returns the jobs that follow from them.

    Attributes:
        lane: Where it runs.
        function: What is called. If it raises, it has done nothing.
        item: One of its arguments.
        size: Bytes that the item holds in memory, about.
    """

    lane: Lane
    function: Callable[[Sequence[Any]], Iterable[Job] | None]
    item: Any
    size: int = 0


class Lane:
    """Runs jobs in the order of submission. Consecutive jobs of one function run in one call.

    Args:
        name: Names the threads, and the counters ``<name>.dropped``, ``<name>.failed`` and ``<name>.retried``.
        things: What the jobs are, for messages.
        pending: Counts the unfinished jobs of all lanes that end together.
        counters: Counts what is dropped, failed and retried.
        threads: Number of threads. With more than one, jobs may end in another order.
        limits: How much may wait.
        is_temporary: True for an error after which the same call is made again, until it succeeds or the lane stops.
        wait: Waits for an event at most some seconds.
    """

    def __init__(
        self,
        name: str,
        things: str,
        pending: Pending,
        counters: Counters,
        *,
        threads: int = 1,
        limits: Limits = DEFAULT_LIMITS,
        is_temporary: Callable[[BaseException], bool] = lambda _: False,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self.things = things
        self.error = ""  # why the lane waits; empty if it does not
        self._name = name
        self._pending = pending
        self._counters = counters
        self._batch = limits.batch
        self._gather = limits.gather
        self._is_temporary = is_temporary
        self._wait = wait
        self._room = Room(name, things, limits)
        # Its `put` is reentrant: the garbage collector may close a stream, and so submit a record, meanwhile.
        self._queue: queue.SimpleQueue[tuple[Job, int] | None] = queue.SimpleQueue()
        self._taking = threading.Lock()
        self._held: tuple[Job, int] | None = None  # taken, but of another function than the batch
        self._is_closed = False
        self._is_stopped = False
        self._hurry = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"iccache-{name}", daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def lost(self) -> int:
        """Number of jobs that were dropped, or failed for good."""
        return self._room.lost

    @property
    def waiting(self) -> int:
        """Number of jobs that have not ended."""
        return self._room.jobs

    @property
    def is_alive(self) -> bool:
        """False once its threads have ended; a forked child never had them."""
        return any(thread.is_alive() for thread in self._threads)

    def submit(self, job: Job) -> bool:
        """Queue a job; never blocks and never raises. False if it was dropped."""
        is_open = not self._is_stopped and not (self._is_closed and self._pending.inherited is None)
        if not is_open:
            self._room.lose()
        elif self._room.enter(job.size):
            self._queue.put((job, self._pending.add()))
            return True
        self._counters.count(f"{self._name}.dropped")
        return False

    def hurry(self) -> None:
        """Go on now, if the lane waits for more jobs or to try again."""
        self._hurry.set()

    def report(self) -> None:
        """Log that the lane is nearly full, or how much was dropped.

        Not a part of `submit`, because the garbage collector may call that while another message is being logged.
        """
        if not self._is_stopped:  # then `Lanes.close` says what is lost
            self._room.report(self.error)

    def close(self) -> None:
        """Refuse new jobs, except those that follow from earlier ones."""
        self._is_closed = True

    def stop(self) -> int:
        """Start no more jobs; returns how many have not ended, which are counted as dropped."""
        self._is_stopped = True
        self._hurry.set()
        for _ in self._threads:
            self._queue.put(None)
        left = self._room.jobs
        self._room.lose(left)
        self._counters.count(f"{self._name}.dropped", left)
        return left

    # on the lane's threads ------------------------------------------------------------------------------------

    def _work(self) -> None:
        while taken := self._take():
            jobs, tickets = [job for job, _ in taken], [ticket for _, ticket in taken]
            try:
                with self._pending.running(min(tickets)):
                    self._run(jobs)
            finally:
                self._room.leave(len(jobs), sum(job.size for job in jobs))
                self._pending.remove(tickets)
            self.report()

    def _take(self) -> list[tuple[Job, int]]:
        """The next jobs of one function; empty if the lane has stopped."""
        with self._taking:
            if self._is_stopped:
                return []
            first, self._held = self._held or self._queue.get(), None
            self._gather_more()
            if first is None or self._is_stopped:
                return []
            taken, size = [first], first[0].size
            while len(taken) < self._batch and size < BATCH_SIZE:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None or following[0].function != first[0].function:
                    self._held = following
                    break
                taken.append(following)
                size += following[0].size
            return taken

    def _gather_more(self) -> None:
        """Wait for more jobs, unless a batch is there or `flush` waits for it."""
        if self._gather and self._room.jobs < self._batch and not self._pending.is_awaited:
            self._wait(self._hurry, self._gather)
            self._hurry.clear()

    def _run(self, jobs: Sequence[Job]) -> None:
        """Call the function until it succeeds or fails for good; submit what follows."""
        pause = FIRST_PAUSE
        while not self._is_stopped:
            try:
                following = jobs[0].function([job.item for job in jobs]) or ()
            except BaseException as error:  # noqa: BLE001 - the lane must go on, also if a user's function exits
                if self._is_stopped:
                    return  # `stop` has counted the jobs as lost, and `Lanes.close` has said so
                if self._is_temporary(error):
                    pause = self._pause(error, pause)
                    continue
                if len(jobs) == 1:
                    self._lose(error)
                    return
                break
            self._recovered()
            for job in following:
                job.lane.submit(job)
            return
        for job in jobs if len(jobs) > 1 else ():
            self._run([job])  # only the one that cannot be done fails

    def _pause(self, error: BaseException, seconds: float) -> float:
        """Wait after a temporary error; returns the length of the next pause."""
        self._counters.count(f"{self._name}.retried", error=type(error).__name__)
        level = logging.DEBUG if self.error else logging.WARNING
        log_error(log, level, error, "IC-Cache keeps its %s in memory until the store accepts them", self.things)
        self.error = described(error)
        self.report()
        self._wait(self._hurry, seconds)
        if self._hurry.is_set():
            self._hurry.clear()
            return FIRST_PAUSE
        return min(2 * seconds, LONGEST_PAUSE)

    def _recovered(self) -> None:
        if self.error and not self._is_stopped:
            self.error = ""
            log.warning("IC-Cache's store accepts %s again; %d are being written", self.things, self._room.jobs)

    def _lose(self, error: BaseException) -> None:
        self._room.lose()
        self._counters.count(f"{self._name}.failed", error=type(error).__name__)
        log_error(log, logging.WARNING, error, "IC-Cache lost one of its %s", self.things)
