"""Async calls of a synchronous core: on threads of our own, so that the event loop goes on."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

from shared_core.guard import arrival

P = ParamSpec("P")
T = TypeVar("T")

THREADS: Final = 8  # a decision holds the interpreter for most of its millisecond, so more would not be faster


async def off_loop(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``function(*args)`` on a thread, seeing this task's context variables.

    Not on the loop's own executor: what the application runs there would make a request wait beyond our deadline. That
    deadline counts from here. So of a burst those that it finds still waiting fall back at once, one after the other.
    """
    context = contextvars.copy_context()
    context.run(arrival.set, time.monotonic())
    call = partial(context.run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_threads, call)


def _new_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="iccache-async")


def _after_fork() -> None:
    global _threads  # noqa: PLW0603 - a forked child inherits the pool without its threads
    _threads = _new_threads()


_threads = _new_threads()  # starts a thread when it is first needed, none at import
if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(after_in_child=_after_fork)
