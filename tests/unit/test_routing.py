"""The one call loop: an arm is asked, the reference stands in, what was said is recorded, and every call ends once."""

import asyncio
import gc
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_core.adapters.attempt import WholeAnswers
from shared_core.adapters.routing import RoutedCall, Routing, WholeAnswers
from shared_core.router.load import CallsInFlight
from shared_core.telemetry import Counters
from shared_core.values import Decision, Insertion, Message, Outcome, Request, Route

ASKED = Request((Message("user", "x"),), "x")
SHOWN = Insertion(turns=(Message("user", "q"), Message("assistant", "a")))


def decision(arm, identity="d"):
    return Decision(identity, ASKED, Route(arm, features=(1.0,)), insertion=SHOWN)


class Notes:
    """What the loop does with an engine, noted. The clock stands still unless a test moves it."""

    def __init__(self):
        self.counters, self.in_flight = Counters(), CallsInFlight()
        self.started_arms, self.paused_arms, self.ends, self.records, self.now = [], [], [], [], 0.0

    def started(self, decision):
        self.in_flight.started(decision.arm)
        self.started_arms.append(decision.arm)

    def paused(self, decision):
        self.in_flight.ended(decision.arm)
        self.paused_arms.append(decision.arm)

    def ended(self, decision, outcome):
        self.in_flight.ended(decision.arm)
        self.ends.append((decision.arm, outcome))

    def failed(self, where, error):
        self.counters.count(f"{where}.failed", error=type(error).__name__)

    def submit_record(self, decision, outcome):
        self.records.append((decision, outcome))

    def clock(self):
        return self.now

    def after(self, seconds, then=None):
        """A step of an arm that takes its time."""

        def step():
            self.now += seconds
            if isinstance(then, BaseException):
                raise then
            return then

        return step

    def is_balanced(self):
        ended = [*self.paused_arms, *(arm for arm, _ in self.ends)]
        return self.in_flight.snapshot() == {} and sorted(self.started_arms) == sorted(ended)


class Interrupt(Exception):
    """Says nothing about the arm."""


class Unreadable(Exception):
    """Raised by our own readers."""


def does(step):
    """What a step of an arm comes to: an error is raised, a function is called, a text is given."""
    if isinstance(step, BaseException):
        raise step
    return step() if callable(step) else step


class Pieces:
    """An arm's stream for either colour. It notes that it was closed."""

    def __init__(self, steps, at_close=None):
        self.steps, self.at_close, self.is_closed = iter(steps), at_close, False

    def __iter__(self):
        return self

    def __next__(self):
        return does(next(self.steps))

    def close(self):
        self.is_closed = True
        does(self.at_close)

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(0)
        try:
            return await awaited(next(self))
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self):
        await asyncio.sleep(0)
        self.close()


NEVER = object()


async def awaited(piece):
    """The piece, or no end."""
    return await asyncio.Event().wait() if piece is NEVER else piece


class Arms:
    """Arms by name, asked in either colour: one step for a whole answer or for the opening of a stream."""

    def __init__(self, at_close=None, **steps):
        self.steps, self.at_close, self.streams, self.asked = steps, at_close, [], []

    def whole(self, decision):
        self.asked.append(decision)
        return does(self.steps[decision.arm])

    async def awhole(self, decision):
        await asyncio.sleep(0)
        return await awaited(self.whole(decision))

    def stream(self, decision):
        """A list of steps is a stream that opens at once; a pair is the opening's step and that list."""
        self.asked.append(decision)
        steps = self.steps[decision.arm]
        opening, steps = steps if isinstance(steps, tuple) else (None, steps)
        if does(opening) is NEVER:
            return NEVER
        self.streams.append(Pieces(steps, self.at_close))
        return self.streams[-1]

    async def astream(self, decision):
        await asyncio.sleep(0)
        return await awaited(self.stream(decision))


class Sync:
    """`run` and `stream`."""

    async def run(self, call, arms):
        return call.run(arms.whole)

    async def open(self, call, arms):
        return call.stream(arms.stream)

    async def next(self, stream):
        try:
            return next(stream)
        except StopIteration:
            raise StopAsyncIteration from None

    async def close(self, stream):
        stream.close()


class Async:
    """`arun` and `astream`."""

    async def run(self, call, arms):
        return await call.arun(arms.awhole)

    async def open(self, call, arms):
        return await call.astream(arms.astream)

    async def next(self, stream):
        return await anext(stream)

    async def close(self, stream):
        await stream.aclose()


both = pytest.mark.parametrize("colour", [Sync(), Async()], ids=["sync", "async"])


async def read(colour, stream, pieces, take=None):
    """Read a stream to its end, or its first `take` pieces, into `pieces`; then close it."""
    try:
        while take is None or len(pieces) < take:
            pieces.append(await colour.next(stream))
    except StopAsyncIteration:
        pass
    finally:
        await colour.close(stream)
    return pieces


@dataclass
class Transcript:
    """Marks pieces with the arm. It fails at the piece "!", and at its end where it is to."""

    decision: Decision
    fails_at_end: bool = False
    taken: list[str] = field(default_factory=list)

    def take(self, piece):
        if piece == "!":
            raise Unreadable
        self.taken.append(piece)
        return f"{self.decision.arm}:{piece}"

    def outcome(self, *, ended):
        if self.fails_at_end:
            raise Unreadable
        text = "".join(self.taken)
        return Outcome(text, finished=ended, broken_off=not ended) if text else None


@dataclass
class Plain:
    """Answers that are texts. A piece says something unless it is empty; whether "?" does cannot be read."""

    failing: frozenset[str] = frozenset()

    def finished(self, decision, answer):
        if "finished" in self.failing:
            raise Unreadable
        return f"{decision.arm}:{answer}", Outcome(answer, writer=decision.arm)

    def has_begun(self, piece):
        if piece == "?":
            raise Unreadable
        return bool(piece)

    def transcript(self, decision):
        if "transcript" in self.failing:
            raise Unreadable
        return Transcript(decision, "outcome" in self.failing)


def call(notes, arm="small", failing=(), identity="d"):
    routing = Routing(notes, "large")
    return RoutedCall(routing, decision(arm, identity), Plain(frozenset(failing)), (Interrupt,), notes.clock)


# whole answers ------------------------------------------------------------------------------------------------


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
    assert notes.is_balanced()


@both
@pytest.mark.parametrize("error", [Interrupt, KeyboardInterrupt, asyncio.CancelledError])
async def test_what_says_nothing_about_the_arm_is_raised_at_once_and_is_no_error_of_its(colour, error):
    notes = Notes()
    with pytest.raises(error):
        await colour.run(call(notes), Arms(small=error(), large="never"))
    assert [(arm, o.error, o.broken_off) for arm, o in notes.ends] == [("small", "", True)]
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


# streams ------------------------------------------------------------------------------------------------------


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


# readers who leave --------------------------------------------------------------------------------------------


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


# our own failures ---------------------------------------------------------------------------------------------


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
    with pytest.raises(NotImplementedError, match="Whole reads no streams; use RoutedCall.run or arun"):
        await colour.open(whole, arms)
    assert len(arms.asked) == 1
    assert notes.is_balanced()


# whatever happens ---------------------------------------------------------------------------------------------

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
