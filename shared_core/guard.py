"""Guards calls that may hang or fail: bounded threads, one deadline per request, one circuit breaker per dependency.

Python cannot stop a thread that is stuck in a call. So each dependency has a bulkhead: a fixed number of slots for
calls, and as many places in a queue for them. Further calls are refused, and a dependency that keeps failing is not
called for a while. Threads are daemons, so a stuck one never delays the end of the program.

A request calls several dependencies, and handing it to another thread and back costs more than a short call. So a
request is a generator that yields its calls as `Step`s. One thread runs it from step to step, and moves from the slot
of one dependency to a slot of the next (docs/decisions/0002-one-generator-of-steps.md). The same generator serves
threads (`Guard.run`) and event loops (`Guard.arun`); only the way in which the caller waits differs.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, Final, NamedTuple, ParamSpec, TypeAlias, TypeVar

from shared_core.errors import DependencyIsDown, DependencyIsSlow
from shared_core.values import Clock

P = ParamSpec("P")
T = TypeVar("T")

FAILURES_TO_OPEN: Final = 5  # consecutive failures after which a breaker opens
OPEN_SECONDS: Final = 2.0  # how long it stays open before one call may try again


class Step(NamedTuple):
    """A call that may hang or fail, and the name of its dependency."""

    dependency: str
    call: Callable[[], object]


Steps: TypeAlias = Generator[Step, Any, T]
"""The generator of a request: it yields steps, gets the result of each, and returns its own. Every call that may block
is a step; between two steps there is only computation."""


def immediately(value: T) -> Steps[T]:
    """Steps without a call, for local implementations of a protocol whose remote ones would yield calls."""
    return value
    yield  # makes this a generator


arrival: Final[ContextVar[float | None]] = ContextVar("iccache_arrival", default=None)
"""When a request that waits for a thread arrived, by `time.monotonic`; None if it has not waited."""


class Deadline:
    """The time until which IC-Cache may delay one request, counted from its `arrival`."""

    __slots__ = ("_clock", "_end", "seconds")

    def __init__(self, seconds: float, clock: Clock) -> None:
        self.seconds = seconds
        self._clock = clock
        began = arrival.get()
        self._end = (clock() if began is None else began) + seconds

    def left(self) -> float:
        """Remaining seconds, at least 0."""
        return max(0.0, self._end - self._clock())


class Guard:
    """Runs the steps of requests on bounded threads, under a deadline and a breaker.

    Each dependency has its own slots; at most one thread runs per slot. So a stuck embedder does not block the store.

    Args:
        workers: Slots per dependency; the same number of calls may wait for one.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, workers: int, clock: Clock) -> None:
        self._workers = workers
        self._clock = clock
        self._lock = threading.Lock()  # over slots, waiting calls and idle threads
        self._bulkheads: dict[str, _Bulkhead] = {}
        self._idle: list[_Worker] = []  # used last in, first out: its stack may still be in the processor's cache
        self._closed = False

    def call(
        self, dependency: str, deadline: Deadline, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`run` for one step, ``function(*args)``."""
        steps: Steps[T] = _only(Step(dependency, partial(function, *args, **kwargs)))
        return self.run(deadline, steps)

    def run(self, deadline: Deadline, steps: Steps[T]) -> T:
        """Run `steps` on a worker, wait until `deadline`, and return their result.

        Raises:
            DependencyIsDown: The breaker of a step's dependency is open.
            DependencyIsSlow: No thread or slot became free, or a step did not end, before the deadline.
            Exception: An error of a step, which counts as a failure of its dependency, or of `steps` themselves.
        """
        ended = threading.Lock()  # held until then
        ended.acquire()
        task = _Task(steps, ended.release)
        if self._start(task, deadline) and not ended.acquire(timeout=deadline.left()):
            self._give_up(task, deadline)
        return task.outcome()  # type: ignore[no-any-return]

    async def arun(self, deadline: Deadline, steps: Steps[T]) -> T:
        """`run` for event loops: awaits the result without a waiting thread.

        Raises:
            DependencyIsDown, DependencyIsSlow, Exception: See `run`.
            CancelledError: The caller was cancelled; the worker drops the task at its next step.
        """
        loop = asyncio.get_running_loop()
        in_time: asyncio.Future[bool] = loop.create_future()

        def notify() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_set, in_time, True)

        task = _Task(steps, notify, may_wait=True)  # waiting needs no thread here, and ends at the deadline
        if self._start(task, deadline):
            timer = loop.call_later(deadline.left(), _set, in_time, False)
            try:
                if not await in_time:
                    self._give_up(task, deadline)
            except asyncio.CancelledError:
                task.given_up = True
                raise
            finally:
                timer.cancel()
        return task.outcome()  # type: ignore[no-any-return]

    def is_failing(self, dependency: str) -> bool:
        """True if the last call to the dependency failed or was too slow."""
        bulkhead = self._bulkheads.get(dependency)
        return bulkhead is not None and bulkhead.breaker.is_counting

    def close(self) -> None:
        """End the threads when they become free; does not wait for stuck ones."""
        with self._lock:
            self._closed = True
            for worker in self._idle:
                worker.stop()
            self._idle.clear()

    # the caller and the workers -------------------------------------------------------------------------------

    def _start(self, task: _Task, deadline: Deadline) -> bool:
        """Pass a task to a worker; False if it has no call and so has ended."""
        if not deadline.left():
            raise DependencyIsSlow("no thread became free before the deadline")
        first = task.first_step()
        if first is not None:
            self._admit(task, first, None)
        return first is not None

    def _admit(self, task: _Task, step: Step, worker: _Worker | None) -> bool:
        """Find a slot for the next step; True if `worker` got it, in exchange for its own slot, and should go on."""
        bulkhead = self._bulkhead(step.dependency)
        if not bulkhead.breaker.allows():
            raise DependencyIsDown(f"{bulkhead.name} keeps failing; it is not called for {OPEN_SECONDS:g} s")
        task.step, task.bulkhead = step, bulkhead
        with self._lock:
            if bulkhead.busy < self._workers:
                if worker is None:
                    self._thread().go_on(bulkhead, task)
                else:
                    self._leave(worker.bulkhead)
                    worker.bulkhead = bulkhead
                bulkhead.busy += 1
                return worker is not None
            if task.may_wait or len(bulkhead.waiting) < self._workers:
                task.waits_since = bulkhead.answered
                bulkhead.waiting.append(task)
                return False
        bulkhead.breaker.failed()
        raise DependencyIsSlow(f"{bulkhead.name}: all its threads are busy")

    def _bulkhead(self, dependency: str) -> _Bulkhead:
        bulkhead = self._bulkheads.get(dependency)
        if bulkhead is None:
            with self._lock:
                bulkhead = self._bulkheads.setdefault(dependency, _Bulkhead(dependency, self._clock))
        return bulkhead

    def _leave(self, bulkhead: _Bulkhead) -> None:
        """Pass a slot to the next waiting task, or free it. Needs the lock."""
        if bulkhead.waiting:
            self._thread().go_on(bulkhead, bulkhead.waiting.popleft())
        else:
            bulkhead.busy -= 1

    def _thread(self) -> _Worker:
        """An idle thread, or a new one. Needs the lock."""
        if self._idle:
            return self._idle.pop()
        worker = _Worker()
        threading.Thread(target=self._work, args=(worker,), name="iccache-guard", daemon=True).start()
        return worker

    def _give_up(self, task: _Task, deadline: Deadline) -> None:
        """The deadline has passed: stop waiting for this task, and raise."""
        task.given_up = True
        bulkhead = task.bulkhead
        if bulkhead is None:
            raise DependencyIsSlow("the deadline passed between two calls")
        if task.waits_since in (None, bulkhead.answered):  # no call ended meanwhile, so the queue is not the cause
            bulkhead.breaker.failed()
        raise DependencyIsSlow(f"{bulkhead.name} did not answer within {deadline.seconds:g} s (setting deadline)")

    def _work(self, worker: _Worker) -> None:
        """The loop of each thread: run one task after the other as far as possible."""
        while (task := worker.wait()) is not None:
            while task is not None:
                while self._advance(task, worker):
                    pass
                task = self._next(worker)
                worker.notify()  # after its slot is free, because the caller may make its next call immediately

    def _next(self, worker: _Worker) -> _Task | None:
        """The next task for this worker's slot; None frees the slot and makes the worker idle."""
        with self._lock:
            if worker.bulkhead.waiting:
                return worker.bulkhead.waiting.popleft()
            worker.bulkhead.busy -= 1
            if self._closed:
                worker.stop()
            else:
                self._idle.append(worker)
            return None

    def _advance(self, task: _Task, worker: _Worker) -> bool:
        """Run one step; True if this worker should run the next one, too."""
        if task.given_up:
            return False
        try:
            following = task.take_step()
            return self._admit(task, following, worker)
        except StopIteration as end:
            task.conclude(end.value, None)
        except BaseException as error:  # noqa: BLE001 - passed to the caller
            task.conclude(None, error)
        worker.concluded = task
        return False


def _set(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)


def _only(step: Step) -> Steps[Any]:
    return (yield step)


class _Breaker:
    """Counts consecutive failures; open for `OPEN_SECONDS` after `FAILURES_TO_OPEN` of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._closed_at = 0.0

    @property
    def is_counting(self) -> bool:
        return self._failures > 0

    def allows(self) -> bool:
        if not self._failures:
            return True
        with self._lock:
            if self._failures < FAILURES_TO_OPEN:
                return True
            if self._clock() < self._closed_at:
                return False
            self._closed_at = self._clock() + OPEN_SECONDS  # one call may try; the others stay refused
            return True

    def succeeded(self) -> None:
        if self._failures:
            with self._lock:
                self._failures = 0

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._closed_at = self._clock() + OPEN_SECONDS


class _Bulkhead:
    """The slots and the breaker of one dependency."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.breaker = _Breaker(clock)
        self.busy = 0  # slots taken
        self.answered = 0  # calls that succeeded
        self.waiting: deque[_Task] = deque()  # empty unless every slot is taken


class _Task:
    """The steps of one request, and their result."""

    __slots__ = (
        "_context",
        "_error",
        "_result",
        "_steps",
        "bulkhead",
        "given_up",
        "may_wait",
        "notify",
        "step",
        "waits_since"
    )  # fmt: skip

    def __init__(self, steps: Steps[Any], notify: Callable[[], None], *, may_wait: bool = False) -> None:
        self._steps = steps
        self._context = copy_context()
        self._result: object = None
        self._error: BaseException | None = None
        self.step: Step
        self.bulkhead: _Bulkhead | None = None  # that of the current step; None between two steps
        self.given_up = False  # its caller has stopped waiting
        self.notify = notify  # wakes its caller
        self.may_wait = may_wait  # in a queue of any length
        self.waits_since: int | None = None  # calls that its bulkhead had answered when it stood in line

    def first_step(self) -> Step | None:
        """Run to the first step, on the caller's thread; None if there is no step and the task has ended."""
        try:
            return next(self._steps)
        except StopIteration as end:
            self._result = end.value
            return None

    def take_step(self) -> Step:
        """Make the next call, and run to the step after it.

        Raises:
            StopIteration: There is no further step; it holds the result.
            BaseException: An error of the call, or of the code between two calls.
        """
        self.waits_since = None
        try:
            result = self._context.run(self.step.call)
        except BaseException as error:  # noqa: BLE001 - the steps may handle it
            self._settle(error)
            return self._steps.throw(error)
        self._settle(None)
        return self._steps.send(result)

    def conclude(self, result: object, error: BaseException | None) -> None:
        """Store the result or the error for the caller."""
        self._result, self._error = result, error

    def outcome(self) -> Any:
        """Return the result, or raise the error."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # breaks a reference cycle through its traceback
        return self._result

    def _settle(self, error: BaseException | None) -> None:
        """Report the call to the dependency's breaker, unless a caller that gave up has done so."""
        bulkhead, self.bulkhead = self.bulkhead, None
        if bulkhead is None or self.given_up:
            return
        if error is None:
            bulkhead.answered += 1
            bulkhead.breaker.succeeded()
        elif isinstance(error, Exception):
            bulkhead.breaker.failed()


class _Worker:
    """A thread, its slot, and its next task."""

    __slots__ = ("_task", "_woken", "bulkhead", "concluded")

    def __init__(self) -> None:
        self._woken = threading.Lock()  # held while the thread is idle
        self._woken.acquire()
        self._task: _Task | None = None
        self.concluded: _Task | None = None  # a task whose caller must be notified
        self.bulkhead: _Bulkhead

    def wait(self) -> _Task | None:
        """Wait for the next task; None means end."""
        self._woken.acquire()
        task, self._task = self._task, None
        return task

    def go_on(self, bulkhead: _Bulkhead, task: _Task) -> None:
        """Wake the thread with a task and a slot in `bulkhead`."""
        self.bulkhead, self._task = bulkhead, task
        self._woken.release()

    def notify(self) -> None:
        """Wake the caller whose task ended here."""
        concluded, self.concluded = self.concluded, None
        if concluded is not None:
            concluded.notify()

    def stop(self) -> None:
        """Wake the thread to end it."""
        self._woken.release()
