"""Work off the request path, on lanes that are flushed and closed together.

All threads are daemons, and every exception is counted. A lane whose store is away keeps its jobs, in order.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from shared_core.lanes.lane import DEFAULT_LIMITS, Job, Lane
from shared_core.lanes.pending import Pending
from shared_core.lanes.room import Limits
from shared_core.telemetry import Counters, get_logger

__all__ = ["Job", "Lane", "Lanes", "Limits"]

log = get_logger("lanes")

_open: Final[weakref.WeakSet[Lanes]] = weakref.WeakSet()  # flushed and closed when the program ends


class Lanes:
    """Lanes that end together.

    Args:
        counters: Counts what the lanes drop, fail to do and do again.
        drain: Seconds that `flush`, `close` and the end of the program wait for pending jobs.
    """

    def __init__(self, counters: Counters, drain: float) -> None:
        self._counters = counters
        self.drain = drain
        self._pending = Pending()
        self._lanes: list[Lane] = []
        self._reported = 0
        self._is_closed = False
        _open.add(self)

    def add(
        self,
        name: str,
        things: str,
        *,
        threads: int = 1,
        limits: Limits = DEFAULT_LIMITS,
        is_temporary: Callable[[BaseException], bool] = lambda _: False,
    ) -> Lane:
        """A new lane, as `Lane` describes it."""
        lane = Lane(
            name, things, self._pending, self._counters, threads=threads, limits=limits, is_temporary=is_temporary
        )
        self._lanes.append(lane)
        return lane

    def report(self) -> None:
        """Log which lanes are nearly full, and what was dropped."""
        for lane in self._lanes:
            lane.report()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all jobs submitted before, and all that follow from these, have ended.

        Returns:
            False if that takes longer than `timeout` seconds, or if a job was lost since the last call.
        """
        if self._pending.inherited is not None:
            return False  # a job that waits for itself would wait forever
        if not self._are_alive:
            return self._lost == self._reported  # closed, or forked
        for lane in self._lanes:
            lane.hurry()
        ended = self._pending.wait(self.drain if timeout is None else max(0.0, timeout))
        lost = self._lost
        complete = ended and lost == self._reported
        self._reported = lost
        return complete

    def close(self, timeout: float | None = None) -> None:
        """Refuse new jobs, wait for the others at most `timeout` seconds, stop, and say what was not done."""
        if self._is_closed:
            return
        self._is_closed = True
        _open.discard(self)
        if not self._are_alive:
            return  # a forked child has nothing to lose
        for lane in self._lanes:
            lane.close()
        self.flush(timeout)
        errors = [lane.error for lane in self._lanes if lane.error]
        left = [(lane.stop(), lane.things) for lane in self._lanes]
        if any(number for number, _ in left):
            what = " and ".join(f"{number} {things}" for number, things in left if number)
            log.warning("IC-Cache closes and loses %s%s", what, f" ({errors[0]})" if errors else "")

    @property
    def _are_alive(self) -> bool:
        return any(lane.is_alive for lane in self._lanes)

    @property
    def _lost(self) -> int:
        return sum(lane.lost for lane in self._lanes)


class _End:
    """The end of the program. It waits for all lanes at once: none longer than its `drain`, from the first hook on."""

    def __init__(self) -> None:
        self._waited = 0.0

    def flush_all(self) -> None:
        """Wait for all lanes, and keep them open."""
        self._each(lambda lanes, seconds: lanes.flush(seconds))

    def close_all(self) -> None:
        """Wait for all lanes, and close them."""
        self._each(lambda lanes, seconds: lanes.close(seconds))

    def _each(self, end: Callable[[Lanes, float], object]) -> None:
        started, before = time.monotonic(), self._waited
        for lanes in list(_open):
            end(lanes, lanes.drain - self._waited)
            self._waited = before + time.monotonic() - started


_end: Final = _End()

# Two hooks, because `atexit` runs too late for embedding and scoring: by then Python refuses new work in thread pools,
# which models and HTTP clients use. The hook of the thread pools runs before that, while the user's threads may still
# be running, and also at the end of a multiprocessing process (docs/decisions/0015-the-end.md).
getattr(threading, "_register_atexit", atexit.register)(_end.flush_all)
atexit.register(_end.close_all)
