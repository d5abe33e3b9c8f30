"""The overhead of each adapter, beyond the decision itself, against a local server that answers immediately.

    python -m benchmarks.adapters               # about six minutes on two idle cores
    python -m benchmarks.adapters --calls 200   # a first look

Every surface is called as its users call it, sync and async, one call at a time and 64 concurrently. Calls alternate
with those of the bare model, so a drift of the machine affects both. The server is a separate process. Each surface is
also compared with the engine's own part (e.g. `decide`) followed by the bare call; the difference is the adapter's
overhead. The machine should be idle otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.adapters_cases import Case, langchain, llamaindex
from benchmarks.latency import figures
from benchmarks.report import ROOT, write_result

SEED = 0
CALLS = 600  # of each case and setting
BLOCK = 10  # calls of one case before the next one's turn, 200 of them at 64 at once
WARM = 30  # first calls, not measured: connections open, caches fill
AT_ONCE = 64
CPU_BOUND = 1.0  # milliseconds a call beyond `decide`
P50_BOUND = 2.0


@dataclass
class Turn:
    """One turn of one case: seconds of each call; in all, elapsed and processor seconds, the latter of the process
    without the engines' background threads, and of those."""

    seconds: list[float] = field(default_factory=list)
    elapsed: float = 0.0
    cpu: float = 0.0
    writer_cpu: float = 0.0


@dataclass
class Measured:
    """Every turn of one case."""

    turns: list[Turn] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        return [second for turn in self.turns for second in turn.seconds]

    @property
    def per_second(self) -> float:
        return len(self.seconds) / sum(turn.elapsed for turn in self.turns)

    @property
    def writer_ms(self) -> float:
        return 1000 * sum(turn.writer_cpu for turn in self.turns) / len(self.seconds)

    def cpu_ms(self) -> list[float]:
        """Processor time a call in milliseconds, without the writer's, of each turn."""
        return [1000 * turn.cpu / len(turn.seconds) for turn in self.turns]

    def p50_ms(self) -> list[float]:
        """Median of each turn."""
        return [1000 * float(np.median(turn.seconds)) for turn in self.turns]


def typical_difference(own: Sequence[float], other: Sequence[float]) -> list[float]:
    """Median difference of `own` and `other` in the same turn, with its 95 % bootstrap interval.

    Differences are taken by turn, so changes of the machine's speed affect both.
    """
    differences = np.array(own) - np.array(other)
    draws = np.random.default_rng(SEED).choice(differences, (1000, len(differences)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return [round(float(value), 3) for value in (np.median(differences), low, high)]


@contextmanager
def zero_server() -> Iterator[str]:
    """The base URL of a server that answers immediately."""
    command = [sys.executable, "-m", "benchmarks.zero_server"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        process.stdin.close()


def background_cpu() -> float:
    """Processor seconds that the engines' writers, learners and followers have used so far."""
    names = (
        "iccache-writer",
        "iccache-prepare",
        "iccache-scoring",
        "iccache-learn",
        "iccache-follow",
        "iccache-rebuild",
    )
    clocks = [time.pthread_getcpuclockid(t.ident) for t in threading.enumerate() if t.name in names]
    return sum(time.clock_gettime(clock) for clock in clocks)


@contextmanager
def accounted(into: Turn) -> Iterator[None]:
    """Adds elapsed and processor time of the block."""
    cpu, behind, begun = time.process_time(), background_cpu(), time.perf_counter()
    yield
    into.elapsed += time.perf_counter() - begun
    writer = background_cpu() - behind
    into.writer_cpu += writer
    into.cpu += time.process_time() - cpu - writer


def in_threads(call: Callable[[str], object], queries: Sequence[str], threads: int) -> list[float]:
    """Seconds of each call, from `threads` threads."""

    def one(query: str) -> float:
        begun = time.perf_counter()
        call(query)
        return time.perf_counter() - begun

    if threads == 1:
        return [one(query) for query in queries]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, queries))


async def in_tasks(call: Callable[[str], object], queries: Sequence[str], tasks: int) -> list[float]:
    """Seconds of each call, from `tasks` concurrent tasks on one event loop."""
    gate = asyncio.Semaphore(tasks)

    async def one(query: str) -> float:
        async with gate:
            begun = time.perf_counter()
            await call(query)
            return time.perf_counter() - begun

    return list(await asyncio.gather(*(one(query) for query in queries)))


def with_engine(cases: Sequence[Case]) -> list[Case]:
    """Before each case that has an engine, the same work without the adapter: its engine's part, then the bare call."""
    bare = {case.name: case for case in cases}
    return [each for case in cases for each in ([by_hand(case, bare[case.base])] if case.inside else []) + [case]]


def by_hand(case: Case, bare: Case) -> Case:
    """The engine's part of `case`, called directly (also on an event loop, where it blocks), then `bare`."""
    inside = case.inside

    def call(query: str) -> object:
        inside(aside(query))
        return bare.call(aside(query))

    async def acall(query: str) -> object:
        inside(aside(query))
        return await bare.acall(aside(query))

    return Case(hand_name(case), bare.name, call, acall, engine=case.engine)


def hand_name(case: Case) -> str:
    return f"{case.name}: its engine's part, then {case.base}"


def aside(query: str) -> str:
    """What the engine is asked by hand in the place of `query`, so that neither is an exact hit of the other."""
    return f"{query}, by hand"


def compare(cases: Sequence[Case], queries: Sequence[str], *, at_once: int, is_async: bool) -> dict[str, Measured]:
    """Every case on every query, in turns of `BLOCK` calls (twenty times as many at 64 at once)."""
    measured = {case.name: Measured() for case in cases}
    block = BLOCK if at_once == 1 else BLOCK * 20
    loop = asyncio.new_event_loop()

    def run(case: Case, asked: Sequence[str]) -> list[float]:
        if is_async:
            return loop.run_until_complete(in_tasks(case.acall, asked, at_once))
        return in_threads(case.call, asked, at_once)

    for case in cases:
        run(case, queries[:WARM])
    for start in range(0, len(queries), block):
        for case in cases:
            asked = queries[start : start + block]
            turn = Turn()
            with accounted(turn):
                turn.seconds = run(case, asked)
            measured[case.name].turns.append(turn)
            if case.engine:
                case.engine.flush(60)  # else its records would be written at the next case's expense
    loop.close()
    return measured


def prompt_bytes(cases: Sequence[Case], url: str, query: str) -> dict[str, int]:
    """Bytes of what each case sends: how comparable the prompts are, and whether examples are in them at all."""
    sent = {}
    for case in cases:
        case.call(query)
        with urllib.request.urlopen(url) as response:
            sent[case.name] = int(response.read())
        if case.shows and sent[case.name] < case.shows:
            raise SystemExit(f"{case.name} sent {sent[case.name]} bytes, so not the examples; nothing was measured")
    return sent


def rows(cases: Sequence[Case], measured: dict[str, Measured], sent: dict[str, int], at_once: int) -> dict:
    """One row a case: its own figures, and what it adds to the calls that it is compared with."""
    table = {}
    for case in cases:
        own, base = measured[case.name], measured.get(case.base)
        row: dict[str, object] = dict(figures(own.seconds))
        row["prompt bytes"] = sent[case.name]
        row["calls/s"] = round(own.per_second, 1)
        if base is not None:
            row["throughput, bare = 1"] = round(own.per_second / base.per_second, 3)
        if base is not None and at_once == 1:
            row["p50 added, ms"] = typical_difference(own.p50_ms(), base.p50_ms())
            row["CPU added, ms"] = typical_difference(own.cpu_ms(), base.cpu_ms())
        if case.inside and at_once == 1:
            hand = measured[hand_name(case)]
            row["p50 beyond the engine, ms"] = typical_difference(own.p50_ms(), hand.p50_ms())
            row["CPU beyond the engine, ms"] = typical_difference(own.cpu_ms(), hand.cpu_ms())
            row["writer's CPU, ms"] = round(own.writer_ms, 3)
        table[case.name] = row
    return table


def must_show(tables: dict[str, dict]) -> list[dict[str, object]]:
    """The two bounds for every surface, one call at a time."""
    bounds = []
    for setting, table in tables.items():
        for name, row in table.items():
            if "p50 beyond the engine, ms" not in row:
                continue
            for column, bound in (("CPU beyond the engine, ms", CPU_BOUND), ("p50 beyond the engine, ms", P50_BOUND)):
                what = column.removesuffix(", ms")
                bounds.append(
                    {
                        "bound": f"{name}, {setting}: {what} ≤ {bound:g} ms",
                        "measured": f"{row[column][0]:.3g} [{row[column][1]:.3g}, {row[column][2]:.3g}] ms",
                        "holds": row[column][0] <= bound,
                    }
                )
    return bounds


def label(is_async: bool, at_once: int) -> str:
    return f"{'async' if is_async else 'sync'}, {at_once} at once"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=CALLS, help="of each case and setting (default %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of the result (default benchmarks/results)")
    options = parser.parse_args()
    settings = [(is_async, at_once) for is_async in (False, True) for at_once in (1, AT_ONCE)]
    # Every setting asks something new, so that nothing is an exact hit of an earlier one.
    asked = {label(*each): [f"number {n}, {label(*each)}" for n in range(options.calls)] for each in settings}
    every = [text for queries in asked.values() for query in queries for text in (query, aside(query))]
    tables: dict[str, dict] = {}
    with ExitStack() as stack:
        url = stack.enter_context(zero_server())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="iccache-adapters-"))
        numbers = iter(range(100))
        stores = lambda: f"sqlite:///{folder}/{next(numbers)}.db"  # noqa: E731
        for framework, open_cases in (("LangChain", langchain), ("LlamaIndex", llamaindex)):
            with open_cases(url, stores, every) as surfaces:
                cases = with_engine(surfaces)
                sent = prompt_bytes(cases, url, every[0])
                for is_async, at_once in settings:
                    setting = label(is_async, at_once)
                    print(f"{framework}, {setting}", flush=True)
                    measured = compare(cases, asked[setting], at_once=at_once, is_async=is_async)
                    tables[f"{framework}, {setting}"] = rows(cases, measured, sent, at_once)
    path = write_result(
        "adapters",
        {
            "title": "What each adapter adds to a call",
            "seeds": [SEED],
            "n": options.calls,
            "notes": "Milliseconds a call with 95 % bootstrap intervals, against a server on loopback that answers at "
            "once; random 384-dimensional vectors, looked up; a pool of 1,000 examples in SQLite, of which five are "
            "shown. CPU is that of the whole process but for the engine's background threads (a column of its own); "
            "beyond the engine is what a surface takes more than its engine's part (`decide`, `select`, or `lookup` and "
            "`observe`) followed by the bare call. At 64 at once two cores are busy throughout, so a call's time is mostly "
            "waiting: throughput tells more.",
            "tables": tables,
            "must_show": must_show(tables),
        },
        options.out,
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
