"""Work off the request path: one FIFO writer, and periodic loops.

Both run on daemon threads and catch every exception: a failure is counted and never ends the loop.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, ParamSpec

from shared_core.telemetry import Counters, get_logger

P = ParamSpec("P")
log = get_logger("background")

PAUSE: Final = 1e-4  # seconds: just long enough for a waiting thread to wake up
PENDING_LIMIT: Final = 10_000  # jobs; with more, the store is far behind, and memory would grow without limit

_open: Final[weakref.WeakSet[Writer]] = weakref.WeakSet()  # drained when the program ends


def yield_to_requests() -> None:
    """Release the GIL briefly for waiting requests; call between chunks of long work.

    Python takes the GIL from a busy thread only every 5 ms, and a request needs it several times. ``time.sleep(0)`` is
    not enough: the thread gets the GIL back before another thread wakes up.
    """
    time.sleep(PAUSE)


class Writer:
    """Runs submitted jobs one after the other, in the order of submission.

    Args:
        counters: Counts ``writer.dropped`` (queue full, or not drained in time) and ``writer.failed``.
        drain: Seconds that `close` and the end of the program wait for pending jobs.
    """

    def __init__(self, counters: Counters, drain: float) -> None:
        self._counters = counters
        self._drain = drain
        # Its `put` is reentrant: the garbage collector may close a stream, and so submit a record, meanwhile.
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="iccache-writer", daemon=True)
        self._thread.start()
        _open.add(self)

    def submit(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Queue ``function(*args)``; never blocks and never raises. False if the job was dropped."""
        if not self._closed and self._jobs.qsize() < PENDING_LIMIT:
            self._jobs.put(lambda: function(*args, **kwargs))
            return True
        self._counters.count("writer.dropped")
        return False

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all jobs submitted before have run; False if that takes longer than `timeout` seconds."""
        if threading.current_thread() is self._thread:
            return False  # a job that waits for itself would wait forever
        if not self._thread.is_alive():
            return True  # closed, and all jobs have run
        done = threading.Event()
        self._jobs.put(done.set)
        return done.wait(self._drain if timeout is None else max(0.0, timeout))

    def close(self) -> None:
        """Refuse further jobs and drain within the limit; the remaining jobs are counted as dropped."""
        if self._closed:
            return
        self._closed = True
        _open.discard(self)
        if self.flush():
            self._jobs.put(None)
        else:
            left = self._jobs.qsize()
            self._counters.count("writer.dropped", left)
            log.warning("IC-Cache dropped %d records that were not stored within %g s", left, self._drain)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            try:
                job()
            except Exception as error:  # noqa: BLE001 - the loop must go on
                self._counters.count("writer.failed", error=type(error).__name__)
                log.warning("IC-Cache could not store a record: %s: %s", type(error).__name__, error)


class Periodic:
    """Calls `function` every `seconds`, and soon after each `wake`.

    A new failure is logged as a warning; while it repeats, as a debug message.

    Args:
        name: Name of the thread and of the counter ``<name>.failed``.
    """

    def __init__(self, name: str, seconds: float, function: Callable[[], object], counters: Counters) -> None:
        self._name = name
        self._seconds = seconds
        self._function = function
        self._counters = counters
        self._woken = threading.Event()
        self._closed = False
        self._failure = ""
        self._thread = threading.Thread(target=self._work, name=f"iccache-{name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Run soon instead of at the next tick."""
        self._woken.set()

    def close(self, timeout: float = 1.0) -> None:
        """Stop after the call in progress; waits for it at most `timeout` seconds."""
        self._closed = True
        self._woken.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _work(self) -> None:
        while not self._closed:
            self._woken.wait(self._seconds)
            self._woken.clear()
            if self._closed:
                return
            try:
                self._function()
                self._failure = ""
            except Exception as error:  # noqa: BLE001 - the loop must go on
                self._counters.count(f"{self._name}.failed", error=type(error).__name__)
                self._log_failure(f"{type(error).__name__}: {error}")

    def _log_failure(self, failure: str) -> None:
        level = logging.DEBUG if failure == self._failure else logging.WARNING
        log.log(level, "IC-Cache's background loop %r failed: %s", self._name, failure)
        self._failure = failure


def _flush_all() -> None:
    for writer in list(_open):
        writer.flush()


def _close_all() -> None:
    for writer in list(_open):
        writer.close()


# Two hooks, because `atexit` runs too late for embedding and scoring: by then Python refuses new work in thread pools,
# which models and HTTP clients use. The hook of the thread pools runs before that, while the user's threads may still
# be running, and also at the end of a multiprocessing process (docs/decisions/0015-the-end.md).
getattr(threading, "_register_atexit", atexit.register)(_flush_all)
atexit.register(_close_all)
