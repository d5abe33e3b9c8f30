"""One call of one arm: counted while in flight, timed, marked, recorded, and ended exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from typing_extensions import override

from shared_core.engine import Engine
from shared_core.values import Clock, Decision, Outcome

R = TypeVar("R")  # a framework's whole answer
P = TypeVar("P")  # a piece of a streamed answer


class Transcript(Protocol[P]):
    """Collects the pieces of a streamed answer."""

    def take(self, piece: P) -> P:
        """The piece to pass on, marked if the framework needs it."""

    def outcome(self, *, ended: bool) -> Outcome | None:
        """How the answer ended; None if the arm sent nothing. Called once.

        Args:
            ended: True if the arm sent its last piece; False if it failed, or if its reader stopped.
        """


class Answers(Protocol[R, P]):
    """Reads the answers of a framework's models. If it fails, the user still gets the answer: see `ArmAttempt`."""

    def finished(self, decision: Decision, answer: R) -> tuple[R, Outcome | None]:
        """The answer with its provenance, and how it ended; None to record nothing."""

    def has_begun(self, piece: P) -> bool:
        """True if this piece holds content. After that, no other arm can answer instead."""

    def transcript(self, decision: Decision) -> Transcript[P]:
        """A new transcript."""


class WholeAnswers(Answers[R, R]):
    """Base class of `Answers` for models that do not stream: `RoutedCall` refuses to stream them."""

    @override
    def has_begun(self, piece: R) -> bool:
        raise NotImplementedError

    @override
    def transcript(self, decision: Decision) -> Transcript[R]:
        raise NotImplementedError


def add_context(error: BaseException, earlier: BaseException) -> None:
    """Let the traceback of `error` begin with that of `earlier`, as if `error` had been raised while it was handled."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    if earlier not in chain:
        chain[-1].__context__ = earlier


class ArmAttempt(Generic[R, P]):
    """The context of one call of an arm. The call ends exactly once, however the context is left.

    * **In flight**: the call is in flight while the context is open, except while an opened stream waits for its
      reader. A stream that is never read is not counted as a call; when it is closed, its decision is recorded as
      broken off.
    * **The arm fails** if an exception leaves the context that is not one of `not_failures`. A reader that stops, a
      cancelled task and an interrupt are not failures: the outcome is broken off, and its error is empty.
    * **Our own code fails** if `answers` raises. Then the user gets the answer or piece unchanged, the answer is not
      recorded, and ``answer.failed`` counts the error.

    Args:
        engine: Gets the start and the end of the call, and records the answer.
        decision: Names the arm.
        answers: Reads the arm's answer.
        not_failures: Exceptions that are not the arm's fault.
        clock: Seconds, monotonic.
        replaceable: True if another arm may answer instead. Then a failure before the first content does not leave the
            context.
        earlier: The failure of the arm in whose place this one answers. If this one fails, too, its exception shows both.

    Attributes:
        decision: The given decision.
        failure: The suppressed exception, after which the other arm answers; None if there was none.
    """

    def __init__(
        self,
        engine: Engine,
        decision: Decision,
        answers: Answers[R, P],
        not_failures: tuple[type[Exception], ...],
        clock: Clock,
        *,
        replaceable: bool,
        earlier: Exception | None = None,
    ) -> None:
        self.decision = decision
        self.failure: Exception | None = None
        self._earlier = earlier
        self._engine = engine
        self._answers = answers
        self._not_failures = not_failures
        self._clock = clock
        self._replaceable = replaceable
        self._started_at = 0.0  # shifted by the time for which an opened stream waits
        self._is_waiting = False
        self._has_begun = False
        self._first_token: float | None = None
        self._held: list[P] = []
        self._transcript: Transcript[P] | None = None
        self._outcome: Outcome | None = None

    def __enter__(self) -> ArmAttempt[R, P]:
        self._engine.started(self.decision)
        self._started_at = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._is_waiting:  # the stream was never read
            self._engine.submit_decision(self.decision, Outcome("", finished=False, broken_off=True))
            return False
        failed = error if isinstance(error, Exception) and not isinstance(error, self._not_failures) else None
        earlier, self._earlier = self._earlier, None  # kept, it would be in a cycle with its own traceback
        if self._replaceable and not self._has_begun:
            self.failure = failed
        elif failed is not None and earlier is not None:
            add_context(failed, earlier)
        self._end(type(failed).__name__ if failed else "", ended=error is None)
        return self.failure is not None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time in which an opened stream waits for its reader."""
        since = self._clock()
        self._engine.paused(self.decision)
        self._is_waiting = True
        yield
        self._engine.started(self.decision)
        self._is_waiting = False
        self._started_at += self._clock() - since

    def finished(self, answer: R) -> R:
        """The whole answer, marked."""
        with self.fail_open():
            answer, self._outcome = self._answers.finished(self.decision, answer)
        return answer

    def take(self, piece: P) -> Iterator[P]:
        """The pieces to pass on, marked. Pieces without content are held back while another arm may still answer."""
        self._held.append(piece)
        if self._first_token is None and self._has_content(piece):
            self._first_token = self._seconds()
        if self._first_token is not None or not self._replaceable:
            yield from self.release()

    def release(self) -> Iterator[P]:
        """The held pieces, marked. After this, no other arm may answer instead."""
        if not self._has_begun:
            self._has_begun = True
            with self.fail_open():
                self._transcript = self._answers.transcript(self.decision)
        while self._held:
            yield self._marked(self._held.pop(0))

    @contextmanager
    def fail_open(self) -> Iterator[None]:
        """Count an error of our own code, and suppress it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self._engine.failed("answer", error)

    # private --------------------------------------------------------------------------------------------------

    def _has_content(self, piece: P) -> bool:
        with self.fail_open():
            return self._answers.has_begun(piece)
        return True  # unreadable, so it is passed on without delay

    def _marked(self, piece: P) -> P:
        if self._transcript is None:
            return piece
        try:
            return self._transcript.take(piece)
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self._transcript = None  # incomplete without this piece
            self._engine.failed("answer", error)
            return piece

    def _end(self, error: str, *, ended: bool) -> None:
        try:
            with self.fail_open():
                if self._transcript is not None:
                    self._outcome = self._transcript.outcome(ended=ended)
        finally:
            outcome = self._outcome or Outcome("", finished=False, broken_off=not ended)
            timed = replace(outcome, seconds=self._seconds(), first_token=self._first_token, error=error)
            self._engine.ended(self.decision, timed)
        if self._outcome is not None:
            self._engine.submit_record(self.decision, timed)
        elif not ended and not self.failure:  # the reference's record stands for both
            self._engine.submit_decision(self.decision, timed)

    def _seconds(self) -> float:
        return self._clock() - self._started_at
