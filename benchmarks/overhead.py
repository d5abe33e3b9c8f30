"""The overhead of IC-Cache: time of each step, memory per example, recall; compared with GPTCache's manager.

    python -m benchmarks.overhead                  # everything; about 25 minutes on two idle cores
    python -m benchmarks.overhead --sizes 1000     # a first look

Real MiniLM vectors of the query texts in ``$ICCACHE_DATA`` (embedded once, see benchmarks/vectors.py); 500 are queries,
the others are the pool. Each store and size runs in a separate process; GPTCache runs in a separate environment under
.cache/. The machine should be idle otherwise; the result states its load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.latency import figures, timed
from benchmarks.report import ROOT, write_result
from benchmarks.statistics import share
from benchmarks.vectors import CACHE, texts, vectors

SEED = 0
ASKED = 500
SIZES = (1_000, 10_000, 90_000)
STORES = ("sqlite", "redis")
GPTCACHE = ("gptcache==0.1.44", "faiss-cpu==1.15.1", "sqlalchemy==2.1.9")
BYTES = 2_500


def prepare(folder: Path) -> None:
    """Write the pool and the queries, sampled from all texts, for the child processes."""
    every = texts()
    embedded = vectors(every)
    order = np.random.default_rng(SEED).permutation(len(every))
    asked, pool = order[:ASKED], order[ASKED:]
    np.save(folder / "queries.npy", embedded[asked])
    np.save(folder / "pool.npy", embedded[pool])
    named = [[every[i] for i in pool], [every[i] for i in asked]]
    (folder / "texts.json").write_text(json.dumps(named), encoding="utf-8")


def child(module: str, *arguments: object, python: str = sys.executable) -> dict:
    """Run a measurement in a separate process; returns its output."""
    start = ["-m", f"benchmarks.{module}"] if python == sys.executable else [f"benchmarks/{module}.py"]
    command = [python, *start, *map(str, arguments)]
    print(" ".join(command[1:]), flush=True)
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"benchmarks/{module}.py failed (exit code {run.returncode}); see its message above")
    return json.loads(run.stdout.strip().splitlines()[-1])


@contextmanager
def open_store(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty store: a file, or a redis-server of our own that writes its log to disk at every command."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(dir=folder) as own:
            yield f"sqlite:///{own}/bench.db"
        return
    from tests.servers import RedisServer

    with RedisServer(appendonly="yes", appendfsync="always") as server:
        yield server.url()


def gptcache(folder: Path, sizes: Sequence[int]) -> dict[int, dict]:
    """GPTCache's steps at each size, in an environment made once under .cache/."""
    home = CACHE / "gptcache-venv"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        print("making an environment for GPTCache (once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *GPTCACHE], check=True)
        (home / "complete").touch()
    return {size: child("overhead_gptcache", folder, size, python=str(python)) for size in sizes}


def embedding_alone(folder: Path) -> dict[str, list[float]]:
    """The packaged MiniLM's own time for one request, for comparison."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from shared_core.inference.embedders import packaged_minilm

    model = packaged_minilm()
    asked = json.loads((folder / "texts.json").read_text(encoding="utf-8"))[1][:100]
    model.embed(asked[:1])
    return figures(timed(lambda text: model.embed([text]), [(text,) for text in asked]))


def must_show(
    engines: Mapping[tuple[str, int], dict], memory: Mapping[str, float], theirs: Mapping[int, dict]
) -> list[dict[str, object]]:
    """The bounds at the greatest size, from the measurements of `engines`, of memory and of GPTCache."""
    size = max(n for _, n in engines)
    bounds = []

    def add(bound: str, measured: float, unit: str, holds: bool) -> None:
        bounds.append({"bound": f"{bound} ({size:,})", "measured": f"{measured:.4g} {unit}".strip(), "holds": holds})

    for store in dict.fromkeys(kind for kind, _ in engines):
        result = engines[store, size]
        p50 = result["steps"]["decide: whole"]["p50_ms"][0]
        add(f"{store}: all of decide but the embedding ≤ 2 ms p50, idle", p50, "ms", p50 <= 2)
        for label in ("4 threads, 100 requests/s", "4 threads, as fast as they can"):
            p99 = result["load"][f"{label}, learner at work"]["p99_ms"][0]
            add(f"{store}: decide ≤ 10 ms p99, {label}, learner at work", p99, "ms", p99 <= 10)
        recall = float(np.mean(result["recall"]))
        add(f"{store}: recall@16 ≥ 0.97", recall, "", recall >= 0.97)
    for label, each in memory.items():
        add(f"vectors + metadata ≤ {BYTES:,} bytes an example, {label}", each, "bytes", each <= BYTES)
    if theirs and ("sqlite", size) in engines:
        ours = engines["sqlite", size]["steps"]
        pairs = {
            "search": ("decide: search", "search"),
            "all of decide against search + one text": ("decide: whole", "search and text"),
            "record": ("record: whole (durable)", "record"),
        }
        for label, (step, other) in pairs.items():
            timings = [seconds for name, seconds in theirs[size]["steps"].items() if name.split(",")[0] == other]
            their = min(figures(seconds)["p50_ms"][0] for seconds in timings)  # the faster of its two settings
            factor = their / ours[step]["p50_ms"][0]
            add(f"faster than GPTCache at p50: {label}", factor, "times", factor > 1)
    return bounds


def tables(
    engines: Mapping[tuple[str, int], dict],
    memory: Mapping[str, float],
    theirs: Mapping[int, dict],
    embedding: dict[str, list[float]],
) -> dict[str, dict]:
    """Everything measured, as the page shows it."""
    shown: dict[str, dict] = {}
    for (store, size), result in engines.items():
        shown[f"{store}, {size:,} examples: steps, one thread"] = result["steps"]
        shown[f"{store}, {size:,} examples: decide under load"] = result["load"]
    for size, result in theirs.items():
        steps = {f"GPTCache: {step}": figures(seconds) for step, seconds in result["steps"].items()}
        if ("sqlite", size) in engines:
            ours = engines["sqlite", size]["steps"]
            steps |= {f"IC-Cache, {s}": ours[s] for s in ("decide: search", "decide: whole", "record: whole (durable)")}
        shown[f"Next to GPTCache {result['version']} (FAISS + SQLite), {size:,} examples"] = steps
    shown["recall@16 of 500 requests outside the pool"] = {
        f"{store}, {size:,}": {"recall": share(np.array(result["recall"])).as_list()}
        for (store, size), result in engines.items()
    }
    shown["Filling and loading a pool"] = {
        f"{store}, {size:,}": {name: round(value, 2) for name, value in result["seconds"].items()}
        for (store, size), result in engines.items()
    }
    if memory:
        shown["Resident bytes an example"] = {label: {"bytes": round(each)} for label, each in memory.items()}
    shown["The embedding itself, for scale"] = {"all-MiniLM-L6-v2, one text": embedding}
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--stores", nargs="*", default=STORES, choices=STORES)
    parser.add_argument("--without", nargs="*", default=(), choices=("gptcache", "memory"), help="what to leave out")
    parser.add_argument("--out", type=Path, help="folder of the result (default benchmarks/results)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="iccache-overhead-") as temporary:
        folder = Path(temporary)
        prepare(folder)
        theirs = {} if "gptcache" in options.without else gptcache(folder, options.sizes)
        engines = {}
        for size in options.sizes:
            for kind in options.stores:
                with open_store(kind, folder) as url:
                    engines[kind, size] = child("overhead_engine", folder, url, size)
        memory = {} if "memory" in options.without else child("overhead_memory", folder, max(options.sizes))
        embedding = embedding_alone(folder)
    path = write_result(
        "overhead",
        {
            "title": "What IC-Cache adds to a request",
            "seeds": [SEED],
            "n": ASKED,
            "notes": "Milliseconds with 95 % bootstrap intervals over the requests. Vectors are MiniLM's (384 "
            "dimensions) of real questions, looked up instead of computed, so the embedding is left out. "
            "SQLite writes with synchronous=FULL, Redis with appendfsync=always. The learner is given feedback "
            "without end. Threads that ask as fast as they can saturate the processors: their p99 is then mostly "
            "waiting for a processor; at a fixed rate each request is timed from when it was due.",
            "tables": tables(engines, memory, theirs, embedding),
            "counters": {f"{store}, {size}": result["counters"] for (store, size), result in engines.items()},
            "must_show": must_show(engines, memory, theirs),
        },
        options.out,
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
