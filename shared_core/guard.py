"""Calls to what may hang or fail: bounded threads, one deadline a request, a circuit breaker a dependency.

Python cannot stop a thread that is stuck in a call. So each dependency has a fixed number of places for calls, a call
that neither has a place nor may wait for one is refused at once instead of queued without bound, and a dependency that
keeps failing is left alone for a while. Threads are daemons: a stuck one never holds up the end of the program.

A request calls one dependency after another, and to hand it to another thread and back costs more than a short call.
So the way of a request is a generator that yields its calls as `Step`s. One thread takes it from step to step, and
from the place at one dependency to a place at the next (docs/decisions/0005-one-hand-over.md).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, Final, NamedTuple, ParamSpec, TypeAlias, TypeVar

from shared_core.errors import DependencyIsDown, DependencyIsSlow
from shared_core.values import Clock

P = ParamSpec("P")
T = TypeVar("T")

FAILURES_TO_OPEN: Final = 5  # consecutive failures after which a dependency is spared
OPEN_SECONDS: Final = 2.0  # how long it is spared before one call tries again


class Step(NamedTuple):
    """A call that may hang or fail, and the name of the dependency that it goes to."""

    dependency: str
    call: Callable[[], object]


Steps: TypeAlias = Generator[Step, Any, T]
"""The way of a request: it yields steps, is sent the result of each, and returns its own. It never blocks itself."""


arrival: Final[ContextVar[float | None]] = ContextVar("iccache_arrival", default=None)
"""When a request that waits for a thread arrived, by `time.monotonic`; None where it has waited for nothing."""


class Deadline:
    """The moment until which IC-Cache may hold one request, counted from its `arrival`."""

    __slots__ = ("_clock", "_end")

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._clock = clock
        began = arrival.get()
        self._end = (clock() if began is None else began) + seconds

    def left(self) -> float:
        """Seconds that are left, never negative."""
        return max(0.0, self._end - self._clock())


class Guard:
    """Takes requests through their steps on bounded threads, under a deadline and a breaker.

    Each dependency has places of its own, and never more threads than places are busy with it. So a stuck embedder
    does not take the store with it.

    Args:
        workers: Places a dependency; as many calls more may wait for one of them.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, workers: int, clock: Clock) -> None:
        self._workers = workers
        self._clock = clock
        self._lock = threading.Lock()  # over places, waiting calls and idle threads
        self._lanes: dict[str, _Lane] = {}
        self._idle: list[_Worker] = []  # the last one first: its stack is still in the processor's cache
        self._closed = False

    def call(
        self, dependency: str, deadline: Deadline, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``function(*args)`` as the only step of a request; see `run`."""
        steps: Steps[T] = _only(Step(dependency, partial(function, *args, **kwargs)))
        return self.run(deadline, steps)

    def run(self, deadline: Deadline, steps: Steps[T]) -> T:
        """Take `steps` to their end on a worker and wait for it until `deadline`; their result.

        Raises:
            DependencyIsDown: The breaker of a step's dependency is open.
            DependencyIsSlow: No thread or place became free, or a step did not end, before the deadline.
            Exception: Whatever a step or `steps` raised. The former counts as a failure of the step's dependency.
        """
        if not deadline.left():
            raise DependencyIsSlow("no thread became free before the deadline")
        try:
            first = next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        journey = _Journey(steps)
        self._admit(journey, first, None)
        if not journey.ended.acquire(timeout=deadline.left()):
            self._give_up(journey)
        return journey.outcome()  # type: ignore[no-any-return]

    def is_failing(self, dependency: str) -> bool:
        """True if the last call to it failed or came too late."""
        lane = self._lanes.get(dependency)
        return lane is not None and lane.breaker.is_counting

    def close(self) -> None:
        """Let the threads end when they are free; does not wait for stuck ones."""
        with self._lock:
            self._closed = True
            for worker in self._idle:
                worker.stop()
            self._idle.clear()

    # the caller and the workers -------------------------------------------------------------------------------

    def _admit(self, journey: _Journey, step: Step, worker: _Worker | None) -> bool:
        """Find a place for the next step; True if `worker`, who leaves its own place for it, is to go on."""
        lane = self._lane(step.dependency)
        if not lane.breaker.allows():
            raise DependencyIsDown(f"{lane.name} keeps failing and is spared for {OPEN_SECONDS:g} s")
        journey.step, journey.lane = step, lane
        with self._lock:
            if lane.busy < self._workers:
                if worker is None:
                    self._thread().go_on(lane, journey)
                else:
                    self._leave(worker.lane)
                    worker.lane = lane
                lane.busy += 1
                return worker is not None
            if len(lane.waiting) < self._workers:
                lane.waiting.append(journey)
                return False
        lane.breaker.failed()
        raise DependencyIsSlow(f"{lane.name}: all its threads are busy")

    def _lane(self, dependency: str) -> _Lane:
        lane = self._lanes.get(dependency)
        if lane is None:
            with self._lock:
                lane = self._lanes.setdefault(dependency, _Lane(dependency, self._clock))
        return lane

    def _leave(self, lane: _Lane) -> None:
        """Give a place to the next in line, or free it. Needs the lock."""
        if lane.waiting:
            self._thread().go_on(lane, lane.waiting.popleft())
        else:
            lane.busy -= 1

    def _thread(self) -> _Worker:
        """A thread that has nothing to do. Needs the lock."""
        if self._idle:
            return self._idle.pop()
        worker = _Worker()
        threading.Thread(target=self._work, args=(worker,), name="iccache-guard", daemon=True).start()
        return worker

    def _give_up(self, journey: _Journey) -> None:
        """The deadline has passed: whoever is at work on this journey is left alone with it."""
        journey.given_up = True
        lane = journey.lane
        if lane is None:
            raise DependencyIsSlow("the deadline passed between two calls")
        lane.breaker.failed()
        raise DependencyIsSlow(f"{lane.name}: it did not answer in time")

    def _work(self, worker: _Worker) -> None:
        """What each thread does: take one journey after the other as far as it can."""
        while (journey := worker.wait()) is not None:
            while journey is not None:
                while self._advance(journey, worker):
                    pass
                journey = self._next(worker)
                worker.tell()  # once its place is free: who asks again at once must not be refused for it

    def _next(self, worker: _Worker) -> _Journey | None:
        """The journey that waits for this worker's place; with none, the place is free and the worker idle."""
        with self._lock:
            if worker.lane.waiting:
                return worker.lane.waiting.popleft()
            worker.lane.busy -= 1
            if self._closed:
                worker.stop()
            else:
                self._idle.append(worker)
            return None

    def _advance(self, journey: _Journey, worker: _Worker) -> bool:
        """Take one step; True if this worker is to take the next one as well."""
        if journey.given_up:
            return False
        try:
            following = journey.take_step()
            return self._admit(journey, following, worker)
        except StopIteration as end:
            journey.conclude(end.value, None)
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            journey.conclude(None, error)
        worker.concluded = journey
        return False


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
            self._closed_at = self._clock() + OPEN_SECONDS  # one call may try; the others go on waiting
            return True

    def succeeded(self) -> None:
        if self._failures:
            with self._lock:
                self._failures = 0

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._closed_at = self._clock() + OPEN_SECONDS


class _Lane:
    """The places and the breaker of one dependency."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.breaker = _Breaker(clock)
        self.busy = 0  # places taken
        self.waiting: deque[_Journey] = deque()  # not before every place is taken


class _Journey:
    """A request on its way through its steps, and how it ended."""

    __slots__ = ("_context", "_error", "_result", "_steps", "ended", "given_up", "lane", "step")

    def __init__(self, steps: Steps[Any]) -> None:
        self._steps = steps
        self._context = copy_context()
        self._result: object = None
        self._error: BaseException | None = None
        self.step: Step
        self.lane: _Lane | None = None  # whose answer it waits for; None between two steps
        self.given_up = False  # its caller has gone
        self.ended = threading.Lock()  # held until then
        self.ended.acquire()

    def take_step(self) -> Step:
        """Make the call that is next, and go on to the one after it.

        Raises:
            StopIteration: There is none; it holds the result.
            BaseException: Whatever the call, or what lies between two calls, raised.
        """
        try:
            result = self._context.run(self.step.call)
        except BaseException as error:  # noqa: BLE001 - the steps may know what to do about it
            self._settle(error)
            return self._steps.throw(error)
        self._settle(None)
        return self._steps.send(result)

    def conclude(self, result: object, error: BaseException | None) -> None:
        """Keep what came of it, until the caller is told."""
        self._result, self._error = result, error

    def outcome(self) -> Any:
        """The result, or the error raised."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # which leads back here by its traceback
        return self._result

    def _settle(self, error: BaseException | None) -> None:
        """Tell the dependency's breaker how the call went, unless the caller who gave up has done so."""
        lane, self.lane = self.lane, None
        if lane is None or self.given_up:
            return
        if error is None:
            lane.breaker.succeeded()
        elif isinstance(error, Exception):
            lane.breaker.failed()


class _Worker:
    """A thread, the place that it holds, and what it is woken for."""

    __slots__ = ("_journey", "_woken", "concluded", "lane")

    def __init__(self) -> None:
        self._woken = threading.Lock()  # held while there is nothing to do
        self._woken.acquire()
        self._journey: _Journey | None = None
        self.concluded: _Journey | None = None  # whose caller is to be told
        self.lane: _Lane

    def wait(self) -> _Journey | None:
        """What to do next; None to end."""
        self._woken.acquire()
        journey, self._journey = self._journey, None
        return journey

    def go_on(self, lane: _Lane, journey: _Journey) -> None:
        """Wake it to take a journey on from a place in `lane`."""
        self.lane, self._journey = lane, journey
        self._woken.release()

    def tell(self) -> None:
        """Let the caller go on whose journey ended here."""
        concluded, self.concluded = self.concluded, None
        if concluded is not None:
            concluded.ended.release()

    def stop(self) -> None:
        """Wake it to end."""
        self._woken.release()
