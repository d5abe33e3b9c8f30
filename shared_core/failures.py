"""Handles failures on the request path: they are counted and logged, and the call goes on without IC-Cache."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from shared_core.error_log import described, log_error
from shared_core.errors import DependencyIsDown, DependencyIsSlow, ScopeIsCold
from shared_core.guard import Steps
from shared_core.telemetry import Counters, get_logger
from shared_core.values import Clock

log = get_logger("failures")

STORM_WINDOW: Final = 100  # requests of which the fallbacks are counted
STORM_FALLBACKS: Final = 10  # from which they are a storm
STORM_QUIET: Final = 60.0  # seconds between two warnings

C = TypeVar("C")
T = TypeVar("T")

PASSING_ERRORS: Final = (DependencyIsDown, DependencyIsSlow, ScopeIsCold)
"""Errors that go away by themselves. Of every other error, a person must fix the cause."""


_TEXTS_OF_OURS: Final = (DependencyIsDown, DependencyIsSlow)  # they name a dependency and a limit, nothing else


def cause_of(error: Exception) -> str:
    """The reason of a fallback, for provenance, which clients and traces see: the error's name.

    The text of another library's error may hold keys, URLs or the request.
    """
    text = f": {error}" if isinstance(error, _TEXTS_OF_OURS) else ""
    return f"fallback: {type(error).__name__}{text}"


@dataclass(frozen=True, slots=True)
class Attempt(Generic[C, T]):
    """The steps of a request, and its result if they fail or take too long."""

    steps: Callable[[C], Steps[T]]
    on_failure: Callable[[Exception], T]


class Failures:
    """Counts failures by the name of the error; logs the first of each kind as a warning, unless it goes away.

    Many fallbacks are a warning, too, at most once a minute.

    Args:
        counters: Where they are counted.
        clock: Monotonic seconds.
    """

    def __init__(self, counters: Counters, clock: Clock = time.monotonic) -> None:
        self._counters = counters
        self._warned: set[tuple[str, str]] = set()
        self._clock = clock
        self._lock = threading.Lock()  # over what follows
        self._recent: deque[bool] = deque(maxlen=STORM_WINDOW)  # True for each request that fell back
        self._fallbacks = 0  # of the recent requests
        self._quiet_until = 0.0

    def count(self, counter: str, error: Exception) -> None:
        """Count and log an error that does not reach the user's call."""
        name = type(error).__name__
        self._counters.count(counter, error=name)
        is_news = not isinstance(error, PASSING_ERRORS) and (counter, name) not in self._warned
        self._warned.add((counter, name))
        level = logging.WARNING if is_news else logging.DEBUG
        log_error(log, level, error, "IC-Cache %s", counter)

    def note_decided(self, arm: str) -> None:
        """Count a request that did not fall back, by its arm."""
        self._counters.count("decided", arm=arm)
        self._note(is_fallback=False)

    def note_fallback(self, error: Exception) -> None:
        """Count a request that fell back because of `error`. Warns of many of them, at most once a minute."""
        self.count("fallback", error)
        fallbacks, requests = self._note(is_fallback=True)
        if fallbacks >= STORM_FALLBACKS and self._may_warn():
            log.warning(
                "%d of the last %d requests fell back, the latest because of %s; the counters fallback{error=…} "
                "give every cause, and docs/settings.md tells what to change",
                *(fallbacks, requests, described(error)),
            )

    def _note(self, *, is_fallback: bool) -> tuple[int, int]:
        """The number of fallbacks among the recent requests, and of these requests."""
        with self._lock:
            if len(self._recent) == STORM_WINDOW:
                self._fallbacks -= self._recent[0]
            self._recent.append(is_fallback)
            self._fallbacks += is_fallback
            return self._fallbacks, len(self._recent)

    def _may_warn(self) -> bool:
        with self._lock:
            now = self._clock()
            if now < self._quiet_until:
                return False
            self._quiet_until = now + STORM_QUIET
            return True
