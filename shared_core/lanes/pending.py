"""Counts what is not finished yet, so `flush` can wait for exactly that."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Pending:
    """Unfinished jobs by ticket. What a job starts while it runs carries the job's own ticket."""

    def __init__(self) -> None:
        # Reentrant: the garbage collector may close a stream, and so submit a record, in any statement here.
        self._changed = threading.Condition(threading.RLock())
        self._open: dict[int, int] = {}  # ticket → jobs
        self._last = 0
        self._running = threading.local()
        self._waiting = 0

    def add(self) -> int:
        """Count one more job, and return its ticket."""
        with self._changed:
            ticket = self.inherited
            if ticket is None:
                self._last += 1
                ticket = self._last
            self._open[ticket] = self._open.get(ticket, 0) + 1
            return ticket

    def remove(self, tickets: Iterable[int]) -> None:
        """The jobs with these tickets have ended."""
        with self._changed:
            for ticket in tickets:
                self._open[ticket] -= 1
                if not self._open[ticket]:
                    del self._open[ticket]
            self._changed.notify_all()

    @property
    def inherited(self) -> int | None:
        """Ticket of the job that this thread runs; None if it runs no job."""
        ticket: int | None = getattr(self._running, "ticket", None)
        return ticket

    @contextmanager
    def running(self, ticket: int) -> Iterator[None]:
        """What this thread adds inside carries this ticket."""
        self._running.ticket = ticket
        try:
            yield
        finally:
            self._running.ticket = None

    @property
    def is_awaited(self) -> bool:
        """True while a thread is in `wait`."""
        return self._waiting > 0

    def wait(self, timeout: float) -> bool:
        """Wait until every job that was added before, and all that these started, has ended; False after `timeout`."""
        with self._changed:
            last = self._last
            self._waiting += 1
            try:
                return self._changed.wait_for(lambda: all(ticket > last for ticket in self._open), timeout)
            finally:
                self._waiting -= 1
