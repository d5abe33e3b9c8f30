"""The one call loop: what we cannot read is the user's as it came."""

from dataclasses import replace

import pytest

from shared_core.adapters.attempt import WholeAnswers
from shared_core.values import Outcome
from tests.unit.routing.arms import Arms, Notes, Transcript, both, call, read

UNREADABLE = {
    "transcript": (["transcript"], ["", "a", "b"], ["", "a", "b"]),
    "piece": ([], ["", "a", "!", "b"], ["small:", "small:a", "!", "b"]),
    "outcome": (["outcome"], ["", "a", "b"], ["small:", "small:a", "small:b"]),
}


@both
@pytest.mark.parametrize("where", UNREADABLE)
async def test_a_stream_that_we_cannot_read_is_the_users_as_it_came(colour, where):
    failing, pieces, passed_on = UNREADABLE[where]
    notes, arms = Notes(), Arms(small=pieces, large=["never"])
    stream = await colour.open(call(notes, failing=failing), arms)
    assert await read(colour, stream, []) == passed_on
    assert notes.ends == [("small", Outcome("", finished=False, first_token=0.0))]
    assert notes.records == []
    assert notes.counters.snapshot() == {"answer.failed{error=Unreadable}": 1}
    assert notes.is_balanced()


@both
async def test_what_cannot_be_read_does_not_hide_the_arms_own_failure(colour):
    notes = Notes()
    stream = await colour.open(call(notes, failing=["outcome"]), Arms(small=["a", OSError("cut")]))
    with pytest.raises(OSError, match="cut"):
        await read(colour, stream, [])
    assert [(o.broken_off, o.error) for _, o in notes.ends] == [(True, "OSError")]
    assert notes.is_balanced()


@both
async def test_a_piece_of_which_we_cannot_say_whether_it_says_something_is_passed_on_at_once(colour):
    notes, arms, pieces = Notes(), Arms(small=["", "?", OSError("cut")], large=["never"]), []
    stream = await colour.open(call(notes), arms)
    with pytest.raises(OSError, match="cut"):
        await read(colour, stream, pieces)
    assert pieces == ["small:", "small:?"]
    assert [o.answer for _, o in notes.records] == ["?"]
    assert arms.streams[0].is_closed
    assert notes.is_balanced()


@both
async def test_an_interrupt_while_we_read_the_end_ends_the_call(colour, monkeypatch):
    def interrupted(self, *, ended):
        raise KeyboardInterrupt

    monkeypatch.setattr(Transcript, "outcome", interrupted)
    notes = Notes()
    stream = await colour.open(call(notes), Arms(small=["a"]))
    with pytest.raises(KeyboardInterrupt):
        await read(colour, stream, [])
    assert [arm for arm, _ in notes.ends] == ["small"]
    assert notes.is_balanced()


@both
async def test_answers_that_come_whole_refuse_to_be_streamed_by_name(colour):
    class Whole(WholeAnswers):
        def finished(self, decision, answer):
            return answer, Outcome(answer)

    notes, arms = Notes(), Arms(small="yes")
    whole = replace(call(notes), answers=Whole())
    assert await colour.run(whole, arms) == "yes"
    with pytest.raises(NotImplementedError, match="Whole does not support streams; use RoutedCall.run or arun"):
        await colour.open(whole, arms)
    assert len(arms.asked) == 1
    assert notes.is_balanced()
