"""Bytes an example takes in a replica's memory, after one-by-one adds and after rebuilding. Prints JSON.

The measure is anonymous resident memory (``RssAnon``), which excludes the file of vectors. FAISS's fixed allocations
are made before the measurement begins.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from shared_core.pool.memory import return_memory
from shared_core.pool.partition import Partition
from shared_core.records import Entry, Vector
from shared_core.store.protocol import Row
from shared_core.text import digest

EVERY = 1000  # adds between two looks whether to rebuild, as the loop of a serving process would
WARM = 17_000  # enough for a graph


def resident() -> int:
    """Anonymous resident bytes of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def add(partition: Partition, vectors: Vector, *, rebuild: bool) -> None:
    """Add every vector by itself, under an id like those of real examples."""
    for n, vector in enumerate(vectors):
        entry = Entry(digest(n)[:32], "bench", "bench", "traffic", "large", 0.0, 500)
        partition.put([Row(entry, np.array(vector))])
        if rebuild and n % EVERY == 0 and partition.rebuild():
            return_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds pool.npy")
    parser.add_argument("size", type=int)
    options = parser.parse_args()
    vectors = np.load(options.folder / "pool.npy", mmap_mode="r")[: options.size]
    warm = Partition(vectors.shape[1], 0)
    add(warm, vectors[:WARM], rebuild=False)
    warm.rebuild()
    warm.nearest(np.array(vectors[0]), 16)
    del warm
    return_memory()
    figures = {}
    for label, rebuild in (("as it grows, rebuilt", True), ("one-by-one adds, never rebuilt", False)):
        before = resident()
        partition = Partition(vectors.shape[1], 0)
        add(partition, vectors, rebuild=rebuild)
        figures[label] = (resident() - before) / len(vectors)
        if not rebuild:
            partition.rebuild()
            return_memory()
            figures["then rebuilt once"] = (resident() - before) / len(vectors)
        del partition
        return_memory()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
