"""An LRU cache of texts, which saves a round trip for popular examples."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Final

from shared_core.records import Texts

LIMIT: Final = 16 * 2**20  # bytes of text; about ten thousand examples of usual length


class TextCache:
    """Texts by scope and id; the least recently used are dropped first. Thread-safe."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._texts: OrderedDict[tuple[str, str], Texts] = OrderedDict()
        self._bytes = 0
        self._forgotten = 0

    def get(self, scope: str, ids: Collection[str]) -> tuple[dict[str, Texts], int]:
        """The cached texts, and the mark to pass to `keep` with the texts that are read from the store."""
        found = {}
        with self._lock:
            for example in ids:
                texts = self._texts.get((scope, example))
                if texts is not None:
                    self._texts.move_to_end((scope, example))
                    found[example] = texts
            return found, self._forgotten

    def keep(self, scope: str, texts: Mapping[str, Texts], mark: int) -> None:
        """Keep texts that were read since `mark`, unless any text was dropped since, which might be one of these."""
        with self._lock:
            if mark != self._forgotten:
                return
            for example, text in texts.items():
                self._drop((scope, example))
                self._texts[scope, example] = text
                self._bytes += text.size
            while self._bytes > self._limit:
                self._drop(next(iter(self._texts)))

    def forget(self, scope: str, ids: Collection[str]) -> None:
        """Drop the texts of changed or deleted examples."""
        with self._lock:
            self._forgotten += 1
            for example in ids:
                self._drop((scope, example))

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._forgotten += 1
            self._texts.clear()
            self._bytes = 0

    def _drop(self, key: tuple[str, str]) -> None:
        texts = self._texts.pop(key, None)
        if texts is not None:
            self._bytes -= texts.size
