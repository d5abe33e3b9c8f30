"""One event loop on its own thread, for calls that must end in time even if a server never answers.

A blocking client limits each read and each try, so a server that sends a byte now and then blocks its caller without end.
A coroutine can be cancelled wherever it waits. One loop serves all calls of a process, and no call needs a thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def wait_for(call: Coroutine[Any, Any, T], seconds: float) -> T:
    """Run `call` on the background loop, and wait for its end. May be called from any thread but the loop's own.

    Raises:
        TimeoutError: It did not end within `seconds`, and was cancelled.
        Exception: Whatever `call` raised.
    """
    future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(call, seconds), _running())
    try:
        return future.result()
    finally:
        future.cancel()  # does something only if the caller was interrupted


def _running() -> asyncio.AbstractEventLoop:
    global _loop  # noqa: PLW0603 - one loop a process
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="iccache-loop", daemon=True).start()
        return _loop


def _after_fork() -> None:
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
