"""Keeps what a loaded model brings out of the garbage collector (docs/decisions/0024-collector.md)."""

from __future__ import annotations

import gc
import threading

_once = threading.Lock()  # held for good by the first caller


def freeze_loaded() -> None:
    """Exclude all that is alive from garbage collection, once a process; the first call takes a full collection.

    A model brings half a million objects that live to the end: torch, transformers and their modules. A full collection
    looks at each, with the GIL held, for longer than a request may wait.
    """
    if _once.acquire(blocking=False):
        gc.collect()  # garbage must not be kept for good
        gc.freeze()
