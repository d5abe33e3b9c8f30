"""Arms of both colours that do what a test gives them, and an engine that notes what the call loop does with it."""

import asyncio
from dataclasses import dataclass, field

import pytest

from shared_core.adapters.routing import RoutedCall, Routing
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
        self.unanswered = []

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

    def submit_decision(self, decision, outcome):
        self.unanswered.append((decision.arm, outcome))

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
