"""An embedder without a model, for tests."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from shared_core.records import Vector


class Words:
    """Bag-of-words vectors: texts that share words are near, deterministically."""

    tag = "words-256"

    def embed(self, texts: Sequence[str]) -> Vector:
        rows = np.zeros((len(texts), 256), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[0] = 0.1
            for word in re.findall(r"\w+", text.lower()):
                row[1 + sum(word.encode()) % 255] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
