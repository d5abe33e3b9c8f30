"""From a framework's call to its answer: decide, call the arm, and call the reference if the arm fails.

This is the only place that calls arms. A framework provides two things: a way to call one of its models, and `Answers`,
which read the model's answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Generic
from uuid import uuid4

from shared_core.adapters.attempt import Answers, ArmAttempt, P, R, WholeAnswers
from shared_core.adapters.threads import off_loop
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError
from shared_core.failures import cause_of
from shared_core.values import Clock, Decision, Insertion, Request, Route

_OPENED: Final[Any] = None  # yielded before the pieces, once a stream is open


@dataclass(frozen=True, slots=True)
class Routing:
    """Decides the calls of one surface.

    Attributes:
        engine: Decides and records.
        reference: The arm that answers if no decision can be made.
    """

    engine: Engine
    reference: str

    def decide(self, read: Callable[[], Request], identity: str | None = None, *, bypass: str = "") -> Decision:
        """Choose the arm that answers, and its examples.

        Args:
            read: Builds the call's `Request`. If it fails, the error is counted, and the reference answers.
            identity: The decision's id; None creates one.
            bypass: Why this call is not routed; empty if it is. Then the reference answers, and nothing is stored.

        Raises:
            ConfigurationError: The call has an invalid scope or task.
        """
        identity = identity or uuid4().hex
        request = self._read(read, identity, bypass)
        return request if isinstance(request, Decision) else self.engine.decide(request, identity)

    async def adecide(
        self, read: Callable[[], Request], identity: str | None = None, *, bypass: str = "", may_block: bool = False
    ) -> Decision:
        """`decide` for event loops. With `may_block`, `read` runs on a thread, because it calls a user's function."""
        identity = identity or uuid4().hex
        if may_block:
            request = await off_loop(self._read, read, identity, bypass)
        else:
            request = self._read(read, identity, bypass)
        return request if isinstance(request, Decision) else await self.engine.adecide(request, identity)

    def _read(self, read: Callable[[], Request], identity: str, bypass: str) -> Request | Decision:
        """The request; or a decision, if the call is not routed."""
        try:
            request = read()
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self.engine.failures.count("fallback.unreadable_call", error)
            nothing = Request((), "", store=False)
            return self._unrouted(nothing, identity, cause_of(error), fallback=True)
        if bypass:
            self.engine.counters.count("bypass.not_routed")
            return self._unrouted(replace(request, store=False), identity, bypass)
        return request

    def _unrouted(self, request: Request, identity: str, reason: str, *, fallback: bool = False) -> Decision:
        route = Route(self.reference, reason=reason)
        return Decision(identity, request, route, fallback=fallback, created_at=time.time())


@dataclass(frozen=True, slots=True)
class RoutedCall(Generic[R, P]):
    """One call after its decision. If its arm fails before the first content, the reference answers.

    `ArmAttempt` defines what a failure is and how a call ends.

    Attributes:
        routing: The surface's routing.
        decision: The arm that answers, and its examples.
        answers: Reads the answer.
        not_failures: Exceptions that are not the arm's fault; they are raised without a second attempt.
        clock: Seconds, monotonic.
    """

    routing: Routing
    decision: Decision
    answers: Answers[R, P]
    not_failures: tuple[type[Exception], ...] = ()
    clock: Clock = time.perf_counter

    def run(self, ask: Callable[[Decision], R]) -> R:
        """The answer in one piece; `ask` sends the call to the decision's arm, with the decision's examples."""
        for attempt in self._attempts():
            with attempt:
                answer = attempt.finished(ask(attempt.decision))
        return answer

    async def arun(self, ask: Callable[[Decision], Awaitable[R]]) -> R:
        """`run` with the arms' own async clients."""
        for attempt in self._attempts():
            with attempt:
                answer = attempt.finished(await ask(attempt.decision))
        return answer

    def stream(self, ask: Callable[[Decision], Generator[P, None, None]]) -> Generator[P, None, None]:
        """The answer in pieces. The arm is called here, not at the first read, within the caller's trace.

        Raises:
            NotImplementedError: `answers` are `WholeAnswers`.
        """
        _check_streamed(self.answers)
        pieces = self._pieces(ask)
        next(pieces)  # opens the stream
        return pieces

    async def astream(self, ask: Callable[[Decision], Awaitable[AsyncGenerator[P, None]]]) -> AsyncGenerator[P, None]:
        """`stream` with the arms' own async clients."""
        _check_streamed(self.answers)
        pieces = self._apieces(ask)
        await anext(pieces)  # opens the stream
        return pieces

    # private --------------------------------------------------------------------------------------------------

    def _attempts(self) -> Iterator[ArmAttempt[R, P]]:
        """The decision's arm; then, if it failed and the reference may answer instead, the reference."""
        reference = self.routing.reference
        attempt = self._attempt(self.decision, replaceable=self.decision.arm != reference)
        yield attempt
        if attempt.failure is not None:
            self.routing.engine.counters.count("fallback.arm_failed")
            route = Route(reference, reason=f"fallback: {self.decision.arm} failed: {type(attempt.failure).__name__}")
            fallback = replace(self.decision, route=route, insertion=Insertion(), fallback=True)
            yield self._attempt(fallback, replaceable=False, earlier=attempt.failure)

    def _attempt(self, decision: Decision, *, replaceable: bool, earlier: Exception | None = None) -> ArmAttempt[R, P]:
        engine = self.routing.engine
        return ArmAttempt(
            engine, decision, self.answers, self.not_failures, self.clock, replaceable=replaceable, earlier=earlier
        )

    def _pieces(self, ask: Callable[[Decision], Generator[P, None, None]]) -> Generator[P, None, None]:
        """`_OPENED` once an arm's stream is open; then the answer.

        One generator opens and reads: closing or dropping it closes the arm's stream, even if it was never read.
        """
        is_open = False
        for attempt in self._attempts():
            with attempt:
                pieces = ask(attempt.decision)
                try:
                    if not is_open:
                        is_open = True
                        with attempt.waiting():
                            yield _OPENED
                    for piece in pieces:
                        yield from attempt.take(piece)
                    yield from attempt.release()
                finally:
                    with attempt.fail_open():
                        pieces.close()

    async def _apieces(self, ask: Callable[[Decision], Awaitable[AsyncGenerator[P, None]]]) -> AsyncGenerator[P, None]:
        """`_pieces` with the arms' own async clients."""
        is_open = False
        for attempt in self._attempts():
            with attempt:
                pieces = await ask(attempt.decision)
                try:
                    if not is_open:
                        is_open = True
                        with attempt.waiting():
                            yield _OPENED
                    async for piece in pieces:
                        for ready in attempt.take(piece):
                            yield ready
                    for ready in attempt.release():
                        yield ready
                finally:
                    with attempt.fail_open():
                        await pieces.aclose()


def _check_streamed(answers: object) -> None:
    if isinstance(answers, WholeAnswers):
        raise NotImplementedError(f"{type(answers).__name__} does not support streams; use RoutedCall.run or arun")
