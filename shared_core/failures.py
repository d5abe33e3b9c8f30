"""Handles failures on the request path: they are counted and logged, and the call goes on without IC-Cache."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from shared_core.errors import DependencyIsDown, DependencyIsSlow, ScopeIsCold
from shared_core.guard import Steps
from shared_core.telemetry import Counters, get_logger

log = get_logger("failures")

C = TypeVar("C")
T = TypeVar("T")

PASSING_ERRORS: Final = (DependencyIsDown, DependencyIsSlow, ScopeIsCold)
"""Errors that go away by themselves. Of every other error, a person must fix the cause."""


_TEXTS_OF_OURS: Final = (DependencyIsDown, DependencyIsSlow)  # they name a dependency and a limit, nothing else


def cause_of(error: Exception) -> str:
    """The reason of a fallback, for provenance, which clients and traces see: the error's name.

    The text of another library's error may hold keys, URLs or the request; it stays in the log.
    """
    text = f": {error}" if isinstance(error, _TEXTS_OF_OURS) else ""
    return f"fallback: {type(error).__name__}{text}"


@dataclass(frozen=True, slots=True)
class Attempt(Generic[C, T]):
    """The steps of a request, and its result if they fail or take too long."""

    steps: Callable[[C], Steps[T]]
    on_failure: Callable[[Exception], T]


class Failures:
    """Counts failures by the name of the error; logs the first of each kind as a warning, unless it goes away."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._warned: set[tuple[str, str]] = set()

    def count(self, counter: str, error: Exception) -> None:
        """Count and log an error that does not reach the user's call."""
        name = type(error).__name__
        self._counters.count(counter, error=name)
        is_news = not isinstance(error, PASSING_ERRORS) and (counter, name) not in self._warned
        self._warned.add((counter, name))
        log.log(logging.WARNING if is_news else logging.DEBUG, "IC-Cache %s: %s: %s", counter, name, error)
