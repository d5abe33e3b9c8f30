"""Periodic work off the request path, on daemon threads. A failure is counted, and never ends a loop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from shared_core.error_log import described, log_error
from shared_core.telemetry import Counters, get_logger
from shared_core.values import Clock

log = get_logger("background")

PAUSE: Final = 1e-4  # seconds: just long enough for a waiting thread to wake up
POLL: Final = 2e-3
PATIENCE: Final = 1.0  # seconds; under a load without gaps, background work must go on slowly


def yield_to_requests() -> None:
    """Release the GIL briefly for waiting requests; call between chunks of long work.

    Python takes the GIL from a busy thread only every 5 ms, and a request needs it several times. ``time.sleep(0)`` is
    not enough: the thread gets the GIL back before another thread wakes up.
    """
    time.sleep(PAUSE)


def wait_for_requests(
    are_busy: Callable[[], bool], clock: Clock = time.monotonic, sleep: Callable[[float], object] = time.sleep
) -> None:
    """Wait until ``are_busy()`` is False, at most `PATIENCE` seconds; call it before work that requests would wait for."""
    ends = clock() + PATIENCE
    while are_busy() and clock() < ends:
        sleep(POLL)


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

    def stop(self) -> None:
        """Make no call after the one in progress."""
        self._closed = True
        self._woken.set()

    def close(self, timeout: float = 1.0) -> None:
        """`stop`, and wait for the call in progress, at most `timeout` seconds."""
        self.stop()
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
                if not self._closed:  # afterwards it only means that the store is closed, too
                    self._log_failure(error)

    def _log_failure(self, error: Exception) -> None:
        failure = described(error)
        level = logging.DEBUG if failure == self._failure else logging.WARNING
        log_error(log, level, error, "IC-Cache's background loop %r failed", self._name)
        self._failure = failure
