"""GPTCache's FAISS + SQLite data manager on the same vectors, in a separate environment; prints JSON.

Its steps are named after ours: search (16 nearest), text (of the nearest one, which is all that
GPTCache reads), record (one save). It writes its FAISS file only when it is flushed or closed, so its record is not
durable as ours is. Look-ups are timed with FAISS's default threads, which suit an idle machine, and with one.
"""

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import faiss
import numpy as np
from gptcache.manager import manager_factory

ANSWER = "An answer of a usual length, as a model might have given it to this question. " * 5
K, RECORDED, BATCH = 16, 300, 4096


def check(manager, vectors, queries):
    """Refuse to measure a manager that lacks part of the pool, or whose results differ from an exact search."""
    held = manager.v.count()
    if held != len(vectors):
        raise SystemExit(f"GPTCache holds {held} of {len(vectors)} vectors; figures would be of another pool")
    for query in queries:
        distance = float(manager.search(query, top_k=1)[0][0])
        nearest = 2 - 2 * float((vectors @ query).max())
        if abs(distance - nearest) > 1e-3:
            raise SystemExit(f"GPTCache's nearest is at {distance:.4f}, the true one at {nearest:.4f}")


def look_ups(manager, queries, label):
    """Seconds of each step of a look-up, under names that end in `label`."""
    search, text = [], []
    for query in queries:
        begun = time.perf_counter()
        found = manager.search(query, top_k=K)
        searched = time.perf_counter()
        read = manager.get_scalar_data(found[0])
        text.append(time.perf_counter() - searched)
        search.append(searched - begun)
        assert read.answers
    both = [a + b for a, b in zip(search, text, strict=True)]
    return {f"search{label}": search, f"text{label}": text, f"search and text{label}": both}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="texts.json, pool.npy and queries.npy")
    parser.add_argument("size", type=int)
    options = parser.parse_args()
    texts, asked = json.loads((options.folder / "texts.json").read_text(encoding="utf-8"))
    vectors = np.load(options.folder / "pool.npy", mmap_mode="r")[: options.size]
    queries = np.load(options.folder / "queries.npy")
    steps = {"record": []}
    with tempfile.TemporaryDirectory() as folder:
        manager = manager_factory(
            "sqlite,faiss",
            data_dir=folder,
            vector_params={"dimension": vectors.shape[1]},
            eviction_params={"max_size": 2 * options.size + 1000},  # else it silently keeps 1,000
        )
        for start in range(0, options.size, BATCH):
            part = [np.array(v) for v in vectors[start : start + BATCH]]
            names = texts[start : start + BATCH][: len(part)]
            manager.import_data(names, [ANSWER] * len(part), part, [None] * len(part))
        check(manager, vectors, queries)
        for label, threads in (("", faiss.omp_get_max_threads()), (", one OpenMP thread", 1)):
            faiss.omp_set_num_threads(threads)
            steps |= look_ups(manager, queries, label)
        for text, query in list(zip(asked, queries, strict=True))[:RECORDED]:
            begun = time.perf_counter()
            manager.save(text, ANSWER, query)
            steps["record"].append(time.perf_counter() - begun)
        manager.close()
    print(json.dumps({"version": version("gptcache"), "steps": steps}))


if __name__ == "__main__":
    main()
