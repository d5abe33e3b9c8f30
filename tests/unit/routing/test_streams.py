"""The one call loop, streams: what is passed on, what is recorded, and when the reference stands in."""

import pytest

from tests.unit.routing.arms import Arms, Notes, both, call, read


@both
async def test_a_stream_is_passed_on_and_recorded(colour):
    notes, arms = Notes(), Arms(small=["", "a", "b"])
    stream = await colour.open(call(notes), arms)
    assert await read(colour, stream, []) == ["small:", "small:a", "small:b"]
    assert [(o.answer, o.finished, o.error) for _, o in notes.records] == [("ab", True, "")]
    assert [arm for arm, _ in notes.ends] == ["small"]
    assert arms.streams[0].is_closed
    assert notes.is_balanced()


@both
async def test_a_stream_that_says_nothing_is_passed_on_all_the_same(colour):
    notes = Notes()
    stream = await colour.open(call(notes), Arms(small=["", ""], large=["never"]))
    assert await read(colour, stream, []) == ["small:", "small:"]
    assert [(arm, o.broken_off, o.first_token) for arm, o in notes.ends] == [("small", False, None)]
    assert notes.is_balanced()


@both
async def test_a_streams_time_is_that_of_its_opening_and_of_its_reading(colour):
    notes = Notes()
    pieces = [notes.after(2.0, ""), notes.after(3.0, "a"), notes.after(4.0, "b")]
    stream = await colour.open(call(notes), Arms(small=(notes.after(1.0), pieces)))
    notes.now += 100.0  # the reader has something else to do first
    await read(colour, stream, [])
    assert [(o.first_token, o.seconds) for _, o in notes.ends] == [(6.0, 10.0)]


@both
async def test_each_arm_has_its_own_time(colour):
    notes = Notes()
    arms = Arms(
        small=(notes.after(1.0), [notes.after(2.0, OSError())]), large=(notes.after(3.0), [notes.after(4.0, "x")])
    )
    stream = await colour.open(call(notes), arms)
    notes.now += 100.0
    assert await read(colour, stream, []) == ["large:x"]
    assert [(arm, o.seconds, o.first_token) for arm, o in notes.ends] == [("small", 3.0, None), ("large", 7.0, 7.0)]


@both
async def test_a_stream_that_fails_before_its_first_token_is_the_references(colour):
    notes, arms = Notes(), Arms(small=["", OSError("cut")], large=["x", "y"])
    stream = await colour.open(call(notes), arms)
    assert await read(colour, stream, []) == ["large:x", "large:y"]
    assert [(arm, o.error) for arm, o in notes.ends] == [("small", "OSError"), ("large", "")]
    assert [(d.arm, o.answer) for d, o in notes.records] == [("large", "xy")]
    assert all(stream.is_closed for stream in arms.streams)
    assert notes.is_balanced()


@both
async def test_a_references_stream_is_passed_on_as_it_comes(colour):
    notes, pieces = Notes(), []
    stream = await colour.open(call(notes, "large"), Arms(large=["", OSError("cut")]))
    with pytest.raises(OSError, match="cut"):
        await read(colour, stream, pieces)
    assert pieces == ["large:"]
    assert [(o.error, o.first_token) for _, o in notes.ends] == [("OSError", None)]
    assert notes.is_balanced()


@both
async def test_a_stream_that_fails_later_is_the_users_and_what_was_said_is_kept(colour):
    notes, pieces = Notes(), []
    stream = await colour.open(call(notes), Arms(small=["a", OSError("cut")], large=["never"]))
    with pytest.raises(OSError, match="cut"):
        await read(colour, stream, pieces)
    assert pieces == ["small:a"]
    assert [(o.answer, o.finished, o.broken_off, o.error) for _, o in notes.records] == [("a", False, True, "OSError")]
    assert notes.is_balanced()


@both
async def test_a_stream_that_cannot_be_opened_is_the_references(colour):
    notes = Notes()
    stream = await colour.open(call(notes), Arms(small=(notes.after(2.0, OSError()), []), large=["x"]))
    assert [(arm, o.error, o.seconds) for arm, o in notes.ends] == [("small", "OSError", 2.0)]
    assert await read(colour, stream, []) == ["large:x"]
    assert [arm for arm, _ in notes.ends] == ["small", "large"]
    assert notes.counters["fallback.arm_failed"] == 1
    assert notes.is_balanced()


@both
async def test_where_neither_arm_opens_a_stream_both_have_failed(colour):
    notes = Notes()
    with pytest.raises(OSError, match="reference"):
        await colour.open(call(notes), Arms(small=(ValueError(), []), large=(OSError("reference"), [])))
    assert [(arm, o.error) for arm, o in notes.ends] == [("small", "ValueError"), ("large", "OSError")]
    assert notes.is_balanced()


@both
async def test_where_the_reference_cannot_be_opened_in_the_middle_both_have_failed(colour):
    notes = Notes()
    stream = await colour.open(call(notes), Arms(small=[ValueError()], large=(OSError("reference"), [])))
    with pytest.raises(OSError, match="reference"):
        await read(colour, stream, [])
    assert [(arm, o.error) for arm, o in notes.ends] == [("small", "ValueError"), ("large", "OSError")]
    assert notes.is_balanced()
