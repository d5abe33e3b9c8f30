"""Logs errors that reach no user's call, without the texts of other people's exceptions.

The text of a foreign exception (of an embedder, a store, an arm, a reward function) may hold a key, a URL with a password
or a user's request, and logs are read by more people than the store is. So a log line names the exception's class, what
caused it, and the line of code that raised it. At DEBUG, the frames of the traceback follow, also without texts.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

from shared_core.errors import (
    DependencyIsDown,
    DependencyIsSlow,
    EmbedderDiffers,
    EmbedderFailed,
    ExtraIsMissing,
    FeedWasTrimmed,
    InvalidScore,
    RedactionFailed,
    ScopeIsCold,
    StoreIsUnusable,
)

MOST_CAUSES: Final = 4  # errors of a chain that are named; the first and its causes

_OWN_TEXTS: Final = (
    DependencyIsDown,
    DependencyIsSlow,
    EmbedderDiffers,
    EmbedderFailed,
    ExtraIsMissing,
    FeedWasTrimmed,
    InvalidScore,
    RedactionFailed,
    ScopeIsCold,
    StoreIsUnusable,
)
"""Errors whose texts are ours, unless they have a cause, which they may quote. The other errors of IC-Cache quote values
that were passed in, or a server's reply."""


def log_error(log: logging.Logger, level: int, error: BaseException, message: str, *args: object) -> None:
    """Log `message`, followed by what `described` says of `error`; at DEBUG, also the frames of its traceback.

    Args:
        log: The caller's logger.
        level: Level of the line.
        error: What was caught.
        message: A template.
        *args: What it is filled with. Neither may hold a user's texts.
    """
    log.log(level, f"{message}: %s", *args, described(error), stacklevel=2)  # noqa: G004 - the template is constant
    if log.isEnabledFor(logging.DEBUG):
        log.debug("frames of this %s:\n%s", type(error).__name__, "\n".join(_frames(error)), stacklevel=2)


def described(error: BaseException) -> str:
    """An error for the log: its own text if that is ours; else its class, its causes' classes, and the line of code."""
    causes = list(islice(_chain(error), MOST_CAUSES))
    if isinstance(error, _OWN_TEXTS) and len(causes) == 1:
        return f"{type(error).__name__}: {error}"
    frames = list(_frames(error))
    place = f" at {Path(frames[-1].split(' ')[0]).name}" if frames else ""
    return " from ".join(_named(cause) for cause in causes) + place


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what caused it, and so on, as a traceback would show them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _named(error: BaseException) -> str:
    """The class of an error, with the code that its library gave it, which is one of a fixed set."""
    code: object = ""
    with suppress(Exception):  # a property of a foreign class
        if isinstance(error, OSError) and isinstance(error.errno, int):
            code = os.strerror(error.errno)
        elif isinstance(error, sqlite3.Error):
            code = error.sqlite_errorname
        elif isinstance(status := getattr(error, "status_code", None), int):  # of HTTP clients
            code = f"status {status:d}"
    return f"{type(error).__name__} ({code})" if code else type(error).__name__


def _frames(error: BaseException) -> Iterator[str]:
    """Each frame of its traceback, innermost last: file, line and function, without the line's text."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        yield f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
