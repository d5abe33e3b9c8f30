"""A pool in a list and an embedder in a dictionary: the selector's seams, exact and small."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from shared_core.errors import ScopeIsCold
from shared_core.guard import Step, immediately
from shared_core.pool import STATISTICS_DTYPE, Candidates
from shared_core.records import Texts


def unit(*numbers):
    vector = np.asarray(numbers, dtype=np.float64)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@dataclass
class Kept:
    id: str
    vector: np.ndarray
    quality: float = 0.5
    scope: str = "default"
    task: str = ""
    query: str = "asked"
    answer: str = "answered"


@dataclass
class ListPool:
    """`Pool` by brute force; `threshold` is what its quantile look-up answers."""

    kept: list[Kept]
    threshold: float = -1.0
    deleted: set[str] = field(default_factory=set)
    cold: bool = False
    asked_quantiles: list[float] = field(default_factory=list)
    text_calls: list[list[str]] = field(default_factory=list)

    def candidates(self, scope, task, vector, k):
        if self.cold:
            raise ScopeIsCold(scope)
        own = [e for e in self.kept if (e.scope, e.task) == (scope, task)]
        own = sorted(own, key=lambda e: -float(e.vector @ vector))[:k]
        statistics = np.zeros(len(own), STATISTICS_DTYPE)
        statistics["quality"] = [e.quality for e in own]
        found = Candidates(
            ids=tuple(e.id for e in own),
            similarity=np.array([e.vector @ vector for e in own], dtype=np.float32),
            vectors=np.array([e.vector for e in own], dtype=np.float32).reshape(len(own), len(vector)),
            statistics=statistics,
        )
        return immediately(found)

    def similarity_quantile(self, scope, task, q):
        self.asked_quantiles.append(q)
        return immediately(self.threshold)

    def texts(self, scope, ids):
        self.text_calls.append(list(ids))
        return (yield Step("store", partial(self._texts, scope, ids)))

    def _texts(self, scope, ids):
        return {
            e.id: Texts(e.query, e.answer)
            for e in self.kept
            if e.scope == scope and e.id in ids and e.id not in self.deleted
        }

    def warm(self, scope): ...
    def refresh(self):
        return 0

    def size(self, scope):
        return sum(e.scope == scope for e in self.kept)

    def maintain(self): ...
    def close(self): ...


class FixedEmbedder:
    """Every text becomes the same vector; remembers what it was given."""

    tag = "fixed"

    def __init__(self, vector):
        self.vector = vector
        self.seen = []

    def embed(self, texts):
        self.seen.append(list(texts))
        return np.array([self.vector] * len(texts), dtype=np.float32)
