"""One measurement of benchmarks/overhead.py: every step of `lookup`, `decide` and `record` on one store and pool size.

Runs in a separate process, with its own threads and memory. The embedder looks up precomputed vectors, so the embedding
itself is not measured. Prints JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.latency import figures, timed, timed_in_threads
from shared_core.engine import Engine
from shared_core.guard.deadline import Deadline
from shared_core.prompt import render
from shared_core.records import Vector
from shared_core.settings import Settings
from shared_core.values import Arm, Message, Outcome, Request

K = 16
ARMS = (Arm("small", 0.1), Arm("large", 1.0, uses_examples=False))
SYSTEM = "Answer the question."
ANSWER = "An answer of a usual length, as a model might have given it to this question. " * 5
RECORDED = 300  # requests that `record` is measured on, and that the learner's feedback is about
FEEDBACK = 10  # judgements between two rounds of the learner
ROUNDS = 20  # rounds of the learner that a measurement must have seen
BACKLOG = 30  # judgements of each recorded decision that wait for the learner
BATCH = 4096
LOADS = (  # threads, and requests a second of all of them; the Azure chat trace peaks at 16 in one second
    ("1 thread, as fast as it can", 1, 0),
    ("4 threads, 100 requests/s", 4, 100),
    ("4 threads, as fast as they can", 4, 0),
)


class Known:
    """An embedder whose vectors were computed before."""

    tag = "benchmark-minilm"

    def __init__(self, vectors: dict[str, Vector]) -> None:
        self._vectors = vectors
        self._other = next(iter(vectors.values()))  # `Engine.warm` embeds a word of its own

    def embed(self, texts: list[str]) -> Vector:
        return np.stack([self._vectors.get(text, self._other) for text in texts])


class Bench:
    """An engine over `size` examples, and requests that are not among them."""

    def __init__(self, folder: Path, url: str, size: int) -> None:
        pool_texts, query_texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        self.pool = np.load(folder / "pool.npy", mmap_mode="r")[:size]
        self.queries = np.load(folder / "queries.npy")
        known = dict(zip(pool_texts, self.pool, strict=False)) | dict(zip(query_texts, self.queries, strict=True))
        self.engine = Engine(
            store=url,
            arms=ARMS,
            reference="large",
            embedder=Known(known),
            settings=Settings(learn_every=3600.0),  # the learner works when a measurement wants it to
            reward=lambda *_: None,
        )
        self.requests = [self._request(text) for text in query_texts]
        self.texts = pool_texts[:size]
        self.ids: list[str] = []
        self._raters = itertools.count()  # each judges a decision once

    def _request(self, text: str) -> Request:
        return Request((Message("system", SYSTEM), Message("user", text)), text, scope="bench", task="bench")

    def fill(self) -> dict[str, float]:
        """Put the pool in, load it and rebuild it; seconds of each."""
        begun = time.perf_counter()
        for start in range(0, len(self.texts), BATCH):
            pairs = [(text, ANSWER) for text in self.texts[start : start + BATCH]]
            self.ids += self.engine.add_examples(pairs, scope="bench", task="bench")
        filled = time.perf_counter()
        self.engine.warm("bench")
        warmed = time.perf_counter()
        self.engine.maintain()
        done = time.perf_counter()
        return {"import_s": filled - begun, "load_s": warmed - filled, "rebuild_s": done - warmed}

    def recall(self) -> list[float]:
        """recall@16 of each query against an exact search."""
        rows = {example: row for row, example in enumerate(self.ids)}
        pool, found = self.engine._components().pool, []
        for query in self.queries:
            true = np.partition(self.pool @ query, -K)[-K]  # the similarity of the sixteenth nearest; ties count
            ids = self.stepped(pool.candidates("bench", "bench", query, K)).ids
            found.append(float(np.mean([self.pool[rows[i]] @ query >= true - 1e-5 for i in ids])))
        return found

    def stepped(self, steps):
        """The result of a part's steps."""
        return self.engine._components().guard.run(soon(), steps)

    def steps(self) -> dict[str, list[float]]:
        """Seconds of each step, one thread; each request is seen for the first time, so texts come from the store."""
        parts, engine = self.engine._components(), self.engine
        pool, settings, arms = parts.pool, engine.settings, tuple(engine.arms.values())
        each = [(request,) for request in self.requests]
        vectors = [(query,) for query in self.queries]
        self.cold()
        selections = [self.stepped(parts.selector.select(*arguments, arms)) for arguments in each]
        self.cold()
        shown = [[e.id for e in selection.for_arm("small")] for selection in selections]
        numbered = [(r, s, str(n)) for n, (r, s) in enumerate(zip(self.requests, selections, strict=True))]
        steps = {
            "lookup: key": timed(lambda request: request.exact_key, each),
            "lookup: whole (miss)": timed(engine.lookup, each),
            "decide: search": timed(lambda query: self.stepped(pool.candidates("bench", "bench", query, K)), vectors),
            "decide: threshold": timed(
                lambda _: self.stepped(pool.similarity_quantile("bench", "bench", settings.relevance_quantile)), vectors
            ),
            "decide: texts from the store": timed(
                lambda ids: self.stepped(pool.texts("bench", ids)), [(ids,) for ids in shown if ids]
            ),
            "decide: route": timed(lambda *call: self.stepped(parts.router.route(*call)), numbered),
            "decide: render": timed(
                lambda request, selection, _: render(request, selection.for_arm("small"), "chat"), numbered
            ),
        }
        self.cold()
        steps["decide: whole"] = timed(engine.decide, each)
        return steps | self.record() | self.exact()

    def record(self) -> dict[str, list[float]]:
        """Durable writes: the decision and, where it may be kept, the example, in one transaction; then feedback."""
        made = [self.engine.decide(request, f"recorded-{n}") for n, request in enumerate(self.requests[:RECORDED])]
        outcome = Outcome(ANSWER, writer="large")
        recorded = timed(self.engine.record, [(decision, outcome) for decision in made])
        judged = timed(self.engine.feedback, [(decision.id, 0.9, "first") for decision in made])
        return {"record: whole (durable)": recorded, "feedback (durable)": judged}

    def exact(self) -> dict[str, list[float]]:
        """Exact answers: stored as `BaseCache.update` does, durably, and served."""
        outcome = Outcome(ANSWER, writer="large", payload=json.dumps({"text": ANSWER}).encode())
        asked = [(request,) for request in self.requests[:RECORDED]]
        stored = timed(lambda request: self.engine.observe(request, outcome, admit=False), asked)
        before = self.engine.counters["lookup.hit"]
        served = timed(self.engine.lookup, asked)
        if self.engine.counters["lookup.hit"] - before != len(asked):
            raise SystemExit("exact answers that were stored are not served")
        return {"update: exact answer (durable)": stored, "lookup: whole (hit)": served}

    def decide_under(self, threads: int, rounds: int, rate: float) -> list[float]:
        """Seconds of `decide` from `threads` threads, `rate` a second together; 0: each asks again at once."""
        self.cold()
        asked = [(request,) for request in self.requests] * rounds
        return timed_in_threads(self.engine.decide, asked, threads, rate)

    def under_load(self) -> dict[str, dict[str, list[float]]]:
        """`decide` from one and four threads, idle and with the learner at work."""
        figures_of = {}
        for label, threads, rate in LOADS:
            figures_of[f"{label}, idle"] = figures(self.decide_under(threads, 2, rate))
            with self.learner_at_work() as consumed:
                seconds = self.decide_under(threads, 2, rate)
                while consumed() < ROUNDS * FEEDBACK:
                    seconds += self.decide_under(threads, 1, rate)
            figures_of[f"{label}, learner at work"] = figures(seconds)
            if not rate:  # at a given rate it would take too long, and the learner be done before
                with self.learner_behind():
                    seconds = self.decide_under(threads, 2, rate)
                figures_of[f"{label}, learner working off a backlog"] = figures(seconds)
        return figures_of

    @contextmanager
    def learner_behind(self) -> Iterator[None]:
        """A learner that works off thousands of judgements without a rest."""
        stop, left, learner = threading.Event(), threading.Event(), self.engine._components().learner
        for rater in itertools.islice(self._raters, BACKLOG):
            for n in range(RECORDED):
                self.engine.feedback(f"recorded-{n}", 0.8, f"rater-{rater}")

        def work() -> None:
            while not stop.is_set():
                if not learner.round().consumed:
                    left.set()
                    return

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if left.is_set():
            raise SystemExit("the learner had worked off its backlog before the measurement ended")
        learner.run_until_drained()

    def cold(self) -> None:
        """Clear the cached texts, so they are read from the store again."""
        self.engine._components().pool._texts.clear()

    @contextmanager
    def learner_at_work(self) -> Iterator[Callable[[], int]]:
        """Feedback without end, and a learner that never rests; yields how many judgements it has consumed."""
        stop, consumed = threading.Event(), 0
        learner, engine = self.engine._components().learner, self.engine

        def work() -> None:
            nonlocal consumed
            for rater in self._raters:
                for n in range(FEEDBACK):
                    if stop.is_set():
                        return
                    engine.feedback(f"recorded-{(rater * FEEDBACK + n) % RECORDED}", 0.8, f"rater-{rater}")
                consumed += learner.run_until_drained().consumed

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield lambda: consumed
        finally:
            stop.set()
            thread.join()


def soon() -> Deadline:
    return Deadline(10.0, time.monotonic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="texts.json, pool.npy and queries.npy")
    parser.add_argument("url")
    parser.add_argument("size", type=int)
    options = parser.parse_args()
    bench = Bench(options.folder, options.url, options.size)
    result: dict[str, object] = {"seconds": bench.fill(), "recall": bench.recall()}
    result["steps"] = {name: figures(seconds) for name, seconds in bench.steps().items()}
    result["load"] = bench.under_load()
    result["counters"] = dict(bench.engine.counters.snapshot())
    bench.engine.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
