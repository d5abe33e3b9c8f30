"""From a framework's call to its answer: decide, ask the arm, retreat to the reference, mark, record, time.

This is the only place that asks arms. A framework brings two things: a way to ask one of its models, and `Answers`,
which read what such a model answered.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Generic, Protocol, TypeVar
from uuid import uuid4

from typing_extensions import override

from shared_core.adapters.threads import off_loop
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError
from shared_core.values import Clock, Decision, Insertion, Outcome, Request, Route

R = TypeVar("R")  # a framework's whole answer
P = TypeVar("P")  # a piece of a streamed one


class Transcript(Protocol[P]):
    """A streamed answer as it passes by."""

    def take(self, piece: P) -> P:
        """The piece to pass on, marked where the framework reads marks."""

    def outcome(self, *, ended: bool) -> Outcome | None:
        """How the answer ended; None if nothing was said. Called once.

        Args:
            ended: True if the arm sent its last piece; False if it failed, or its reader left.
        """


class Answers(Protocol[R, P]):
    """Reads the answers of a framework's models."""

    def finished(self, decision: Decision, answer: R) -> tuple[R, Outcome | None]:
        """The answer, saying how it came about, and how it ended; None if nothing is to be recorded."""

    def has_begun(self, piece: P) -> bool:
        """True if this piece says something: from then on, no other arm can answer instead."""

    def transcript(self, decision: Decision) -> Transcript[P]:
        """An empty one."""


class WholeAnswers(Answers[R, R]):
    """Base of `Answers` where models answer in one piece; there, `RoutedCall.stream` is a mistake of the caller."""

    @override
    def has_begun(self, piece: R) -> bool:
        raise NotImplementedError(f"{type(self).__name__} reads no streams; use RoutedCall.run or arun")

    @override
    def transcript(self, decision: Decision) -> Transcript[R]:
        raise NotImplementedError(f"{type(self).__name__} reads no streams; use RoutedCall.run or arun")


@dataclass(frozen=True, slots=True)
class Routing:
    """Decides the calls of one surface.

    Attributes:
        engine: Decides, and keeps what comes of it.
        reference: The arm that answers whenever nothing can be decided.
    """

    engine: Engine
    reference: str

    def decide(self, read: Callable[[], Request], identity: str | None = None, *, bypass: str = "") -> Decision:
        """Which arm answers, and with which examples.

        Args:
            read: Makes the Request of the call. If it fails, the reference answers, and it is counted.
            identity: The decision's id; None draws one.
            bypass: Why this call is not routed, if it is not: then the reference answers and nothing is kept.

        Raises:
            ConfigurationError: The call names a scope or task that cannot be used: a misuse, not a failure.
        """
        identity = identity or uuid4().hex
        request = self._read(read, identity, bypass)
        return request if isinstance(request, Decision) else self.engine.decide(request, identity)

    async def adecide(
        self, read: Callable[[], Request], identity: str | None = None, *, bypass: str = "", may_block: bool = False
    ) -> Decision:
        """`decide` for event loops. `may_block` says that `read` calls a user's function, so it runs on a thread."""
        identity = identity or uuid4().hex
        if may_block:
            request = await off_loop(self._read, read, identity, bypass)
        else:
            request = self._read(read, identity, bypass)
        return request if isinstance(request, Decision) else await self.engine.adecide(request, identity)

    def _read(self, read: Callable[[], Request], identity: str, bypass: str) -> Request | Decision:
        """The request, or the decision where there is nothing to decide."""
        try:
            request = read()
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self.engine.counters.count("fallback.unreadable_call")
            nothing = Request((), "", store=False)
            return self._unrouted(nothing, identity, f"fallback: {type(error).__name__}: {error}", fallback=True)
        if bypass:
            self.engine.counters.count("bypass.not_routed")
            return self._unrouted(replace(request, store=False), identity, bypass)
        return request

    def _unrouted(self, request: Request, identity: str, reason: str, *, fallback: bool = False) -> Decision:
        route = Route(self.reference, reason=reason)
        return Decision(identity, request, route, fallback=fallback, created_at=time.time())


class _Ask:
    """An arm that is asked for one answer. The engine hears of its start and of its end, once each."""

    def __init__(self, engine: Engine, decision: Decision, clock: Clock) -> None:
        self.decision = decision
        self._engine = engine
        self._clock = clock
        self._began = clock()
        self._first_token: float | None = None

    @contextmanager
    def trying(self) -> Iterator[None]:
        """The call is under way inside; if it fails there, it has ended."""
        self._engine.started(self.decision)
        try:
            yield
        except BaseException as error:
            self.end(None, type(error).__name__)
            raise

    def failed(self, error: Exception) -> None:
        """It failed before it was under way."""
        self._engine.started(self.decision)
        self.end(None, type(error).__name__)

    def has_begun(self) -> None:
        """The arm has said something."""
        self._first_token = self._clock() - self._began

    def end(self, outcome: Outcome | None, error: str = "") -> Outcome:
        """The call has ended; its outcome with the times and the error."""
        outcome = outcome or Outcome("", finished=False, broken_off=True)
        timed = replace(outcome, seconds=self._clock() - self._began, first_token=self._first_token, error=error)
        self._engine.ended(self.decision, timed)
        return timed


@dataclass(frozen=True, slots=True)
class RoutedCall(Generic[R, P]):
    """One call after its decision. If its arm fails before it has said anything, the reference answers.

    Attributes:
        routing: The surface's.
        decision: Which arm answers, with which examples.
        answers: Reads what it answers.
        not_failures: Exceptions that say nothing about the arm: they are raised at once.
        clock: Seconds, monotonic.
    """

    routing: Routing
    decision: Decision
    answers: Answers[R, P]
    not_failures: tuple[type[Exception], ...] = ()
    clock: Clock = time.perf_counter

    def run(self, ask: Callable[[Decision], R]) -> R:
        """The answer in one piece; `ask` sends the call to the decision's arm, with the decision's examples."""
        asked = self._ask(self.decision)
        try:
            with asked.trying():
                answer = ask(asked.decision)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            asked = self._retreat(asked, error)
            with asked.trying():
                answer = ask(asked.decision)
        return self._finished(asked, answer)

    async def arun(self, ask: Callable[[Decision], Awaitable[R]]) -> R:
        """`run` with the arms' own async clients."""
        asked = self._ask(self.decision)
        try:
            with asked.trying():
                answer = await ask(asked.decision)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            asked = self._retreat(asked, error)
            with asked.trying():
                answer = await ask(asked.decision)
        return self._finished(asked, answer)

    def stream(self, ask: Callable[[Decision], Generator[P, None, None]]) -> Generator[P, None, None]:
        """The answer in pieces. The arm is asked now, so that it belongs to the caller's trace.

        The call is in flight from when its first piece is read, so that a stream that nobody reads never is.
        """
        asked = self._ask(self.decision)
        try:
            pieces = ask(asked.decision)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            asked.failed(error)
            asked = self._retreat(asked, error)
            pieces = ask(asked.decision)
        return self._pass_on(asked, pieces, ask)

    async def astream(self, ask: Callable[[Decision], Awaitable[AsyncGenerator[P, None]]]) -> AsyncGenerator[P, None]:
        """`stream` with the arms' own async clients."""
        asked = self._ask(self.decision)
        try:
            pieces = await ask(asked.decision)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            asked.failed(error)
            asked = self._retreat(asked, error)
            pieces = await ask(asked.decision)
        return self._apass_on(asked, pieces, ask)

    # private --------------------------------------------------------------------------------------------------

    def _pass_on(
        self, asked: _Ask, pieces: Generator[P, None, None], ask: Callable[[Decision], Generator[P, None, None]]
    ) -> Generator[P, None, None]:
        try:
            with asked.trying():
                lead = self._until_first_token(asked, pieces)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            asked = self._retreat(asked, error)
            with asked.trying():
                pieces = ask(asked.decision)
                lead = self._until_first_token(asked, pieces)
        with closing(pieces), self._reading(asked) as reading:
            for piece in chain(lead, pieces):
                yield reading.transcript.take(piece)
            reading.ended = True

    async def _apass_on(
        self,
        asked: _Ask,
        pieces: AsyncGenerator[P, None],
        ask: Callable[[Decision], Awaitable[AsyncGenerator[P, None]]],
    ) -> AsyncGenerator[P, None]:
        try:
            with asked.trying():
                lead = await self._auntil_first_token(asked, pieces)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            asked = self._retreat(asked, error)
            with asked.trying():
                pieces = await ask(asked.decision)
                lead = await self._auntil_first_token(asked, pieces)
        async with aclosing(pieces):
            with self._reading(asked) as reading:
                for piece in lead:
                    yield reading.transcript.take(piece)
                async for piece in pieces:
                    yield reading.transcript.take(piece)
                reading.ended = True

    def _until_first_token(self, asked: _Ask, pieces: Iterator[P]) -> list[P]:
        """The pieces up to the first that says something: until then another arm may answer instead."""
        lead = []
        for piece in pieces:
            lead.append(piece)
            if self.answers.has_begun(piece):
                asked.has_begun()
                break
        return lead

    async def _auntil_first_token(self, asked: _Ask, pieces: AsyncIterator[P]) -> list[P]:
        lead = []
        async for piece in pieces:
            lead.append(piece)
            if self.answers.has_begun(piece):
                asked.has_begun()
                break
        return lead

    @contextmanager
    def _reading(self, asked: _Ask) -> Iterator[_Reading[P]]:
        """The stream is read inside. However that ends, the call has ended, and what was said is recorded."""
        reading = _Reading(self.answers.transcript(asked.decision))
        error = ""
        try:
            yield reading
        except Exception as failure:
            error = type(failure).__name__
            raise
        finally:
            self._end(asked, reading.transcript.outcome(ended=reading.ended), error)

    def _finished(self, asked: _Ask, answer: R) -> R:
        outcome = None
        try:
            answer, outcome = self.answers.finished(asked.decision, answer)
        finally:
            self._end(asked, outcome)
        return answer

    def _end(self, asked: _Ask, outcome: Outcome | None, error: str = "") -> None:
        timed = asked.end(outcome, error)
        if outcome is not None:
            self.routing.engine.submit_record(asked.decision, timed)

    def _ask(self, decision: Decision) -> _Ask:
        return _Ask(self.routing.engine, decision, self.clock)

    def _retreat(self, asked: _Ask, error: Exception) -> _Ask:
        """The same call for the reference.

        Raises:
            Exception: `error`, if it was the reference that failed, or if it is no failure of an arm.
        """
        decision = asked.decision
        if decision.arm == self.routing.reference or isinstance(error, self.not_failures):
            raise error
        self.routing.engine.counters.count("fallback.arm_failed")
        route = Route(self.routing.reference, reason=f"fallback: {decision.arm} failed: {type(error).__name__}")
        return self._ask(replace(decision, route=route, insertion=Insertion(), fallback=True))


class _Reading(Generic[P]):
    """A stream while it is read."""

    def __init__(self, transcript: Transcript[P]) -> None:
        self.transcript = transcript
        self.ended = False
