"""What IC-Cache calls: embedders now; models and the judge have their place here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shared_core.records import Vector


class Embedder(Protocol):
    """Turns texts into unit vectors."""

    @property
    def tag(self) -> str:
        """Names the model, so that a pool is never searched with another one."""

    def embed(self, texts: Sequence[str]) -> Vector:
        """Unit vectors of shape (len(texts), dimension), float32. Must be thread-safe."""
