"""One event loop on its own thread, for calls that must end in time even if a server never answers.

A blocking client limits each read and each try, so a server that sends a byte now and then blocks its caller without end.
A coroutine can be cancelled wherever it waits. One loop serves many calls, and no call needs a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from shared_core.forks import renew_in_children

T = TypeVar("T")


class BackgroundLoop:
    """An event loop in a thread, which starts at the first call. Keep it for the whole process.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        renew_in_children(self)

    def after_fork(self) -> None:
        """Forget the loop, whose thread a forked child lacks."""
        self._loop, self._lock = None, threading.Lock()

    def wait_for(self, call: Coroutine[Any, Any, T], seconds: float) -> T:
        """Run `call` on the loop, and wait for its end. May be called from any thread but the loop's own.

        Raises:
            TimeoutError: It did not end within `seconds`, and was cancelled.
            Exception: Whatever `call` raised.
        """
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(call, seconds), self._running())
        try:
            return future.result()
        finally:
            future.cancel()  # does something only if the caller was interrupted

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True).start()
            return self._loop


_models = BackgroundLoop("iccache-loop")


def wait_for(call: Coroutine[Any, Any, T], seconds: float) -> T:
    """`BackgroundLoop.wait_for` on the loop that all models of a process share."""
    return _models.wait_for(call, seconds)
