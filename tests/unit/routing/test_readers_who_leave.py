"""The one call loop: a reader who leaves, a stream that nobody reads and a cancelled task end the call once."""

import asyncio
import gc

import pytest

from shared_core.values import Outcome
from tests.unit.routing.arms import NEVER, Arms, Async, Notes, Sync, both, call, read


@both
@pytest.mark.parametrize("take", [1, 2])
async def test_a_reader_who_leaves_ends_the_call_without_an_error(colour, take):
    notes, arms = Notes(), Arms(small=["", "a", "b"])
    stream = await colour.open(call(notes), arms)
    await read(colour, stream, [], take)
    said = ["", "a"][take - 1]
    assert [(o.answer, o.finished, o.broken_off, o.error) for _, o in notes.ends] == [(said, False, True, "")]
    assert [o.answer for _, o in notes.records] == [said] * bool(said)
    assert arms.streams[0].is_closed
    assert notes.is_balanced()


@both
async def test_a_reader_who_leaves_does_not_meet_an_error_of_the_arms_end(colour):
    for take in (0, 1):
        notes = Notes()
        stream = await colour.open(call(notes), Arms(small=["a", "b"], at_close=OSError("hung up")))
        await read(colour, stream, [], take)
        assert notes.counters.snapshot() == {"answer.failed{error=OSError}": 1}
        assert [o.answer for _, o in notes.records] == ["a"] * take
        assert notes.is_balanced()


@both
async def test_a_stream_that_nobody_reads_is_not_in_flight_and_closes_the_arms(colour):
    notes, arms = Notes(), Arms(small=["a"])
    stream = await colour.open(call(notes), arms)
    assert notes.is_balanced()
    await colour.close(stream)
    assert arms.streams[0].is_closed
    assert notes.ends == []
    assert notes.unanswered == [("small", Outcome("", finished=False, broken_off=True))]
    assert notes.is_balanced()


@both
async def test_a_stream_that_is_dropped_closes_the_arms(colour):
    for take in (0, 1):
        notes, arms = Notes(), Arms(small=["a", "b"])
        stream = await colour.open(call(notes), arms)
        for _ in range(take):
            await colour.next(stream)
        del stream
        gc.collect()
        for _ in range(3):  # the event loop closes what is dropped in a task of its own
            await asyncio.sleep(0)
        assert arms.streams[0].is_closed
        assert len(notes.ends) == take
        assert [arm for arm, _ in notes.unanswered] == ["small"] * (1 - take)
        assert notes.is_balanced()


def test_an_unread_stream_that_outlives_its_event_loop_is_not_in_flight():
    notes, arms, loop = Notes(), Arms(small=["a"]), asyncio.new_event_loop()
    stream = loop.run_until_complete(call(notes).astream(arms.astream))
    loop.close()
    del stream
    gc.collect()
    assert notes.is_balanced()


@both
async def test_an_error_that_the_reader_throws_into_an_unread_stream_asks_no_other_arm(colour):
    notes, arms = Notes(), Arms(small=["a"], large=["never"])
    stream = await colour.open(call(notes), arms)
    with pytest.raises(OSError, match="thrown"):
        stream.throw(OSError("thrown")) if isinstance(colour, Sync) else await stream.athrow(OSError("thrown"))
    assert len(arms.asked) == 1
    assert notes.is_balanced()


async def test_the_arms_own_generators_are_closed_when_their_reader_leaves():
    closed = []

    def pieces(decision):
        try:
            yield "a"
            yield "b"
        finally:
            closed.append("sync")

    async def apieces():
        try:
            yield "a"
            yield "b"
        finally:
            closed.append("async")

    async def ask(decision):
        return apieces()

    stream = call(Notes()).stream(pieces)
    next(stream)
    stream.close()
    astream = await call(Notes()).astream(ask)
    await anext(astream)
    await astream.aclose()
    assert closed == ["sync", "async"]


@pytest.mark.parametrize(
    "script", [NEVER, (NEVER, []), ["", NEVER], ["a", NEVER]], ids=["whole", "opening", "first", "later"]
)
async def test_a_cancelled_task_ends_its_call_without_an_error(script):
    notes, arms = Notes(), Arms(small=script)

    async def consume():
        if script is NEVER:
            return await Async().run(call(notes), arms)
        return await read(Async(), await Async().open(call(notes), arms), [])

    task = asyncio.ensure_future(consume())
    for _ in range(10):
        await asyncio.sleep(0)
    assert notes.in_flight.snapshot() == {"small": 1}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(arm, o.error, o.broken_off) for arm, o in notes.ends] == [("small", "", True)]
    assert notes.counters.snapshot() == {}
    assert all(stream.is_closed for stream in arms.streams)
    assert notes.is_balanced()


@both
@pytest.mark.parametrize("script", [[KeyboardInterrupt()], ["a", KeyboardInterrupt()], (KeyboardInterrupt(), [])])
async def test_an_interrupt_in_a_stream_is_no_failure_of_the_arm(colour, script):
    notes = Notes()
    with pytest.raises(KeyboardInterrupt):
        await read(colour, await colour.open(call(notes), Arms(small=script, large=["never"])), [])
    assert [(arm, o.error, o.broken_off) for arm, o in notes.ends] == [("small", "", True)]
    assert notes.is_balanced()
