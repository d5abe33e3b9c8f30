"""Calls to what may hang or fail: bounded threads, one deadline a request, a circuit breaker a dependency.

Python cannot stop a thread that is stuck in a call. So the number of threads is fixed, a call that no thread is
free for is refused at once instead of queued without bound, and a dependency that keeps failing is left alone for
a while. Threads are daemons: a stuck one never holds up the end of the program.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Final, ParamSpec, TypeVar

from shared_core.errors import DependencyIsDown, DependencyIsSlow
from shared_core.values import Clock

P = ParamSpec("P")
T = TypeVar("T")

FAILURES_TO_OPEN: Final = 5  # consecutive failures after which a dependency is spared
OPEN_SECONDS: Final = 2.0  # how long it is spared before one call tries again


class Deadline:
    """The moment until which IC-Cache may hold one request."""

    __slots__ = ("_clock", "_end")

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Seconds that are left, never negative."""
        return max(0.0, self._end - self._clock())


class Guard:
    """Runs calls on bounded threads, under a deadline and a breaker; each dependency has threads of its own, so that
    a stuck embedder does not take the store with it.

    Args:
        workers: Threads a dependency; as many calls may wait for one of them.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, workers: int, clock: Clock) -> None:
        self._workers = workers
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}

    def call(
        self, dependency: str, deadline: Deadline, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``function(*args)`` on a worker and wait for it until `deadline`.

        Raises:
            DependencyIsDown: The breaker of `dependency` is open.
            DependencyIsSlow: No thread became free, or the call did not end, before the deadline.
            Exception: Whatever the function raised; it counts as a failure of the dependency.
        """
        with self._lock:
            lane = self._lanes.setdefault(dependency, _Lane(self._workers, self._clock))
        if not lane.breaker.allows():
            raise DependencyIsDown(f"{dependency} keeps failing and is spared for {OPEN_SECONDS:g} s")
        future: Future[T] = Future()
        context = contextvars.copy_context()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(context.run(function, *args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
                future.set_exception(error)

        try:
            lane.submit(job)
            result = future.result(timeout=deadline.left())
        except (queue.Full, FutureTimeout) as error:
            future.cancel()
            lane.breaker.failed()
            why = "all its threads are busy" if isinstance(error, queue.Full) else "it did not answer in time"
            raise DependencyIsSlow(f"{dependency}: {why}") from error
        except Exception:
            lane.breaker.failed()
            raise
        lane.breaker.succeeded()
        return result

    def close(self) -> None:
        """Let the threads end when they are free; does not wait for stuck ones."""
        with self._lock:
            for lane in self._lanes.values():
                lane.close()


class _Breaker:
    """Counts consecutive failures; open for `OPEN_SECONDS` after `FAILURES_TO_OPEN` of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._closed_at = 0.0

    def allows(self) -> bool:
        with self._lock:
            if self._failures < FAILURES_TO_OPEN:
                return True
            if self._clock() < self._closed_at:
                return False
            self._closed_at = self._clock() + OPEN_SECONDS  # one call may try; the others go on waiting
            return True

    def succeeded(self) -> None:
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._closed_at = self._clock() + OPEN_SECONDS


class _Lane:
    """The threads and the breaker of one dependency. Threads start as they are needed."""

    def __init__(self, workers: int, clock: Clock) -> None:
        self.breaker = _Breaker(clock)
        self._workers = workers
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=workers)
        self._lock = threading.Lock()
        self._started = 0
        self._idle = 0

    def submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._idle <= self._jobs.qsize() and self._started < self._workers:
                threading.Thread(target=self._work, name="iccache-guard", daemon=True).start()
                self._started += 1
        self._jobs.put_nowait(job)

    def close(self) -> None:
        for _ in range(self._started):
            try:
                self._jobs.put_nowait(None)
            except queue.Full:
                return

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            job = self._jobs.get()
            with self._lock:
                self._idle -= 1
            if job is None:
                return
            job()
