"""The load of the arms (paper §4.2): so far, the number of running calls of this process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from shared_core.forks import renew_in_children


class CallsInFlight:
    """Counts the running calls to each arm. Thread-safe. A forked child starts with none."""

    def __init__(self) -> None:
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Forget the calls of the parent process, which end there."""
        # Reentrant, because the garbage collector may close a stream, and so end a call, in any statement here.
        self._lock = threading.RLock()
        self._calls: Counter[str] = Counter()

    def started(self, arm: str) -> None:
        """Count the start of a call to `arm`."""
        with self._lock:
            self._calls[arm] += 1

    def ended(self, arm: str) -> None:
        """Count the end of a call to `arm`."""
        with self._lock:
            if self._calls[arm] > 1:
                self._calls[arm] -= 1
            else:
                self._calls.pop(arm, None)  # it is not there if the parent of a forked child started the call

    def __getitem__(self, arm: str) -> int:
        with self._lock:
            return self._calls[arm]

    def snapshot(self) -> Mapping[str, int]:
        """The number of running calls, by arm; arms without calls are left out."""
        with self._lock:
            calls = dict(self._calls)
        return dict(sorted(calls.items()))
