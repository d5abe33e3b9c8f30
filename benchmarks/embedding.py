"""MiniLM vectors, computed once and kept under .cache/ (git-ignored) by the hash of their text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from shared_core.inference.embedders import packaged_minilm
from shared_core.records import Vector

FOLDER = Path(".cache")
BATCH = 512


class Embeddings:
    """The packaged MiniLM behind a file of vectors; an `Embedder`."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._model = packaged_minilm()
        self._path = folder / "minilm.npz"
        self._known: dict[str, Vector] = {}
        if self._path.exists():
            kept = np.load(self._path, allow_pickle=False)
            self._known = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))

    @property
    def tag(self) -> str:
        return self._model.tag

    def embed(self, texts: Sequence[str]) -> Vector:
        keys = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]
        missing = sorted({(k, t) for k, t in zip(keys, texts, strict=True) if k not in self._known})
        batches = [missing[i : i + BATCH] for i in range(0, len(missing), BATCH)]
        for batch in track(batches, "embedding") if len(batches) > 1 else batches:
            vectors = self._model.embed([text for _, text in batch])
            self._known.update({key: vector for (key, _), vector in zip(batch, vectors, strict=True)})
        if len(missing) > BATCH:
            self._keep()
        return np.stack([self._known[key] for key in keys])

    def _keep(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(self._path, keys=np.array(list(self._known)), vectors=np.stack(list(self._known.values())))
