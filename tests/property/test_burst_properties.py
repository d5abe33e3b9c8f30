"""Of many tasks at once, each gets its own result in time or an error, and refusals open no breaker."""

import asyncio
import time
from itertools import cycle

from hypothesis import given, settings
from hypothesis import strategies as st

from shared_core.errors import DependencyIsSlow
from shared_core.guard import SharedCall, Step
from shared_core.guard.bulkhead import Bulkhead, Task
from shared_core.guard.calls import call_together
from shared_core.guard.deadline import Deadline
from shared_core.guard.threads import Guard
from tests.fakes import FakeClock

DEADLINE = 1.0


@given(
    numbers=st.lists(st.integers(0, 30), max_size=60),
    poison=st.sets(st.integers(0, 30), max_size=3),
    most=st.integers(1, 20),
    workers=st.integers(1, 4),
    one_at_a_time=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_each_task_gets_its_own_result_or_its_own_error(numbers, poison, most, workers, one_at_a_time):
    def squared(items):
        if not poison.isdisjoint(items):
            raise ValueError("poison")
        return [item * item for item in items]

    shared = SharedCall(squared, most, one_at_a_time)
    failing = sum(number in poison for number in numbers)

    def steps(number):
        square = yield shared.step("embedder", number)
        return square + (yield Step("store", lambda: number))

    async def all_at_once():
        guard = Guard(workers, time.monotonic)
        asked = [guard.arun(Deadline(60, time.monotonic), steps(number)) for number in numbers]
        results = await asyncio.gather(*asked, return_exceptions=True)
        guard.close()
        return results

    for number, result in zip(numbers, asyncio.run(all_at_once()), strict=True):
        if isinstance(result, Exception):
            assert number in poison or failing >= 5  # five in a row open the breaker for others, too
        else:
            assert number not in poison
            assert result == number * number + number


class Line:
    """An embedder that calls without a pause, by a fake clock, and the requests that come to it."""

    def __init__(self, most, call_seconds):
        self.clock = FakeClock(0.0)
        self.bulkhead = Bulkhead("embedder", 1, self.clock)
        self.shared = SharedCall(lambda items: [10 * item for item in items], most)
        self.call_seconds = call_seconds
        self.came, self.served, self.late = 0, [], []
        self.here, self.called, self.ends = [], [], 0.0

    def _steps(self, number):
        return (yield self.shared.step("embedder", number))

    def come(self):
        task = Task(self._steps(self.came), Deadline(DEADLINE, self.clock), lambda: None)
        self.came += 1
        task.step = task.first_step()
        self.bulkhead.join(task)
        self.bulkhead.queue(task)
        self.here.append(task)
        self._begin()

    def wait(self, seconds):
        until = self.clock.now + seconds
        while self.called and self.ends <= until:
            self._pass_to(self.ends)
            self._end()
            self._begin()
        self._pass_to(until)

    def _begin(self):
        if not self.called and self.bulkhead.waiting:
            self.called = self.bulkhead.take()
            self.ends = self.clock.now + next(self.call_seconds)
            assert 1 <= len(self.called) <= self.shared.most
            assert not set(self.called) & set(self.bulkhead.waiting)

    def _end(self):
        for task, result, error in call_together(self.bulkhead, self.shared, self.called):
            assert (result, error) == (10 * task.step.item, None)
            self.here.remove(task)
            self.served.append(task.step.item)
        self.called = []

    def _pass_to(self, moment):
        self.clock.now = moment
        for task in [task for task in self.here if not task.deadline.left()]:
            self.here.remove(task)
            task.given_up = True
            error = self.bulkhead.give_up(task)
            assert isinstance(error, DependencyIsSlow)
            self.late.append(task.step.item)


@given(
    moves=st.lists(st.one_of(st.integers(1, 30), st.floats(0.001, 0.6)), max_size=25),
    seconds=st.lists(st.floats(0.001, 0.45), min_size=1, max_size=5),
    most=st.integers(1, 6),
)
@settings(max_examples=200, deadline=None)
def test_an_embedder_that_answers_in_less_than_half_a_deadline_is_never_blamed(moves, seconds, most):
    """Nobody stays beyond the deadline, nobody is served twice, and nobody is forgotten."""
    line = Line(most, cycle(seconds))
    for move in moves:
        if isinstance(move, int):
            for _ in range(move):
                line.come()
        else:
            line.wait(move)
        assert not line.bulkhead.breaker.is_counting
    line.wait(2 * DEADLINE)
    assert sorted(line.served + line.late) == list(range(line.came))
    assert not line.bulkhead.waiting
    assert not line.bulkhead.breaker.is_counting
