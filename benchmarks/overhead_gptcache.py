"""GPTCache's FAISS + SQLite data manager on the same vectors, in an environment of its own; prints JSON.

Its steps are named after ours: search (16 nearest), text (of the nearest one, which is all that
GPTCache reads), record (one save). It writes its FAISS file only when it is flushed or closed, so its record is not
durable as ours is.
"""

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from gptcache.manager import manager_factory

ANSWER = "An answer of a usual length, as a model might have given it to this question. " * 5
K, RECORDED, BATCH = 16, 300, 4096


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="texts.json, pool.npy and queries.npy")
    parser.add_argument("size", type=int)
    options = parser.parse_args()
    texts, asked = json.loads((options.folder / "texts.json").read_text(encoding="utf-8"))
    vectors = np.load(options.folder / "pool.npy", mmap_mode="r")[: options.size]
    queries = np.load(options.folder / "queries.npy")
    steps = {"search": [], "text": [], "search and text": [], "record": []}
    with tempfile.TemporaryDirectory() as folder:
        manager = manager_factory(
            "sqlite,faiss",
            data_dir=folder,
            vector_params={"dimension": vectors.shape[1]},
            eviction_params={"maxsize": 2 * options.size + 1000},
        )
        for start in range(0, options.size, BATCH):
            part = [np.array(v) for v in vectors[start : start + BATCH]]
            names = texts[start : start + BATCH][: len(part)]
            manager.import_data(names, [ANSWER] * len(part), part, [None] * len(part))
        for query in queries:
            begun = time.perf_counter()
            found = manager.search(query, top_k=K)
            searched = time.perf_counter()
            read = manager.get_scalar_data(found[0])
            done = time.perf_counter()
            assert len(found) == min(K, options.size)
            assert read.answers
            steps["search"].append(searched - begun)
            steps["text"].append(done - searched)
            steps["search and text"].append(done - begun)
        for text, query in list(zip(asked, queries, strict=True))[:RECORDED]:
            begun = time.perf_counter()
            manager.save(text, ANSWER, query)
            steps["record"].append(time.perf_counter() - begun)
        manager.close()
    print(json.dumps({"version": version("gptcache"), "steps": steps}))


if __name__ == "__main__":
    main()
