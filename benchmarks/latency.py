"""Timings and their percentiles, with intervals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
SEED = 20_261_124


def timed(function: Callable[..., object], arguments: Sequence[tuple]) -> list[float]:
    """Seconds of each call ``function(*a)`` for a in `arguments`, one after the other."""
    seconds = []
    for each in arguments:
        begun = time.perf_counter()
        function(*each)
        seconds.append(time.perf_counter() - begun)
    return seconds


def timed_in_threads(function: Callable[..., object], arguments: Sequence[tuple], threads: int) -> list[float]:
    """The same, the calls dealt to `threads` threads that each call without a pause."""
    parts: list[list[float]] = [[] for _ in range(threads)]
    start = threading.Barrier(threads)

    def work(number: int) -> None:
        start.wait()
        parts[number] = timed(function, arguments[number::threads])

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [seconds for part in parts for seconds in part]


def figures(seconds: Sequence[float]) -> dict[str, list[float]]:
    """p50 and p99 in milliseconds, each as [value, low, high] with a 95 % bootstrap interval over the calls."""
    values = np.array(seconds) * 1000
    draws = np.random.default_rng(SEED).choice(values, (RESAMPLES, len(values)))
    result = {}
    for name, percent in (("p50_ms", 50), ("p99_ms", 99)):
        low, high = np.percentile(np.percentile(draws, percent, axis=1), [2.5, 97.5])
        result[name] = [round(float(v), 4) for v in (np.percentile(values, percent), low, high)]
    return result
