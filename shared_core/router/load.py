"""How busy the arms are (paper §4.2): so far, the calls of this process that are under way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping


class CallsInFlight:
    """Calls to each arm that have begun and not ended. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()

    def started(self, arm: str) -> None:
        """A call to `arm` begins."""
        with self._lock:
            self._calls[arm] += 1

    def ended(self, arm: str) -> None:
        """A call to `arm` that began has ended."""
        with self._lock:
            self._calls[arm] -= 1
            if not self._calls[arm]:
                del self._calls[arm]

    def __getitem__(self, arm: str) -> int:
        with self._lock:
            return self._calls[arm]

    def snapshot(self) -> Mapping[str, int]:
        """The arms that are at work, with the number of their calls."""
        with self._lock:
            return dict(sorted(self._calls.items()))
