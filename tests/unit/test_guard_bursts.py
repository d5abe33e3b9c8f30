"""Many steps at once: they share calls, wait in a bounded queue, and blame no dependency that answers."""

import asyncio
import threading
import time
from contextvars import ContextVar

import pytest

from shared_core.errors import DependencyIsBusy, DependencyIsDown, DependencyIsSlow
from shared_core.guard import SharedCall, Step, bulkhead
from shared_core.guard.breaker import FAILURES_TO_OPEN
from shared_core.guard.bulkhead import Bulkhead, Task
from shared_core.guard.deadline import Deadline
from shared_core.guard.threads import Guard
from tests.fakes import FakeClock


def soon(seconds=20.0):
    return Deadline(seconds, time.monotonic)


class Doubling:
    """Doubles numbers, many in one call, once `gate` is open. A number in `poison` makes the whole call fail."""

    def __init__(self, most=16, poison=(), one_at_a_time=True):
        self.calls = []
        self.begun, self.gate, self.third = threading.Event(), threading.Event(), threading.Event()
        self.poison = poison
        self.shared = SharedCall(self._doubled, most, one_at_a_time)

    def _doubled(self, numbers):
        self.calls.append(numbers)
        self.begun.set()
        if len(self.calls) == 3:
            self.third.set()
        self.gate.wait(20)
        if not set(numbers).isdisjoint(self.poison):
            raise ValueError(f"poison among {len(numbers)}")
        return [2 * number for number in numbers]

    def steps(self, number):
        return (yield self.shared.step("embedder", number))


async def behind_the_first(guard, doubling, numbers, deadline=soon):
    """0 occupies the only slot; `numbers` wait behind it, and then everything goes on. What each got."""
    first = asyncio.ensure_future(guard.arun(deadline(), doubling.steps(0)))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(doubling.begun.wait, 20)
    others = [asyncio.ensure_future(guard.arun(deadline(), doubling.steps(number))) for number in numbers]
    await asyncio.sleep(0)
    doubling.gate.set()
    results = await asyncio.gather(first, *others, return_exceptions=True)
    guard.close()
    return results[1:]


async def test_steps_that_wait_share_one_call_and_each_gets_its_own_result():
    doubling = Doubling()
    assert await behind_the_first(Guard(4, time.monotonic), doubling, [5, 3, 9]) == [10, 6, 18]
    assert doubling.calls == [[0], [5, 3, 9]]


async def test_a_call_is_shared_by_a_bounded_number():
    doubling = Doubling(most=4)
    assert await behind_the_first(Guard(4, time.monotonic), doubling, range(1, 11)) == list(range(2, 22, 2))
    assert [len(call) for call in doubling.calls] == [1, 4, 4, 2]


async def test_an_item_that_makes_its_calls_fail_fails_alone():
    guard, doubling = Guard(4, time.monotonic), Doubling(poison={3})
    results = await behind_the_first(guard, doubling, range(1, 17))
    assert [result for result in results if not isinstance(result, Exception)] == [
        2 * n for n in range(1, 17) if n != 3
    ]
    assert str(results[2]) == "poison among 1"
    assert guard.call("embedder", soon(), lambda: "not spared") == "not spared"


async def test_a_dependency_that_is_down_gets_few_further_calls():
    doubling = Doubling(poison=range(1, 17))
    results = await behind_the_first(Guard(4, time.monotonic), doubling, range(1, 17))
    assert [type(result) for result in results] == [ValueError] * FAILURES_TO_OPEN + [DependencyIsDown] * 11
    assert len(doubling.calls) < 16


async def test_a_call_with_too_few_results_is_an_error_of_its_steps():
    doubling = Doubling()
    doubling.shared = SharedCall(lambda numbers: doubling._doubled(numbers)[1:], one_at_a_time=True)
    results = await behind_the_first(Guard(4, time.monotonic), doubling, [1, 2])
    assert [str(result) for result in results] == ["a call for 1 items returned 0 results; expected one for each"] * 2


async def test_a_task_that_gave_up_or_was_cancelled_is_left_out_of_the_shared_call():
    guard, doubling = Guard(4, time.monotonic), Doubling()
    first = asyncio.ensure_future(guard.arun(soon(), doubling.steps(0)))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(doubling.begun.wait, 20)
    cancelled, stays = (asyncio.ensure_future(guard.arun(soon(), doubling.steps(n))) for n in (1, 2))
    with pytest.raises(DependencyIsSlow):
        await guard.arun(soon(0.02), doubling.steps(3))
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    doubling.gate.set()
    assert await asyncio.gather(first, stays) == [0, 4]
    assert doubling.calls == [[0], [2]]
    guard.close()


async def test_calls_go_side_by_side_unless_they_would_only_wait_for_each_other():
    for one_at_a_time, calls in ((False, [[0], [1], [2, 3]]), (True, [[0], [1, 2, 3]])):
        doubling = Doubling(one_at_a_time=one_at_a_time)
        assert await behind_the_first(Guard(2, time.monotonic), doubling, [1, 2, 3]) == [2, 4, 6]
        assert sorted(doubling.calls) == calls


async def test_after_a_shared_call_each_task_goes_its_own_way_with_its_own_context():
    tenant, doubling, guard = ContextVar("tenant"), Doubling(), Guard(4, time.monotonic)

    def steps(number):
        doubled = yield doubling.shared.step("embedder", number)
        return doubled, (yield Step("store", tenant.get))

    async def ask(number):
        tenant.set(number)
        return await guard.arun(soon(), steps(number))

    asked = [asyncio.ensure_future(ask(number)) for number in range(20)]
    await asyncio.sleep(0)
    assert await asyncio.to_thread(doubling.begun.wait, 20)
    doubling.gate.set()
    assert await asyncio.gather(*asked) == [(2 * number, number) for number in range(20)]
    assert len(doubling.calls) == 3
    guard.close()


def test_sixty_four_threads_are_all_served():
    doubling, guard, wrong = Doubling(), Guard(4, time.monotonic), []
    doubling.gate.set()

    def ask(n):
        for number in range(n * 100, n * 100 + 20):
            if guard.run(soon(), doubling.steps(number)) != 2 * number:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sorted(number for call in doubling.calls for number in call) == sorted(
        number for n in range(64) for number in range(n * 100, n * 100 + 20)
    )
    assert not guard._bulkheads["embedder"].busy
    guard.close()


async def test_a_queue_that_is_full_refuses_and_blames_nobody(monkeypatch):
    monkeypatch.setattr(bulkhead, "MOST_WAITING", 3)
    guard, doubling = Guard(4, time.monotonic), Doubling()
    results = await behind_the_first(guard, doubling, range(1, 21))
    assert results[:3] == [2, 4, 6]
    assert {type(result) for result in results[3:]} == {DependencyIsBusy}
    assert not guard.is_failing("embedder")


async def test_the_next_call_does_not_wait_for_what_follows_the_last_one():
    """The tasks of a shared call go on one after the other; meanwhile the dependency is called again."""
    guard, doubling = Guard(4, time.monotonic), Doubling(most=2)

    def steps(number):
        doubled = yield doubling.shared.step("embedder", number)
        return doubled, number != 1 or doubling.third.wait(20)

    first = asyncio.ensure_future(guard.arun(soon(), doubling.steps(0)))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(doubling.begun.wait, 20)
    others = [asyncio.ensure_future(guard.arun(soon(), steps(number))) for number in (1, 2, 3, 4)]
    await asyncio.sleep(0)
    assert guard.is_busy("embedder")
    doubling.gate.set()
    assert await asyncio.gather(*others) == [(2, True), (4, True), (6, True), (8, True)]
    assert await first == 0
    assert [len(call) for call in doubling.calls] == [1, 2, 2]
    guard.close()


# whose turn it is, and who is to blame, by a fake clock ---------------------------------------------------------------


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def embedder(clock):
    return Bulkhead("embedder", 1, clock)


def waiting(embedder, clock, shared, number):
    """A task that waits in the queue of `embedder`, with one second left."""

    def steps():
        yield shared.step("embedder", number)

    task = Task(steps(), Deadline(1.0, clock), lambda: None)
    task.step = task.first_step()
    embedder.join(task)
    embedder.queue(task)
    return task


def test_first_come_first_served_until_half_of_the_time_is_over(embedder, clock):
    shared = SharedCall(list, most=3)
    for number in range(10):
        waiting(embedder, clock, shared, number)
    clock.advance(0.4)
    assert [task.step.item for task in embedder.take()] == [0, 1, 2]
    clock.advance(0.2)
    assert [task.step.item for task in embedder.take()] == [9, 8, 7]  # 3 would be too late, with all behind it
    assert [task.step.item for task in embedder.waiting] == [3, 4, 5, 6]


def test_a_step_that_shares_nothing_is_taken_alone_and_in_order(embedder, clock):
    one, other = SharedCall(list), SharedCall(list)
    tasks = [waiting(embedder, clock, shared, n) for n, shared in enumerate((one, other, one))]
    tasks[0].step = Step("embedder", int)
    clock.advance(0.9)
    assert embedder.take() == [tasks[0]]
    assert embedder.take() == [tasks[1]]  # the newest that shares the call of the oldest
    assert embedder.take() == [tasks[2]]


def test_fewer_share_a_call_while_calls_take_more_than_half_of_a_deadline(embedder, clock):
    shared = SharedCall(list)
    for number in range(200):
        waiting(embedder, clock, shared, number)
    sizes = []
    for seconds in (0.1, 0.6, 0.6, 0.4, 0.4, 9.0, 9.0, 0.1, 0.1, 0.1, 0.1, 0.1):
        sizes.append(len(tasks := embedder.take()))
        embedder.took(seconds, len(tasks), tasks[0].deadline)
    assert sizes == [16, 16, 8, 4, 4, 4, 1, 1, 2, 4, 8, 16]


def test_no_more_share_a_call_than_it_can_serve_before_their_deadline(embedder, clock):
    shared = SharedCall(list)
    for number in range(100):
        waiting(embedder, clock, shared, number)
    sizes = []
    for seconds in (0.16, 0.16, 0.16, 0.16, 0.16, 0.16, 0.04):
        sizes.append(len(tasks := embedder.take()))
        clock.advance(seconds)
        embedder.took(seconds, len(tasks), tasks[0].deadline)
    assert sizes == [16, 16, 16, 16, 16, 16, 3]  # 0.04 s are left, and each takes 0.01 s


def test_one_call_that_took_long_does_not_limit_later_ones_for_good(embedder, clock):
    shared = SharedCall(list)
    for number in range(100):
        waiting(embedder, clock, shared, number)
    embedder.took(50.0, len(embedder.take()), soon())
    assert len(embedder.take()) == 1
    embedder.took(0.01, 1, soon())
    assert len(embedder.take()) > 1


def test_deadlines_that_pass_behind_one_slow_call_count_as_one_failure(embedder, clock):
    shared = SharedCall(list)
    for _ in range(FAILURES_TO_OPEN - 1):
        tasks = [waiting(embedder, clock, shared, number) for number in range(50)]
        clock.advance(1.0)
        assert {type(embedder.give_up(task)) for task in tasks} == {DependencyIsSlow, DependencyIsBusy}
        assert embedder.breaker.allows()
    tasks = [waiting(embedder, clock, shared, number) for number in range(50)]
    clock.advance(1.0)
    embedder.give_up(tasks[0])
    assert not embedder.breaker.allows()  # nothing was answered for five whole deadlines
    assert embedder.breaker.is_counting


def test_a_queue_that_moves_blames_nobody(embedder, clock):
    shared = SharedCall(list)
    for _ in range(20):
        task = waiting(embedder, clock, shared, 0)
        embedder.answered()
        clock.advance(1.0)
        error = embedder.give_up(task)
        assert type(error) is DependencyIsBusy
        assert str(error) == "embedder was busy with other requests for 1 s (setting deadline)"
    assert not embedder.breaker.is_counting
