"""One trainee under the learner: what it has learned so far, and whether it is put aside."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np

from shared_core.error_log import log_error
from shared_core.learning.statistics import is_sound
from shared_core.records import Checkpoint, PartRound
from shared_core.store.parts import layout
from shared_core.store.protocol import PartProgress, Progress, Store
from shared_core.telemetry import Counters, get_logger
from shared_core.trainee import Lesson, State, Trainee

log = get_logger("learning")

T = TypeVar("T")

NEWER: Final = "newer release"
_FAILED: Final = object()


class StateIsUnusable(Exception):
    """A trainee's state holds a number that is not finite, or that cannot be."""


@dataclass(slots=True)
class Part:
    """A trainee whose failures stop nobody else.

    Attributes:
        trainee: What learns.
        counters: Counts ``learn.restarted`` and ``learn.aside``.
        offset: It has learned the log up to here, in memory.
        aside: Why it is put aside; empty if it is not.
    """

    trainee: Trainee
    counters: Counters
    offset: int = 0
    aside: str = ""
    _stored: PartProgress | None = None  # the checkpoint that it has resumed from, or failed with
    _has_resumed: bool = False
    _before: int = 0
    _folded: int = 0
    _skipped: Counter[str] = field(default_factory=Counter)
    _seconds: float = 0.0

    @property
    def name(self) -> str:
        """The name of its checkpoint."""
        return self.trainee.part

    def follow(self, store: Store, progress: Progress) -> None:
        """Resume from what is stored of this part, if that has changed since it was last looked at."""
        stored = progress.parts.get(self.name)
        if self._has_resumed and stored == self._stored:
            return
        is_newer = stored is not None and stored.is_newer
        saved = store.checkpoint(self.name) if stored and not is_newer else None
        self._stored, self._has_resumed, self.aside = stored, True, ""
        self.offset = saved.offset if saved else 0 if self.trainee.replays else progress.offset
        if is_newer:
            log.warning(
                "%r is not learned by this process, because a newer release of IC-Cache has learned it; upgrade this one",
                self.name,
            )
            self._put_aside(NEWER)
            return
        if stored and not saved:
            self.counters.count("learn.restarted", part=self.name)
            how = "again from the log of feedback, as far back as it goes" if self.trainee.replays else "from now on"
            log.warning("what was learned of %r cannot be read; IC-Cache learns it %s", self.name, how)
        self._call(lambda: self.trainee.resume(saved))

    def next_offset(self, store: Store, progress: Progress) -> int | None:
        """The offset after which it goes on; None if it is put aside. Only the first call reads a checkpoint."""
        stored = progress.parts.get(self.name)
        if not self._has_resumed or stored == self._stored:
            self.follow(store, progress)
            return None if self.aside else self.offset
        if stored and stored.version:
            return stored.offset
        return 0 if self.trainee.replays else progress.offset

    def begin(self) -> None:
        """Begin a round."""
        self._before = self._stored.version if self._stored else 0
        self._folded, self._seconds = 0, 0.0
        self._skipped.clear()

    def fold(self, offset: int, lesson: Lesson) -> None:
        """Learn from the entry at `offset`, unless it has been learned."""
        if self.aside or offset <= self.offset:
            return
        skipped = self._call(lambda: self.trainee.fold(lesson))
        if skipped is _FAILED:
            return
        if skipped:
            self._skipped[str(skipped)] += 1
        else:
            self._folded += 1

    def reached(self, offset: int) -> None:
        """All entries up to `offset` were folded."""
        if not self.aside:
            self.offset = max(self.offset, offset)

    def state(self, version: int) -> tuple[Checkpoint, State] | None:
        """What the trainee wants to have published by the publication `version`."""
        found = None if self.aside else self._call(lambda: self._checked(version))
        return found if isinstance(found, tuple) else None

    def _checked(self, version: int) -> tuple[Checkpoint, State] | None:
        state = self.trainee.state()
        if state is None:
            return None
        checkpoint = Checkpoint(version, self.offset, state.arrays, state.meta)
        for array in state.arrays.values():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise StateIsUnusable
        if not all(map(is_sound, state.statistics.values())):
            raise StateIsUnusable
        layout(checkpoint)  # raises if it cannot be stored
        return checkpoint, state

    def published(self, checkpoint: Checkpoint) -> None:
        """This checkpoint of the part is stored now."""
        self._stored = PartProgress(checkpoint.version, checkpoint.offset)

    def forget(self) -> None:
        """What was folded is not published: resume before the next round, unless put aside."""
        self._has_resumed = bool(self.aside)

    def report(self, after: int | None) -> PartRound:
        """What the round did; `after` is the version of the checkpoint that it publishes of this part."""
        version = self._before if after is None else after
        return PartRound(self.name, self._folded, dict(self._skipped), self._before, version, self._seconds, self.aside)

    def _call(self, function: Callable[[], T]) -> T | object:
        """Call the trainee; if it fails, put it aside and return `_FAILED`."""
        started = time.perf_counter()
        try:
            return function()
        except Exception as error:  # noqa: BLE001 - the other parts go on
            log_error(
                log,
                logging.WARNING,
                error,
                "%r is not learned until its checkpoint changes or the program starts again, because it failed",
                self.name,
            )
            self._put_aside(type(error).__name__)
            return _FAILED
        finally:
            self._seconds += time.perf_counter() - started

    def _put_aside(self, why: str) -> None:
        self.aside = why
        self._folded = 0  # what it has folded is lost with it
        self.counters.count("learn.aside", part=self.name, reason=why)
