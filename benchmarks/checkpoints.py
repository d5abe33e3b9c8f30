"""What a large learned part costs: rounds of learning beside it, and other clients while it is written and read.

    python -m benchmarks.checkpoints               # about five minutes
    python -m benchmarks.checkpoints --rounds 5    # a first look

On a SQLite file, and on redis-servers of our own: with ``appendfsync everysec`` and no rewriting of their log, with
rewriting, and with ``appendfsync always``. The large part has 22 million float32 numbers, 88 MB. Two stores learn in
turns from the same feedback, one with the large part and one without; what is timed is the publication of a round of
the linear heads and of the statistics of examples. Then the part is published and read again and again by this process,
while another process sends a PING or reads a decision every millisecond, and notes how long it waits. The same is
measured while nothing else happens, and for Redis while one command writes the part.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.report import write_result
from shared_core.assembly import trainees
from shared_core.learning.learner import BATCH, Learner
from shared_core.records import Checkpoint, DecisionRecord, Entry, Example, Feedback, Texts
from shared_core.router.features import DIMENSION, FEATURES
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Publication, Store, Write
from shared_core.trainee import Lesson, State

SEED: Final = 0
PARAMETERS: Final = 22_000_000
PART: Final = "trunk"
EXAMPLES: Final = 1000
SHOWN: Final = 5
TIMES: Final = 3  # the large part is written and read so often while the others wait
PAUSE: Final = 0.001  # seconds between two calls of another client
QUIET: Final = 10.0  # seconds of watching while nothing else happens
SLOWER: Final = 0.20  # a round beside the large part may take so much longer
LONGEST_WAIT: Final = 20.0  # milliseconds
WATCHED: Final = {
    "sqlite": ("read",),
    "redis": ("PING", "read"),
    "redis that rewrites its log": ("PING", "read"),
    "redis with fsync always": ("PING", "read"),
}
LEARNING: Final = ("sqlite", "redis")  # where rounds are timed


class Still:
    """The trainee of the large part, which has nothing new to publish."""

    part = PART
    replays = True

    def resume(self, saved: Checkpoint | None) -> None:
        self._saved = saved

    def fold(self, lesson: Lesson) -> str:
        return ""

    def state(self) -> State | None:
        return None


class Timed:
    """A store whose publications are timed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.seconds: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def publish(self, *args: Any) -> bool:
        started = time.perf_counter()
        done = self._store.publish(*args)
        self.seconds.append(time.perf_counter() - started)
        return done


@contextmanager
def empty_store(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty store."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(dir=folder) as own:
            yield f"sqlite:///{own}/bench.db"
        return
    from tests.servers import RedisServer

    fsync = "always" if "always" in kind else "everysec"
    growth = "100" if "rewrites" in kind else "0"  # per cent from which the server rewrites its log; 0 is never
    with RedisServer(appendonly="yes", appendfsync=fsync, auto_aof_rewrite_percentage=growth) as server:
        yield server.url("bench")


def large(version: int) -> Checkpoint:
    """The large part."""
    return Checkpoint(version, 0, {"w": np.random.default_rng(version).standard_normal(PARAMETERS, dtype=np.float32)})


def publish_large(store: Store, checkpoint: Checkpoint) -> float:
    """Publish the large part; returns how many seconds that took."""
    lease, now = store.acquire("learner", "bench", 600), store.progress()
    if lease is None:
        raise SystemExit("another learner holds the lease")
    started = time.perf_counter()
    done = store.publish(Publication((now.version, now.offset), now.version + 1, now.offset, {PART: checkpoint}), lease)
    seconds = time.perf_counter() - started
    store.release(lease)
    if not done:
        raise SystemExit("the large part was not published")
    return seconds


def fill(store: Store, rounds: int) -> None:
    """Examples, and rated decisions for so many rounds."""
    rng = np.random.default_rng(SEED)
    unit = np.ones(8, np.float32) / np.sqrt(8)
    store.put([Example(Entry(f"e{n}", "bench"), Texts("query", "answer"), unit) for n in range(EXAMPLES)])
    for first in range(0, rounds * BATCH, BATCH):
        writes = []
        for n in range(first, first + BATCH):
            record = DecisionRecord(
                f"d{n}",
                "bench",
                arm=("small", "large")[n % 2],
                features=tuple(rng.normal(scale=0.3, size=DIMENSION)),
                features_name=FEATURES,
                example_ids=tuple(f"e{i}" for i in rng.integers(0, EXAMPLES, SHOWN)),
                created_at=time.time(),
            )
            writes.append(Write(record, feedback=Feedback(record.id, "user", float(rng.random()), time.time())))
        store.write(writes)


def rounds_in_turns(kind: str, folder: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of a publication and of a round, without the large part and with it, in turns."""
    names = ("without the large part", "with it in the store")
    with ExitStack() as stack:
        stores, learners, whole = [], [], dict[str, list[float]]()
        for name in names:
            store = Timed(open_store(stack.enter_context(empty_store(kind, folder)), settings=Settings()))
            stack.callback(store.close)
            fill(store, rounds + 1)  # type: ignore[arg-type]
            parts = trainees("large", Settings())
            if name == names[1]:
                publish_large(store._store, large(1))
                parts.append(Still())
            stores.append(store)
            learners.append(Learner(store, parts, time.time, "bench"))  # type: ignore[arg-type]
            learners[-1].round()  # reads the large part
            store.seconds.clear()
            whole[name] = []
        for n in range(rounds):
            for which in (0, 1) if n % 2 else (1, 0):
                started = time.perf_counter()
                if learners[which].round().consumed != BATCH:
                    raise SystemExit("a round found too little feedback")
                whole[names[which]].append(time.perf_counter() - started)
        return {
            f"{kind}, {name}": {
                "publication": _interval(store.seconds),
                "round": _interval(whole[name]),
            }
            for name, store in zip(names, stores, strict=True)
        }


def _interval(seconds: list[float]) -> list[float]:
    """The median in milliseconds, with a 95 % bootstrap interval."""
    rng, found = np.random.default_rng(SEED), np.array(seconds) * 1000
    medians = np.median(rng.choice(found, (2000, len(found))), axis=1)
    return [float(np.median(found)), *map(float, np.percentile(medians, [2.5, 97.5]))]


# other clients ----------------------------------------------------------------------------------------------------------


def watch(url: str, what: str, started: Event, stop: Event, found: Any) -> None:
    """Call the store every millisecond until `stop`; put how long each call took."""
    store = open_store(url, settings=Settings())
    client = store._wire._client if what == "PING" else None  # type: ignore[attr-defined]
    call: Callable[[], object] = client.ping if client else lambda: store.decisions(["d1"])
    call()
    waits = []
    started.set()
    while not stop.is_set():
        before = time.perf_counter()
        call()
        waits.append(time.perf_counter() - before)
        time.sleep(PAUSE)
    store.close()
    found.put(waits)


def waits_during(url: str, what: str, work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds that another client waits while `work` runs."""
    context = multiprocessing.get_context("spawn")
    started, stop, found = context.Event(), context.Event(), context.Queue()
    other = context.Process(target=watch, args=(url, what, started, stop, found))
    other.start()
    started.wait(60)
    work()
    stop.set()
    waits = 1000 * np.array(found.get(timeout=60))
    other.join(60)
    return {
        "calls": len(waits),
        "median": float(np.median(waits)),
        "p99": float(np.percentile(waits, 99)),
        "longest": float(waits.max()),
    }


def other_clients(kind: str, folder: Path) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """How long others wait, by what happens; and seconds of one writing and one reading of the large part."""
    found, seconds = {}, {"written": [0.0], "read": [0.0]}
    with empty_store(kind, folder) as url:
        store = open_store(url, settings=Settings())
        fill(store, 1)
        parts = [large(n) for n in range(TIMES + 1)]
        publish_large(store, parts[-1])

        def write() -> None:
            seconds["written"] = [publish_large(store, part) for part in parts[:TIMES]]

        def read() -> None:
            for _ in range(TIMES):
                started = time.perf_counter()
                if store.checkpoint(PART) is None:
                    raise SystemExit("the large part cannot be read")
                seconds["read"].append(time.perf_counter() - started)

        def in_one_piece() -> None:
            data = parts[0].arrays["w"].tobytes()
            for _ in range(TIMES):
                store._wire.command("SET", "bench:whole", data)  # type: ignore[attr-defined]

        for what in WATCHED[kind]:
            found[f"{kind}, {what}, nothing else happens"] = waits_during(url, what, lambda: time.sleep(QUIET))
            found[f"{kind}, {what}, the part is written"] = waits_during(url, what, write)
            found[f"{kind}, {what}, the part is read"] = waits_during(url, what, read)
            print(kind, what, found, flush=True)
        if kind == "redis":
            found["redis, PING, one command writes it all"] = waits_during(url, "PING", in_one_piece)
        store.close()
    return found, {kind: {what: float(np.median(took[1:] or took)) for what, took in seconds.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="rounds of learning in each store")
    parser.add_argument("--out", type=Path, help="folder of the result (default benchmarks/results)")
    options = parser.parse_args()
    rounds: dict[str, dict[str, Any]] = {}
    waits: dict[str, dict[str, float]] = {}
    took: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="iccache-checkpoints-", ignore_cleanup_errors=True) as temporary:
        for kind in WATCHED:
            if kind in LEARNING:
                rounds |= rounds_in_turns(kind, Path(temporary), options.rounds)
            print(kind, rounds, flush=True)
            found, seconds = other_clients(kind, Path(temporary))
            waits |= found
            took |= seconds
    path = write_result(
        "checkpoints",
        {
            "title": "A large learned part",
            "seeds": [SEED],
            "n": options.rounds,
            "notes": f"The part has {PARAMETERS:,} float32 numbers. A round folds {BATCH} ratings of answers with {SHOWN} "
            f"examples each. Medians with 95 % bootstrap intervals. The other client is a process of its own that calls "
            f"every millisecond. SQLite writes with synchronous=FULL, Redis with appendfsync=everysec unless it says always. "
            "A Redis server rewrites its log by itself when the log has grown (by default, to twice its size), whatever has "
            "made it grow; then it forks and writes all that it holds, so others wait longer. With fsync always, they wait "
            "for the disk at every write.",
            "tables": {
                "Rounds of the linear heads in turns: milliseconds": rounds,
                "What another client waits: milliseconds": waits,
                "The large part: seconds": took,
            },
            "must_show": must_show(rounds, waits),
        },
        options.out,
    )
    print(f"wrote {path}")


def must_show(rounds: dict[str, dict[str, Any]], waits: dict[str, dict[str, float]]) -> list[dict[str, object]]:
    bounds: list[dict[str, object]] = []
    for kind in LEARNING:
        plain = rounds[f"{kind}, without the large part"]["publication"][0]
        beside = rounds[f"{kind}, with it in the store"]["publication"][0]
        bounds.append(
            {
                "bound": f"{kind}: a round publishes beside the large part at most {SLOWER:.0%} slower than without it",
                "measured": f"{beside:.2f} ms, {beside / plain - 1:+.0%}",
                "holds": beside <= (1 + SLOWER) * plain,
            }
        )
    for name, found in waits.items():
        if "the part is" in name:
            bounds.append(
                {
                    "bound": f"{name}: no wait above {LONGEST_WAIT:g} ms",
                    "measured": f"{found['longest']:.1f} ms",
                    "holds": found["longest"] <= LONGEST_WAIT,
                }
            )
    return bounds


if __name__ == "__main__":
    main()
