"""What learns from the feedback log: the `Trainee` protocol, and the lessons that a trainee gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from shared_core.records import Checkpoint, DecisionRecord, Feedback, Statistics


@dataclass(frozen=True, slots=True)
class RatingLesson:
    """A rating of one answer.

    Attributes:
        feedback: The rating; its score is in [0, 1].
        record: The decision that was rated.
        statistics: The stored statistics of the examples that the decision used or created, by id; without those that
            were deleted.
        now: Seconds since the epoch, when the lesson is learned.
    """

    feedback: Feedback
    record: DecisionRecord
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class PairLesson:
    """A comparison of two answers.

    Attributes:
        feedback: Its score is 1.0 if the first answer is better, 0.5 if both are equal.
        first: The decision of the first answer.
        second: The decision of the second answer; the same one if two arms answered one request.
        now: Seconds since the epoch, when the lesson is learned.
    """

    feedback: Feedback
    first: DecisionRecord
    second: DecisionRecord
    now: float = 0.0


Lesson: TypeAlias = RatingLesson | PairLesson


@dataclass(frozen=True, slots=True)
class State:
    """What a trainee wants to have published.

    Attributes:
        arrays: Arrays of any plain NumPy type, each stored as it is.
        meta: A small JSON.
        statistics: New statistics of examples, by (scope, id).
    """

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    meta: Mapping[str, object] = field(default_factory=dict)
    statistics: Mapping[tuple[str, str], Statistics] = field(default_factory=dict)


class Trainee(Protocol):
    """One part of what is learned. The learner reads the log, calls the trainee, and publishes its state.

    The learner uses a trainee from one thread at a time. A trainee that raises, or whose state is not finite, is put
    aside until its checkpoint changes or the program starts again.

    Attributes:
        part: Name of its checkpoint.
        replays: True if it can learn from the whole log again when nothing readable is stored of it. False if that
            would count twice what it has written elsewhere; it then goes on where the log was last learned.
    """

    part: str
    replays: bool

    def resume(self, saved: Checkpoint | None) -> None:
        """Continue from this checkpoint, and forget everything else; None: start anew."""

    def fold(self, lesson: Lesson) -> str:
        """Learn from one lesson, in the order of the log.

        Returns:
            Why nothing was learned, as one word; empty if something was.
        """

    def state(self) -> State | None:
        """What is to be published now; None if that can wait.

        After None, the lessons since the last published state are folded again if the program starts again.
        """
