"""Counters: what happened, how often. Local to the process and never sent anywhere."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping


class Counters:
    """Named counters, safe to use from any thread. Names are dotted: ``fallback.embedder_slow``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, n: int = 1) -> None:
        """Add `n` to a counter."""
        with self._lock:
            self._counts[name] += n

    def __getitem__(self, name: str) -> int:
        with self._lock:
            return self._counts[name]

    def snapshot(self) -> Mapping[str, int]:
        """All counters that are not zero, sorted by name."""
        with self._lock:
            return {name: n for name, n in sorted(self._counts.items()) if n}
