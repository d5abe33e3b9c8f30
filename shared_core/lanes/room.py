"""The room of one lane: how much waits, what was dropped for lack of room, and when a person should hear of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from shared_core.telemetry import get_logger

log = get_logger("lanes")

NEARLY_FULL: Final = 0.8  # share of a limit at which a warning is due
MB: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait, and for how long. More is dropped, because memory would grow without limit.

    Attributes:
        jobs: Number of jobs.
        size: Bytes of all of them, estimated.
        batch: Number of jobs that one call gets.
        gather: Seconds that a call waits for more jobs, so that fewer calls are made.
    """

    jobs: int = 10_000
    size: int = 64 * MB
    batch: int = 1
    gather: float = 0.0


class Room:
    """Counts what is inside. Thread-safe.

    Args:
        name: The lane's name.
        things: What its jobs are, for messages.
        limits: How much fits.
    """

    def __init__(self, name: str, things: str, limits: Limits) -> None:
        self._name = name
        self._things = things
        self._limits = limits
        # Reentrant: the garbage collector may close a stream, and so submit a record, in any statement here.
        self._lock = threading.RLock()
        self._size = 0
        self._dropped = 0  # and not logged yet
        self._is_nearly_full = False
        self.jobs = 0
        self.lost = 0

    def enter(self, size: int) -> bool:
        """Make room for one job; False if there is none. A job that is alone may be larger than the limit."""
        with self._lock:
            fits = self.jobs < self._limits.jobs and (not self.jobs or self._size + size <= self._limits.size)
            if fits:
                self.jobs += 1
                self._size += size
            else:
                self._dropped += 1
                self.lost += 1
            return fits

    def leave(self, jobs: int, size: int) -> None:
        """Some jobs have ended."""
        with self._lock:
            self.jobs -= jobs
            self._size -= size

    def lose(self, jobs: int = 1) -> None:
        """Count jobs that were not done."""
        with self._lock:
            self.lost += jobs

    def report(self, reason: str) -> None:
        """Log that it is nearly full, or, when there is room again, how much was dropped; each once.

        Args:
            reason: Why the lane waits; may be empty.
        """
        with self._lock:
            share = max(self.jobs / self._limits.jobs, self._size / self._limits.size)
            is_news = share >= NEARLY_FULL and not self._is_nearly_full
            self._is_nearly_full = is_news or (self._is_nearly_full and share > NEARLY_FULL / 2)
            dropped = 0 if self._is_nearly_full else self._dropped
            self._dropped -= dropped
            inside = f"{self.jobs} {self._things} ({self._size / MB:.0f} MB)"
        if is_news:
            most = f"{self._limits.jobs} ({self._limits.size / MB:.0f} MB)"
            why = f": {reason}" if reason else ""
            log.warning(
                "IC-Cache's %s is nearly full: %s wait; beyond %s they are dropped%s", self._name, inside, most, why
            )
        if dropped:
            log.warning("IC-Cache dropped %d %s, because its %s was full", dropped, self._things, self._name)
