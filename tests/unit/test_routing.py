"""The one call loop: an arm is asked, the reference stands in, what was said is recorded, and every call ends once."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_core.adapters.routing import RoutedCall, Routing, WholeAnswers
from shared_core.router.load import CallsInFlight
from shared_core.telemetry import Counters
from shared_core.values import Decision, Insertion, Message, Outcome, Request, Route

ASKED = Request((Message("user", "x"),), "x")
SHOWN = Insertion(turns=(Message("user", "q"), Message("assistant", "a")))


def decision(arm):
    return Decision("d", ASKED, Route(arm, features=(1.0,)), insertion=SHOWN)


class Notes:
    """What the loop does with an engine, noted; the clock moves by one second at each look."""

    def __init__(self):
        self.counters, self.in_flight = Counters(), CallsInFlight()
        self.started_arms, self.ends, self.records, self.now = [], [], [], 0.0

    def started(self, decision):
        self.in_flight.started(decision.arm)
        self.started_arms.append(decision.arm)

    def ended(self, decision, outcome):
        self.in_flight.ended(decision.arm)
        self.ends.append((decision.arm, outcome))

    def submit_record(self, decision, outcome):
        self.records.append((decision, outcome))

    def clock(self):
        self.now += 1.0
        return self.now


@dataclass
class Transcript:
    decision: Decision
    taken: list[str] = field(default_factory=list)

    def take(self, piece):
        self.taken.append(piece)
        return f"{self.decision.arm}:{piece}"

    def outcome(self, *, ended):
        text = "".join(self.taken)
        return Outcome(text, finished=ended, broken_off=not ended) if text else None


class Plain:
    """Answers that are texts. A piece says something unless it is empty."""

    def finished(self, decision, answer):
        return f"{decision.arm}:{answer}", Outcome(answer, writer=decision.arm)

    def has_begun(self, piece):
        return bool(piece)

    def transcript(self, decision):
        return Transcript(decision)


class Interrupt(Exception):
    """Says nothing about the arm."""


def call(notes, arm="small", answers=None):
    routing = Routing(notes, "large")
    return RoutedCall(routing, decision(arm), answers or Plain(), (Interrupt,), notes.clock)


def answering(**by_arm):
    """How arms answer: a text, or an error to raise."""

    def ask(decision):
        answer = by_arm[decision.arm]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return ask


def streaming(**by_arm):
    """How arms stream: their pieces, an error where it is to be raised."""

    def ask(decision):
        for piece in by_arm[decision.arm]:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    return ask


def awaited(ask):
    async def asking(decision):
        return ask(decision)

    return asking


def astreaming(**by_arm):
    async def pieces(decision):
        for piece in streaming(**by_arm)(decision):
            await asyncio.sleep(0)
            yield piece

    return awaited(pieces)


async def in_both_colours(notes, ask, arm="small"):
    """The answers of `run` and `arun`."""
    yield call(notes, arm).run(ask)
    yield await call(notes, arm).arun(awaited(ask))


async def test_the_arm_answers_and_is_recorded_with_its_time():
    notes = Notes()
    assert [answer async for answer in in_both_colours(notes, answering(small="hello"))] == ["small:hello"] * 2
    assert notes.started_arms == ["small", "small"]
    assert [(o.answer, o.writer, o.seconds, o.error) for _, o in notes.records] == [("hello", "small", 1.0, "")] * 2
    assert [arm for arm, _ in notes.ends] == ["small", "small"]
    assert notes.in_flight.snapshot() == {}


async def test_where_an_arm_fails_the_reference_answers_without_examples():
    notes = Notes()
    seen = []

    def ask(decision):
        seen.append((decision.arm, decision.insertion, decision.fallback))
        return answering(small=ConnectionError("refused"), large="fine")(decision)

    assert [answer async for answer in in_both_colours(notes, ask)] == ["large:fine"] * 2
    assert seen == [("small", SHOWN, False), ("large", Insertion(), True)] * 2
    assert [(arm, o.error, o.broken_off) for arm, o in notes.ends] == [
        ("small", "ConnectionError", True),
        ("large", "", False),
    ] * 2
    recorded, outcome = notes.records[0]
    assert (recorded.arm, recorded.route.features, outcome.answer) == ("large", (), "fine")
    assert "small failed: ConnectionError" in recorded.route.reason
    assert notes.counters["fallback.arm_failed"] == 2


async def test_the_references_own_failure_is_the_users():
    for arm, by_arm in (("large", {"large": OSError("a")}), ("small", {"small": OSError("b"), "large": OSError("a")})):
        notes = Notes()
        with pytest.raises(OSError, match="a"):
            call(notes, arm).run(answering(**by_arm))
        with pytest.raises(OSError, match="a"):
            await call(notes, arm).arun(awaited(answering(**by_arm)))
        assert [end[0] for end in notes.ends] == notes.started_arms
        assert notes.records == []
        assert notes.in_flight.snapshot() == {}


async def test_an_interrupt_is_no_failure_of_the_arm():
    notes = Notes()
    for _ in range(1):
        with pytest.raises(Interrupt):
            call(notes).run(answering(small=Interrupt(), large="never"))
        with pytest.raises(Interrupt):
            await call(notes).arun(awaited(answering(small=Interrupt(), large="never")))
    assert notes.started_arms == ["small", "small"]
    assert notes.counters["fallback.arm_failed"] == 0
    assert notes.in_flight.snapshot() == {}


async def test_an_answer_that_cannot_be_read_has_ended_all_the_same():
    class Unreadable(Plain):
        def finished(self, decision, answer):
            raise TypeError("no answer")

    notes = Notes()
    with pytest.raises(TypeError):
        call(notes, answers=Unreadable()).run(answering(small="hello"))
    assert notes.in_flight.snapshot() == {}
    assert len(notes.ends) == 1


async def in_both_streams(notes, by_arm, take=None):
    """The pieces of `stream` and `astream`, of each the first `take`."""
    pieces = []
    stream = call(notes).stream(streaming(**by_arm))
    for piece in stream:
        pieces.append(piece)
        if len(pieces) == take:
            break
    stream.close()
    apieces = []
    astream = await call(notes).astream(astreaming(**by_arm))
    async for piece in astream:
        apieces.append(piece)
        if len(apieces) == take:
            break
    await astream.aclose()
    assert pieces == apieces
    return pieces


async def test_a_stream_is_passed_on_and_timed_to_its_first_token():
    notes = Notes()
    assert await in_both_streams(notes, {"small": ["", "a", "b"]}) == ["small:", "small:a", "small:b"]
    assert [(o.answer, o.finished, o.first_token, o.seconds) for _, o in notes.records] == [("ab", True, 1.0, 2.0)] * 2


async def test_a_stream_that_fails_before_its_first_token_is_the_references():
    notes = Notes()
    by_arm = {"small": ["", OSError("cut")], "large": ["x", "y"]}
    assert await in_both_streams(notes, by_arm) == ["large:x", "large:y"]
    assert [(arm, o.error) for arm, o in notes.ends] == [("small", "OSError"), ("large", "")] * 2
    assert [o.answer for _, o in notes.records] == ["xy"] * 2


async def test_a_stream_that_fails_later_is_the_users_and_what_was_said_is_kept():
    notes = Notes()
    with pytest.raises(OSError, match="cut"):
        list(call(notes).stream(streaming(small=["a", OSError("cut")], large=["never"])))
    with pytest.raises(OSError, match="cut"):
        [p async for p in await call(notes).astream(astreaming(small=["a", OSError("cut")], large=["never"]))]
    assert [(o.answer, o.finished, o.broken_off, o.error) for _, o in notes.records] == [
        ("a", False, True, "OSError")
    ] * 2


async def test_a_reader_who_leaves_ends_the_call():
    notes = Notes()
    assert await in_both_streams(notes, {"small": ["a", "b", "c"]}, take=1) == ["small:a"]
    assert [(o.answer, o.finished, o.broken_off, o.error) for _, o in notes.records] == [("a", False, True, "")] * 2
    assert notes.in_flight.snapshot() == {}


async def test_a_stream_that_nobody_reads_is_never_in_flight():
    notes = Notes()
    unread = [call(notes).stream(streaming(small=["a"])), await call(notes).astream(astreaming(small=["a"]))]
    assert notes.started_arms == []
    unread[0].close()
    await unread[1].aclose()
    assert notes.in_flight.snapshot() == {}


async def test_the_arms_own_stream_is_closed_when_its_reader_leaves():
    closed = []

    def ask(decision):
        try:
            yield "a"
            yield "b"
        finally:
            closed.append("sync")

    async def apieces(decision):
        try:
            yield "a"
            yield "b"
        finally:
            closed.append("async")

    stream = call(Notes()).stream(ask)
    next(stream)
    stream.close()
    astream = await call(Notes()).astream(awaited(apieces))
    await anext(astream)
    await astream.aclose()
    assert closed == ["sync", "async"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cancelled_task_ends_its_call(streamed):
    notes, waiting = Notes(), asyncio.Event()

    async def never(decision):
        waiting.set()
        await asyncio.Event().wait()

    async def never_said(decision):
        yield ""
        await never(decision)

    async def consume():
        return [piece async for piece in await call(notes).astream(awaited(never_said))]

    task = asyncio.ensure_future(consume() if streamed else call(notes).arun(never))
    await waiting.wait()
    assert notes.in_flight.snapshot() == {"small": 1}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert notes.in_flight.snapshot() == {}
    assert [(arm, o.error) for arm, o in notes.ends] == [("small", "CancelledError")]


PIECES = st.lists(st.one_of(st.sampled_from(["", "a", "b"]), st.builds(OSError), st.builds(Interrupt)), max_size=5)


@given(st.lists(st.tuples(st.sampled_from(["small", "large"]), PIECES, PIECES, st.integers(0, 6)), max_size=8))
def test_whatever_happens_each_call_that_started_ended_once(calls):
    async def all_of_them():
        for arm, small, large, take in calls:
            with suppress(OSError, Interrupt):
                pieces = call(notes, arm).stream(streaming(small=small, large=large))
                for _, _piece in zip(range(take), pieces, strict=False):
                    pass
            pieces.close()
            with suppress(OSError, Interrupt):
                apieces = await call(notes, arm).astream(astreaming(small=small, large=large))
                taken = 0
                async for _piece in apieces:
                    taken += 1
                    if taken >= take:
                        break
            await apieces.aclose()

    notes = Notes()
    asyncio.run(all_of_them())
    assert notes.in_flight.snapshot() == {}
    assert sorted(notes.started_arms) == sorted(arm for arm, _ in notes.ends)
    assert all(outcome == replace(outcome, error="") or outcome.broken_off for _, outcome in notes.ends)


def test_answers_that_come_whole_refuse_to_be_streamed_by_name():
    class Whole(WholeAnswers):
        def finished(self, decision, answer):
            return answer, Outcome(answer)

    notes = Notes()
    assert call(notes, answers=Whole()).run(answering(small="yes")) == "yes"
    with pytest.raises(NotImplementedError, match="Whole reads no streams; use RoutedCall.run or arun"):
        list(call(notes, "large", Whole()).stream(streaming(large=["yes"])))
    assert notes.in_flight.snapshot() == {}
