"""Runs the steps of requests on bounded threads.

Python cannot stop a thread that is stuck in a call. So each dependency has a bulkhead: a fixed number of slots for
calls, and a bounded queue for them. Further calls are refused, and a dependency that keeps failing is not called for a
while. Threads are daemons, so a stuck one never delays the end of the program.

A request calls several dependencies, and handing it to another thread and back costs more than a short call. So one
thread runs its generator from step to step, and moves from the slot of one dependency to a slot of the next
(docs/decisions/0002-one-generator-of-steps.md). Steps that wait for the same `SharedCall` make it together. The same
generator serves threads (`Guard.run`) and event loops (`Guard.arun`); only the way in which the caller waits differs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

from shared_core.errors import DependencyIsSlow
from shared_core.guard import Step, Steps
from shared_core.guard.bulkhead import Bulkhead, Task
from shared_core.guard.calls import Ended, call_alone, call_together
from shared_core.guard.deadline import Deadline
from shared_core.values import Clock

P = ParamSpec("P")
T = TypeVar("T")


class Guard:
    """Runs the steps of requests on bounded threads, under a deadline and a breaker.

    Each dependency has its own slots; at most one call is made per slot. So a stuck embedder does not block the store.

    Args:
        workers: Slots per dependency; one for a dependency with a `SharedCall` that is `one_at_a_time`.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, workers: int, clock: Clock) -> None:
        self._workers = workers
        self._clock = clock
        self._lock = threading.Lock()  # over slots, waiting calls and idle threads
        self._bulkheads: dict[str, Bulkhead] = {}
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
            DependencyIsBusy: Too many calls wait for a step's dependency, or others kept it busy until the deadline.
            DependencyIsSlow: No thread became free, or a step did not end, before the deadline.
            Exception: An error of a step, which counts as a failure of its dependency, or of `steps` themselves.
        """
        ended = threading.Lock()  # held until then
        ended.acquire()
        task = Task(steps, deadline, ended.release)
        if self._start(task, deadline) and not ended.acquire(timeout=deadline.left()):
            self._give_up(task)
        return task.outcome()  # type: ignore[no-any-return]

    async def arun(self, deadline: Deadline, steps: Steps[T]) -> T:
        """`run` for event loops: awaits the result without a waiting thread.

        Raises:
            DependencyIsDown, DependencyIsBusy, DependencyIsSlow, Exception: See `run`.
            CancelledError: The caller was cancelled; the worker drops the task at its next step.
        """
        loop = asyncio.get_running_loop()
        in_time: asyncio.Future[bool] = loop.create_future()

        def notify() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_set, in_time, True)

        task = Task(steps, deadline, notify)
        if self._start(task, deadline):
            timer = loop.call_later(deadline.left(), _set, in_time, False)
            try:
                if not await in_time:
                    self._give_up(task)
            except asyncio.CancelledError:
                self._forget(task)
                raise
            finally:
                timer.cancel()
        return task.outcome()  # type: ignore[no-any-return]

    def is_failing(self, dependency: str) -> bool:
        """True if the last call to the dependency failed or was too slow."""
        bulkhead = self._bulkheads.get(dependency)
        return bulkhead is not None and bulkhead.breaker.is_counting

    def is_busy(self, dependency: str) -> bool:
        """True while a request calls the dependency, or waits for it."""
        bulkhead = self._bulkheads.get(dependency)
        return bulkhead is not None and bulkhead.busy > 0

    def close(self) -> None:
        """End the threads when they become free; does not wait for stuck ones."""
        with self._lock:
            self._closed = True
            for worker in self._idle:
                worker.stop()
            self._idle.clear()

    # the caller and the workers -------------------------------------------------------------------------------

    def _start(self, task: Task, deadline: Deadline) -> bool:
        """Pass a task to a worker; False if it has no call and so has ended."""
        if not deadline.left():
            raise DependencyIsSlow("no thread became free before the deadline")
        first = task.first_step()
        if first is not None:
            self._admit(task, first, None)
        return first is not None

    def _admit(self, task: Task, step: Step, worker: _Worker | None) -> bool:
        """Find a slot for the next step; True if `worker` got it, in exchange for its own slot, and should go on."""
        bulkhead = self._bulkhead(step)
        if not bulkhead.breaker.allows():
            raise bulkhead.is_down()
        task.step = step
        bulkhead.join(task)
        with self._lock:
            if not bulkhead.has_slot:
                bulkhead.queue(task)
                return False
            if worker is None:
                self._thread().go_on(bulkhead, [task])
            else:
                self._leave(worker.bulkhead)
                worker.bulkhead = bulkhead
            bulkhead.busy += 1
            return worker is not None

    def _bulkhead(self, step: Step) -> Bulkhead:
        bulkhead = self._bulkheads.get(step.dependency)
        if bulkhead is None:
            slots = 1 if step.shared and step.shared.one_at_a_time else self._workers
            with self._lock:
                made = Bulkhead(step.dependency, slots, self._clock)
                bulkhead = self._bulkheads.setdefault(step.dependency, made)
        return bulkhead

    def _leave(self, bulkhead: Bulkhead) -> None:
        """Pass a slot to the next waiting tasks, or free it. Needs the lock."""
        if bulkhead.waiting:
            self._thread().go_on(bulkhead, bulkhead.take())
        else:
            bulkhead.busy -= 1

    def _thread(self) -> _Worker:
        """An idle thread, or a new one. Needs the lock."""
        if self._idle:
            return self._idle.pop()
        worker = _Worker()
        threading.Thread(target=self._work, args=(worker,), name="iccache-guard", daemon=True).start()
        return worker

    def _give_up(self, task: Task) -> None:
        """The deadline has passed: stop waiting for this task, and raise."""
        with self._lock:
            task.given_up = True
            bulkhead = task.bulkhead
            if bulkhead is not None:
                raise bulkhead.give_up(task)
        raise DependencyIsSlow("the deadline passed between two calls")

    def _forget(self, task: Task) -> None:
        """Stop waiting for a task whose caller was cancelled."""
        with self._lock:
            task.given_up = True
            if task.bulkhead is not None:
                task.bulkhead.waiting.pop(task, None)

    def _work(self, worker: _Worker) -> None:
        """The loop of each thread: make one call after the other, and run their tasks as far as possible."""
        while tasks := worker.wait():
            while tasks:
                while tasks:
                    tasks = self._serve(tasks, worker)
                tasks = self._next(worker)
                worker.notify()  # after its slot is free, because the caller may make its next call immediately

    def _next(self, worker: _Worker) -> list[Task]:
        """The next tasks for this worker's slot; none frees the slot and makes the worker idle."""
        bulkhead = worker.bulkhead
        with self._lock:
            if not worker.has_slot:
                bulkhead.is_handed_over = False
            elif bulkhead.waiting:
                return bulkhead.take()
            else:
                bulkhead.busy -= 1
            if self._closed:
                worker.stop()
            else:
                self._idle.append(worker)
            return []

    def _serve(self, tasks: list[Task], worker: _Worker) -> list[Task]:
        """Make the call of tasks that share it. Returns the last one if this worker should make its next call, too."""
        shared = tasks[0].step.shared
        if shared is None or len(tasks) == 1:
            return tasks if self._advance(call_alone(worker.bulkhead, tasks[0]), worker) else []
        ended = call_together(worker.bulkhead, shared, tasks)
        if shared.one_at_a_time and self._hand_over(worker):
            for each in ended:
                self._advance(each, None)
            return []
        for each in ended[:-1]:
            self._advance(each, None)
        return [each.task for each in ended[-1:] if self._advance(each, worker)]

    def _hand_over(self, worker: _Worker) -> bool:
        """If calls wait for the worker's only slot, let one other thread make them now; False if it goes on alone.

        What follows a shared call takes long where many share it, and must not keep the dependency idle.
        """
        bulkhead = worker.bulkhead
        with self._lock:
            if not bulkhead.waiting or bulkhead.is_handed_over:
                return False
            self._leave(bulkhead)
            bulkhead.is_handed_over, worker.has_slot = True, False
            return True

    def _advance(self, ended: Ended, worker: _Worker | None) -> bool:
        """Run a task to its next step; True if `worker` should make that call."""
        task = ended.task
        if task.given_up:
            return False
        try:
            return self._admit(task, task.next_step(ended.result, ended.error), worker)
        except StopIteration as end:
            task.conclude(end.value, None)
        except BaseException as error:  # noqa: BLE001 - passed to the caller
            task.conclude(None, error)
        if worker is None:
            task.notify()
        else:
            worker.concluded = task
        return False


def _set(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)


def _only(step: Step) -> Steps[Any]:
    return (yield step)


class _Worker:
    """A thread, its slot, and its next tasks."""

    __slots__ = ("_tasks", "_woken", "bulkhead", "concluded", "has_slot")

    def __init__(self) -> None:
        self._woken = threading.Lock()  # held while the thread is idle
        self._woken.acquire()
        self._tasks: list[Task] = []
        self.concluded: Task | None = None  # a task whose caller must be notified
        self.bulkhead: Bulkhead
        self.has_slot = False  # in `bulkhead`

    def wait(self) -> list[Task]:
        """Wait for the next tasks, which share a call; none means end."""
        self._woken.acquire()
        tasks, self._tasks = self._tasks, []
        return tasks

    def go_on(self, bulkhead: Bulkhead, tasks: list[Task]) -> None:
        """Wake the thread with tasks and a slot in `bulkhead`."""
        self.bulkhead, self._tasks, self.has_slot = bulkhead, tasks, True
        self._woken.release()

    def notify(self) -> None:
        """Wake the caller whose task ended here."""
        concluded, self.concluded = self.concluded, None
        if concluded is not None:
            concluded.notify()

    def stop(self) -> None:
        """Wake the thread to end it."""
        self._woken.release()
