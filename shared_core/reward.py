"""Calls the user's reward function, and checks scores."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from numbers import Real
from typing import Final, TypeAlias

from shared_core.error_log import log_error
from shared_core.errors import ConfigurationError, InvalidScore, shown
from shared_core.inference.background_loop import BackgroundLoop
from shared_core.records import Feedback
from shared_core.telemetry import Counters, get_logger
from shared_core.values import Request

log = get_logger("reward")

SCORE_SECONDS: Final = 60.0  # after which a coroutine is cancelled; a plain function cannot be stopped

Reward: TypeAlias = Callable[[Request, str], float | Awaitable[float | None] | None]
"""Scores (request, answer) in [0, 1], or returns None for no opinion. `request.query` is the question's text. May be a
coroutine function."""

_loop: Final = BackgroundLoop("iccache-reward")  # not that of the models, which a coroutine may ask and wait for


def check_reward(reward: Reward | None) -> None:
    """Check the type of `reward`.

    Raises:
        ConfigurationError: It is not callable.
    """
    if reward is not None and not callable(reward):
        raise ConfigurationError(f"reward is {reward!r}; pass a function from (request, answer) to a score in [0, 1]")


def check_rating(score: float, rater: str) -> None:
    """Check a score and the name of its rater.

    Raises:
        InvalidScore: The score is not a number in [0, 1].
        ConfigurationError: The rater is not a name.
    """
    check_score(score)
    if not isinstance(rater, str) or not rater:
        raise ConfigurationError(f"rater is {shown(rater)}; pass a name, such as 'user'")


def comparison(better: str, worse: str, rater: str, at: float) -> Feedback:
    """That the answer of decision `better` is better than that of decision `worse`.

    Raises:
        ConfigurationError: They are not the ids of two decisions, or the rater is not a name.
    """
    check_rating(1.0, rater)
    if not all(isinstance(name, str) and name for name in (better, worse)) or better == worse:
        raise ConfigurationError(
            f"a comparison needs the ids of two different decisions; got {shown(better)} and {shown(worse)}"
        )
    return Feedback(better, rater, 1.0, at, than=worse)


def check_score(score: float) -> None:
    """Check the range of a score.

    Raises:
        InvalidScore: It is not a number in [0, 1].
    """
    if not (isinstance(score, Real) and 0.0 <= score <= 1.0):
        raise InvalidScore(score)


class Scorer:
    """Calls the reward function, off the request path.

    Args:
        reward: The user's function; a coroutine function runs on an event loop of our own.
        counters: Counts ``reward.failed``.
    """

    def __init__(self, reward: Reward, counters: Counters) -> None:
        self._reward = reward
        self._counters = counters

    def score(self, request: Request, answer: str) -> float | None:
        """The score in [0, 1]; None if the function has no opinion, fails, or does not return a valid score."""
        try:
            found = self._reward(request, answer)
            score = _loop.wait_for(_awaited(found), SCORE_SECONDS) if inspect.isawaitable(found) else found
            if score is not None:
                check_score(score)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - counted; the answer is stored without a score
            self._counters.count("reward.failed", error=type(error).__name__)
            log_error(log, logging.WARNING, error, "IC-Cache got no score from the reward function")
            return None
        return None if score is None else float(score)


async def _awaited(score: Awaitable[float | None]) -> float | None:
    return await score
