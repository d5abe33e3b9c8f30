"""The one call loop, whole answers: an arm is asked, the reference stands in, and what was said is recorded."""

import asyncio
import gc
import traceback
import weakref

import pytest

from shared_core.values import Insertion, Outcome
from tests.unit.routing.arms import SHOWN, Arms, Interrupt, Notes, both, call, read


@both
async def test_the_arm_answers_and_is_recorded_with_its_time(colour):
    notes = Notes()
    assert await colour.run(call(notes), Arms(small=notes.after(1.0, "hello"))) == "small:hello"
    ((recorded, outcome),) = notes.records
    assert (recorded.arm, outcome) == ("small", Outcome("hello", writer="small", seconds=1.0))
    assert notes.ends == [("small", outcome)]
    assert notes.started_arms == ["small"]
    assert notes.is_balanced()


@both
async def test_where_an_arm_fails_the_reference_answers_without_examples(colour):
    notes = Notes()
    arms = Arms(small=notes.after(5.0, ConnectionError("refused")), large=notes.after(1.0, "fine"))
    assert await colour.run(call(notes), arms) == "large:fine"
    assert [(d.arm, d.insertion, d.fallback) for d in arms.asked] == [
        ("small", SHOWN, False),
        ("large", Insertion(), True),
    ]
    assert [(arm, o.error, o.broken_off, o.seconds) for arm, o in notes.ends] == [
        ("small", "ConnectionError", True, 5.0),
        ("large", "", False, 1.0),
    ]
    ((recorded, outcome),) = notes.records
    assert (recorded.arm, recorded.route.features, outcome.answer) == ("large", (), "fine")
    assert notes.unanswered == []  # one decision, one record
    assert "small failed: ConnectionError" in recorded.route.reason
    assert notes.counters["fallback.arm_failed"] == 1


@both
@pytest.mark.parametrize("arm", ["small", "large"])
async def test_the_references_own_failure_is_the_users(colour, arm):
    notes = Notes()
    with pytest.raises(OSError, match="reference"):
        await colour.run(call(notes, arm), Arms(small=OSError("arm"), large=OSError("reference")))
    assert [arm for arm, _ in notes.ends] == (["small", "large"] if arm == "small" else ["large"])
    assert [o.error for _, o in notes.ends] == ["OSError"] * len(notes.ends)
    assert notes.records == []
    assert notes.unanswered == [notes.ends[-1]]  # that it failed is known later
    assert notes.is_balanced()


@both
@pytest.mark.parametrize("way", ["whole", "stream", "opening"])
async def test_where_both_arms_fail_the_traceback_shows_both(colour, way):
    first, second = ValueError("small is out of memory"), OSError("reference is down")
    second.__cause__ = refused = ConnectionRefusedError()
    arms = Arms(
        small={"whole": first, "stream": [first], "opening": (first, [])}[way],
        large={"whole": second, "stream": [second], "opening": (second, [])}[way],
    )
    with pytest.raises(OSError, match="reference is down") as caught:
        if way == "whole":
            await colour.run(call(Notes()), arms)
        else:
            await read(colour, await colour.open(call(Notes()), arms), [])
    assert caught.value is second
    assert (second.__cause__, refused.__context__) == (refused, first)
    shown = "".join(traceback.format_exception(second))
    assert "small is out of memory" in shown and "reference is down" in shown


@both
async def test_an_arms_failure_is_in_no_cycle_of_garbage(colour):
    alive = []

    class Failure(Exception):
        def __init__(self):
            alive.append(weakref.ref(self))

    def fail():
        raise Failure

    gc.disable()
    try:
        assert await colour.run(call(Notes()), Arms(small=fail, large="fine")) == "large:fine"
        assert [each() for each in alive] == [None]
    finally:
        gc.enable()


@both
async def test_one_exception_of_both_arms_is_no_context_of_itself(colour):
    error = OSError("the network is down")
    with pytest.raises(OSError, match="network"):
        await colour.run(call(Notes()), Arms(small=error, large=error))
    assert error.__context__ is None


@both
@pytest.mark.parametrize("error", [Interrupt, KeyboardInterrupt, asyncio.CancelledError])
async def test_what_says_nothing_about_the_arm_is_raised_at_once_and_is_no_error_of_its(colour, error):
    notes = Notes()
    with pytest.raises(error):
        await colour.run(call(notes), Arms(small=error(), large="never"))
    assert [(arm, o.error, o.broken_off) for arm, o in notes.ends] == [("small", "", True)]
    assert notes.unanswered == notes.ends
    assert notes.counters["fallback.arm_failed"] == 0
    assert notes.is_balanced()


@both
async def test_an_answer_that_we_cannot_read_is_the_users_as_it_came(colour):
    notes = Notes()
    assert await colour.run(call(notes, failing=["finished"]), Arms(small=notes.after(1.0, "hello"))) == "hello"
    assert notes.ends == [("small", Outcome("", finished=False, seconds=1.0))]
    assert notes.records == []
    assert notes.counters.snapshot() == {"answer.failed{error=Unreadable}": 1}
    assert notes.is_balanced()
