"""Loads cold scopes on a thread of their own, one after another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from shared_core.error_log import log_error
from shared_core.telemetry import Counters, get_logger
from shared_core.values import Clock

log = get_logger("pool")

FIRST_PAUSE: Final = (
    5.0  # seconds before a scope that could not be loaded is tried again; each later pause is twice that
)
LONGEST_PAUSE: Final = 60.0


class Loader:
    """Loads the scopes that requests ask for.

    Args:
        load: Loads one scope.
        counters: Counts ``pool.load_failed``.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, load: Callable[[str], None], counters: Counters, clock: Clock = time.monotonic) -> None:
        self._load = load
        self._counters = counters
        self._clock = clock
        self._lock = threading.Lock()
        self._wanted: dict[str, None] = {}  # in order
        self._paused: dict[
            str, tuple[float, float]
        ] = {}  # scope → when it may be tried again, and the pause until then
        self._closed = False

    def want(self, scope: str) -> bool:
        """Load a scope soon; False if it could not be loaded a short time ago."""
        with self._lock:
            if scope in self._paused and self._clock() < self._paused[scope][0]:
                return False
            idle = not self._wanted
            self._wanted[scope] = None
            if idle:
                threading.Thread(target=self._work, args=(scope,), name="iccache-load", daemon=True).start()
            return True

    def close(self) -> None:
        """Log no more failures: afterwards they only mean that the store is closed, too."""
        self._closed = True

    def _work(self, first: str) -> None:
        """Load the wanted scopes until none is left."""
        scope: str | None = first
        while scope is not None:
            try:
                self._load(scope)
                self._paused.pop(scope, None)
            except Exception as error:  # noqa: BLE001 - counted; a later request for this scope tries again
                self._failed(scope, error)
            with self._lock:
                del self._wanted[scope]
                scope = next(iter(self._wanted), None)

    def _failed(self, scope: str, error: Exception) -> None:
        self._counters.count("pool.load_failed", error=type(error).__name__)
        _, before = self._paused.get(scope, (0.0, 0.0))
        pause = min(2 * before, LONGEST_PAUSE) if before else FIRST_PAUSE
        self._paused[scope] = self._clock() + pause, pause
        if not self._closed:
            level = logging.DEBUG if before else logging.WARNING
            log_error(log, level, error, "IC-Cache could not load scope %r; it tries again after pauses", scope)
