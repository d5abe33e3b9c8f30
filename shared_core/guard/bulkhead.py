"""What each dependency has of its own: slots for calls, a queue for the tasks that wait for one, a circuit breaker."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextvars import copy_context
from itertools import islice
from typing import Any, Final

from shared_core.errors import DependencyIsBusy, DependencyIsDown, DependencyIsSlow
from shared_core.guard import MOST_ITEMS, Step, Steps
from shared_core.guard.breaker import OPEN_SECONDS, Breaker
from shared_core.guard.deadline import Deadline
from shared_core.values import Clock

MOST_WAITING: Final = 1024  # tasks in a queue; a further one is refused


class Bulkhead:
    """The slots, the queue and the breaker of one dependency. The guard's lock protects slots and queue.

    Args:
        name: The dependency's.
        slots: Calls at the same time.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, name: str, slots: int, clock: Clock) -> None:
        self.name = name
        self.breaker = Breaker(clock)
        self.waiting: OrderedDict[Task, None] = OrderedDict()  # empty unless every slot is taken
        self.busy = 0  # slots taken
        self.is_handed_over = False  # a thread without a slot runs what follows its call
        self._slots = slots
        self.clock = clock
        self._share = MOST_ITEMS  # tasks that share the next call, at most
        self._each = 0.0  # seconds a task in shared calls, the recent ones; 0 if unknown
        self._counted = 0  # calls that succeeded, and deadlines that passed without one

    @property
    def has_slot(self) -> bool:
        """True if a slot is free."""
        return self.busy < self._slots

    def join(self, task: Task) -> None:
        """Make this the bulkhead of the task's current step."""
        task.bulkhead, task.since = self, self._counted

    def queue(self, task: Task) -> None:
        """Let a task wait for a slot.

        Raises:
            DependencyIsBusy: Too many wait already.
        """
        if len(self.waiting) >= MOST_WAITING:
            raise DependencyIsBusy(f"{self.name}: {MOST_WAITING} calls wait for it already")
        self.waiting[task] = None

    def take(self) -> list[Task]:
        """Remove the next task from the queue, with those that share its call.

        The oldest is next. But if it has waited for more than half of its time and would share its call, more have come
        than can be served in time. Then the newest are next: the old ones would be too late anyway.
        """
        oldest = next(iter(self.waiting))
        shared = oldest.step.shared
        if shared is None:
            del self.waiting[oldest]
            return [oldest]
        order: Iterable[Task] = reversed(self.waiting) if oldest.deadline.is_half_over() else self.waiting
        same = (task for task in order if task.step.shared is shared)
        first = next(same)
        taken = [first, *islice(same, min(shared.most, self._share, self._in_time(first)) - 1)]
        for task in taken:
            del self.waiting[task]
        return taken

    def _in_time(self, task: Task) -> int:
        """How many tasks a call can serve before the deadline of this one, at the speed of the last shared call."""
        left = task.deadline.left()
        return max(1, int(left / self._each)) if self._each and left else MOST_WAITING

    def give_up(self, task: Task) -> DependencyIsSlow:
        """The error of a task whose deadline has passed in this bulkhead.

        It counts as a failure of the dependency only if nothing was counted while the task was here. So a queue that
        moves blames nobody, and of many tasks that wait for one call only the first counts.
        """
        is_waiting = self.waiting.pop(task, task) is None
        seconds = task.deadline.seconds
        if task.since == self._counted:
            self._counted += 1
            self.breaker.failed()
        elif is_waiting:
            return DependencyIsBusy(f"{self.name} was busy with other requests for {seconds:g} s (setting deadline)")
        return DependencyIsSlow(f"{self.name} did not answer within {seconds:g} s (setting deadline)")

    def is_down(self) -> DependencyIsDown:
        """The error while the breaker is open."""
        return DependencyIsDown(f"{self.name} keeps failing; it is not called for {OPEN_SECONDS:g} s")

    def answered(self) -> None:
        """Count a call that succeeded in time."""
        self._counted += 1
        self.breaker.succeeded()

    def took(self, seconds: float, tasks: int, deadline: Deadline) -> None:
        """If a call of so many tasks took more than half of a deadline, fewer share the next one; if little, more."""
        self._each = max(seconds / tasks, self._each / 2) if tasks > 1 else min(seconds, self._each)
        if tasks >= self._share and seconds < deadline.seconds / 4:
            self._share *= 2
        elif tasks > 1 and seconds > deadline.seconds / 2:
            self._share = tasks // 2


class Task:
    """The steps of one request, and their result.

    Attributes:
        deadline: Its request's.
        notify: Wakes its caller.
        context: The context variables of its caller.
        step: The current step.
        bulkhead: That of the current step; None between two steps.
        since: What its bulkhead had counted when the current step came to it.
        given_up: True if its caller has stopped waiting.
    """

    __slots__ = (
        "_error",
        "_result",
        "_steps",
        "bulkhead",
        "context",
        "deadline",
        "given_up",
        "notify",
        "since",
        "step",
    )

    def __init__(self, steps: Steps[Any], deadline: Deadline, notify: Callable[[], None]) -> None:
        self._steps = steps
        self._result: object = None
        self._error: BaseException | None = None
        self.deadline = deadline
        self.notify = notify
        self.context = copy_context()
        self.step: Step
        self.bulkhead: Bulkhead | None = None
        self.since = 0
        self.given_up = False

    def first_step(self) -> Step | None:
        """Run to the first step, on the caller's thread; None if there is no step and the task has ended."""
        try:
            return next(self._steps)
        except StopIteration as end:
            self._result = end.value
            return None

    def next_step(self, result: object, error: BaseException | None) -> Step:
        """Run with the result or the error of the current call to the step after it.

        Raises:
            StopIteration: There is no further step; it holds the result.
            BaseException: An error of the call that the steps do not handle, or of the code between two calls.
        """
        return self._steps.send(result) if error is None else self._steps.throw(error)

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
