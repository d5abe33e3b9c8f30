"""The time by which IC-Cache may delay a request."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from shared_core.values import Clock

arrival: Final[ContextVar[float | None]] = ContextVar("iccache_arrival", default=None)
"""When a request that waits for a thread arrived, by `time.monotonic`; None if it has not waited."""


class Deadline:
    """The time until which IC-Cache may delay one request, counted from its `arrival`.

    Attributes:
        seconds: The whole time.
    """

    __slots__ = ("_clock", "_end", "seconds")

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._clock = clock
        began = arrival.get()
        self._end = (clock() if began is None else began) + seconds
        self.seconds = seconds

    def left(self) -> float:
        """Remaining seconds, at least 0."""
        return max(0.0, self._end - self._clock())

    def is_half_over(self) -> bool:
        """True once less than half of the time remains."""
        return self._end - self._clock() < self.seconds / 2
