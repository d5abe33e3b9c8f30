"""The circuit breaker of one dependency."""

from __future__ import annotations

import threading
from typing import Final

from shared_core.values import Clock

FAILURES_TO_OPEN: Final = 5  # consecutive failures after which a breaker opens
OPEN_SECONDS: Final = 2.0  # how long it stays open before one call may try again


class Breaker:
    """Counts consecutive failures; open for `OPEN_SECONDS` after `FAILURES_TO_OPEN` of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._closed_at = 0.0

    @property
    def is_counting(self) -> bool:
        """True if the last call failed."""
        return self._failures > 0

    def allows(self) -> bool:
        """True if a call may be made."""
        if not self._failures:
            return True
        with self._lock:
            if self._failures < FAILURES_TO_OPEN:
                return True
            if self._clock() < self._closed_at:
                return False
            self._closed_at = self._clock() + OPEN_SECONDS  # one call may try; the others stay refused
            return True

    def succeeded(self) -> None:
        """Close it."""
        if self._failures:
            with self._lock:
                self._failures = 0

    def failed(self) -> None:
        """Count a failure."""
        with self._lock:
            self._failures += 1
            self._closed_at = self._clock() + OPEN_SECONDS
