"""Threads for an event loop's calls. One that has nothing to do ends by itself."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

from typing_extensions import override

P = ParamSpec("P")
T = TypeVar("T")


class IdleThreads(Executor):
    """An executor whose threads are daemons, start when they are needed, and end when they are not.

    Args:
        most: Number of threads at the same time.
        seconds: How long a thread waits for more to do.
        name: Prefix of the threads' names.
    """

    def __init__(self, most: int, seconds: float, name: str) -> None:
        self._most = most
        self._seconds = seconds
        self._name = name
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], object]] = deque()
        self._threads = 0
        self._idle = 0

    @override
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the result
                future.set_exception(error)

        with self._changed:
            self._waiting.append(run)
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def _work(self) -> None:
        while run := self._next():
            run()

    def _next(self) -> Callable[[], object] | None:
        """The next call; None if there was none for a while, and the thread has been counted out."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: bool(self._waiting), self._seconds)
            self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None
