"""Counters and timings, and a logger that does not repeat warnings. Local to the process."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from typing_extensions import override

from shared_core.values import Clock

Labels: TypeAlias = tuple[tuple[str, str], ...]
_Key: TypeAlias = tuple[str, Labels]

BUCKETS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper bounds in seconds, from a look-up in memory to a long answer; each is about three times the one before."""
QUIET_SECONDS: Final = 1.0  # how long the same warning is not repeated


@dataclass(frozen=True, slots=True)
class Timing:
    """A histogram of durations.

    Attributes:
        count: Number of durations.
        seconds: Their sum.
        buckets: Number of durations in each bucket, by the upper bounds `BUCKETS`; the last bucket holds longer ones.
    """

    count: int
    seconds: float
    buckets: tuple[int, ...]


class Counters:
    """Named counters and timings. Thread-safe.

    A name may have labels: ``count("decided", arm="small")``. A label must have few values: arms, names of errors,
    reasons. Never use a scope, an id or a text, which would grow without bound and reveal users.
    """

    def __init__(self) -> None:
        # Reentrant, and iterated as copies: the garbage collector may close a stream, which counts, in any statement here.
        self._lock = threading.RLock()
        self._counts: Counter[_Key] = Counter()
        self._timings: dict[_Key, list[float]] = {}  # count, sum, then one number per bucket

    def count(self, name: str, n: int = 1, /, **labels: str) -> None:
        """Add `n` to a counter."""
        key = name, tuple(labels.items())
        with self._lock:
            self._counts[key] += n

    def observe(self, name: str, seconds: float, /, **labels: str) -> None:
        """Add a duration to a timing."""
        key = name, tuple(labels.items())
        bucket = 2 + bisect_left(BUCKETS, seconds)
        with self._lock:
            timing = self._timings.get(key) or self._timings.setdefault(key, [0.0] * (len(BUCKETS) + 3))
            timing[0] += 1
            timing[1] += seconds
            timing[bucket] += 1

    def value(self, name: str, /, **labels: str) -> int:
        """The counter's value, summed over the labels that are not given."""
        wanted = labels.items()
        with self._lock:
            counts = dict(self._counts)
        return sum(n for (known, has), n in counts.items() if known == name and wanted <= dict(has).items())

    def __getitem__(self, name: str) -> int:
        """The counter's value, summed over all labels."""
        return self.value(name)

    def snapshot(self) -> Mapping[str, int]:
        """All counters that are not zero, sorted, as ``name`` or ``name{label=value}``."""
        with self._lock:
            counts = dict(self._counts)
        return {_as_text(key): n for key, n in sorted(counts.items()) if n}

    def timings(self) -> Mapping[str, Timing]:
        """All timings, sorted, named as in `snapshot`."""
        with self._lock:
            timings = [(key, list(values)) for key, values in dict(self._timings).items()]
        return {
            _as_text(key): Timing(int(values[0]), values[1], tuple(map(int, values[2:])))
            for key, values in sorted(timings)
        }


def _as_text(key: _Key) -> str:
    name, labels = key
    return name + ("{" + ",".join(f"{label}={value}" for label, value in labels) + "}" if labels else "")


class RepeatFilter(logging.Filter):
    """Drops a warning that was logged in the last second; the next one states how many were dropped."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, int]] = {}  # text → time of the last log, and number dropped since

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        text, now = record.getMessage(), self._clock()
        with self._lock:
            logged_at, dropped = self._seen.get(text, (now - QUIET_SECONDS, 0))
            if now - logged_at < QUIET_SECONDS:
                self._seen[text] = logged_at, dropped + 1
                return False
            self._seen = {known: at for known, at in self._seen.items() if now - at[0] < QUIET_SECONDS or at[1]}
            self._seen[text] = now, 0
        if dropped:
            record.msg, record.args = f"{text} (repeated {dropped} times since)", ()
        return True

    def forget(self) -> None:
        """Forget which warnings were logged, so each is logged again."""
        with self._lock:
            self._seen.clear()


_repeat_filter: Final = RepeatFilter()


def get_logger(name: str) -> logging.Logger:
    """The logger ``iccache.<name>``; silencing ``iccache`` silences all of them."""
    found = logging.getLogger(f"iccache.{name}")
    found.addFilter(_repeat_filter)  # idempotent
    return found


def forget_warnings() -> None:
    """Forget which warnings were logged, as in a new process."""
    _repeat_filter.forget()
