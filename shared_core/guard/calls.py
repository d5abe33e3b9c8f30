"""Makes the call of a step, or one call for several steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shared_core.guard import SharedCall
from shared_core.guard.bulkhead import Bulkhead, Task


class Ended(NamedTuple):
    """What the call of a task's step gave."""

    task: Task
    result: object
    error: BaseException | None


def call_alone(bulkhead: Bulkhead, task: Task) -> Ended:
    """Make the call of one task, and report it to the breaker. A task that was given up makes none."""
    if task.given_up:
        return Ended(task, None, None)
    began = bulkhead.clock()
    try:
        result = task.context.run(task.step.call)
    except BaseException as error:  # noqa: BLE001 - the steps may handle it
        if isinstance(error, Exception) and not task.given_up:  # a caller that gave up has counted the call
            bulkhead.breaker.failed()
        task.bulkhead = None
        return Ended(task, None, error)
    bulkhead.took(bulkhead.clock() - began, 1, task.deadline)
    if not task.given_up:
        bulkhead.answered()
    task.bulkhead = None  # a deadline that passes from here on is not this dependency's
    return Ended(task, result, None)


def call_together(bulkhead: Bulkhead, shared: SharedCall, tasks: Sequence[Task]) -> list[Ended]:
    """Make one call for tasks that share it, and report it to the breaker; tasks that were given up are left out.

    If the call fails, each half of its tasks makes a call of its own. So an item that makes every call fail fails its
    own task only, and the others need few further calls.
    """
    live = [task for task in tasks if not task.given_up]
    if len(live) < 2:
        return [call_alone(bulkhead, task) for task in live]
    began = bulkhead.clock()
    try:
        results = live[0].context.run(shared.results, [task.step.item for task in live])
    except BaseException:  # noqa: BLE001 - each task gets its own error from its own call
        middle = len(live) // 2
        return _again(bulkhead, shared, live[:middle]) + _again(bulkhead, shared, live[middle:])
    bulkhead.took(bulkhead.clock() - began, len(live), live[0].deadline)
    if not all(task.given_up for task in live):
        bulkhead.answered()
    for task in live:
        task.bulkhead = None
    return [Ended(task, result, None) for task, result in zip(live, results, strict=True)]


def _again(bulkhead: Bulkhead, shared: SharedCall, tasks: Sequence[Task]) -> list[Ended]:
    if bulkhead.breaker.allows():
        return call_together(bulkhead, shared, tasks)
    for task in tasks:
        task.bulkhead = None
    return [Ended(task, None, bulkhead.is_down()) for task in tasks]
