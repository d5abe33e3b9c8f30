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


def timed_at(rate: float, function: Callable[..., object], arguments: Sequence[tuple]) -> list[float]:
    """The same at `rate` calls a second, each timed from its due time, so falling behind counts."""
    seconds, begun = [], time.perf_counter()
    for number, each in enumerate(arguments):
        due = begun + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        function(*each)
        seconds.append(time.perf_counter() - due)
    return seconds


def timed_in_threads(
    function: Callable[..., object], arguments: Sequence[tuple], threads: int, rate: float = 0.0
) -> list[float]:
    """The same, the calls dealt to `threads` threads, at `rate` calls a second together; 0 for without a pause."""
    parts: list[list[float]] = [[] for _ in range(threads)]
    start = threading.Barrier(threads)

    def work(number: int) -> None:
        own = arguments[number::threads]
        start.wait()
        if rate:
            time.sleep(number / rate)  # the threads take turns
            parts[number] = timed_at(rate / threads, function, own)
        else:
            parts[number] = timed(function, own)

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
