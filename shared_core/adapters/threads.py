"""Runs synchronous functions of the core on our own threads, off the event loop; from when a deadline counts."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, ParamSpec, TypeVar, cast

from shared_core.adapters.executor import IdleThreads
from shared_core.forks import renew_in_children
from shared_core.guard.deadline import arrival

P = ParamSpec("P")
T = TypeVar("T")

THREADS: Final = 8  # more would not be faster, because a decision holds the GIL for most of its millisecond
IDLE_SECONDS: Final = 5.0  # a new thread takes a tenth of a millisecond, and one that waits costs nothing but memory


async def off_loop(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``function(*args)`` on a thread, with this task's context variables.

    Does not use the loop's own executor, where jobs of the application could delay a request beyond our deadline. The
    deadline counts from this call, so requests that wait too long in a burst fall back without further delay.
    """
    context = contextvars.copy_context()
    context.run(arrival.set, time.monotonic())
    call = partial(context.run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_threads.pool, call)


@contextmanager
def arrived(at: float) -> Iterator[None]:
    """Deadlines that begin inside count from `at`, in seconds by `time.monotonic`."""
    token = arrival.set(at)
    try:
        yield
    finally:
        arrival.reset(token)


async def on_threads(pieces: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """The pieces of a model's answer, each produced on a thread of the loop's executor, off the event loop."""
    end: Final = object()
    try:
        while (piece := await asyncio.to_thread(next, pieces, end)) is not end:
            yield cast("T", piece)
    finally:
        with suppress(ValueError):  # a piece is still being produced; its thread holds the last reference
            pieces.close()


class _Threads:
    """Our threads, which start on first use, not at import."""

    def __init__(self) -> None:
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Renew the pool, whose threads a forked child lacks."""
        self.pool = IdleThreads(THREADS, IDLE_SECONDS, "iccache-async")


_threads: Final = _Threads()
