"""Calls the user's reward function, and checks scores."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from numbers import Real
from typing import TypeAlias

from shared_core.errors import ConfigurationError
from shared_core.telemetry import Counters, get_logger
from shared_core.values import Request

log = get_logger("reward")

Reward: TypeAlias = Callable[[Request, str], float | None]
"""Scores (request, answer) in [0, 1], or returns None for no opinion. `request.query` is the question's text."""


def check_reward(reward: Reward | None) -> None:
    """Check the type of `reward`.

    Raises:
        ConfigurationError: It is not a plain function.
    """
    if reward is not None and not callable(reward):
        raise ConfigurationError(f"reward is {reward!r}; pass a function from (request, answer) to a score in [0, 1]")
    if inspect.iscoroutinefunction(reward):
        raise ConfigurationError("reward is a coroutine function; pass a plain function, which runs on its own thread")


def check_score(score: float) -> None:
    """Check the range of a score.

    Raises:
        ConfigurationError: It is not a number in [0, 1].
    """
    if not (isinstance(score, Real) and 0.0 <= score <= 1.0):
        raise ConfigurationError(f"a score must be a number in [0, 1]; got {score!r}")


def scored(reward: Reward | None, request: Request, answer: str, counters: Counters) -> float | None:
    """The reward function's score; None if it has no opinion, fails, or does not return a valid score."""
    if reward is None:
        return None
    try:
        score = reward(request, answer)
        if score is not None:
            check_score(score)
    except Exception as error:  # noqa: BLE001 - counted; the answer is stored without a score
        counters.count("reward.failed", error=type(error).__name__)
        log.warning("IC-Cache got no score from the reward function: %s: %s", type(error).__name__, error)
        return None
    return score
