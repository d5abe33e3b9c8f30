"""The one call loop, by property: whatever fails, and wherever a reader leaves, each arm ends once."""

import asyncio
from contextlib import nullcontext, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.routing.arms import Arms, Async, Interrupt, Notes, Sync, call, read

STEPS = st.one_of(st.sampled_from(["", "a", "b", "?", "!"]), st.builds(OSError), st.builds(Interrupt))
OPENINGS = st.one_of(st.none(), st.none(), st.builds(OSError), st.builds(Interrupt))
SCRIPTS = st.tuples(OPENINGS, st.lists(STEPS, max_size=5))
FAILING = st.sets(st.sampled_from(["finished", "transcript", "outcome"]))


def expected(arm, scripts):
    """The arms that are asked, the pieces that the last one delivers, and how its stream ends."""
    opening, steps = scripts[arm]
    script = [opening, *steps] if opening else steps
    end = next((step for step in script if isinstance(step, Exception)), None)
    pieces = script[: script.index(end)] if end else script
    if arm == "large" or not end or any(pieces):
        return [arm], pieces, end
    if isinstance(end, Interrupt):
        return [arm], [], end
    asked, pieces, end = expected("large", scripts)
    return [arm, *asked], pieces, end


@given(
    st.sampled_from([Sync(), Async()]),
    st.sampled_from(["small", "large"]),
    st.fixed_dictionaries({"small": SCRIPTS, "large": SCRIPTS}),
    FAILING,
)
def test_whatever_fails_the_user_gets_what_the_arm_delivered_and_each_arm_ends_once(colour, arm, scripts, failing):
    notes, arms, pieces = Notes(), Arms(**scripts), []
    asked, delivered, error = expected(arm, scripts)

    async def consume():
        await read(colour, await colour.open(call(notes, arm, failing), arms), pieces)

    with pytest.raises(type(error)) if error else nullcontext():
        asyncio.run(consume())
    assert [piece.rpartition(":")[2] for piece in pieces] == delivered
    assert [d.arm for d in arms.asked] == [arm for arm, _ in notes.ends] == asked
    assert [o.broken_off for _, o in notes.ends] == [True] * (len(asked) - 1) + [error is not None]
    assert notes.ends[-1][1].error == ("OSError" if isinstance(error, OSError) else "")
    assert len(notes.records) <= 1
    assert not notes.records or notes.records[0][1] == notes.ends[-1][1]
    assert all(stream.is_closed for stream in arms.streams)
    assert notes.is_balanced()


@given(
    st.sampled_from([Sync(), Async()]),
    st.lists(st.tuples(st.sampled_from(["small", "large"]), SCRIPTS, SCRIPTS, st.integers(0, 6), FAILING), max_size=3),
)
def test_wherever_a_reader_leaves_each_arm_ends_once(colour, calls):
    notes, opened = Notes(), []

    async def consume():
        for number, (arm, small, large, take, failing) in enumerate(calls):
            arms, pieces = Arms(small=small, large=large), []
            with suppress(OSError, Interrupt):
                stream = await colour.open(call(notes, arm, failing, f"d{number}"), arms)
                await read(colour, stream, pieces, take)
            _, delivered, _ = expected(arm, {"small": small, "large": large})
            assert [piece.rpartition(":")[2] for piece in pieces] == delivered[:take]
            opened.extend(arms.streams)

    asyncio.run(consume())
    recorded = [decision.id for decision, _ in notes.records]
    assert len(recorded) == len(set(recorded))
    assert all(stream.is_closed for stream in opened)
    assert notes.is_balanced()


@given(
    st.sampled_from(["small", "large"]),
    SCRIPTS,
    SCRIPTS,
    FAILING,
    st.booleans(),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_wherever_a_task_is_cancelled_each_arm_ends_once(arm, small, large, failing, whole, turns, again):
    notes, pieces = Notes(), []
    arms = Arms(small="whole", large="whole") if whole else Arms(small=small, large=large)

    async def consume():
        routed = call(notes, arm, failing)
        if whole:
            return await Async().run(routed, arms)
        return await read(Async(), await Async().open(routed, arms), pieces)

    async def cancel():
        task = asyncio.ensure_future(consume())
        for wait in (turns, again):  # the second time while it cleans up
            for _ in range(wait):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or isinstance(task.exception(), OSError | Interrupt | None)

    asyncio.run(cancel())
    _, delivered, _ = expected(arm, {"small": small, "large": large})
    assert [piece.rpartition(":")[2] for piece in pieces] == delivered[: len(pieces)]
    assert len(notes.records) <= 1
    assert all(outcome.error in ("", "OSError") for _, outcome in notes.ends)
    assert notes.is_balanced()
