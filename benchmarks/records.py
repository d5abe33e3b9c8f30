"""How many answers a second the writer stores, and what a slow reward function delays.

    python -m benchmarks.records                  # about a minute
    python -m benchmarks.records --answers 1000   # a first look

Each answer is stored as a decision and an example of 384 dimensions, on a SQLite file and on a redis-server of our own
with ``appendfsync everysec``; with a reward function, its score follows as a rating. "One at a time" is `Engine.record`,
which returns when all of it is durable; "in the background" is `Engine.submit_record`, then `Engine.flush`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.report import write_result
from shared_core.engine import Engine
from shared_core.reward import Reward
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Store
from shared_core.values import Arm, Decision, Message, Outcome, Request, Route, Selection

SEED: Final = 0
DIMENSION: Final = 384
FEATURES: Final = 16
WAVE: Final = 2_000  # answers that are handed over before the next flush, fewer than may wait
SLOW: Final = 1.0  # seconds of the slow reward function
SLOW_ANSWERS: Final = 12
REQUIRED: Final = {"sqlite": 3_000, "redis": 5_000}
FASTER: Final = 10  # or so many times as fast as one at a time
PROMPT: Final = 0.1
ARMS: Final = (Arm("small", 0.1), Arm("large", 1.0, uses_examples=False))
ANSWER: Final = "An answer of a usual length, as a model might have given it to this question. " * 5


class Given:
    """An embedder that is never asked, because each decision holds its vector."""

    tag = "benchmark-given"

    def embed(self, texts: list[str]) -> np.ndarray:
        raise NotImplementedError


@contextmanager
def empty_store(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty store."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(dir=folder) as own:
            yield f"sqlite:///{own}/bench.db"
        return
    from tests.servers import RedisServer

    with RedisServer(appendonly="yes", appendfsync="everysec") as server:
        yield server.url("bench")


@contextmanager
def engine_on(url: str, reward: Reward | None) -> Iterator[Engine]:
    engine = Engine(
        store=url,
        arms=ARMS,
        reference="large",
        embedder=Given(),
        settings=Settings(drain=60),
        reward=reward,
        background=False,
    )
    try:
        yield engine
    finally:
        engine.close()


def decisions(prefix: str, number: int) -> list[Decision]:
    """Decisions of different requests, as the router makes them."""
    rng = np.random.default_rng(SEED)
    vectors = rng.normal(size=(number, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    route = Route("large", features=tuple(rng.normal(size=FEATURES)), reason="benchmark")
    return [
        Decision(
            f"{prefix}-{n}",
            Request((Message("user", f"{prefix} question {n}"),), f"{prefix} question {n}", scope="bench", task="t"),
            route,
            Selection(vector=vector),
            created_at=time.time(),
        )
        for n, vector in enumerate(vectors)
    ]


def rates(url: str, reward: Reward | None, one_at_a_time: int, answers: int) -> tuple[float, float]:
    """Answers a second, one at a time and in the background."""
    outcome = Outcome(ANSWER, writer="large", prompt_tokens=40, completion_tokens=100)
    with engine_on(url, reward) as engine:
        first = decisions("first", one_at_a_time)
        started = time.perf_counter()
        for decision in first:
            engine.record(decision, outcome)
        slowly = one_at_a_time / (time.perf_counter() - started)
        then = decisions("then", answers)
        started = time.perf_counter()
        for begin in range(0, answers, WAVE):
            for decision in then[begin : begin + WAVE]:
                engine.submit_record(decision, outcome)
            if not engine.flush(60):
                raise SystemExit("records were lost")
        quickly = answers / (time.perf_counter() - started)
    store = open_store(url, settings=Settings())
    stored, rated = store.count("bench"), ratings(store)
    store.close()
    if stored != one_at_a_time + answers or rated != (stored if reward else 0):
        raise SystemExit(f"{stored} examples and {rated} ratings of {one_at_a_time + answers} answers are stored")
    return slowly, quickly


def ratings(store: Store, rater: str = "reward") -> int:
    found, offset = 0, 0
    while entries := store.feedback(offset):
        found += sum(entry.rater == rater for _, entry in entries)
        offset = entries[-1][0]
    return found


def behind_a_slow_reward(url: str) -> dict[str, float]:
    """Milliseconds until the answers are durable, then until the users' ratings are; as another client sees it."""
    watch = open_store(url, settings=Settings())

    def slow(*_: object) -> float:
        time.sleep(SLOW)
        return 1.0

    with engine_on(url, slow) as engine:
        asked = decisions("slow", SLOW_ANSWERS)
        ids = [decision.id for decision in asked]
        started = time.perf_counter()
        for decision in asked:
            engine.submit_record(decision, Outcome(ANSWER, writer="large"))
        answers = seconds_until(lambda: len(watch.decisions(ids)) == SLOW_ANSWERS, started)
        started = time.perf_counter()
        for decision_id in ids:
            engine.submit_feedback(decision_id, 1.0)
        rated = seconds_until(lambda: ratings(watch, "user") == SLOW_ANSWERS, started)
        engine.flush(60)
    watch.close()
    return {"answers durable": 1000 * answers, "users' ratings durable": 1000 * rated}


def seconds_until(condition: object, started: float) -> float:
    while not condition():
        if time.perf_counter() - started > 30:
            raise SystemExit("not stored within 30 s")
        time.sleep(0.001)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=20_000, help="answers stored in the background")
    parser.add_argument("--one-at-a-time", type=int, default=300, help="answers stored one at a time")
    parser.add_argument("--out", type=Path, help="folder of the result (default benchmarks/results)")
    options = parser.parse_args()
    found, slow = {}, {}
    with tempfile.TemporaryDirectory(prefix="iccache-records-", ignore_cleanup_errors=True) as temporary:
        for kind in REQUIRED:
            for row, reward in ((kind, None), (f"{kind}, each with a score", lambda *_: 1.0)):
                with empty_store(kind, Path(temporary)) as url:
                    found[row] = rates(url, reward, options.one_at_a_time, options.answers)
                print(row, *(round(rate) for rate in found[row]), flush=True)
            with empty_store(kind, Path(temporary)) as url:
                slow[kind] = behind_a_slow_reward(url)
            print(kind, slow[kind], flush=True)
    path = write_result(
        "records",
        {
            "title": "What the writer stores",
            "seeds": [SEED],
            "n": options.answers,
            "notes": "An answer is a decision and an example of 384 dimensions; its score is a rating. SQLite "
            "writes with synchronous=FULL, Redis with appendfsync=everysec.",
            "tables": {
                "answers a second": {
                    kind: {
                        "one at a time": slowly,
                        "in the background": quickly,
                        "times as fast": quickly / slowly,
                    }
                    for kind, (slowly, quickly) in found.items()
                },
                f"{SLOW_ANSWERS} answers with a reward function of {SLOW:g} s: milliseconds": slow,
            },
            "must_show": must_show(found, slow),
        },
        options.out,
    )
    print(f"wrote {path}")


def must_show(found: dict[str, tuple[float, float]], slow: dict[str, dict[str, float]]) -> list[dict[str, object]]:
    bounds: list[dict[str, object]] = [
        {
            "bound": f"{kind}: {REQUIRED[kind]:,} answers a second, or {FASTER} times as many as one at a time",
            "measured": f"{quickly:,.0f} ({quickly / slowly:.1f} times)",
            "holds": quickly >= REQUIRED[kind] or quickly >= FASTER * slowly,
        }
        for kind, (slowly, quickly) in found.items()
        if kind in REQUIRED
    ]
    for kind, seconds in slow.items():
        bounds += [
            {
                "bound": f"{kind}: {SLOW_ANSWERS} {what} within {1000 * PROMPT:g} ms of handing them over",
                "measured": f"{milliseconds:.1f} ms",
                "holds": milliseconds <= 1000 * PROMPT,
            }
            for what, milliseconds in seconds.items()
        ]
    return bounds


if __name__ == "__main__":
    main()
