"""Counters and timings, and a logger that does not repeat warnings. Local to the process."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from typing_extensions import override

from shared_core.forks import renew_in_children
from shared_core.values import Clock

Labels: TypeAlias = tuple[tuple[str, str], ...]
_Key: TypeAlias = tuple[str, Labels]

BUCKETS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper bounds in seconds, from a look-up in memory to a long answer; each is about three times the one before."""
QUIET_SECONDS: Final = 1.0  # how long the same warning is not repeated
MOST_TEXTS: Final = 5  # warnings of one kind in that time, such as one for each of a few wrong settings
MOST_KINDS: Final = 256  # kinds that are remembered, more than there are


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
        self._counts: Counter[_Key] = Counter()
        self._timings: dict[_Key, list[float]] = {}  # count, sum, then one number per bucket
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Renew the lock, which another thread of the parent process may have held; the counts go on."""
        # Reentrant, and iterated as copies: the garbage collector may close a stream, which counts, in any statement here.
        self._lock = threading.RLock()

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


@dataclass(slots=True)
class _Kind:
    """The warnings of one logger with one template.

    Attributes:
        logged: When each text of the last second was logged.
        dropped: Number of warnings that were dropped since.
    """

    logged: dict[str, float] = field(default_factory=dict)
    dropped: int = 0


class RepeatFilter(logging.Filter):
    """Drops a warning that was logged in the last second; the next one states how many were dropped.

    A warning whose details change each time, such as an address, is not always the same text. So of one kind, at most
    `MOST_TEXTS` different texts pass in a second.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, str], _Kind] = {}  # by logger and template
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Renew the lock, which another thread of the parent process may have held."""
        self._lock = threading.RLock()  # reentrant: what the garbage collector closes may warn in any statement here

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        name, text, now = (record.name, str(record.msg)), record.getMessage(), self._clock()
        with self._lock:
            if len(self._kinds) >= MOST_KINDS and name not in self._kinds:
                self._kinds.clear()
            kind = self._kinds.setdefault(name, _Kind())
            kind.logged = {known: at for known, at in kind.logged.items() if now - at < QUIET_SECONDS}
            if text in kind.logged or len(kind.logged) >= MOST_TEXTS:
                kind.dropped += 1
                return False
            kind.logged[text] = now
            dropped, kind.dropped = kind.dropped, 0
        if dropped:
            record.msg, record.args = f"{text} ({dropped} like it were not logged)", ()
        return True

    def forget(self) -> None:
        """Forget which warnings were logged, so each is logged again."""
        with self._lock:
            self._kinds.clear()


_repeat_filter: Final = RepeatFilter()


def get_logger(name: str) -> logging.Logger:
    """The logger ``iccache.<name>``; silencing ``iccache`` silences all of them."""
    found = logging.getLogger(f"iccache.{name}")
    found.addFilter(_repeat_filter)  # idempotent
    return found


def forget_warnings() -> None:
    """Forget which warnings were logged, as in a new process."""
    _repeat_filter.forget()
