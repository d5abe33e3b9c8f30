"""How long full garbage collections hold decisions at 90,000 examples, with and without what `freeze_loaded` does.

Run with ``python -m benchmarks.collector`` (about five minutes). Each child process loads MiniLM, as a server with the
default embedder does, and decides from more threads than there are processors, while another thread keeps sessions: it
makes objects that live for a while, and so causes full collections. Both kinds of process take turns.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.overhead import child, open_store, prepare
from benchmarks.overhead_engine import Bench
from benchmarks.report import write_result

SIZE = 90_000
THREADS = 6
ASKED = 24  # times that each of the 500 requests is decided
ROUNDS = 3  # processes of each kind
DEADLINE = 0.25  # seconds
TURNS = 40  # of a session
SESSIONS = 3_000  # kept at the same time
KINDS = {"frozen": "with", "not frozen": "without"}


class Pauses:
    """Seconds of each full collection since it was made."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0
        gc.callbacks.append(self._call)

    def _call(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2 and phase == "start":
            self._begun = time.perf_counter()
        elif info["generation"] == 2:
            self.seconds.append(time.perf_counter() - self._begun)


@contextmanager
def sessions() -> Iterator[None]:
    """A thread that keeps the turns of the latest sessions, as a server may."""
    stop = threading.Event()

    def work() -> None:
        kept: dict[int, list] = {}
        for number in itertools.count():
            if stop.wait(0.001):
                return
            kept[number] = [{"turn": turn, "text": str(turn), "tags": [turn]} for turn in range(TURNS)]
            kept.pop(number - SESSIONS, None)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measured(folder: Path, url: str, kind: str) -> dict[str, float]:
    """One process: decisions, and collections meanwhile."""
    from shared_core.inference.embedders import packaged_minilm

    packaged_minilm().warm()
    if kind == "not frozen":
        gc.unfreeze()
    bench = Bench(folder, url, SIZE)
    bench.fill()
    pauses, before = Pauses(), bench.engine.counters["fallback"]
    with sessions():
        seconds = bench.decide_under(THREADS, ASKED, 0)
    fallbacks = bench.engine.counters["fallback"] - before
    bench.engine.close()
    return {
        "p50 (ms)": float(np.percentile(seconds, 50)) * 1e3,
        "p99 (ms)": float(np.percentile(seconds, 99)) * 1e3,
        "longest (ms)": max(seconds) * 1e3,
        "beyond 250 ms": sum(each > DEADLINE for each in seconds),
        "fell back": fallbacks,
        "full collections": len(pauses.seconds),
        "longest collection (ms)": max(pauses.seconds, default=0.0) * 1e3,
    }


def main() -> None:
    """Measure and write the result; with arguments, one process of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("process", nargs="*", help=argparse.SUPPRESS)
    process = parser.parse_args().process
    if process:
        print(json.dumps(measured(Path(process[0]), process[1], process[2])))
        return
    found: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="iccache-collector-") as temporary:
        folder = Path(temporary)
        prepare(folder)
        for _ in range(ROUNDS):
            for kind, runs in found.items():
                with open_store("sqlite", folder) as url:
                    runs.append(child("collector", folder, url, kind))
    rows = {
        f"{KINDS[kind]} the objects of the model frozen": {
            name: [float(np.median(values)), min(values), max(values)]
            for name in runs[0]
            for values in [[run[name] for run in runs]]
        }
        for kind, runs in found.items()
    }
    late = sum(run["beyond 250 ms"] for run in found["frozen"])
    decisions = ROUNDS * ASKED * 500
    title = f"{THREADS} threads decide {ASKED * 500:,} times at {SIZE:,} examples, SQLite"
    write_result(
        "collector",
        {
            "title": "Full garbage collections",
            "notes": f"Median of {ROUNDS} processes, the least and the greatest. MiniLM is loaded (its objects are what "
            "a full collection looks at), but vectors are looked up. Another thread makes a thousand sessions of "
            f"{TURNS} turns a second.",
            "tables": {title: rows},
            "must_show": [
                {
                    "bound": f"no decision of {decisions:,} takes longer than 250 ms",
                    "measured": f"{late:.0f}",
                    "holds": late == 0,
                }
            ],
        },
    )


if __name__ == "__main__":
    main()
